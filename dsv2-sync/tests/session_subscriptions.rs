//! Scripts for subscriptions: live publications and history become one stream.

use std::time::Duration;

use dsv2_core::{
    Clock, Code, EventBody, EventId, Failure, Feed, Format, HistoryPage, HistoryQuery, HistorySpan, IdempotencyKey,
    Limits, Machine, MessageId, Mono, Now, Position, Publication, PublicationBody, RawTimestamp, Reply, ReplyBody,
    Request, RequestBody, Timestamp, Wall,
};
use dsv2_sync::session::{
    Answer, CallOptions, Command, Cursor, Delivery, Effect, Input, Order, ResumePoint, Session, SessionConfig,
};

struct Rig {
    session: Session,
    now: Now,
    out: Vec<Effect>,
    point: ResumePoint,
}

impl Rig {
    fn new(config: SessionConfig) -> Self {
        let now = Now { mono: Mono::from_ms(1_000), wall: Wall::from_ms(1_795_407_353_924) };
        let mut rig = Self { session: Session::new(config), now, out: Vec::new(), point: ResumePoint::default() };
        rig.step(Input::BrokerUp);
        rig.step(Input::ProxyUp);
        rig
    }

    /// A session that follows `dev` from its end, where s1's last event there is number 1.
    fn following() -> Self {
        let mut rig = Self::new(SessionConfig::default());
        rig.subscribe(Cursor::Last);
        let (request, query) = rig.query();
        assert_eq!((query.span, query.limit), (HistorySpan::Before(None), 1));
        rig.page(request, &[], &[("s1", 1)], &[("s1", 1)], false);
        assert!(rig.established());
        rig
    }

    fn step(&mut self, input: Input) {
        self.session.step(self.now, input, &mut self.out);
    }

    fn subscribe(&mut self, cursor: Cursor) {
        self.subscribe_in(cursor, Order::Arrival);
    }

    fn subscribe_in(&mut self, cursor: Cursor, order: Order) {
        let command = Command::Subscribe { feeds: vec![dev()], cursor, order };
        self.step(Input::Call { token: 1, command, options: CallOptions::default() });
        assert!(self.out.iter().any(|effect| matches!(effect, Effect::Listen(topic) if topic == "dev")));
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.mono + Duration::from_millis(ms);
        while let Some(at) = self.session.deadline().filter(|&at| at <= end) {
            assert!(self.out.len() < 10_000, "the session spins");
            self.now.mono = self.now.mono.max(at);
            self.step(Input::Wake);
        }
        self.now.mono = end;
    }

    fn queries(&mut self) -> Vec<(u64, HistoryQuery)> {
        let query = |effect: &Effect| match effect {
            Effect::Send { request, body } => match Request::decode(body, &Limits::default()).expect("valid").body {
                RequestBody::History(query) => Some((*request, query)),
                _ => None,
            },
            _ => None,
        };
        let queries = self.out.iter().filter_map(query).collect();
        self.out.retain(|effect| !matches!(effect, Effect::Send { .. }));
        queries
    }

    fn query(&mut self) -> (u64, HistoryQuery) {
        let mut queries = self.queries();
        assert_eq!(queries.len(), 1, "{queries:?}");
        queries.remove(0)
    }

    fn reply(&mut self, request: u64, body: ReplyBody) {
        let reply = Reply {
            format: Format::Json,
            service: "history".into(),
            timestamp: RawTimestamp::Integer(1),
            clock: Clock::new(50),
            position: None,
            body,
        };
        self.step(Input::Reply { request, body: reply.encode() });
    }

    fn page(&mut self, request: u64, events: &[Publication], next: &[(&str, u64)], heads: &[(&str, u64)], more: bool) {
        let page =
            HistoryPage { events: events.to_vec(), next: position(next), heads: position(heads), more, stable: None };
        self.reply(request, ReplyBody::History(page));
    }

    /// A page of a server that knows everything up to a logical time to be final.
    fn stable_page(&mut self, request: u64, events: &[Publication], next: &[(&str, u64)], more: bool, stable: u64) {
        let (next, heads) = (position(next), position(next));
        let page = HistoryPage { events: events.to_vec(), next, heads, more, stable: Clock::new(stable) };
        self.reply(request, ReplyBody::History(page));
    }

