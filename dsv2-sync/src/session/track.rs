//! One topic of one subscription: live publications and history become one stream without gaps and duplicates.
//!
//! ```text
//!   live ──► held (while history is ahead) ──► known already? ──► predecessor delivered? ──yes──► deliver, go on
//!                                                  drop                     └─no──► blocked, ask history
//!   page of history ─────────────────────────► known already? ─────────────────────────────────► deliver, go on
//! ```
//!
//! What makes it complete: a publication names its server's previous event on the topic, and a page of history holds of
//! every origin a run without gaps. So `resume` only ever moves over events that were delivered. What was lost at the
//! very end shows when the topic is compared with history.

mod history;
mod stable;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dsv2_core::{
    ChannelName, EventBody, EventId, Feed, MessageId, Mono, Position, Publication, PublicationBody, UserName,
};

use super::config::SessionConfig;
use super::io::{Delivery, Effect, Order};
use super::resume::Step;
use super::seen::Seen;
use stable::Unstable;

use crate::planted::{Bug, Planted};

/// Names a topic of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TrackId {
    pub(super) subscription: u64,
    pub(super) index: usize,
}

/// One topic of one subscription.
#[derive(Debug)]
pub(super) struct Track {
    feed: Feed,
    phase: Phase,
    /// Everything up to here was delivered.
    resume: Position,
    seen: Seen,
    /// Live publications in the order in which they came, while they cannot be judged or delivered.
    held: VecDeque<Publication>,
    /// Live publications whose predecessor is missing, by that.
    blocked: BTreeMap<EventId, Blocked>,
    kept_bytes: usize,
    /// Publications of servers of the family were forgotten; history does not have them.
    foreign_lost: bool,
    /// History has to be read.
    repair: bool,
    /// What repairs delivered since the last report.
    recovered: u64,
    /// What has to be delivered by then; else history has to be read.
    expected: Option<(Mono, Position)>,
    compare_at: Mono,
    /// After a failure, or while the servers do not have what is missing.
    not_before: Mono,
    failures: u32,
    /// How the next question is asked, and how the last one was.
    manner: Manner,
    asked: Manner,
    /// Whether the total order is wanted.
    order: Order,
    unstable: Unstable,
    /// Something was not published that should have been; the session asks for it.
    missed: bool,
    query: Option<Query>,
    /// The moment for which the session has set its timer.
    pub(super) armed: Option<Mono>,
    planted: Planted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is known yet: where is the end?
    Baseline,
    /// History is read up to its end.
    Replay,
    /// Live, compared with history.
    Live,
    /// The servers have no history.
    LiveOnly,
    /// Only what is final is delivered, as history lists it.
    Stable,
}

#[derive(Debug)]
struct Blocked {
    publication: Publication,
    since: Mono,
}

/// A question to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    /// Where the topic ends.
    End,
    /// What is not delivered yet, page by page.
    Read,
    /// Whether anything is not delivered yet.
    Compare,
}

/// Of whom history is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Manner {
    /// Of a server that has what is missing, where something is.
    #[default]
    Insisting,
    /// Of any: insisting was in vain.
    Humble,
    /// Of any: there is more to read before what is missing, and perhaps nobody has that.
    ReadingOn,
}

/// Where deliveries go: a subscription's consumer, which takes only so many at a time.
pub(super) struct Sink<'a> {
    pub(super) subscription: u64,
    /// How many deliveries it has not taken yet.
    pub(super) waiting: &'a mut usize,
    pub(super) window: usize,
    /// What the session has read.
    pub(super) token: &'a mut Position,
    pub(super) out: &'a mut Vec<Effect>,
}

impl Sink<'_> {
    fn is_full(&self) -> bool {
        *self.waiting >= self.window
    }

    pub(super) fn deliver(&mut self, delivery: Delivery, step: Option<Step>) {
        *self.waiting += 1;
        self.out.push(Effect::Deliver { subscription: self.subscription, delivery, step });
    }

    fn advance(&mut self, step: Step) {
        self.out.push(Effect::Advance { subscription: self.subscription, step });
    }
}

