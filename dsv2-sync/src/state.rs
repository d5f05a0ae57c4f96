//! The state that the events add up to: who exists, what was said, under which identities.
//!
//! The fold does not depend on the order in which events arrive, as long as each origin's come in theirs: users and
//! channels are created by the event with the smallest key, a message is the event with the smallest key among those of
//! one identity and content. So two servers that hold the same events are in the same state.

mod identities;
mod saved;

use identities::Identities;
pub(crate) use saved::{put, take};

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{
    ChannelName, Clock, Event, EventBody, EventId, EventKind, Feed, Floors, MessageId, OrderKey, Origin, Position,
    UserName,
};
use serde::{Deserialize, Serialize};

/// The fold of all events held.
///
/// Memory: about 75 bytes a message that is not retired, for its identity; the texts stay in the store.
///
/// Messages below the floors are not taken into account: neither their identities, nor which of them are twins. Floors are
/// raised only where no twin is above one while its original is below, see [`State::safe_floors`].
#[derive(Debug, Default)]
pub struct State {
    users: BTreeMap<UserName, Creation>,
    channels: BTreeMap<ChannelName, Creation>,
    origins: Origins,
    messages: Identities,
    /// Messages that share an identity with one in `messages` and say something else.
    namesakes: BTreeMap<(u128, u64), Known>,
    /// Events whose message stands in another event with a smaller key; histories leave them out.
    twins: BTreeMap<EventId, Twin>,
    conflicts: BTreeSet<String>,
    floors: Floors,
    events: u64,
}

const fn kind(is_private: bool) -> EventKind {
    if is_private { EventKind::Message } else { EventKind::Publish }
}

/// A user's or a channel's creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    /// The event that holds it.
    pub key: OrderKey,
    /// The identity of the request that asked for it.
    pub id: MessageId,
}

/// What is remembered of a message.
#[derive(Clone, Copy, Debug)]
struct Known {
    content: u64,
    clock: Clock,
    origin: u32,
    is_private: bool,
    seq: u64,
}

/// What is remembered of a twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Twin {
    identity: u128,
    content: u64,
    clock: Clock,
    is_private: bool,
}

/// What is known of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Never seen.
    New,
    /// Seen with the same content; carries the event that counts.
    Same(EventId),
    /// Seen with other content.
    Other,
}

#[derive(Debug, Default)]
struct Origins {
    list: Vec<Origin>,
    index: BTreeMap<Origin, u32>,
}

impl Origins {
    fn intern(&mut self, origin: &Origin) -> u32 {
        if let Some(&index) = self.index.get(origin) {
            return index;
        }
        // A process that saw 2^32 lives of servers has other trouble.
        let index = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(origin.clone());
        self.index.insert(origin.clone(), index);
        index
    }

    fn id(&self, known: Known) -> EventId {
        EventId { origin: self.list[known.origin as usize].clone(), seq: known.seq }
    }
}

impl State {
    /// Takes an event into account. Each is to be applied once, in the order of its origin.
    pub fn apply(&mut self, event: &Event) {
        self.events += 1;
        match &event.body {
            EventBody::UserLogin { user } => {
                create(&mut self.users, user.clone(), event);
                if self.channels.contains_key(user.as_str()) {
                    self.conflicts.insert(user.as_str().to_owned());
                }
            }
            EventBody::ChannelCreate { channel } => {
                create(&mut self.channels, channel.clone(), event);
                if self.users.contains_key(channel.as_str()) {
                    self.conflicts.insert(channel.as_str().to_owned());
                }
            }
            EventBody::Publish { .. } | EventBody::Message { .. } => {
                if !self.floors.retires(event.body.kind(), event.clock) {
                    self.apply_message(event);
                }
            }
        }
    }