    /// Answers whatever is asked as a server that holds nothing beyond what was delivered.
    fn answer_idle(&mut self, heads: &[(&str, u64)]) {
        for (request, query) in self.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let page =
                HistoryPage { events: Vec::new(), next: after, heads: position(heads), more: false, stable: None };
            self.reply(request, ReplyBody::History(page));
        }
    }

    fn live(&mut self, publication: &Publication) {
        let mut publication = publication.clone();
        match &mut publication.body {
            PublicationBody::Channel { channel, .. } => *channel = None,
            PublicationBody::Private { dst, .. } => *dst = None,
        }
        self.step(Input::Published { topic: b"dev".to_vec(), body: publication.encode(Format::Json) });
    }

    fn established(&mut self) -> bool {
        self.out
            .iter()
            .any(|effect| matches!(effect, Effect::Done { token: 1, result: Ok(Answer::Subscribed { gapless: true }) }))
    }

    fn failure(&self) -> Option<Code> {
        self.out.iter().find_map(|effect| match effect {
            Effect::Done { token: 1, result: Err(failure) } => Some(failure.code),
            _ => None,
        })
    }

    /// What was delivered since the last time: texts, and in brackets what else there was.
    fn delivered(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        for effect in &self.out {
            let (delivery, step) = match effect {
                Effect::Deliver { delivery, step, .. } => (Some(delivery), step.as_ref()),
                Effect::Advance { step, .. } => (None, Some(step)),
                _ => continue,
            };
            step.into_iter().for_each(|step| self.point.advance(step));
            texts.extend(delivery.map(|delivery| match delivery {
                Delivery::Message { publication, .. } => publication.body.text().to_owned(),
                Delivery::Gap { missing, .. } => format!("[gap {}]", missing.as_ref().map_or(0, |event| event.seq)),
                Delivery::Recovered { messages, .. } => format!("[recovered {messages}]"),
                Delivery::Reconnected => "[reconnected]".to_owned(),
                Delivery::Stalled { stable, .. } => format!("[stalled at {stable}]"),
                other => panic!("{other:?}"),
            }));
        }
        self.out.retain(|effect| !matches!(effect, Effect::Deliver { .. } | Effect::Advance { .. }));
        texts
    }

    fn consumed(&mut self, deliveries: usize) {
        self.step(Input::Consumed { subscription: 1, deliveries });
    }
}

fn dev() -> Feed {
    Feed::Channel("dev".parse().expect("a name"))
}

fn event(server: &str, seq: u64) -> EventId {
    format!("{server}/00000000000000ff#{seq}").parse().expect("an id")
}

fn position(of: &[(&str, u64)]) -> Position {
    of.iter().map(|&(server, seq)| (event(server, 1).origin, seq)).collect()
}

/// Event `seq` of a server on `dev`, whose predecessor there was `prev`; 0 for none.
fn publication(server: &str, seq: u64, prev: u64) -> Publication {
    Publication {
        body: PublicationBody::Channel {
            user: "ana".into(),
            channel: Some("dev".parse().expect("a name")),
            message: format!("{server}.{seq}"),
        },
        timestamp: Some(Timestamp { ms: 1_795_407_353_924 }),
        clock: Clock::new(seq),
        id: Some(MessageId::Key(IdempotencyKey::new(&format!("{server}.{seq}")).expect("a key"))),
        event: Some(event(server, seq)),
        prev: (prev > 0).then(|| event(server, prev)),
    }
}

#[test]
fn live_publications_are_delivered_once_and_in_order() {
    let mut rig = Rig::following();
    for (seq, prev) in [(1, 0), (2, 1), (2, 1), (5, 2), (2, 1)] {
        rig.live(&publication("s1", seq, prev));
    }
    assert_eq!(rig.delivered(), ["s1.2", "s1.5"]);
    assert!(rig.queries().is_empty());
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 5)])));
    // What a prefix match brings is not for us, nor what cannot be.
    let stray = publication("s1", 6, 5);
    rig.step(Input::Published { topic: b"devel".to_vec(), body: stray.encode(Format::Json) });
    rig.step(Input::Published { topic: b"dev".to_vec(), body: b"{".to_vec() });
    let mut odd = publication("s1", 6, 5);
    odd.prev = Some(event("s2", 1));
    rig.live(&odd);
    assert!(rig.delivered().is_empty());
}

