//! The server machine by itself, against scripted peers: what the simulator's worlds make too rarely.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dsv2_core::{
    Change, ChannelName, Clock, Code, Event, EventBody, EventId, Failure, Floors, Format, HistoryQuery, HistorySpan,
    IdempotencyKey, Level, Machine, MessageId, Mono, Now, Origin, Outcome, Position, Reply, ReplyBody, Request,
    RequestBody, RequestExt, Retirement, ServerName, Subject, Timestamp, Wall,
};
use dsv2_sync::election::NodeId;
use dsv2_sync::link::{LinkHello, LinkMessage};
use dsv2_sync::server::{Effect, Input, LinkId, Read, ReadResult, Server, ServerConfig};

fn name(text: &str) -> ServerName {
    text.parse().expect("a name")
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text).expect("a key")
}

/// One server, whose peers are written here, and whose disk keeps everything at once.
struct Bench {
    server: Server,
    config: ServerConfig,
    now: Mono,
}

impl Bench {
    fn new(me: &str, voters: &[&str]) -> Self {
        Self::life(me, voters, 0xabcd)
    }

    fn life(me: &str, voters: &[&str], incarnation: u64) -> Self {
        let mut config = ServerConfig::new(name(me), NodeId(1), incarnation);
        config.voters = voters.iter().map(|voter| name(voter)).collect();
        config.address = Some(format!("tcp://{me}:1"));
        let mut bench = Self { server: Server::start(config.clone(), Now::default(), []), config, now: Mono::ZERO };
        // Clocks are reserved before anything else happens.
        bench.feed(Input::Wake);
        bench
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut inputs = vec![input, Input::Flush];
        while !inputs.is_empty() {
            for input in std::mem::take(&mut inputs) {
                let mut out = Vec::new();
                let now = Now { mono: self.now, wall: Wall { us: 1_795_000_000_000_000 + self.now.us as i64 } };
                self.server.step(now, input, &mut out);
                let saved = out.iter().filter_map(|effect| match effect {
                    Effect::Save(saved) => Some(Input::Saved(saved.clone())),
                    _ => None,
                });
                inputs.extend(saved);
                all.extend(out);
            }
        }
        all
    }

    fn link(&mut self, link: LinkId, message: LinkMessage) -> Vec<Effect> {
        self.feed(Input::Link { link, message: Box::new(message) })
    }

    fn hello(&self, peer: &str, durable: Position) -> LinkHello {
        LinkHello {
            name: name(peer),
            node: 9,
            incarnation: 7,
            voters: self.config.voters_digest(),
            rank: None,
            address: None,
            clock: Clock::ZERO,
            durable,
            departed: BTreeSet::new(),
        }
    }

    /// A peer dials, and is welcome.
    fn joins(&mut self, link: u64, peer: &str) -> Vec<Effect> {
        let hello = self.hello(peer, Position::default());
        self.link(LinkId::Accepted(link), LinkMessage::Hello(hello))
    }

    fn ask(&mut self, to: u64, body: RequestBody, ext: RequestExt) -> Vec<Effect> {
        let request = Request { format: Format::Json, timestamp: None, clock: None, ext, body };
        self.feed(Input::Request { from: to, request: Ok(request) })
    }

    /// Time passes in small steps; whoever is named gives signs of life.
    fn pass(&mut self, span: Duration, alive: &[u64]) -> Vec<Effect> {
        let (until, mut all) = (self.now + span, Vec::new());
        while self.now < until {
            self.now = self.now + Duration::from_millis(100);
            for &link in alive {
                all.extend(self.link(LinkId::Accepted(link), LinkMessage::Pong));
            }
            all.extend(self.feed(Input::Wake));
        }
        all
    }
}

fn reply(effects: &[Effect], to: u64) -> Option<&Reply> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { to: found, reply, .. } if *found == to => Some(&**reply),
        _ => None,
    })
}

fn failure(effects: &[Effect], to: u64) -> (Code, Outcome) {
    match reply(effects, to).map(|reply| &reply.body) {
        Some(ReplyBody::Failed(failure)) => (failure.code, failure.outcome),
        other => panic!("no failure: {other:?}"),
    }
}

fn sent<'a>(effects: &'a [Effect], link: LinkId) -> Vec<&'a LinkMessage> {
    let on = |effect: &'a Effect| match effect {
        Effect::Link { to, message, .. } if to.contains(&link) => Some(message),
        _ => None,
    };
    effects.iter().filter_map(on).collect()
}