    fn apply_message(&mut self, event: &Event) {
        let identity = identity(&event.message_id, &event.body);
        let content = content(&event.body);
        let origin = self.origins.intern(&event.id.origin);
        let is_private = event.body.kind() == EventKind::Message;
        let new = Known { content, clock: event.clock, origin, is_private, seq: event.id.seq };
        let Some(first) = self.messages.get(identity) else { return self.messages.insert(identity, new) };
        let is_first = first.content == content;
        let held = if is_first { Some(first) } else { self.namesakes.get(&(identity, content)).copied() };
        let Some(held) = held else {
            self.namesakes.insert((identity, content), new);
            return;
        };
        let held_id = self.origins.id(held);
        let (later, clock) = if event.key() < (OrderKey { clock: held.clock, id: held_id.clone() }) {
            if is_first {
                self.messages.insert(identity, new);
            } else {
                self.namesakes.insert((identity, content), new);
            }
            (held_id, held.clock)
        } else {
            (event.id.clone(), event.clock)
        };
        self.twins.insert(later, Twin { identity, content, clock, is_private });
    }

    /// Below which clocks messages are retired.
    #[must_use]
    pub fn floors(&self) -> Floors {
        self.floors
    }

    /// Whether a message of this identity, which is not known, may be one that was retired: its session was opened below
    /// the floor, so nobody can tell any more.
    #[must_use]
    pub fn is_forgotten(&self, id: &MessageId, kind: EventKind) -> bool {
        matches!(id, MessageId::Request { session, .. } if self.floors.retires(kind, session.opened()))
    }

    /// Raises the floors and forgets what is below them; yields the twins among it. The floors must be safe.
    pub fn retire(&mut self, floors: Floors) -> BTreeSet<EventId> {
        self.floors.merge(floors);
        let floors = self.floors;
        let stays = |known: &Known| !floors.retires(kind(known.is_private), known.clock);
        self.messages.retain(&stays);
        self.namesakes.retain(|_, known| stays(known));
        // One of an identity's messages stands in the table, whichever, as long as there is any.
        let mut promoted = BTreeSet::new();
        for (&(identity, content), known) in &self.namesakes {
            if self.messages.get(identity).is_none() {
                self.messages.insert(identity, *known);
                promoted.insert((identity, content));
            }
        }
        self.namesakes.retain(|namesake, _| !promoted.contains(namesake));
        let is_below = |twin: &Twin| floors.retires(kind(twin.is_private), twin.clock);
        let hidden = self.twins.iter().filter(|(_, twin)| is_below(twin)).map(|(id, _)| id.clone()).collect();
        self.twins.retain(|_, twin| !is_below(twin));
        hidden
    }

    /// The highest floors up to those wanted between which and above which no twin and its original are divided: whoever
    /// forgot the original would take the twin for a message of its own.
    #[must_use]
    pub fn safe_floors(&self, wanted: Floors) -> Floors {
        let mut floors = wanted;
        loop {
            let before = floors;
            for twin in self.twins.values() {
                let original = self.original(twin);
                let floor = if twin.is_private { &mut floors.message } else { &mut floors.publish };
                if let Some(original) = original.filter(|original| original <= floor && twin.clock > *floor) {
                    *floor = Clock::new(original.get().saturating_sub(1)).unwrap_or(Clock::ZERO);
                }
            }
            if floors == before {
                return floors;
            }
        }
    }

    /// The clock of the event that counts instead of a twin.
    fn original(&self, twin: &Twin) -> Option<Clock> {
        let held = self.messages.get(twin.identity).filter(|held| held.content == twin.content);
        held.or_else(|| self.namesakes.get(&(twin.identity, twin.content)).copied()).map(|held| held.clock)
    }

    /// What is known of a message's identity and content.
    #[must_use]
    pub fn lookup(&self, id: &MessageId, body: &EventBody) -> Lookup {
        let identity = identity(id, body);
        let Some(held) = self.messages.get(identity) else { return Lookup::New };
        let content = content(body);
        if held.content == content {
            return Lookup::Same(self.origins.id(held));
        }
        self.namesakes.get(&(identity, content)).map_or(Lookup::Other, |held| Lookup::Same(self.origins.id(*held)))
    }

