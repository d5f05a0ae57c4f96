//! Scripts for the session machine: requests, retries, and what a caller is told in the end.

use std::time::Duration;

use dsv2_core::{
    Clock, Code, EventId, Failure, Format, Level, Limits, Machine, MessageId, Mono, Now, Outcome, Position,
    RawTimestamp, Receipt, Reply, ReplyBody, Request, RequestBody, Wall,
};
use dsv2_sync::session::{Answer, CallOptions, Command, Effect, Input, Note, Session, SessionConfig, Side};

/// A session with its clock, and what it wanted since it was last asked.
struct Rig {
    session: Session,
    now: Now,
    out: Vec<Effect>,
    /// The identities of the writes that it sent, by the request's number.
    named: std::collections::BTreeMap<u64, MessageId>,
}

impl Rig {
    fn new(config: SessionConfig) -> Self {
        let now = Now { mono: Mono::from_ms(1_000), wall: Wall::from_ms(1_795_407_353_924) };
        Self { session: Session::new(config), now, out: Vec::new(), named: std::collections::BTreeMap::new() }
    }

    /// A session of `ana`, logged in at a server of ours.
    fn logged_in() -> Self {
        let mut rig = Self::new(SessionConfig { user: Some(name("ana")), random: 7, ..SessionConfig::default() });
        rig.step(Input::BrokerUp);
        let login = rig.sent_one();
        assert!(matches!(login.1.body, RequestBody::Login { .. }));
        rig.done(login.0, 1);
        rig.out.clear();
        rig
    }

    fn step(&mut self, input: Input) {
        self.session.step(self.now, input, &mut self.out);
    }

    fn call(&mut self, token: u64, command: Command) {
        self.step(Input::Call { token, command, options: CallOptions::default() });
    }

    fn publish(&mut self, token: u64, channel: &str, text: &str) {
        self.call(token, Command::Publish { channel: name(channel), message: text.into() });
    }

    /// Lets time pass, waking the session whenever it asked for it.
    fn pass(&mut self, ms: u64) {
        let end = self.now.mono + Duration::from_millis(ms);
        while let Some(at) = self.session.deadline().filter(|&at| at <= end) {
            assert!(self.out.len() < 10_000, "the session spins");
            self.now.mono = self.now.mono.max(at);
            self.step(Input::Wake);
        }
        self.now.mono = end;
    }

    /// What it sent since it was last asked.
    fn sent(&mut self) -> Vec<(u64, Request)> {
        let sends = |effect: &Effect| match effect {
            Effect::Send { request, body } => {
                Some((*request, Request::decode(body, &Limits::default()).expect("a session speaks the protocol")))
            }
            _ => None,
        };
        let sent: Vec<(u64, Request)> = self.out.iter().filter_map(sends).collect();
        self.out.retain(|effect| !matches!(effect, Effect::Send { .. }));
        self.named.extend(sent.iter().filter_map(|(number, request)| Some((*number, request.message_id()?))));
        sent
    }