#[test]
fn what_came_before_the_baseline_is_not_delivered_and_what_came_after_is() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Last);
    rig.live(&publication("s1", 3, 2));
    rig.live(&publication("s1", 4, 3));
    assert!(rig.delivered().is_empty());
    let request = rig.query().0;
    rig.page(request, &[], &[("s1", 3)], &[("s1", 3)], true);
    assert_eq!(rig.delivered(), ["s1.4"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 4)])));
}

#[test]
fn a_gap_is_repaired_before_anything_behind_it() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    rig.live(&publication("s1", 5, 4));
    rig.live(&publication("s2", 1, 0));
    assert_eq!(rig.delivered(), ["s2.1"], "another server's are not held back");
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 1)])));
    let page = [publication("s1", 2, 1), publication("s1", 3, 2), publication("s1", 4, 3)];
    rig.page(request, &page, &[("s1", 4)], &[("s1", 5)], false);
    assert_eq!(rig.delivered(), ["s1.2", "s1.3", "s1.4", "s1.5", "[recovered 3]"]);
}

#[test]
fn a_server_that_does_not_have_it_yet_is_told_what_is_missing_and_asked_again() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    let effects = std::mem::take(&mut rig.out);
    let sent = effects.iter().find_map(|effect| match effect {
        Effect::Send { body, .. } => Request::decode(body, &Limits::default()).ok(),
        _ => None,
    });
    assert_eq!(sent.and_then(|request| request.ext.position).map(|p| p.get(&event("s1", 1).origin)), Some(3));
    rig.out = effects;
    for _ in 0..5 {
        rig.answer_idle(&[("s1", 1)]);
        rig.pass(1_000);
    }
    assert!(rig.delivered().is_empty());
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 3, 1)], &[("s1", 3)], &[("s1", 3)], false);
    assert_eq!(rig.delivered(), ["s1.3", "s1.4", "[recovered 1]"]);
}

#[test]
fn what_no_server_can_supply_is_told_as_a_gap() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    rig.live(&publication("s1", 5, 4));
    let mut told = Vec::new();
    for _ in 0..70 {
        rig.answer_idle(&[("s1", 1)]);
        rig.pass(1_000);
        told.extend(rig.delivered());
    }
    assert_eq!(told, ["[gap 3]", "s1.4", "s1.5"]);
}

#[test]
fn the_loss_of_the_last_message_shows_within_two_seconds() {
    let mut rig = Rig::following();
    rig.pass(300);
    rig.answer_idle(&[("s1", 1)]);
    assert!(rig.delivered().is_empty());
    // Event 2 is written now, and its publication is lost.
    let lost = publication("s1", 2, 1);
    rig.pass(1_500);
    let (request, query) = rig.query();
    assert_eq!(query.limit, 1, "a comparison is cheap");
    rig.page(request, &[lost], &[("s1", 2)], &[("s1", 3)], true);
    assert_eq!(rig.delivered(), ["s1.2"]);
    rig.pass(200);
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 2)])));
    rig.page(request, &[publication("s1", 3, 2)], &[("s1", 3)], &[("s1", 3)], false);
    assert_eq!(rig.delivered(), ["s1.3", "[recovered 1]"]);
}

#[test]
fn a_message_in_two_events_is_delivered_once_and_both_are_passed() {
    let mut rig = Rig::following();
    let first = publication("s1", 2, 1);
    let mut twin = publication("s2", 7, 0);
    twin.id.clone_from(&first.id);
    twin.body.clone_from(&first.body);
    rig.live(&first);
    rig.live(&twin);
    rig.live(&publication("s2", 8, 7));
    assert_eq!(rig.delivered(), ["s1.2", "s2.8"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 2), ("s2", 8)])));
    // A page leaves out a twin; its position passes it.
    rig.live(&publication("s2", 10, 9));
    let request = rig.query().0;
    rig.page(request, &[], &[("s1", 2), ("s2", 9)], &[("s1", 2), ("s2", 9)], false);
    assert_eq!(rig.delivered(), ["s2.10"]);
}

