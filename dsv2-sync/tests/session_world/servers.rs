//! Servers as simple as they can be: each holds events by identity, and pulls from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dsv2_core::{
    Clock, Code, Event, EventBody, EventId, Failure, Feed, HistoryPage, HistorySpan, Lamport, Level, LogicalClock,
    MessageId, OrderKey, Origin, Position, RawTimestamp, Receipt, Reply, ReplyBody, Request, RequestBody, Timestamp,
    Topic,
};

use super::Random;

struct Server {
    origin: Origin,
    seq: u64,
    clock: Lamport,
    held: BTreeMap<EventId, Arc<Event>>,
    /// What is held of each message, by key.
    messages: BTreeMap<MessageId, BTreeSet<OrderKey>>,
    /// The last own event on each topic.
    heads: BTreeMap<Topic, EventId>,
    position: Position,
}

pub(crate) struct Cluster {
    servers: Vec<Server>,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(usize, usize)>,
    lives: u64,
}

impl Server {
    /// The event by which a message counts: the one with the smallest key.
    fn find(&self, message: &MessageId) -> Option<EventId> {
        Some(self.messages.get(message)?.first()?.id.clone())
    }

    fn insert(&mut self, event: Arc<Event>) {
        self.messages.entry(event.message_id.clone()).or_default().insert(event.key());
        self.position.advance(&event.id);
        self.held.insert(event.id.clone(), event);
    }

    fn append(&mut self, message_id: MessageId, body: EventBody, timestamp: Timestamp) -> Arc<Event> {
        self.seq += 1;
        let id = EventId { origin: self.origin.clone(), seq: self.seq };
        let prev = body.topic().and_then(|topic| self.heads.insert(topic, id.clone()));
        let event = Arc::new(Event { id, clock: self.clock.tick(), prev, message_id, timestamp, body });
        self.insert(event.clone());
        event
    }

    fn history(&self, feed: &Feed, span: &HistorySpan, limit: usize) -> HistoryPage {
        let in_feed = |event: &&Arc<Event>| event.body.feeds().iter().flatten().any(|f| f == feed);
        let mut all: Vec<&Event> = self.held.values().filter(in_feed).map(|event| &**event).collect();
        all.sort_by_key(|event| (event.clock, &event.id));
        let last = |events: &[&Event]| -> Position { events.iter().map(|e| (e.id.origin.clone(), e.id.seq)).collect() };
        let heads = last(&all);
        let counts = |event: &&&Event| self.find(&event.message_id).as_ref() == Some(&event.id);
        let (found, next, more) = match span {
            HistorySpan::After(position) => {
                let rest: Vec<&Event> = all.into_iter().filter(|event| !position.contains(&event.id)).collect();
                let found: Vec<&Event> = rest.iter().copied().take(limit).collect();
                let mut next = position.clone();
                next.merge(&last(&found));
                let more = found.len() < rest.len();
                (found, next, more)
            }
            HistorySpan::Before(_) => (all.split_off(all.len().saturating_sub(limit)), heads.clone(), false),
        };
        let events: Vec<Event> = found.iter().filter(counts).map(|event| (*event).clone()).collect();
        HistoryPage { events: HistoryPage::publications(&events), next, heads, more, stable: None, retired: Vec::new() }
    }
}

impl Cluster {
    pub(crate) fn new(count: usize) -> Self {
        let server = |index: usize| Server {
            origin: Origin { server: format!("s{index}").parse().expect("a name"), incarnation: index as u64 },
            seq: 0,
            clock: Lamport::default(),
            held: BTreeMap::new(),
            messages: BTreeMap::new(),
            heads: BTreeMap::new(),
            position: Position::default(),
        };
        Self { servers: (0..count).map(server).collect(), cut: BTreeSet::new(), lives: 100 }
    }

    /// Every event that any server holds.
    pub(crate) fn events(&self) -> BTreeMap<EventId, Arc<Event>> {
        self.servers.iter().flat_map(|server| server.held.clone()).collect()
    }