    fn sent_one(&mut self) -> (u64, Request) {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// The answers given since they were last asked for.
    fn answers(&mut self) -> Vec<(u64, Result<Answer, Failure>)> {
        let done = |effect: &Effect| match effect {
            Effect::Done { token, result } => Some((*token, result.clone())),
            _ => None,
        };
        let answers = self.out.iter().filter_map(done).collect();
        self.out.retain(|effect| !matches!(effect, Effect::Done { .. }));
        answers
    }

    fn failure(&mut self) -> (u64, Code, Outcome) {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (token, result) = answers.remove(0);
        let failure = result.expect_err("it was to fail");
        (token, failure.code, failure.outcome)
    }

    fn reply(&mut self, request: u64, service: &'static str, clock: u64, position: Option<Position>, body: ReplyBody) {
        let reply = Reply {
            format: Format::Json,
            service: service.into(),
            timestamp: RawTimestamp::Integer(1),
            clock: Clock::new(clock),
            position,
            body,
        };
        self.step(Input::Reply { request, body: reply.encode() });
    }

    /// Acknowledges a write as event `seq` of server s1.
    fn done(&mut self, request: u64, seq: u64) {
        let id = self.named.get(&request).cloned().unwrap_or(MessageId::Foreign(u128::from(seq)));
        let receipt = Receipt { id, event: event("s1", seq), level: Level::Local };
        self.reply(request, "publish", 100 + seq, None, ReplyBody::Done(Some(receipt)));
    }

    fn fail(&mut self, request: u64, failure: Failure) {
        self.reply(request, "publish", 100, None, ReplyBody::Failed(failure));
    }

    fn reconnect(&mut self) {
        self.step(Input::BrokerDown);
        self.step(Input::BrokerUp);
    }

    fn has_reconnect(&mut self) -> bool {
        let had = self.out.iter().any(|effect| matches!(effect, Effect::Reconnect(Side::Broker)));
        self.out.retain(|effect| !matches!(effect, Effect::Reconnect(_)));
        had
    }
}

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

fn event(server: &str, seq: u64) -> EventId {
    format!("{server}/00000000000000ff#{seq}").parse().expect("an id")
}

#[test]
fn a_login_goes_first_and_opens_the_session_at_the_servers_clock() {
    let mut rig = Rig::new(SessionConfig {
        user: Some(name("ana")),
        random: 7,
        level: Some(Level::Quorum),
        ..SessionConfig::default()
    });
    rig.publish(1, "dev", "hi");
    assert!(rig.sent().is_empty(), "there is no connection");
    rig.step(Input::BrokerUp);
    let (request, login) = rig.sent_one();
    assert_eq!(login.body, RequestBody::Login { user: name("ana") });
    assert_eq!(login.ext.session, None, "there is no clock to open one at");
    rig.done(request, 1);
    let (request, publish) = rig.sent_one();
    let session = publish.ext.session.expect("a session");
    assert!(session.opened().get() > 101, "{session} opened at {}", session.opened());
    assert_eq!((publish.ext.number, publish.ext.level), (Some(1), Some(Level::Quorum)));
    assert!(publish.clock > Clock::new(101));
    assert_eq!(
        publish.ext.position,
        Some([(event("s1", 1).origin, 1)].into_iter().collect()),
        "it reads its own writes"
    );
    rig.done(request, 2);
    let answers = rig.answers();
    assert!(
        matches!(&answers[..], [(1, Ok(Answer::Written(written)))] if written.receipt.as_ref().is_some_and(|r| r.event.seq == 2))
    );
    assert_eq!(rig.session.has_extensions(), Some(true));
    assert_eq!(rig.session.outstanding(), 0);
}

#[test]
fn a_retry_on_another_connection_keeps_the_identity_and_the_order() {
    let mut rig = Rig::logged_in();
    for token in 1..=3 {
        rig.publish(token, "dev", &token.to_string());
    }
    let first = rig.sent();
    rig.done(first[1].0, 5);
    rig.reconnect();
    let (login, request) = rig.sent_one();
    assert!(matches!(request.body, RequestBody::Login { .. }), "who writes is told first");
    rig.done(login, 1);
    let again = rig.sent();
    assert_eq!(again.len(), 2, "what was acknowledged is not repeated");
    for (before, after) in [(&first[0], &again[0]), (&first[2], &again[1])] {
        assert_eq!(before.1.message_id(), after.1.message_id());
        assert_eq!(before.1.body, after.1.body);
        assert_ne!(before.0, after.0, "every attempt has a number of its own");
        assert!(after.1.clock > before.1.clock);
    }
    // An answer of the old connection that still comes is as good as any.
    rig.done(first[0].0, 4);
    rig.done(again[0].0, 4);
    rig.done(again[1].0, 6);
    assert_eq!(rig.answers().len(), 3);
}

#[test]
fn where_a_write_may_have_happened_the_end_is_unknown_and_else_rejected() {
    // Never sent.
    let mut rig = Rig::new(SessionConfig { user: Some(name("ana")), ..SessionConfig::default() });
    rig.publish(1, "dev", "hi");
    rig.pass(11_000);
    assert_eq!(rig.failure(), (1, Code::NoServer, Outcome::Rejected));
    // Sent, never answered.
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    rig.pass(11_000);
    assert_eq!(rig.failure(), (1, Code::Timeout, Outcome::Unknown));
    // Refused for good.
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    let request = rig.sent_one().0;
    rig.fail(request, Failure::rejected(Code::UnknownChannel, "no such channel"));
    assert_eq!(rig.failure(), (1, Code::UnknownChannel, Outcome::Rejected));
    // Lost, and then refused for good by a server that does not know yet.
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    rig.reconnect();
    let login = rig.sent().pop().expect("a login").0;
    rig.done(login, 1);
    let request = rig.sent_one().0;
    rig.fail(request, Failure::rejected(Code::UnknownChannel, "no such channel"));
    assert_eq!(rig.failure(), (1, Code::UnknownChannel, Outcome::Unknown));
    // A read changes nothing, whatever happened to it.
    let mut rig = Rig::logged_in();
    rig.call(1, Command::Users);
    rig.pass(11_000);
    assert_eq!(rig.failure(), (1, Code::Timeout, Outcome::Rejected));
}

#[test]
fn an_unanswered_attempt_is_repeated_and_every_attempt_counts() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    let first = rig.sent_one();
    rig.pass(2_000);
    let second = rig.sent_one();
    assert_eq!(first.1.message_id(), second.1.message_id());
    // The second is refused, but the first may have been carried out: that is waited for.
    rig.fail(second.0, Failure::rejected(Code::UnknownChannel, "no such channel"));
    assert!(rig.answers().is_empty());
    rig.fail(first.0, Failure::rejected(Code::UnknownChannel, "no such channel"));
    assert_eq!(rig.failure(), (1, Code::UnknownChannel, Outcome::Rejected));
}

