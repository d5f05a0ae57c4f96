//! What all connections of a proxy share: who is there, who wants what, and the fan-out of a batch. No I/O: output
//! goes into queues.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{ProxyStats, SlowPolicy};
use crate::engine::outbox::BY_REFERENCE_BYTES;
use crate::engine::subscriptions::{MatchMode, PeerIndex, Subscribed, SubscriptionLimits, Subscriptions, Unsubscribed};
use crate::engine::{CloseReason, Limits, Outbox, PushError};
use crate::zmtp::{Batch, Command, Item};

/// Runs from this size on are copied once and shared by all who want them; smaller ones are copied to each, side by side.
const SHARED_FROM_BYTES: usize = 2 << 10;

#[derive(Debug)]
pub(super) struct Hub {
    subscriptions: Subscriptions,
    subscribers: Vec<Option<Subscriber>>,
    free: Vec<PeerIndex>,
    publishers: BTreeMap<u64, Publisher>,
    next_publisher: u64,
    policy: SlowPolicy,
    /// Above this, the longest queue goes.
    pressure_bytes: usize,
    /// Subscribers that the present batch concerns.
    touched: Vec<PeerIndex>,
    /// Memory for those of them for whom a message between was not.
    interrupted: Vec<PeerIndex>,
    /// How many subscribers the present batch goes to, once that is known.
    touched_count: usize,
    /// A run of the present batch, copied out of the read buffer once for all who want it.
    copy: Option<(Range<usize>, Bytes)>,
    tally: Tally,
}

/// What only grows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) deliveries: u64,
    pub(super) unmatched: u64,
    pub(super) dropped: u64,
    pub(super) disconnected_slow: u64,
    pub(super) disconnected_largest: u64,
    pub(super) disconnected_publishers: u64,
    pub(super) subscriptions_refused: u64,
    pub(super) ignored: u64,
}

#[derive(Debug)]
struct Subscriber {
    outbox: Outbox,
    /// Messages of the present batch that wait to be queued as one slice.
    pending: Range<usize>,
    touched: bool,
}

#[derive(Debug)]
struct Publisher {
    outbox: Outbox,
    speaks_3_1: bool,
}

/// Changes for publishers, in both forms in which they may be sent.
#[derive(Debug, Default)]
struct Upstream {
    commands: BytesMut,
    messages: BytesMut,
    count: usize,
}

impl Hub {
    pub(super) fn new(mode: MatchMode, table: SubscriptionLimits, policy: SlowPolicy, limits: &Limits) -> Self {
        Self {
            subscriptions: Subscriptions::new(mode, table),
            subscribers: Vec::new(),
            free: Vec::new(),
            publishers: BTreeMap::new(),
            next_publisher: 0,
            policy,
            pressure_bytes: limits.outbox_total_cap_bytes - limits.outbox_total_cap_bytes / 8,
            touched: Vec::new(),
            interrupted: Vec::new(),
            touched_count: 0,
            copy: None,
            tally: Tally::default(),
        }
    }

    /// A publisher is told all present subscriptions.
    pub(super) fn publisher_joined(&mut self, outbox: Outbox, speaks_3_1: bool) -> u64 {
        let mut all = Upstream::default();
        for topic in self.subscriptions.topics() {
            all.push(topic, true, speaks_3_1, !speaks_3_1);
        }
        let (commands, messages) = all.freeze();
        let publisher = Publisher { outbox, speaks_3_1 };
        self.tally.disconnected_publishers += u64::from(!publisher.tell(&commands, &messages));
        let id = self.next_publisher;
        self.next_publisher += 1;
        self.publishers.insert(id, publisher);
        id
    }

    pub(super) fn publisher_left(&mut self, id: u64) {
        self.publishers.remove(&id);
    }

    pub(super) fn subscriber_joined(&mut self, outbox: Outbox) -> PeerIndex {
        let subscriber = Some(Subscriber { outbox, pending: 0..0, touched: false });
        if let Some(index) = self.free.pop() {
            self.subscribers[index as usize] = subscriber;
            return index;
        }
        self.subscribers.push(subscriber);
        (self.subscribers.len() - 1) as PeerIndex // bounded by `connection_cap`
    }

    pub(super) fn subscriber_left(&mut self, index: PeerIndex) {
        let mut upstream = Upstream::default();
        for topic in self.subscriptions.remove_peer(index) {
            upstream.push(&topic, false, true, true);
        }
        self.subscribers[index as usize] = None;
        self.free.push(index);
        self.tell_publishers(upstream, &mut Vec::new());
    }