    /// Whether a server has seen this write before.
    pub(crate) fn knows(&self, request: &Request) -> bool {
        request.message_id().is_some_and(|id| self.servers.iter().any(|server| server.find(&id).is_some()))
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn partition(&mut self, random: &mut Random) {
        let alone = random.below(self.servers.len() as u64) as usize;
        for other in (0..self.servers.len()).filter(|&other| other != alone) {
            self.cut.insert((alone.min(other), alone.max(other)));
        }
    }

    /// A server starts again: it holds what it held, and writes under a new identity.
    pub(crate) fn restart(&mut self, random: &mut Random) {
        self.lives += 1;
        let server = random.below(self.servers.len() as u64) as usize;
        self.servers[server].origin.incarnation = self.lives;
        self.servers[server].seq = 0;
    }

    pub(crate) fn replicate(&mut self, random: &mut Random) {
        for to in 0..self.servers.len() {
            for from in 0..self.servers.len() {
                if random.chance(60) {
                    self.pull(from, to);
                }
            }
        }
    }

    fn pull(&mut self, from: usize, to: usize) {
        if from == to || self.cut.contains(&(from.min(to), from.max(to))) {
            return;
        }
        let missing: Vec<Arc<Event>> = {
            let (from, to) = (&self.servers[from], &self.servers[to]);
            from.held.values().filter(|event| !to.position.contains(&event.id)).cloned().collect()
        };
        let to = &mut self.servers[to];
        for event in missing {
            to.clock.observe(event.clock);
            to.insert(event);
        }
    }

    /// Carries a request out, in a mood between 0 and 99, or 100 for the best. Yields the answer, and what to publish.
    pub(crate) fn handle(
        &mut self,
        at: usize,
        request: &Request,
        mood: u64,
        timestamp: Timestamp,
    ) -> (Reply, Vec<Arc<Event>>) {
        let mut published = Vec::new();
        self.servers[at].clock.observe(request.clock.expect("a session sends its clock"));
        let body = match mood {
            0..4 => ReplyBody::Failed(Failure::rejected(Code::NotReady, "draining")),
            4 => ReplyBody::Failed(Failure::unknown(Code::ServerLost, "the server left")),
            5 if matches!(request.body, RequestBody::Publish { .. }) => {
                ReplyBody::Failed(Failure::rejected(Code::UnknownChannel, "not known here"))
            }
            _ => {
                let wanted = request.ext.position.clone().unwrap_or_default();
                if !self.servers[at].position.covers(&wanted) {
                    (0..self.servers.len()).for_each(|from| self.pull(from, at));
                }
                let body = self.carry_out(at, request, timestamp, &mut published);
                if mood == 6 {
                    ReplyBody::Failed(Failure::unknown(Code::Timeout, "the level was not reached"))
                } else {
                    body
                }
            }
        };
        let server = &mut self.servers[at];
        let clock: Clock = server.clock.tick();
        let reply = Reply {
            format: request.format,
            service: request.body.service().as_str().into(),
            timestamp: RawTimestamp::from(timestamp),
            clock: Some(clock),
            position: Some(server.position.clone()).filter(|position| !position.is_empty()),
            body,
        };
        (reply, published)
    }

    fn carry_out(
        &mut self,
        at: usize,
        request: &Request,
        timestamp: Timestamp,
        published: &mut Vec<Arc<Event>>,
    ) -> ReplyBody {
        let server = &mut self.servers[at];
        let body = match &request.body {
            RequestBody::History(query) => {
                let feed = query.subject.feed().expect("a session names the kind");
                return ReplyBody::History(server.history(&feed, &query.span, query.limit as usize));
            }
            RequestBody::Login { user } => EventBody::UserLogin { user: user.clone() },
            RequestBody::Publish { user, channel, message } => {
                EventBody::Publish { user: user.clone(), channel: channel.clone(), message: message.clone() }
            }
            other => panic!("{other:?}"),
        };
        let known = match &body {
            EventBody::UserLogin { .. } => {
                server.held.values().find(|event| event.body == body).map(|event| event.id.clone())
            }
            _ => server.find(&request.message_id().expect("a session names its writes")),
        };
        let event = known.unwrap_or_else(|| {
            let id = request.message_id().unwrap_or(MessageId::Foreign(body.digest()));
            let event = server.append(id, body, timestamp);
            published.push(event.clone());
            event.id.clone()
        });
        let id = server.held[&event].message_id.clone();
        ReplyBody::Done(Some(Receipt { id, event, level: Level::Local }))
    }
}