    /// A user's creation.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Creation> {
        self.users.get(name)
    }

    /// A channel's creation.
    #[must_use]
    pub fn channel(&self, name: &str) -> Option<&Creation> {
        self.channels.get(name)
    }

    /// The users' names, in their order.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &UserName> {
        self.users.keys()
    }

    /// The channels' names, in their order.
    pub fn channels(&self) -> impl ExactSizeIterator<Item = &ChannelName> {
        self.channels.keys()
    }

    /// Whether the event's message counts by another event, so that a history leaves this one out.
    #[must_use]
    pub fn is_twin(&self, event: &EventId) -> bool {
        self.twins.contains_key(event)
    }

    /// Whether the event's message would count by it if only the events that a position means were held.
    #[must_use]
    pub fn counts_within(&self, event: &Event, position: &Position) -> bool {
        let Some(twin) = self.twins.get(&event.id) else { return true };
        if matches!(self.lookup(&event.message_id, &event.body), Lookup::Same(counts) if position.contains(&counts)) {
            return false;
        }
        let key = event.key();
        let is_better = |(id, other): (&EventId, &Twin)| {
            (other.identity, other.content) == (twin.identity, twin.content)
                && position.contains(id)
                && OrderKey { clock: other.clock, id: id.clone() } < key
        };
        !self.twins.iter().any(is_better)
    }

    /// The feed that a bare name means: the channel's, or else the user's inbox.
    #[must_use]
    pub fn feed(&self, topic: &str) -> Option<Feed> {
        match (self.channels.get_key_value(topic), self.users.get_key_value(topic)) {
            (Some((channel, _)), _) => Some(Feed::Channel(channel.clone())),
            (None, Some((user, _))) => Some(Feed::Inbox(user.clone())),
            (None, None) => None,
        }
    }

    /// Names that became user on one side of a partition and channel on the other. Both exist.
    pub fn conflicts(&self) -> impl Iterator<Item = &str> {
        self.conflicts.iter().map(String::as_str)
    }

    /// Whether a name is user and channel at once.
    #[must_use]
    pub fn is_conflict(&self, name: &str) -> bool {
        self.conflicts.contains(name)
    }

    /// How many events it holds.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A digest of what clients can see of the state; equal states have equal digests. Together with equal positions it
    /// says that two servers are the same.
    #[must_use]
    pub fn digest(&self, position: &Position) -> u64 {
        let mut hash = Fnv::default();
        for (name, creation) in &self.users {
            hash.text(name.as_str());
            hash.text(&creation.key.to_string());
        }
        for (name, creation) in &self.channels {
            hash.text(name.as_str());
            hash.text(&creation.key.to_string());
        }
        for twin in self.twins.keys() {
            hash.text(&twin.to_string());
        }
        hash.text(&format!("{} {}", self.floors.publish, self.floors.message));
        for (origin, seq) in position.iter() {
            hash.text(&origin.to_string());
            hash.text(&seq.to_string());
        }
        hash.0
    }
}

/// Keeps the creation with the smallest key.
fn create<K: Ord>(table: &mut BTreeMap<K, Creation>, name: K, event: &Event) {
    let creation = Creation { key: event.key(), id: event.message_id.clone() };
    let held = table.entry(name).or_insert_with(|| creation.clone());
    if creation.key < held.key {
        *held = creation;
    }
}

/// The identity of a message as a number: a client's own key counts within its user and topic, the others everywhere.
fn identity(id: &MessageId, body: &EventBody) -> u128 {
    match id {
        MessageId::Foreign(digest) => *digest,
        MessageId::Request { .. } | MessageId::Key(_) => id.scoped_digest(body),
    }
}

fn content(body: &EventBody) -> u64 {
    // The upper half of a cryptographic digest is one itself.
    (body.digest() >> 64) as u64
}