    /// Takes a subscriber's subscriptions. `lagging` receives the queues of publishers that have a lot to take in.
    pub(super) fn subscriber_says(&mut self, index: PeerIndex, batch: &Batch, lagging: &mut Vec<Outbox>) {
        let mut upstream = Upstream::default();
        for item in batch.items() {
            match item {
                Item::Subscribe(topic) => match self.subscriptions.subscribe(index, topic) {
                    Ok(Subscribed::First(topic)) => upstream.push(&topic, true, true, true),
                    Ok(Subscribed::Joined | Subscribed::Already) => {}
                    Err(_) => self.tally.subscriptions_refused += 1,
                },
                Item::Cancel(topic) => {
                    if let Unsubscribed::Last(topic) = self.subscriptions.unsubscribe(index, topic) {
                        upstream.push(&topic, false, true, true);
                    }
                }
                Item::Message { .. } => self.tally.ignored += 1,
            }
        }
        self.tell_publishers(upstream, lagging);
    }

    /// Queues every message of a publisher's batch for those who want it. `queued_bytes`: of all subscribers. The queues
    /// to flush are handed out, because writing takes time.
    pub(super) fn fan_out(&mut self, batch: &Batch, queued_bytes: usize, touched: &mut Vec<Outbox>) {
        if queued_bytes > self.pressure_bytes {
            self.disconnect_largest();
        }
        let mut start = 0;
        while start < batch.len() {
            let topic = topic(batch, start);
            // Publishers repeat themselves: a run of one topic is matched once.
            let end = (start + 1..batch.len()).find(|&i| self::topic(batch, i) != topic).unwrap_or(batch.len());
            self.route(batch, topic, start..end);
            start = end;
        }
        self.touched_count = self.touched.len();
        for index in std::mem::take(&mut self.touched) {
            self.queue_pending(index, batch, 0..0);
            if let Some(subscriber) = &mut self.subscribers[index as usize] {
                subscriber.touched = false;
                touched.push(subscriber.outbox.clone());
            }
        }
        (self.copy, self.touched_count) = (None, 0);
    }

    fn route(&mut self, batch: &Batch, topic: &[u8], run: Range<usize>) {
        let mut interrupted = std::mem::take(&mut self.interrupted);
        let found = self.subscriptions.matching(topic);
        if found.is_empty() {
            self.tally.unmatched += run.len() as u64;
        }
        for &index in found {
            let Some(subscriber) = &mut self.subscribers[index as usize] else { continue };
            if !subscriber.touched {
                subscriber.touched = true;
                subscriber.pending = run.clone();
                self.touched.push(index);
            } else if subscriber.pending.end == run.start {
                subscriber.pending.end = run.end;
            } else {
                interrupted.push(index);
            }
        }
        for index in interrupted.drain(..) {
            self.queue_pending(index, batch, run.clone());
        }
        self.interrupted = interrupted;
    }

    /// Queues what waits for a subscriber; `next` waits then.
    fn queue_pending(&mut self, index: PeerIndex, batch: &Batch, next: Range<usize>) {
        let Some(subscriber) = &mut self.subscribers[index as usize] else { return };
        let run = std::mem::replace(&mut subscriber.pending, next);
        let outbox = subscriber.outbox.clone();
        let count = run.len() as u64;
        let shared = self.shared_copy(batch, &run);
        let append = |run: Range<usize>| match &shared {
            Some(wire) => outbox.append_shared(wire, run.len()),
            None => outbox.append_run(batch, run),
        };
        let mut queued = append(run.clone());
        while queued == Err(PushError::Full) && self.make_room(&outbox, batch, run.clone()) {
            queued = append(run.clone());
        }
        match queued {
            Ok(()) => self.tally.deliveries += count,
            Err(PushError::Full) => {
                self.tally.dropped += count;
                if self.policy == SlowPolicy::Disconnect {
                    outbox.close(CloseReason::Stalled);
                    self.tally.disconnected_slow += 1;
                }
            }
            // On its way out.
            Err(PushError::Closed) => {}
        }
    }

    /// The copy of a run that all who want it share, where each would make its own otherwise.
    fn shared_copy(&mut self, batch: &Batch, run: &Range<usize>) -> Option<Bytes> {
        let wire = batch.wire_slice(run.clone());
        if self.touched_count < 2 || !(SHARED_FROM_BYTES..BY_REFERENCE_BYTES).contains(&wire.len()) {
            return None;
        }
        match &self.copy {
            Some((copied, copy)) if copied == run => Some(copy.clone()),
            _ => {
                let copy = Bytes::copy_from_slice(wire);
                self.copy = Some((run.clone(), copy.clone()));
                Some(copy)
            }
        }
    }