fn login(user: &str) -> RequestBody {
    RequestBody::Login { user: user.parse().expect("a name") }
}

fn with_key(text: &str) -> RequestExt {
    RequestExt { id: Some(key(text)), ..RequestExt::default() }
}

/// A write that was begun while there was a majority, and was not answered: whoever asks again afterwards is not told that
/// it did not happen.
#[test]
fn a_retry_of_a_known_write_is_never_rejected() {
    let mut bench = Bench::new("s1", &["s1", "s2", "s3"]);
    bench.joins(1, "s2");
    let publish = || RequestBody::Channel { channel: "dev".parse().expect("a name") };
    let begun = bench.ask(5, publish(), with_key("k"));
    assert!(
        begun.iter().any(|effect| matches!(effect, Effect::Change(Change::Append(_)))) && reply(&begun, 5).is_none()
    );
    let later = bench.pass(Duration::from_secs(6), &[]);
    assert_eq!(failure(&later, 5), (Code::Timeout, Outcome::Unknown));
    // Now it is alone.
    let other = bench.ask(6, RequestBody::Channel { channel: "ops".parse().expect("a name") }, with_key("l"));
    assert_eq!(failure(&other, 6), (Code::Minority, Outcome::Rejected), "a new one is refused");
    let again = bench.ask(7, publish(), with_key("k"));
    assert!(reply(&again, 7).is_none(), "it waits for its level: {again:?}");
    assert!(!again.iter().any(|effect| matches!(effect, Effect::Change(Change::Append(_)))));
    // The majority is back, and has it.
    let origin = bench.server.origin().clone();
    let durable = Position::from_iter([(origin.clone(), 1)]);
    let hello = bench.hello("s2", durable);
    let back = bench.link(LinkId::Accepted(2), LinkMessage::Hello(hello));
    match reply(&back, 7).map(|reply| &reply.body) {
        Some(ReplyBody::Done(Some(receipt))) => {
            assert_eq!((&receipt.event, receipt.level), (&EventId { origin, seq: 1 }, Level::Quorum));
        }
        other => panic!("not acknowledged: {other:?}"),
    }
}

/// No window of recent messages is kept, but all of them: a retry gets the first answer, however much came between, and in
/// the next life too.
#[test]
fn a_retry_is_recognised_at_any_age() {
    let mut bench = Bench::new("s1", &[]);
    let mut log = Vec::new();
    let mut ask = |bench: &mut Bench, body: RequestBody, key: &str| {
        let effects = bench.ask(1, body, with_key(key));
        let appended = effects.iter().filter_map(|effect| match effect {
            Effect::Change(Change::Append(event)) => Some((**event).clone()),
            _ => None,
        });
        log.extend(appended);
        match reply(&effects, 1).map(|reply| &reply.body) {
            Some(ReplyBody::Done(Some(receipt))) => (receipt.event.clone(), log.clone()),
            other => panic!("not acknowledged: {other:?}"),
        }
    };
    let publish = |text: String| RequestBody::Publish {
        user: "ana".parse().expect("a name"),
        channel: "dev".parse().expect("a name"),
        message: text,
    };
    ask(&mut bench, login("ana"), "login");
    ask(&mut bench, RequestBody::Channel { channel: "dev".parse().expect("a name") }, "channel");
    let (first, _) = ask(&mut bench, publish("the first".into()), "first");
    for n in 0..2_000 {
        ask(&mut bench, publish(format!("{n}")), &format!("key {n}"));
    }
    let (again, log_of_all) = ask(&mut bench, publish("the first".into()), "first");
    assert_eq!((again, log_of_all.len()), (first.clone(), 2_003));
    let mut config = ServerConfig::new(name("s1"), NodeId(1), 77);
    config.address = Some("tcp://s1:1".into());
    bench.server = Server::start(config, Now::default(), log_of_all);
    bench.feed(Input::Wake);
    assert_eq!(ask(&mut bench, publish("the first".into()), "first").0, first, "in the next life too");
}