#[test]
fn another_life_of_a_server_continues_its_chain() {
    let mut rig = Rig::following();
    let mut reborn = publication("s1", 1, 0);
    reborn.event = Some("s1/0000000000000001#1".parse().expect("an id"));
    reborn.id = None;
    reborn.prev = Some(event("s1", 2));
    rig.live(&reborn);
    assert!(rig.delivered().is_empty(), "event 2 of the life before is missing");
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 2, 1)], &[("s1", 2)], &[("s1", 2)], false);
    assert_eq!(rig.delivered(), ["s1.2", "s1.1", "[recovered 1]"]);
}

#[test]
fn foreign_publications_are_delivered_once_even_when_a_server_adopts_them() {
    let mut rig = Rig::following();
    let foreign = r#"{"user":"eva","message":"oi","timestamp":1795407353924,"clock":102}"#;
    rig.step(Input::Published { topic: b"dev".to_vec(), body: foreign.as_bytes().to_vec() });
    rig.step(Input::Published { topic: b"dev".to_vec(), body: foreign.as_bytes().to_vec() });
    assert_eq!(rig.delivered(), ["oi"]);
    let body = EventBody::Publish {
        user: "eva".parse().expect("a name"),
        channel: "dev".parse().expect("a name"),
        message: "oi".into(),
    };
    let mut adopted = publication("s1", 2, 1);
    adopted.id = Some(body.foreign_id(Some(Timestamp { ms: 1_795_407_353_924 }), Clock::new(102)));
    // The adopting server's next event names the adopted one, which was never published.
    rig.live(&publication("s1", 3, 2));
    let request = rig.query().0;
    rig.page(request, &[adopted], &[("s1", 2)], &[("s1", 3)], false);
    assert_eq!(rig.delivered(), ["s1.3"]);
}

#[test]
fn a_private_message_is_not_a_channels() {
    let mut rig = Rig::following();
    let body = r#"{"src":"eva","message":"psst","timestamp":1795407353924,"clock":102}"#;
    rig.step(Input::Published { topic: b"dev".to_vec(), body: body.as_bytes().to_vec() });
    assert!(rig.delivered().is_empty());
}

#[test]
fn a_slow_consumer_bounds_what_is_delivered_and_kept() {
    let mut rig = Rig::new(SessionConfig { window: 2, held: 3, ..SessionConfig::default() });
    rig.subscribe(Cursor::Last);
    let request = rig.query().0;
    rig.page(request, &[], &[], &[], false);
    for seq in 1..=5 {
        rig.live(&publication("s1", seq, seq - 1));
    }
    assert_eq!(rig.delivered(), ["s1.1", "s1.2"]);
    rig.consumed(1);
    assert_eq!(rig.delivered(), ["s1.3"]);
    // Too many to keep: they are forgotten, and read back when there is room.
    for seq in 6..=20 {
        rig.live(&publication("s1", seq, seq - 1));
    }
    rig.pass(5_000);
    assert!(rig.delivered().is_empty() && rig.queries().is_empty(), "nothing is asked that could not be delivered");
    rig.consumed(2);
    assert_eq!(rig.delivered(), Vec::<String>::new());
    let (request, query) = rig.query();
    assert_eq!(query.limit, 2, "no more than there is room for");
    rig.page(request, &[publication("s1", 4, 3), publication("s1", 5, 4)], &[("s1", 5)], &[("s1", 20)], true);
    assert_eq!(rig.delivered(), ["s1.4", "s1.5"]);
    let mut next = 6;
    for _ in 0..40 {
        rig.consumed(2);
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let from = after.get(&event("s1", 1).origin) + 1;
            let to = (from + query.limit - 1).min(20);
            let page: Vec<_> = (from..=to).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.page(request, &page, &[("s1", to)], &[("s1", 20)], to < 20);
        }
        for text in rig.delivered().iter().filter(|text| !text.starts_with('[')) {
            assert_eq!(*text, format!("s1.{next}"));
            next += 1;
        }
        rig.pass(300);
    }
    assert_eq!(next, 21);
}