    /// The queues of others take the room of this one: the longest of them goes, if it is longer than this one would
    /// become. `false`: this one itself is too long.
    fn make_room(&mut self, outbox: &Outbox, batch: &Batch, run: Range<usize>) -> bool {
        let bytes = batch.wire_slice(run.clone()).len();
        if !outbox.admits(bytes, run.len()) {
            return false;
        }
        let wanted = outbox.queued_bytes() + bytes;
        let live = self.subscribers.iter().flatten().filter(|s| !s.outbox.is_closed());
        let longest = live.map(|s| (s.outbox.queued_bytes(), &s.outbox)).max_by_key(|(bytes, _)| *bytes);
        let Some((_, longest)) = longest.filter(|(bytes, _)| *bytes > wanted) else { return false };
        longest.close(CloseReason::Stalled);
        self.tally.disconnected_largest += 1;
        true
    }

    /// The queues of those that are being disconnected already do not count: their memory is on its way back.
    fn disconnect_largest(&mut self) {
        let live = self.subscribers.iter().flatten().filter(|s| !s.outbox.is_closed());
        let sizes = live.map(|s| (s.outbox.queued_bytes(), &s.outbox));
        let (total, largest) =
            sizes.fold((0, None), |(total, largest): (usize, Option<(usize, &Outbox)>), (bytes, outbox)| {
                (total + bytes, largest.filter(|(most, _)| *most >= bytes).or(Some((bytes, outbox))))
            });
        if total > self.pressure_bytes
            && let Some((_, outbox)) = largest
        {
            outbox.close(CloseReason::Stalled);
            self.tally.disconnected_largest += 1;
        }
    }

    fn tell_publishers(&mut self, upstream: Upstream, lagging: &mut Vec<Outbox>) {
        if upstream.count == 0 {
            return;
        }
        let (commands, messages) = upstream.freeze();
        for publisher in self.publishers.values() {
            if !publisher.tell(&commands, &messages) {
                self.tally.disconnected_publishers += 1;
            } else if publisher.outbox.queued_bytes() > publisher.outbox.cap_bytes() / 2 {
                lagging.push(publisher.outbox.clone());
            }
        }
    }

    pub(super) fn stats(&self, messages_in: u64, queued_bytes: usize) -> ProxyStats {
        let gauges = ProxyStats {
            publishers: self.publishers.len(),
            subscribers: self.subscribers.iter().flatten().count(),
            topics: self.subscriptions.topic_count(),
            subscriptions: self.subscriptions.subscription_count(),
            queued_bytes,
            messages_in,
            ..ProxyStats::default()
        };
        gauges.with_tally(&self.tally)
    }
}

fn topic(batch: &Batch, index: usize) -> &[u8] {
    match batch.item(index) {
        Item::Message { first, .. } => first,
        // An XSUB's decoder yields messages only.
        Item::Subscribe(_) | Item::Cancel(_) => &[],
    }
}

impl Publisher {
    /// `false`: the publisher takes no subscriptions and was disconnected. It is told everything when it comes back,
    /// whereas a subscription dropped here would be lost for good.
    fn tell(&self, (commands, count): &(Bytes, usize), (messages, _): &(Bytes, usize)) -> bool {
        let told = if self.speaks_3_1 {
            self.outbox.append_wire(commands, 0)
        } else {
            self.outbox.append_wire(messages, *count)
        };
        match told {
            Ok(()) => self.outbox.flush(),
            Err(PushError::Closed) => {}
            Err(PushError::Full) => {
                self.outbox.close(CloseReason::Stalled);
                return false;
            }
        }
        true
    }
}

impl Upstream {
    fn push(&mut self, topic: &[u8], subscribe: bool, as_command: bool, as_message: bool) {
        if as_command {
            self.commands.extend_from_slice(&Command::subscription(topic, subscribe, true));
        }
        if as_message {
            self.messages.extend_from_slice(&Command::subscription(topic, subscribe, false));
        }
        self.count += 1;
    }

    fn freeze(self) -> ((Bytes, usize), (Bytes, usize)) {
        ((self.commands.freeze(), self.count), (self.messages.freeze(), self.count))
    }
}
