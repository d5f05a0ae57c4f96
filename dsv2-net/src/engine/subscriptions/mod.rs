//! Who wants what: the reference-counted subscription index of a forwarding XPUB.
//!
//! A topic is known once, whatever the number of its subscribers, and is announced upstream only
//! when its first subscriber comes and when its last one leaves. As in libzmq a peer holds a topic
//! *once*: a repeated subscription changes nothing and one cancellation ends it (a libzmq SUB
//! repeats its subscriptions on the wire but cancels only once, so counting repetitions would
//! leave topics behind that nobody can ever withdraw).
//!
//! Matching does not depend on the number of topics: one hash look-up in [`MatchMode::Exact`], one
//! walk down a compressed trie, no longer than the topic, in [`MatchMode::Prefix`].
//!
//! Source: ZeroMQ RFC 29 (PUB/SUB), section "XPUB"; RFC 37, SUBSCRIBE and CANCEL.

mod trie;

use std::collections::HashMap;

use bytes::Bytes;

use self::trie::Trie;

#[cfg(test)]
mod tests;

/// Dense number that the owner of the index gives to a connected subscriber; reused after
/// [`Subscriptions::remove_peer`].
pub type PeerIndex = u32;

/// How a published topic is compared with a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatchMode {
    /// The whole topic frame must be equal. A subscriber of `an` never sees what is sent to `ana`,
    /// and a subscription to the empty topic receives only messages of the empty topic.
    #[default]
    Exact,
    /// The subscription must be a prefix of the topic frame, as in libzmq.
    Prefix,
}

/// Bounds of the index. Reaching one refuses the new subscription and changes nothing.
///
/// Memory stays below about `names_cap_bytes × 3 + topics × 200 + subscriptions × 40` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionLimits {
    /// Longest accepted topic, in bytes.
    pub topic_cap_bytes: usize,
    /// Most topics one subscriber may hold.
    pub topics_per_peer: usize,
    /// Most distinct topics.
    pub topics: usize,
    /// Most (subscriber, topic) pairs.
    pub subscriptions: usize,
    /// Sum of the lengths of all distinct topics, in bytes. This is also what a publisher that
    /// connects is sent.
    pub names_cap_bytes: usize,
}

impl Default for SubscriptionLimits {
    fn default() -> Self {
        Self {
            topic_cap_bytes: 1024,
            topics_per_peer: 100_000,
            topics: 250_000,
            subscriptions: 1_000_000,
            names_cap_bytes: 16 * 1024 * 1024,
        }
    }
}

impl SubscriptionLimits {
    /// What a full table takes on the wire at most, as commands.
    pub(crate) fn wire_bytes(&self) -> usize {
        const COMMAND_OVERHEAD_BYTES: usize = 19; // a long header and "SUBSCRIBE" with its length
        self.names_cap_bytes + self.topics.saturating_mul(COMMAND_OVERHEAD_BYTES)
    }
}

/// What a subscription changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscribed {
    /// First subscriber of this topic: announce it upstream.
    First(Bytes),
    /// Others had it already.
    Joined,
    /// The peer itself had it already; nothing changed.
    Already,
}

/// What a cancellation changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsubscribed {
    /// The last subscriber of this topic left: withdraw it upstream.
    Last(Bytes),
    /// Others still hold it.
    Left,
    /// The peer did not hold it; nothing changed.
    NotHeld,
}

/// Why a subscription was refused. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeRefused {
    /// Longer than [`SubscriptionLimits::topic_cap_bytes`].
    #[error("topic too long")]
    TopicTooLong,
    /// The peer holds [`SubscriptionLimits::topics_per_peer`] topics.
    #[error("too many topics for one subscriber")]
    PeerFull,
    /// [`SubscriptionLimits::topics`], `subscriptions` or `names_cap_bytes` is reached.
    #[error("subscription table full")]
    TableFull,
}

/// The index. Not synchronised: its owner holds it alone.
#[derive(Debug)]
pub struct Subscriptions {
    limits: SubscriptionLimits,
    by_name: HashMap<Bytes, u32>,
    /// Only in [`MatchMode::Prefix`].
    trie: Option<Trie>,
    topics: Vec<Topic>,
    free_topics: Vec<u32>,
    peers: Vec<Peer>,
    subscriptions: usize,
    names_bytes: usize,
    /// Result of the last prefix match; kept so that matching does not allocate.
    found: Vec<PeerIndex>,
    /// Marks the peers already found by the current prefix match.
    round: u64,
}

#[derive(Debug, Default)]
struct Topic {
    name: Bytes,
    subscribers: Vec<PeerIndex>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Topic → position of this peer in the topic's `subscribers`, so that leaving is O(1).
    held: HashMap<u32, u32>,
    seen_in_round: u64,
}

impl Subscriptions {
    /// An empty index.
    #[must_use]
    pub fn new(mode: MatchMode, limits: SubscriptionLimits) -> Self {
        Self {
            limits,
            by_name: HashMap::new(),
            trie: match mode {
                MatchMode::Exact => None,
                MatchMode::Prefix => Some(Trie::default()),
            },
            topics: Vec::new(),
            free_topics: Vec::new(),
            peers: Vec::new(),
            subscriptions: 0,
            names_bytes: 0,
            found: Vec::new(),
            round: 0,
        }
    }