#[test]
fn a_resume_point_continues_exactly() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 2, 1));
    rig.live(&publication("s1", 4, 3));
    assert_eq!(rig.delivered(), ["s1.2"]);
    let stored = rmp_serde::to_vec_named(&rig.point).expect("serializable");
    let point: ResumePoint = rmp_serde::from_slice(&stored).expect("its own form");
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::At(point));
    rig.live(&publication("s1", 4, 3));
    assert!(rig.delivered().is_empty(), "history comes first");
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 2)])));
    rig.page(request, &[publication("s1", 3, 2)], &[("s1", 3)], &[("s1", 3)], false);
    assert!(rig.established());
    assert_eq!(rig.delivered(), ["s1.3", "s1.4"]);
}

#[test]
fn history_from_the_beginning_is_paged() {
    let mut rig = Rig::new(SessionConfig { page: 2, ..SessionConfig::default() });
    rig.subscribe(Cursor::Beginning);
    let (request, query) = rig.query();
    assert_eq!((query.span, query.limit), (HistorySpan::After(Position::default()), 2));
    rig.page(
        request,
        &[publication("s1", 1, 0), publication("s2", 1, 0)],
        &[("s1", 1), ("s2", 1)],
        &[("s1", 2), ("s2", 1)],
        true,
    );
    rig.live(&publication("s2", 2, 1));
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 2, 1)], &[("s1", 2), ("s2", 1)], &[("s1", 2), ("s2", 1)], false);
    assert_eq!(rig.delivered(), ["s1.1", "s2.1", "s1.2", "s2.2"]);
}

#[test]
fn what_cannot_be_followed_is_said() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Beginning);
    let request = rig.query().0;
    rig.reply(request, ReplyBody::Failed(Failure::rejected(Code::UnknownChannel, "no such channel")));
    assert_eq!(rig.failure(), Some(Code::UnknownChannel));
    assert!(rig.out.iter().any(|effect| matches!(effect, Effect::Unlisten(topic) if topic == "dev")));
    // A server of the family has no past to read.
    for (cursor, expected) in [(Cursor::Beginning, Some(Code::Other)), (Cursor::Last, None)] {
        let mut rig = Rig::new(SessionConfig::default());
        rig.subscribe(cursor);
        let request = rig.query().0;
        rig.reply(request, ReplyBody::Failed(Failure::rejected(Code::Other, "serviço desconhecido")));
        assert_eq!(rig.failure(), expected);
    }
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Last);
    let request = rig.query().0;
    rig.reply(request, ReplyBody::Failed(Failure::rejected(Code::UnknownService, "no such service")));
    assert!(
        rig.out.iter().any(|e| matches!(e, Effect::Done { result: Ok(Answer::Subscribed { gapless: false }), .. }))
    );
    rig.live(&publication("s1", 9, 8));
    rig.live(&publication("s1", 9, 8));
    assert_eq!(rig.delivered(), ["s1.9"]);
    assert_eq!(rig.point.get(&dev()), None, "nothing is known to be complete");
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Last);
    rig.queries();
    rig.pass(10_000);
    assert_eq!(rig.failure(), Some(Code::Timeout));
}

#[test]
fn a_lost_proxy_is_bridged_by_history_and_its_return_is_told() {
    let mut rig = Rig::following();
    rig.pass(250);
    rig.answer_idle(&[("s1", 1)]);
    rig.step(Input::ProxyDown);
    let mut told = Vec::new();
    for seq in 2..=4 {
        rig.pass(1_500);
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let from = after.get(&event("s1", 1).origin) + 1;
            let page: Vec<_> = (from..=seq).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.page(request, &page, &[("s1", seq)], &[("s1", seq)], false);
        }
        told.extend(rig.delivered());
    }
    assert_eq!(told.iter().filter(|text| !text.starts_with('[')).collect::<Vec<_>>(), ["s1.2", "s1.3", "s1.4"]);
    rig.queries();
    rig.step(Input::ProxyUp);
    assert_eq!(rig.delivered(), ["[reconnected]"]);
}