impl Track {
    /// A topic that is followed from a position, or from its end where there is none.
    pub(super) fn new(feed: Feed, from: Option<Position>, order: Order, now: Mono, config: &SessionConfig) -> Self {
        let phase = match (&from, order) {
            (None, _) => Phase::Baseline,
            (Some(_), Order::Arrival) => Phase::Replay,
            (Some(_), Order::Stable) => Phase::Stable,
        };
        Self {
            feed,
            phase,
            resume: from.unwrap_or_default(),
            seen: Seen::new(config.remembered),
            held: VecDeque::new(),
            blocked: BTreeMap::new(),
            kept_bytes: 0,
            foreign_lost: false,
            repair: false,
            recovered: 0,
            expected: None,
            compare_at: now,
            not_before: now,
            failures: 0,
            manner: Manner::default(),
            asked: Manner::default(),
            order,
            unstable: Unstable::default(),
            missed: false,
            query: None,
            armed: None,
            planted: Planted::default(),
        }
    }

    /// With that bug.
    pub(super) fn with(self, planted: Planted) -> Self {
        Self { planted, ..self }
    }

    /// What it follows.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Whether losses are noticed.
    pub(super) fn is_gapless(&self) -> bool {
        self.phase != Phase::LiveOnly
    }

    /// Whether it follows the end of the topic, and only that: it can do without history.
    pub(super) fn needs_no_past(&self) -> bool {
        matches!(self.phase, Phase::Baseline | Phase::LiveOnly) && self.order == Order::Arrival
    }

    /// Whether, since it was last asked, something turned out not to have been published.
    pub(super) fn take_missed(&mut self) -> bool {
        std::mem::take(&mut self.missed)
    }

    /// Goes on without history.
    pub(super) fn go_without_history(&mut self, now: Mono, config: &SessionConfig, sink: &mut Sink<'_>) {
        self.phase = Phase::LiveOnly;
        self.release(now, config, sink);
    }

    /// Servers with history are back.
    pub(super) fn go_with_history(&mut self, now: Mono) {
        if self.phase == Phase::LiveOnly {
            (self.phase, self.not_before) = (Phase::Baseline, now);
        }
    }

    /// A publication arrived.
    pub(super) fn live(
        &mut self,
        now: Mono,
        mut publication: Publication,
        config: &SessionConfig,
        sink: &mut Sink<'_>,
    ) {
        if !self.address(&mut publication) || !is_sound(&publication) {
            return;
        }
        if self.order == Order::Stable {
            return self.hint(now, config);
        }
        let judged = matches!(self.phase, Phase::Live | Phase::LiveOnly) && self.held.is_empty() && !sink.is_full();
        if judged {
            self.offer(now, publication, config, sink);
        } else if self.make_room(&publication, config) {
            self.held.push_back(publication);
        }
    }

    /// Fills in what the topic says; `false` for a publication of the other kind that shares the topic's name.
    fn address(&self, publication: &mut Publication) -> bool {
        match (&self.feed, &mut publication.body) {
            (Feed::Channel(name), PublicationBody::Channel { channel, .. }) => *channel = Some(name.clone()),
            (Feed::Inbox(user), PublicationBody::Private { dst, .. }) => *dst = Some(user.clone()),
            _ => return false,
        }
        true
    }

    /// Judges a live publication. There must be room in the sink.
    fn offer(&mut self, now: Mono, publication: Publication, config: &SessionConfig, sink: &mut Sink<'_>) {
        let Some(event) = publication.event.clone() else { return self.offer_foreign(publication, sink) };
        if self.resume.contains(&event) {
            return;
        }
        if self.phase == Phase::LiveOnly {
            // Nothing is known to be complete, so nothing moves.
            return self.offer_foreign(publication, sink);
        }
        let over = self.planted.has(Bug::PositionOverGap);
        if let Some(prev) = publication.prev.clone().filter(|prev| !over && !self.resume.contains(prev)) {
            self.block(now, prev, publication, config);
            return;
        }
        if self.resume.get(&event.origin) == 0 {
            self.compare_at = self.compare_at.min(now + Duration::from_millis(config.grace_ms));
        }
        self.take(publication, sink);
        self.follow(event, sink);
    }

    fn block(&mut self, now: Mono, prev: EventId, publication: Publication, config: &SessionConfig) {
        self.repair = true;
        if !self.make_room(&publication, config) {
            return;
        }
        // Two servers under one name may have gone on from one event. History sorts that out.
        if let Some(other) = self.blocked.insert(prev, Blocked { publication, since: now }) {
            self.kept_bytes -= cost_bytes(&other.publication);
        }
    }

    /// A server of the family numbers nothing: only the content tells whether the message was delivered.
    fn offer_foreign(&mut self, publication: Publication, sink: &mut Sink<'_>) {
        let id = publication.id.clone().or_else(|| foreign_id(&publication));
        if id.is_none_or(|id| self.seen.insert(&id, &publication)) {
            sink.deliver(Delivery::Message { feed: self.feed.clone(), publication: Box::new(publication) }, None);
        }
    }