    /// Adds `topic` to what `peer` holds. On an error nothing changed.
    pub fn subscribe(&mut self, peer: PeerIndex, topic: &[u8]) -> Result<Subscribed, SubscribeRefused> {
        if topic.len() > self.limits.topic_cap_bytes {
            return Err(SubscribeRefused::TopicTooLong);
        }
        let known = self.by_name.get(topic).copied();
        let held = self.peers.get(peer as usize).map(|entry| &entry.held);
        if let (Some(id), Some(held)) = (known, held)
            && held.contains_key(&id)
        {
            return Ok(Subscribed::Already);
        }
        if held.map_or(0, HashMap::len) >= self.limits.topics_per_peer {
            return Err(SubscribeRefused::PeerFull);
        }
        if self.subscriptions >= self.limits.subscriptions {
            return Err(SubscribeRefused::TableFull);
        }
        let (id, outcome) = match known {
            Some(id) => (id, Subscribed::Joined),
            None => {
                let id = self.add_topic(topic)?;
                (id, Subscribed::First(self.topics[id as usize].name.clone()))
            }
        };
        self.link(peer, id);
        Ok(outcome)
    }

    /// Takes `topic` from what `peer` holds.
    pub fn unsubscribe(&mut self, peer: PeerIndex, topic: &[u8]) -> Unsubscribed {
        let Some(&id) = self.by_name.get(topic) else {
            return Unsubscribed::NotHeld;
        };
        let Some(entry) = self.peers.get_mut(peer as usize) else {
            return Unsubscribed::NotHeld;
        };
        let Some(position) = entry.held.remove(&id) else {
            return Unsubscribed::NotHeld;
        };
        match self.unlink(id, position) {
            Some(name) => Unsubscribed::Last(name),
            None => Unsubscribed::Left,
        }
    }

    /// Takes everything from `peer` and returns the topics to withdraw upstream: those that nobody
    /// else holds.
    pub fn remove_peer(&mut self, peer: PeerIndex) -> Vec<Bytes> {
        let Some(entry) = self.peers.get_mut(peer as usize) else {
            return Vec::new();
        };
        // Taken as a whole, so that the memory of a large subscriber is returned.
        let held = std::mem::take(&mut entry.held);
        held.into_iter().filter_map(|(id, position)| self.unlink(id, position)).collect()
    }

    /// The subscribers of a message on `topic`, each once, in no particular order.
    #[inline]
    pub fn matching(&mut self, topic: &[u8]) -> &[PeerIndex] {
        let Some(trie) = &self.trie else {
            return self.by_name.get(topic).map_or(&[], |&id| &self.topics[id as usize].subscribers);
        };
        self.round += 1;
        self.found.clear();
        let (topics, peers, found, round) = (&self.topics, &mut self.peers, &mut self.found, self.round);
        trie.visit_prefixes(topic, |id| {
            for &peer in &topics[id as usize].subscribers {
                let entry = &mut peers[peer as usize];
                if entry.seen_in_round != round {
                    entry.seen_in_round = round;
                    found.push(peer);
                }
            }
        });
        &self.found
    }

    /// Every distinct topic that somebody holds, in no particular order: what a publisher that
    /// connects must be told.
    pub fn topics(&self) -> impl Iterator<Item = &Bytes> {
        self.by_name.keys()
    }

    /// Number of distinct topics.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.by_name.len()
    }

    /// Number of (subscriber, topic) pairs.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subscriptions
    }

    /// Number of topics that `peer` holds.
    #[must_use]
    pub fn held_by(&self, peer: PeerIndex) -> usize {
        self.peers.get(peer as usize).map_or(0, |entry| entry.held.len())
    }

    fn add_topic(&mut self, topic: &[u8]) -> Result<u32, SubscribeRefused> {
        let room =
            self.by_name.len() < self.limits.topics && self.names_bytes + topic.len() <= self.limits.names_cap_bytes;
        if !room {
            return Err(SubscribeRefused::TableFull);
        }
        let id = match self.free_topics.pop() {
            Some(id) => id,
            None => {
                let id = u32::try_from(self.topics.len()).map_err(|_| SubscribeRefused::TableFull)?;
                self.topics.push(Topic::default());
                id
            }
        };
        // A copy, never a slice of a read buffer: the name may live for days.
        let name = Bytes::copy_from_slice(topic);
        self.topics[id as usize].name = name.clone();
        self.by_name.insert(name, id);
        if let Some(trie) = &mut self.trie {
            trie.insert(topic, id);
        }
        self.names_bytes += topic.len();
        Ok(id)
    }

    fn link(&mut self, peer: PeerIndex, id: u32) {
        let slot = peer as usize;
        if slot >= self.peers.len() {
            self.peers.resize_with(slot + 1, Peer::default);
        }
        let subscribers = &mut self.topics[id as usize].subscribers;
        let position = subscribers.len() as u32; // at most one entry per PeerIndex, a u32
        subscribers.push(peer);
        self.peers[slot].held.insert(id, position);
        self.subscriptions += 1;
    }

    /// Removes the subscriber at `position`; returns the name if it was the last.
    fn unlink(&mut self, id: u32, position: u32) -> Option<Bytes> {
        self.subscriptions -= 1;
        let subscribers = &mut self.topics[id as usize].subscribers;
        subscribers.swap_remove(position as usize);
        if let Some(&moved) = subscribers.get(position as usize) {
            self.peers[moved as usize].held.insert(id, position);
        }
        if !subscribers.is_empty() {
            return None;
        }
        let topic = std::mem::take(&mut self.topics[id as usize]);
        self.by_name.remove(&topic.name);
        if let Some(trie) = &mut self.trie {
            trie.remove(&topic.name);
        }
        self.names_bytes -= topic.name.len();
        self.free_topics.push(id);
        Some(topic.name)
    }
}