fn forwards(effects: &[Effect]) -> Vec<(u64, u64)> {
    let of = |effect: &Effect| match effect {
        Effect::Link { to, message: LinkMessage::Forward { ticket, .. }, .. } => match to[..] {
            [LinkId::Accepted(link)] => Some((link, *ticket)),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn forwarded(ticket: u64, body: ReplyBody) -> LinkMessage {
    let reply = Reply {
        format: Format::Json,
        service: "login".into(),
        timestamp: dsv2_core::RawTimestamp::from(Timestamp::default()),
        clock: None,
        position: None,
        body,
    };
    LinkMessage::Forwarded { ticket, body: reply.encode() }
}

/// A server that may not write hands writes on, and to another voter where the first one refuses for reasons of its own.
#[test]
fn a_learner_asks_the_next_voter() {
    let mut bench = Bench::new("s9", &["s1", "s2"]);
    bench.joins(1, "s1");
    bench.joins(2, "s2");
    let asked = bench.ask(5, login("ana"), RequestExt::default());
    let [(first, ticket)] = forwards(&asked)[..] else { panic!("{asked:?}") };
    let full = || ReplyBody::Failed(Failure::rejected(Code::Full, "full"));
    let wrong = bench.link(LinkId::Accepted(3 - first), forwarded(ticket, full()));
    assert!(
        reply(&wrong, 5).is_none() && forwards(&wrong).is_empty(),
        "nobody else answers for the one that was asked"
    );
    let next = bench.link(LinkId::Accepted(first), forwarded(ticket, full()));
    let [(second, other)] = forwards(&next)[..] else { panic!("{next:?}") };
    assert!(second != first && other != ticket && reply(&next, 5).is_none());
    let last = bench.link(LinkId::Accepted(second), forwarded(other, full()));
    assert_eq!(failure(&last, 5), (Code::Full, Outcome::Rejected), "none is left");
    // What is wrong everywhere is asked once.
    let asked = bench.ask(6, login("dev"), RequestExt::default());
    let [(link, ticket)] = forwards(&asked)[..] else { panic!("{asked:?}") };
    let taken = ReplyBody::Failed(Failure::rejected(Code::NameTaken, "taken"));
    assert_eq!(failure(&bench.link(LinkId::Accepted(link), forwarded(ticket, taken)), 6).0, Code::NameTaken);
}

/// Tickets of two lives differ, so that the answer to one is not taken for the answer to the other.
#[test]
fn forwards_of_two_lives_have_different_tickets() {
    let ticket = |incarnation: u64| {
        let mut bench = Bench::life("s9", &["s1"], incarnation);
        bench.joins(1, "s1");
        forwards(&bench.ask(5, login("ana"), RequestExt::default()))[0].1
    };
    assert_ne!(ticket(1_000), ticket(2_000));
}

fn foreign(incarnation: u64, seq: u64) -> Arc<Event> {
    let origin = Origin { server: name("s2"), incarnation };
    Arc::new(Event {
        id: EventId { origin, seq },
        clock: Clock::ZERO,
        prev: None,
        message_id: MessageId::Foreign(u128::from(seq)),
        timestamp: Timestamp::default(),
        body: EventBody::UserLogin { user: format!("u{seq}").parse().expect("a name") },
    })
}

fn pulls(effects: &[Effect]) -> Vec<u64> {
    let of = |effect: &Effect| match effect {
        Effect::Link { message: LinkMessage::Pull { from, .. }, .. } => Some(*from),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

/// A gap in a stream is asked for once, however much comes behind it; an earlier life is pulled page after page.
#[test]
fn a_hole_is_asked_for_once_and_an_earlier_life_page_by_page() {
    let mut bench = Bench::new("s1", &[]);
    bench.joins(1, "s2");
    let link = LinkId::Accepted(1);
    let events = |range: std::ops::RangeInclusive<u64>, life| LinkMessage::Events {
        events: range.map(|seq| foreign(life, seq)).collect(),
    };
    assert_eq!(pulls(&bench.link(link, events(1..=3, 7))), Vec::<u64>::new());
    assert_eq!(pulls(&bench.link(link, events(6..=6, 7))), [4]);
    assert_eq!(pulls(&bench.link(link, events(7..=7, 7))), Vec::<u64>::new(), "the question is under way");
    assert_eq!(pulls(&bench.link(link, events(4..=7, 7))), Vec::<u64>::new());
    assert_eq!(bench.server.position().get(&foreign(7, 1).id.origin), 7);
    // It holds much of an earlier life.
    let old = foreign(3, 1).id.origin.clone();
    let durable = Position::from_iter([(old.clone(), 6)]);
    let vector = || LinkMessage::Vector { durable: durable.clone(), answer: false, retirement: Retirement::default() };
    assert_eq!(pulls(&bench.link(link, vector())), Vec::<u64>::new(), "it may be on its way");
    bench.now = bench.now + Duration::from_millis(500);
    assert_eq!(pulls(&bench.link(link, vector())), [1]);
    assert_eq!(pulls(&bench.link(link, events(1..=2, 3))), [3]);
    assert_eq!(pulls(&bench.link(link, events(3..=4, 3))), [5]);
    assert_eq!(pulls(&bench.link(link, events(5..=6, 3))), Vec::<u64>::new());
    assert_eq!(bench.server.position().get(&old), 6);
}

/// A peer that lost something of the stream is streamed to again from there.
#[test]
fn a_stream_begins_again_at_a_hole() {
    let mut bench = Bench::new("s1", &[]);
    bench.joins(1, "s2");
    let notice = dsv2_core::LinkNotice {
        name: name("s2"),
        address: "tcp://s2:1".into(),
        node: format!("{:032x}", 9),
        timestamp: None,
        clock: None,
    };
    let dialled = bench.feed(Input::LinkNotice(notice));
    let link = dialled.iter().find_map(|effect| match effect {
        Effect::Dial { link, .. } => Some(*link),
        _ => None,
    });
    let link = link.expect("it dials");
    bench.feed(Input::LinkUp(link));
    let hello = bench.hello("s2", Position::default());
    bench.link(LinkId::Dialled(link), LinkMessage::Welcome { hello });
    for user in ["a", "b", "c"] {
        let written = bench.ask(1, login(user), RequestExt::default());
        let streamed = sent(&written, LinkId::Dialled(link));
        assert!(streamed.iter().any(|message| matches!(message, LinkMessage::Events { .. })), "{written:?}");
    }
    let origin = bench.server.origin().clone();
    let asked = bench.link(LinkId::Dialled(link), LinkMessage::Pull { origin: origin.clone(), from: 2 });
    let reads: Vec<_> = asked.iter().filter(|effect| matches!(effect, Effect::Read { .. })).collect();
    assert_eq!(reads.len(), 1, "{asked:?}");
    let written = bench.ask(1, login("d"), RequestExt::default());
    let streamed = sent(&written, LinkId::Dialled(link));
    assert!(!streamed.iter().any(|message| matches!(message, LinkMessage::Events { .. })), "first what was lost");
}

/// The reference lost its disk: it is told the rank, and the server does not ask without pause.
#[test]
fn a_reference_that_forgot_is_told_the_rank() {
    let mut bench = Bench::new("s1", &[]);
    let answer = |body| {
        Input::Reference(Ok(Reply {
            format: Format::Json,
            service: "".into(),
            timestamp: dsv2_core::RawTimestamp::from(Timestamp::default()),
            clock: None,
            position: None,
            body,
        }))
    };
    let asked = |effects: &[Effect]| -> Vec<RequestBody> {
        let of = |effect: &Effect| match effect {
            Effect::Reference(request) => Some(request.body.clone()),
            _ => None,
        };
        effects.iter().filter_map(of).collect()
    };
    bench.feed(answer(ReplyBody::Rank(4)));
    assert_eq!(bench.server.rank(), Some(4));
    let beats = bench.feed(Input::Wake);
    assert!(matches!(asked(&beats)[..], [RequestBody::Heartbeat(_)]), "{beats:?}");
    bench.feed(answer(ReplyBody::Failed(Failure::rejected(Code::UnknownServer, "who?"))));
    assert!(asked(&bench.feed(Input::Wake)).is_empty(), "not at once");
    bench.now = bench.now + Duration::from_millis(600);
    let again = bench.feed(Input::Wake);
    match &asked(&again)[..] {
        [RequestBody::Rank(card)] => assert_eq!(card.rank, Some(4), "it says which rank it has"),
        other => panic!("{other:?}"),
    }
}

/// What a server wrote a second time is left out of history; a page of nothing else is no end of it.
#[test]
fn a_page_of_repetitions_only_is_followed_by_the_one_before() {
    let mut bench = Bench::new("s1", &[]);
    bench.joins(1, "s2");
    bench.joins(2, "s3");
    let channel: ChannelName = "dev".parse().expect("a name");
    let event = |server: &str, seq, clock| Event {
        id: EventId { origin: Origin { server: name(server), incarnation: 7 }, seq },
        clock: Clock::new(clock).expect("a clock"),
        prev: None,
        message_id: MessageId::Foreign(u128::from(seq)),
        timestamp: Timestamp::default(),
        body: EventBody::Publish {
            user: "ana".parse().expect("a name"),
            channel: channel.clone(),
            message: format!("text {seq}").parse().expect("a text"),
        },
    };
    let firsts: Vec<Event> = (1..=2).map(|seq| event("s2", seq, 10 + seq)).collect();
    let again: Vec<Event> = (1..=2).map(|seq| event("s3", seq, 20 + seq)).collect();
    for (link, events) in [(1, &firsts), (2, &again)] {
        let events = events.iter().cloned().map(Arc::new).collect();
        bench.link(LinkId::Accepted(link), LinkMessage::Events { events });
    }
    let query = HistoryQuery { subject: Subject::Channel(channel), span: HistorySpan::Before(None), limit: 2 };
    let asked = bench.ask(5, RequestBody::History(query), RequestExt::default());
    let read = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Read { token, read: Read::Before { key, limit: 2, .. } } => Some((*token, key.clone())),
            _ => None,
        })
    };
    let (token, key) = read(&asked).expect("a read");
    assert_eq!(key, None);
    let all = bench.server.position().clone();
    let page = |events: &[Event], next: &Position, more| {
        let (events, next, heads) = (events.to_vec(), next.clone(), all.clone());
        Ok(ReadResult::Page { events, next, heads, more, retired: Vec::new() })
    };
    let read_again = bench.feed(Input::Read { token, result: page(&again, &all, true) });
    assert!(reply(&read_again, 5).is_none(), "an empty page would look like the end");
    let (token, key) = read(&read_again).expect("another read");
    assert_eq!(key, Some(again[0].key()));
    let answered = bench.feed(Input::Read { token, result: page(&firsts, &Position::default(), false) });
    match reply(&answered, 5).map(|reply| &reply.body) {
        Some(ReplyBody::History(page)) => {
            let ids: Vec<&EventId> = page.events.iter().filter_map(|event| event.event.as_ref()).collect();
            assert_eq!(ids, [&firsts[0].id, &firsts[1].id]);
            assert_eq!((&page.next, page.more), (&all, false), "who follows goes on behind the repetitions");
        }
        other => panic!("a page, not {other:?}"),
    }
}

/// Whoever lacks what another server has retired remembers the floors first, and raises them as soon as it holds enough.
#[test]
fn what_is_passed_over_is_remembered_with_the_floors_that_took_it() {
    let mut bench = Bench::new("s1", &[]);
    bench.joins(1, "s2");
    let origin = foreign(7, 1).id.origin.clone();
    let floors = Floors::both(Clock::new(90).expect("a clock"));
    let retirement = Retirement { floors, at: Position::from_iter([(origin.clone(), 6)]) };
    let stretch = |from, upto, seq| LinkMessage::Stretch {
        origin: origin.clone(),
        from,
        upto,
        events: vec![foreign(7, seq)],
        retirement: retirement.clone(),
    };
    let took = bench.link(LinkId::Accepted(1), stretch(1, 4, 3));
    let place = |wanted: fn(&Effect) -> bool| took.iter().position(wanted).expect("it is among them");
    let saved = place(|effect| matches!(effect, Effect::Save(_)));
    assert!(saved < place(|effect| matches!(effect, Effect::Change(Change::Skip { .. }))), "first");
    let Effect::Save(saved) = &took[saved] else { unreachable!("found above") };
    assert_eq!(saved.retirement, retirement);
    let retires =
        |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Change(Change::Retire { .. })));
    assert!(!retires(&took), "some of what is below the floors may be missing yet");
    // Another life goes on with them.
    let mut config = bench.config.clone();
    config.retirement.clone_from(&saved.retirement);
    let held = (1..=4).map(|seq| Arc::unwrap_or_clone(foreign(7, seq)));
    bench.server = Server::start(config, Now::default(), held);
    bench.joins(2, "s2");
    let took = bench.link(LinkId::Accepted(2), stretch(5, 6, 6));
    assert!(retires(&took), "now it holds all that was held when that was decided");
}