#[test]
fn a_refusal_that_may_pass_holds_back_its_topic_and_no_other() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "1");
    let first = rig.sent_one();
    rig.fail(first.0, Failure::rejected(Code::NotReady, "draining"));
    rig.publish(2, "dev", "2");
    rig.publish(3, "ops", "3");
    let sent = rig.sent();
    assert_eq!(sent.len(), 1);
    assert!(matches!(&sent[0].1.body, RequestBody::Publish { message, .. } if message == "3"));
    rig.pass(100);
    let again = rig.sent();
    let texts = again.iter().map(|(_, request)| match &request.body {
        RequestBody::Publish { message, .. } => message.as_str(),
        _ => "",
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(again[0].1.message_id(), first.1.message_id());
    // It goes on until the deadline, and then says why.
    for (request, _) in sent.iter().chain(&again) {
        rig.fail(*request, Failure::rejected(Code::Minority, "two of three voters are away"));
    }
    for _ in 0..200 {
        for (request, _) in rig.sent() {
            rig.fail(request, Failure::rejected(Code::Minority, "two of three voters are away"));
        }
        rig.pass(100);
    }
    let answers = rig.answers();
    let failures: Vec<_> = answers.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    assert_eq!(failures.len(), 3);
    assert!(failures.iter().all(|failure| failure.outcome == Outcome::Rejected), "{failures:?}");
    assert!(failures.iter().any(|failure| failure.code == Code::Minority), "{failures:?}");
}

#[test]
fn an_unknown_answer_is_asked_again_and_stays_unknown_if_it_must() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "1");
    let first = rig.sent_one();
    rig.fail(first.0, Failure::unknown(Code::ServerLost, "the server left"));
    rig.pass(100);
    let second = rig.sent_one();
    assert_eq!(second.1.message_id(), first.1.message_id());
    rig.fail(second.0, Failure::rejected(Code::BadField, "?"));
    assert_eq!(rig.failure(), (1, Code::BadField, Outcome::Unknown));
}

#[test]
fn a_server_of_the_family_is_never_asked_to_write_twice() {
    let mut rig = Rig::new(SessionConfig { user: Some(name("ana")), ..SessionConfig::default() });
    rig.step(Input::BrokerUp);
    let login = rig.sent_one().0;
    rig.reply(login, "login", 5, None, ReplyBody::Done(None));
    assert_eq!(rig.session.has_extensions(), Some(false));
    rig.publish(1, "dev", "hi");
    rig.call(2, Command::Users);
    assert_eq!(rig.sent().len(), 2);
    rig.pass(3_000);
    let again = rig.sent();
    assert_eq!(again.len(), 1, "only the read is repeated");
    assert_eq!(again[0].1.body, RequestBody::Users);
    rig.reconnect();
    for (request, body) in rig.sent() {
        if matches!(body.body, RequestBody::Login { .. }) {
            rig.reply(request, "login", 6, None, ReplyBody::Done(None));
        }
    }
    assert!(rig.sent().is_empty());
    assert_eq!(rig.failure(), (1, Code::ServerLost, Outcome::Unknown));
    // A refusal leaves no doubt, and is repeated.
    rig.publish(3, "dev", "hi");
    let request = rig.sent_one().0;
    rig.fail(request, Failure::rejected(Code::NoServer, "no server"));
    rig.pass(100);
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn a_forgotten_session_is_renewed_only_where_nothing_can_have_happened() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "1");
    let first = rig.sent_one();
    rig.fail(first.0, Failure::unknown(Code::Forgotten, "the session is too old"));
    let second = rig.sent_one();
    assert_ne!(first.1.ext.session, second.1.ext.session);
    rig.done(second.0, 2);
    assert!(matches!(rig.answers()[..], [(1, Ok(_))]));
    rig.publish(2, "dev", "2");
    rig.reconnect();
    let login = rig.sent().pop().expect("a login").0;
    rig.done(login, 1);
    let again = rig.sent_one().0;
    rig.fail(again, Failure::unknown(Code::Forgotten, "the session is too old"));
    assert_eq!(rig.failure(), (2, Code::Forgotten, Outcome::Unknown));
}

