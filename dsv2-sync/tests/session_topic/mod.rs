//! A session that follows one channel, scripted by hand.
#![allow(dead_code, reason = "each script uses a part of it")]

use std::time::Duration;

use dsv2_core::{
    Clock, Code, EventId, Feed, Format, HistoryPage, HistoryQuery, HistorySpan, IdempotencyKey, Limits, Machine,
    MessageId, Mono, Now, Position, Publication, PublicationBody, RawTimestamp, Reply, ReplyBody, Request, RequestBody,
    Timestamp, Wall,
};
use dsv2_sync::session::{
    Answer, CallOptions, Command, Cursor, Delivery, Effect, Input, Order, ResumePoint, Session, SessionConfig,
};

pub(crate) struct Rig {
    pub(crate) session: Session,
    pub(crate) now: Now,
    pub(crate) out: Vec<Effect>,
    pub(crate) point: ResumePoint,
}

impl Rig {
    pub(crate) fn new(config: SessionConfig) -> Self {
        let now = Now { mono: Mono::from_ms(1_000), wall: Wall::from_ms(1_795_407_353_924) };
        let mut rig = Self { session: Session::new(config), now, out: Vec::new(), point: ResumePoint::default() };
        rig.step(Input::BrokerUp);
        rig.step(Input::ProxyUp);
        rig
    }

    /// A session that follows `dev` from its end, where s1's last event there is number 1.
    pub(crate) fn following() -> Self {
        let mut rig = Self::new(SessionConfig::default());
        rig.subscribe(Cursor::Last);
        let (request, query) = rig.query();
        assert_eq!((query.span, query.limit), (HistorySpan::Before(None), 1));
        rig.page(request, &[], &[("s1", 1)], &[("s1", 1)], false);
        assert!(rig.established());
        rig
    }

    pub(crate) fn step(&mut self, input: Input) {
        self.session.step(self.now, input, &mut self.out);
    }

    pub(crate) fn subscribe(&mut self, cursor: Cursor) {
        self.subscribe_in(cursor, Order::Arrival);
    }

    pub(crate) fn subscribe_in(&mut self, cursor: Cursor, order: Order) {
        let command = Command::Subscribe { feeds: vec![dev()], cursor, order };
        self.step(Input::Call { token: 1, command, options: CallOptions::default() });
        assert!(self.out.iter().any(|effect| matches!(effect, Effect::Listen(topic) if topic == "dev")));
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now.mono + Duration::from_millis(ms);
        while let Some(at) = self.session.deadline().filter(|&at| at <= end) {
            assert!(self.out.len() < 10_000, "the session spins");
            self.now.mono = self.now.mono.max(at);
            self.step(Input::Wake);
        }
        self.now.mono = end;
    }

    pub(crate) fn queries(&mut self) -> Vec<(u64, HistoryQuery)> {
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

    pub(crate) fn query(&mut self) -> (u64, HistoryQuery) {
        let mut queries = self.queries();
        assert_eq!(queries.len(), 1, "{queries:?}");
        queries.remove(0)
    }

    pub(crate) fn reply(&mut self, request: u64, body: ReplyBody) {
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

    pub(crate) fn page(
        &mut self,
        request: u64,
        events: &[Publication],
        next: &[(&str, u64)],
        heads: &[(&str, u64)],
        more: bool,
    ) {
        let page = HistoryPage {
            events: events.to_vec(),
            next: position(next),
            heads: position(heads),
            more,
            stable: None,
            retired: Vec::new(),
        };
        self.reply(request, ReplyBody::History(page));
    }

    /// A page of a server that knows everything up to a logical time to be final.
    pub(crate) fn stable_page(
        &mut self,
        request: u64,
        events: &[Publication],
        next: &[(&str, u64)],
        more: bool,
        stable: u64,
    ) {
        let (next, heads) = (position(next), position(next));
        let page =
            HistoryPage { events: events.to_vec(), next, heads, more, stable: Clock::new(stable), retired: Vec::new() };
        self.reply(request, ReplyBody::History(page));
    }

    /// A last page of a server that has retired some events, and knows everything to be final.
    pub(crate) fn page_after_retired(
        &mut self,
        request: u64,
        events: &[Publication],
        next: &[(&str, u64)],
        retired: &[(&str, u64)],
    ) {
        let (next, heads) = (position(next), position(next));
        let retired = retired.iter().map(|(server, seq)| event(server, *seq)).collect();
        let page = HistoryPage { events: events.to_vec(), next, heads, more: false, stable: Some(Clock::MAX), retired };
        self.reply(request, ReplyBody::History(page));
    }

    /// Answers whatever is asked as a server that holds nothing beyond what was delivered.
    pub(crate) fn answer_idle(&mut self, heads: &[(&str, u64)]) {
        for (request, query) in self.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let page = HistoryPage {
                events: Vec::new(),
                next: after,
                heads: position(heads),
                more: false,
                stable: None,
                retired: Vec::new(),
            };
            self.reply(request, ReplyBody::History(page));
        }
    }

    pub(crate) fn live(&mut self, publication: &Publication) {
        let mut publication = publication.clone();
        match &mut publication.body {
            PublicationBody::Channel { channel, .. } => *channel = None,
            PublicationBody::Private { dst, .. } => *dst = None,
        }
        self.step(Input::Published { topic: b"dev".to_vec(), body: publication.encode(Format::Json) });
    }

    pub(crate) fn established(&mut self) -> bool {
        self.out
            .iter()
            .any(|effect| matches!(effect, Effect::Done { token: 1, result: Ok(Answer::Subscribed { gapless: true }) }))
    }

    pub(crate) fn failure(&self) -> Option<Code> {
        self.out.iter().find_map(|effect| match effect {
            Effect::Done { token: 1, result: Err(failure) } => Some(failure.code),
            _ => None,
        })
    }

    /// What was delivered since the last time: texts, and in brackets what else there was.
    pub(crate) fn delivered(&mut self) -> Vec<String> {
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

    pub(crate) fn consumed(&mut self, deliveries: usize) {
        self.step(Input::Consumed { subscription: 1, deliveries });
    }
}

pub(crate) fn dev() -> Feed {
    Feed::Channel("dev".parse().expect("a name"))
}

pub(crate) fn event(server: &str, seq: u64) -> EventId {
    format!("{server}/00000000000000ff#{seq}").parse().expect("an id")
}

pub(crate) fn position(of: &[(&str, u64)]) -> Position {
    of.iter().map(|&(server, seq)| (event(server, 1).origin, seq)).collect()
}

/// Event `seq` of a server on `dev`, whose predecessor there was `prev`; 0 for none.
pub(crate) fn publication(server: &str, seq: u64, prev: u64) -> Publication {
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