/// FNV-1a; for comparing states, not for keeping secrets.
#[derive(Debug)]
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0xff]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{Offer, ReplicationLog, VectorLog};
    use dsv2_core::{IdempotencyKey, Timestamp};
    use proptest::prelude::*;

    fn event(server: &str, seq: u64, clock: u64, key: &str, text: &str) -> Event {
        Event {
            id: EventId { origin: Origin { server: server.parse().expect("a name"), incarnation: 1 }, seq },
            clock: Clock::new(clock).expect("in range"),
            prev: None,
            message_id: MessageId::Key(IdempotencyKey::new(key).expect("a key")),
            timestamp: Timestamp::default(),
            body: EventBody::Publish {
                user: "ana".parse().expect("a name"),
                channel: "dev".parse().expect("a name"),
                message: text.into(),
            },
        }
    }

    #[test]
    fn the_smallest_key_of_a_message_counts_whatever_came_first() {
        let (early, late) = (event("s2", 1, 3, "k", "hi"), event("s1", 1, 5, "k", "hi"));
        for order in [[&early, &late], [&late, &early]] {
            let mut state = State::default();
            order.into_iter().for_each(|event| state.apply(event));
            assert!(state.is_twin(&late.id) && !state.is_twin(&early.id));
            assert_eq!(state.lookup(&early.message_id, &early.body), Lookup::Same(early.id.clone()));
        }
    }

    /// The best one comes last: until then the message counted by the best of the others, and only by it.
    #[test]
    fn one_event_of_a_message_counts_within_any_position() {
        let all = [event("s1", 1, 5, "k", "hi"), event("s2", 1, 4, "k", "hi"), event("s3", 1, 3, "k", "hi")];
        let mut state = State::default();
        all.iter().for_each(|event| state.apply(event));
        for held in 1..=all.len() {
            let position: Position = all[..held].iter().map(|event| (event.id.origin.clone(), 1)).collect();
            let counting =
                all.iter().filter(|event| state.counts_within(event, &position) && position.contains(&event.id));
            assert_eq!(counting.map(|event| &event.id).collect::<Vec<_>>(), [&all[held - 1].id]);
        }
    }

    #[test]
    fn one_identity_with_two_contents_is_two_messages_and_refused_to_a_third() {
        let mut state = State::default();
        let (a, b) = (event("s1", 1, 1, "k", "a"), event("s2", 1, 2, "k", "b"));
        state.apply(&a);
        assert_eq!(state.lookup(&b.message_id, &b.body), Lookup::Other);
        state.apply(&b);
        assert!(!state.is_twin(&a.id) && !state.is_twin(&b.id));
        assert_eq!(state.lookup(&b.message_id, &b.body), Lookup::Same(b.id.clone()));
        let c = event("s1", 2, 3, "k", "c");
        assert_eq!(state.lookup(&c.message_id, &c.body), Lookup::Other);
    }

    #[test]
    fn a_key_is_scoped_by_user_and_topic() {
        let mut state = State::default();
        let mut other = event("s1", 1, 1, "k", "a");
        state.apply(&other);
        other.body = EventBody::Publish {
            user: "bob".parse().expect("a name"),
            channel: "dev".parse().expect("a name"),
            message: "a".into(),
        };
        assert_eq!(state.lookup(&other.message_id, &other.body), Lookup::New);
    }

    /// What three servers wrote, from random numbers: users and channels that may be called alike, and messages that share
    /// few identities and texts.
    fn histories(seed: Vec<(u64, u64, u64, u64)>) -> [Vec<Event>; 3] {
        let mut origins: [Vec<Event>; 3] = Default::default();
        for (origin, clock, key, text) in seed {
            let seq = origins[origin as usize].len() as u64 + 1;
            let mut event = event(&format!("s{origin}"), seq, clock + 3 * seq, &format!("k{key}"), &format!("t{text}"));
            match (clock + key) % 4 {
                0 => event.body = EventBody::UserLogin { user: format!("n{key}").parse().expect("a name") },
                1 => event.body = EventBody::ChannelCreate { channel: format!("n{key}").parse().expect("a name") },
                _ => {}
            }
            origins[origin as usize].push(event);
        }
        origins
    }

    proptest! {
        /// Who never saw what is below safe floors is in the same state as who forgot it; and floors that are not safe can
        /// divide a message and its twin.
        #[test]
        fn what_is_retired_need_not_be_seen(
            seed in proptest::collection::vec((0u64..3, 0u64..12, 0u64..4, 0u64..3), 1..60),
            floor in 0u64..120,
        ) {
            let origins = histories(seed);
            let mut forgot = State::default();
            origins.iter().flatten().for_each(|event| forgot.apply(event));
            let held = origins.iter().flatten().map(|event| (event.id.origin.clone(), event.id.seq)).collect();
            let wanted = Floors::both(Clock::ZERO.plus(floor));
            let floors = forgot.safe_floors(wanted);
            prop_assert!(wanted.covers(&floors) && forgot.safe_floors(floors) == floors);
            let mut never_saw = State::default();
            prop_assert!(never_saw.retire(floors).is_empty());
            let left = |event: &&Event| !floors.retires(event.body.kind(), event.clock);
            origins.iter().flatten().filter(left).for_each(|event| never_saw.apply(event));
            let hidden = forgot.retire(floors);
            prop_assert_eq!(forgot.digest(&held), never_saw.digest(&held));
            for event in origins.iter().flatten().filter(left) {
                prop_assert!(!hidden.contains(&event.id));
                prop_assert_eq!(forgot.is_twin(&event.id), never_saw.is_twin(&event.id));
                prop_assert_eq!(forgot.lookup(&event.message_id, &event.body), never_saw.lookup(&event.message_id, &event.body));
            }
            // And a snapshot of it is it.
            let mut bytes = Vec::new();
            forgot.save(&mut bytes);
            let mut rest = bytes.as_slice();
            let restored = State::restore(&mut rest).expect("restores");
            prop_assert!(rest.is_empty());
            prop_assert_eq!(restored.digest(&held), forgot.digest(&held));
            let mut again = Vec::new();
            restored.save(&mut again);
            prop_assert_eq!(again, bytes);
        }

        /// Replicas that take the same events, those of each origin in order and the origins in any order, are in the same
        /// state, whatever they were sent twice.
        #[test]
        fn the_fold_commutes(
            seed in proptest::collection::vec((0u64..3, 0u64..12, 0u64..4, 0u64..3), 1..60),
            order in proptest::collection::vec((0usize..3, any::<bool>()), 0..400),
        ) {
            let origins = histories(seed);
            let (mut one, mut held) = (State::default(), dsv2_core::Position::default());
            for event in origins.iter().flatten() {
                one.apply(event);
                held.advance(&event.id);
            }
            let (mut other, mut log) = (State::default(), VectorLog::new("s9".parse().expect("a name"), Position::default()));
            let mut next = [0; 3];
            let rest = (0..3).flat_map(|origin| std::iter::repeat_n((origin, false), origins[origin].len()));
            for (origin, again) in order.into_iter().chain(rest.collect::<Vec<_>>()) {
                // What was sent before may come once more; what comes too early is refused, and asked for.
                let index = if again { next[origin] / 2 } else { next[origin] };
                let Some(event) = origins[origin].get(index) else { continue };
                if log.offer(&event.id) == Offer::Accept {
                    other.apply(event);
                    next[origin] += 1;
                }
            }
            prop_assert_eq!(log.held(), &held);
            prop_assert_eq!(other.digest(&held), one.digest(&held));
            prop_assert_eq!(other.users().collect::<Vec<_>>(), one.users().collect::<Vec<_>>());
            prop_assert_eq!(other.conflicts().collect::<Vec<_>>(), one.conflicts().collect::<Vec<_>>());
        }
    }
}