#[test]
fn a_user_that_a_server_does_not_know_is_logged_in_again() {
    let mut rig = Rig::logged_in();
    for token in 1..=2 {
        rig.publish(token, "dev", &token.to_string());
    }
    let first = rig.sent();
    for (request, _) in &first {
        rig.fail(*request, Failure::rejected(Code::UnknownUser, "who?"));
    }
    let login = rig.sent_one();
    assert!(matches!(login.1.body, RequestBody::Login { .. }));
    rig.done(login.0, 1);
    let again = rig.sent();
    assert_eq!(
        again.iter().map(|(_, r)| r.message_id()).collect::<Vec<_>>(),
        first.iter().map(|(_, r)| r.message_id()).collect::<Vec<_>>()
    );
}

#[test]
fn a_refused_login_bars_writes_until_a_reconnection() {
    let mut rig = Rig::new(SessionConfig { user: Some(name("ana")), ..SessionConfig::default() });
    rig.publish(1, "dev", "hi");
    rig.step(Input::BrokerUp);
    let login = rig.sent_one().0;
    rig.fail(login, Failure::rejected(Code::NameTaken, "ana is a channel"));
    assert_eq!(rig.failure(), (1, Code::NameTaken, Outcome::Rejected));
    rig.publish(2, "dev", "hi");
    assert_eq!(rig.failure(), (2, Code::NameTaken, Outcome::Rejected));
    rig.reconnect();
    let login = rig.sent_one().0;
    rig.done(login, 1);
    rig.publish(3, "dev", "hi");
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn without_a_user_channels_are_created_and_nothing_is_written() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.step(Input::BrokerUp);
    rig.publish(1, "dev", "hi");
    assert_eq!(rig.failure(), (1, Code::UnknownUser, Outcome::Rejected));
    rig.call(2, Command::CreateChannel { channel: name("dev") });
    let request = rig.sent_one().0;
    rig.done(request, 1);
    assert!(matches!(rig.answers()[..], [(2, Ok(_))]));
    rig.call(3, Command::Login { user: name("bob") });
    rig.publish(4, "dev", "hi");
    let login = rig.sent_one().0;
    rig.done(login, 2);
    let publish = rig.sent_one();
    assert!(matches!(publish.1.body, RequestBody::Publish { user, .. } if user.as_str() == "bob"));
}

#[test]
fn calls_are_bounded() {
    let mut rig = Rig::new(SessionConfig { in_flight: 2, ..SessionConfig::default() });
    rig.call(1, Command::Users);
    assert!(rig.session.accepts());
    rig.call(2, Command::Users);
    assert!(!rig.session.accepts());
    rig.call(3, Command::Users);
    assert_eq!(rig.failure(), (3, Code::Full, Outcome::Rejected));
    rig.step(Input::BrokerUp);
    let request = rig.sent()[0].0;
    rig.reply(request, "users", 1, None, ReplyBody::Users(vec!["ana".into()]));
    assert!(rig.session.accepts());
    let mut rig =
        Rig::new(SessionConfig { user: Some(name("ana")), in_flight_bytes: 1_000, ..SessionConfig::default() });
    rig.publish(1, "dev", &"x".repeat(800));
    assert!(!rig.session.accepts());
}

#[test]
fn a_silent_broker_is_given_up() {
    let mut rig = Rig::logged_in();
    rig.pass(60_000);
    assert!(!rig.has_reconnect(), "nothing was asked");
    rig.call(1, Command::Users);
    rig.pass(4_900);
    assert!(!rig.has_reconnect());
    rig.pass(200);
    assert!(rig.has_reconnect());
    rig.step(Input::BrokerDown);
    rig.pass(4_900);
    assert!(!rig.has_reconnect());
    rig.pass(200);
    assert!(rig.has_reconnect(), "another endpoint may be alive");
}