#[test]
fn unsubscribing_ends_everything() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    let request = rig.query().0;
    rig.step(Input::Unsubscribe { subscription: 1 });
    assert!(rig.out.iter().any(|effect| matches!(effect, Effect::Unlisten(topic) if topic == "dev")));
    rig.page(request, &[publication("s1", 2, 1)], &[("s1", 2)], &[("s1", 2)], false);
    rig.live(&publication("s1", 5, 4));
    rig.consumed(1);
    rig.pass(20_000);
    assert!(rig.delivered().is_empty() && rig.queries().is_empty());
    assert_eq!(rig.session.deadline(), None);
}

#[test]
fn in_stable_order_only_what_is_final_is_delivered() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let request = rig.query().0;
    let page = [publication("s2", 1, 0), publication("s1", 2, 0), publication("s2", 3, 1)];
    rig.stable_page(request, &page, &[("s1", 2), ("s2", 3)], false, 2);
    assert!(rig.established());
    assert_eq!(rig.delivered(), ["s2.1", "s1.2"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 2), ("s2", 1)])), "what waits is not passed");
    // A live publication is a hint, and nothing else.
    rig.live(&publication("s1", 5, 2));
    assert!(rig.delivered().is_empty());
    rig.pass(250);
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 2), ("s2", 1)])));
    rig.stable_page(request, &page[2..], &[("s1", 2), ("s2", 3)], true, 9);
    assert_eq!(rig.delivered(), ["s2.3"]);
    let request = rig.query().0;
    rig.stable_page(request, &[publication("s1", 5, 2)], &[("s1", 5), ("s2", 3)], false, 9);
    assert_eq!(rig.delivered(), ["s1.5"]);
    assert!(rig.queries().is_empty());
}

#[test]
fn a_stable_order_that_stalls_says_so_once() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let mut told = Vec::new();
    for _ in 0..60 {
        for (request, _) in rig.queries() {
            rig.stable_page(request, &[publication("s1", 5, 0)], &[("s1", 5)], false, 4);
        }
        told.extend(rig.delivered());
        rig.pass(250);
    }
    assert_eq!(told, ["[stalled at 4]"]);
    let request = rig.query().0;
    rig.stable_page(request, &[publication("s1", 5, 0)], &[("s1", 5)], false, 5);
    assert_eq!(rig.delivered(), ["s1.5"]);
    // Without voters there is no such order.
    for cursor in [Cursor::Beginning, Cursor::Last] {
        let mut rig = Rig::new(SessionConfig::default());
        rig.subscribe_in(cursor, Order::Stable);
        let request = rig.query().0;
        rig.page(request, &[], &[], &[], false);
        assert_eq!(rig.failure(), Some(Code::BadField));
    }
}

#[test]
fn a_full_consumer_of_a_stable_order_is_served_as_soon_as_it_has_room() {
    let mut rig = Rig::new(SessionConfig { window: 2, ..SessionConfig::default() });
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let mut next = 1;
    let mut got = Vec::new();
    for _ in 0..10 {
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            next = after.get(&event("s1", 1).origin) + 1;
            let page: Vec<_> = (next..next + query.limit).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.stable_page(request, &page, &[("s1", next + query.limit - 1)], true, 1_000);
        }
        got.extend(rig.delivered());
        rig.consumed(2);
    }
    assert!(next > 15, "{next}");
    assert_eq!(got, (1..=got.len()).map(|seq| format!("s1.{seq}")).collect::<Vec<_>>());
}

#[test]
fn a_proxy_that_is_up_and_brings_nothing_is_given_up() {
    let mut rig = Rig::following();
    let mut reconnects = 0;
    for seq in 2..20 {
        rig.pass(1_000);
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let from = after.get(&event("s1", 1).origin) + 1;
            let to = (from + query.limit - 1).min(seq);
            let page: Vec<_> = (from..=to).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.page(request, &page, &[("s1", to)], &[("s1", seq)], to < seq);
        }
        reconnects += rig.out.iter().filter(|effect| matches!(effect, Effect::Reconnect(Side::Proxy))).count();
        rig.out.retain(|effect| !matches!(effect, Effect::Reconnect(_)));
        rig.delivered();
    }
    assert!((1..=3).contains(&reconnects), "{reconnects}");
}