    /// Delivers an event, unless its message was delivered as another event, and moves over it. Says whether it was.
    fn take(&mut self, publication: Publication, sink: &mut Sink<'_>) -> bool {
        let Some(event) = publication.event.clone() else { return false };
        self.resume.advance(&event);
        sink.token.advance(&event);
        let step = Step::Event(self.feed.clone(), event);
        let new = publication.id.as_ref().is_none_or(|id| self.seen.insert(id, &publication));
        if new || self.planted.has(Bug::TwinDelivered) {
            let delivery = Delivery::Message { feed: self.feed.clone(), publication: Box::new(publication) };
            sink.deliver(delivery, Some(step));
        } else {
            sink.advance(step);
        }
        new
    }

    /// Delivers what waited for an event, and what waited for that.
    fn follow(&mut self, mut event: EventId, sink: &mut Sink<'_>) {
        while !self.blocked.is_empty() && !sink.is_full() {
            let Some(next) = self.blocked.remove(&event) else { return };
            self.kept_bytes -= cost_bytes(&next.publication);
            let Some(id) = next.publication.event.clone() else { return };
            if !self.resume.contains(&id) {
                self.take(next.publication, sink);
            }
            event = id;
        }
    }

    /// Delivers what is no longer blocked; to be called when `resume` moved by more than one event, or there is room
    /// again.
    fn unblock(&mut self, sink: &mut Sink<'_>) {
        loop {
            let free: Vec<EventId> = self.blocked.keys().filter(|prev| self.resume.contains(prev)).cloned().collect();
            if free.is_empty() || sink.is_full() {
                return;
            }
            free.into_iter().for_each(|prev| self.follow(prev, sink));
        }
    }

    /// Judges what was held, as far as there is room.
    fn release(&mut self, now: Mono, config: &SessionConfig, sink: &mut Sink<'_>) {
        while !sink.is_full() {
            let Some(publication) = self.held.pop_front() else { return };
            self.kept_bytes -= cost_bytes(&publication);
            self.offer(now, publication, config, sink);
        }
    }

    /// Makes room for one more publication to be kept, by forgetting all that are: history has them, and the newest ones
    /// are worth more than the oldest. `false` if there can be none.
    fn make_room(&mut self, publication: &Publication, config: &SessionConfig) -> bool {
        let cost = cost_bytes(publication);
        let kept = self.held.len() + self.blocked.len();
        if kept >= config.held || self.kept_bytes + cost > config.held_bytes {
            self.foreign_lost |= self.held.iter().any(|publication| publication.event.is_none());
            self.held.clear();
            self.blocked.clear();
            self.kept_bytes = 0;
            self.repair = true;
        }
        let fits = cost <= config.held_bytes && config.held > 0;
        if fits {
            self.kept_bytes += cost;
        } else {
            self.foreign_lost |= publication.event.is_none();
            self.repair = true;
        }
        fits
    }

    /// The consumer took something.
    pub(super) fn resume_delivery(&mut self, now: Mono, config: &SessionConfig, sink: &mut Sink<'_>) {
        if !matches!(self.phase, Phase::Live | Phase::LiveOnly) {
            return;
        }
        if self.foreign_lost && !sink.is_full() {
            self.foreign_lost = false;
            sink.deliver(Delivery::Gap { feed: self.feed.clone(), missing: None }, None);
        }
        self.unblock(sink);
        self.release(now, config, sink);
        self.report_recovery(sink);
    }
}

/// Whether what a publication says of its place can be true: its predecessor is of the same server, and earlier.
fn is_sound(publication: &Publication) -> bool {
    match (&publication.event, &publication.prev) {
        (Some(event), Some(prev)) => {
            event.origin.server == prev.origin.server && (event.origin != prev.origin || prev.seq < event.seq)
        }
        _ => true,
    }
}

/// The identity that a server gives to a foreign message when it adopts it.
fn foreign_id(publication: &Publication) -> Option<MessageId> {
    let body = match &publication.body {
        PublicationBody::Channel { user, channel, message } => EventBody::Publish {
            user: UserName::new(user).ok()?,
            channel: ChannelName::clone(channel.as_ref()?),
            message: message.clone(),
        },
        PublicationBody::Private { src, dst, message } => EventBody::Message {
            src: UserName::new(src).ok()?,
            dst: UserName::clone(dst.as_ref()?),
            message: message.clone(),
        },
    };
    Some(body.foreign_id(publication.timestamp, publication.clock))
}

fn cost_bytes(publication: &Publication) -> usize {
    256 + publication.body.text().len()
}