#[test]
fn an_absurd_clock_is_not_merged() {
    let mut rig = Rig::logged_in();
    let before = rig.session.clock();
    rig.call(1, Command::Users);
    let request = rig.sent_one().0;
    rig.reply(request, "users", Clock::MAX.get(), None, ReplyBody::Users(Vec::new()));
    assert!(rig.session.clock().get() < before.get() + 10);
    assert!(rig.out.iter().any(|effect| matches!(effect, Effect::Log(Note::AbsurdClock(_)))));
}

#[test]
fn servers_without_the_extensions_can_be_left() {
    let config = SessionConfig { user: Some(name("ana")), require_extensions: true, ..SessionConfig::default() };
    let mut rig = Rig::new(config);
    rig.step(Input::BrokerUp);
    rig.publish(1, "dev", "hi");
    let login = rig.sent_one().0;
    rig.reply(login, "login", 5, None, ReplyBody::Done(None));
    assert!(rig.sent().is_empty(), "nothing is written there");
    assert!(!rig.has_reconnect());
    rig.pass(1_000);
    assert!(rig.has_reconnect());
    rig.reconnect();
    let login = rig.sent_one().0;
    rig.done(login, 1);
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn an_unreadable_reply_leaves_the_outcome_open() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    let request = rig.sent_one().0;
    rig.step(Input::Reply { request, body: b"map[status:OK]".to_vec() });
    assert!(rig.out.iter().any(|effect| matches!(effect, Effect::Log(Note::UnreadableReply(_)))));
    rig.pass(100);
    let again = rig.sent_one().0;
    rig.done(again, 2);
    assert!(matches!(rig.answers()[..], [(1, Ok(_))]));
}

#[test]
fn the_programs_own_key_is_the_identity() {
    let mut rig = Rig::logged_in();
    let key = dsv2_core::IdempotencyKey::new("order-7").expect("a key");
    let options = CallOptions { key: Some(key.clone()), level: Some(Level::All), timeout_ms: Some(500) };
    let command = Command::Message { dst: name("bob"), message: "psst".into() };
    rig.step(Input::Call { token: 1, command, options });
    let request = rig.sent_one().1;
    assert_eq!((request.message_id(), request.ext.level), (Some(MessageId::Key(key)), Some(Level::All)));
    rig.pass(500);
    assert_eq!(rig.failure(), (1, Code::Timeout, Outcome::Unknown));
}

#[test]
fn closing_answers_everything() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "1");
    rig.step(Input::BrokerDown);
    rig.publish(2, "dev", "2");
    rig.step(Input::Close);
    let answers = rig.answers();
    let outcomes: Vec<_> =
        answers.iter().map(|(token, result)| (*token, result.as_ref().map_err(|f| f.outcome).err())).collect();
    assert_eq!(outcomes, [(1, Some(Outcome::Unknown)), (2, Some(Outcome::Rejected))]);
    rig.publish(3, "dev", "3");
    assert_eq!(rig.failure(), (3, Code::NotReady, Outcome::Rejected));
    assert_eq!(rig.session.deadline(), None);
}

#[test]
fn what_no_server_has_is_waited_for_once_and_then_gone_without() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    let first = rig.sent_one();
    assert!(first.1.ext.position.is_some());
    rig.fail(first.0, Failure::rejected(Code::Behind, "s1 is away"));
    let second = rig.sent_one();
    assert_eq!((second.1.ext.position, second.1.ext.number), (None, first.1.ext.number));
    rig.done(second.0, 2);
    assert!(matches!(rig.answers()[..], [(1, Ok(_))]));
    rig.call(2, Command::Users);
    assert!(rig.sent_one().1.ext.position.is_some(), "what is seen from then on counts again");
}

/// A reply that was meant for somebody else must not acknowledge anything.
#[test]
fn a_receipt_for_another_message_acknowledges_nothing() {
    let mut rig = Rig::logged_in();
    rig.publish(1, "dev", "hi");
    let (request, _) = rig.sent_one();
    let receipt = Receipt { id: MessageId::Foreign(1), event: event("s1", 2), level: Level::Local };
    rig.reply(request, "publish", 110, None, ReplyBody::Done(Some(receipt)));
    assert!(rig.answers().is_empty(), "it goes on to ask");
    rig.pass(60_000);
    assert!(rig.answers().iter().all(|(_, result)| result.is_err()));
}
