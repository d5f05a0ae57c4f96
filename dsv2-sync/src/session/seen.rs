//! Which messages were delivered on a topic: a message may stand in two events, and must be seen once.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{IdempotencyKey, MessageId, Publication, SessionId};

/// A bounded memory of messages' identities.
///
/// The numbers of one client session are kept as ranges, so a client that writes a million messages in a row costs one
/// entry. When there are too many entries the older half is forgotten.
#[derive(Debug)]
pub(super) struct Seen {
    young: Generation,
    old: Generation,
    /// The most entries of one generation.
    cap: usize,
}

#[derive(Debug, Default)]
struct Generation {
    /// For each session the ranges of numbers seen: first to last.
    sessions: BTreeMap<SessionId, BTreeMap<u64, u64>>,
    others: BTreeSet<Other>,
    entries: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    /// A client's own key counts for one author, and one text: under a reused key each text is a message.
    Key(IdempotencyKey, String, u64),
    Foreign(u128),
}

impl Seen {
    /// Remembers at least half of `cap` entries.
    pub(super) fn new(cap: usize) -> Self {
        Self { young: Generation::default(), old: Generation::default(), cap: (cap / 2).max(1) }
    }

    /// Notes a message; says whether it is a new one.
    pub(super) fn insert(&mut self, id: &MessageId, publication: &Publication) -> bool {
        let new = match id {
            MessageId::Request { session, number } => {
                let known = self.old.has_number(*session, *number);
                !known && self.young.add_number(*session, *number)
            }
            MessageId::Foreign(digest) => self.insert_other(Other::Foreign(*digest)),
            MessageId::Key(key) => {
                let text = fnv(publication.body.text());
                self.insert_other(Other::Key(key.clone(), publication.body.author().to_owned(), text))
            }
        };
        if self.young.entries > self.cap {
            self.old = std::mem::take(&mut self.young);
        }
        new
    }

    fn insert_other(&mut self, other: Other) -> bool {
        if self.old.others.contains(&other) {
            return false;
        }
        let new = self.young.others.insert(other);
        self.young.entries += usize::from(new);
        new
    }
}

impl Generation {
    fn has_number(&self, session: SessionId, number: u64) -> bool {
        let Some(ranges) = self.sessions.get(&session) else { return false };
        ranges.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    fn add_number(&mut self, session: SessionId, number: u64) -> bool {
        let ranges = self.sessions.entry(session).or_default();
        let below = ranges.range_mut(..=number).next_back();
        if below.as_ref().is_some_and(|(_, last)| number <= **last) {
            return false;
        }
        let above = number.checked_add(1);
        let start = match below {
            Some((&first, last)) if last.checked_add(1) == Some(number) => {
                *last = number;
                first
            }
            _ => {
                ranges.insert(number, number);
                self.entries += 1;
                number
            }
        };
        // The range that begins just above joins.
        if let Some(end) = above.and_then(|above| ranges.remove(&above)) {
            ranges.insert(start, end);
            self.entries -= 1;
        }
        true
    }
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsv2_core::{Clock, PublicationBody};
    use proptest::prelude::*;

    fn publication(text: &str) -> Publication {
        let body = PublicationBody::Channel { user: "ana".into(), channel: None, message: text.into() };
        Publication { body, timestamp: None, clock: None, id: None, event: None, prev: None }
    }

    fn request(session: u128, number: u64) -> MessageId {
        MessageId::Request { session: SessionId::new(Clock::ZERO, session), number }
    }

    proptest! {
        #[test]
        fn it_knows_what_a_set_knows(ids in proptest::collection::vec((0u128..3, prop_oneof![0u64..40, u64::MAX - 3..=u64::MAX]), 0..200)) {
            let (mut seen, mut set) = (Seen::new(10_000), BTreeSet::new());
            for (session, number) in ids {
                prop_assert_eq!(seen.insert(&request(session, number), &publication("x")), set.insert((session, number)));
            }
        }
    }

    #[test]
    fn a_long_run_costs_one_entry_and_keys_are_scoped() {
        let mut seen = Seen::new(8);
        for number in 1..100_000 {
            assert!(seen.insert(&request(1, number), &publication("x")));
        }
        assert!(!seen.insert(&request(1, 1), &publication("x")));
        let key = MessageId::Key(IdempotencyKey::new("k").expect("a key"));
        assert!(seen.insert(&key, &publication("a")));
        assert!(!seen.insert(&key, &publication("a")));
        assert!(seen.insert(&key, &publication("b")));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let mut seen = Seen::new(100);
        for number in 0..10_000 {
            assert!(seen.insert(&request(number, 7), &publication("x")));
            assert!(seen.young.entries + seen.old.entries <= 102);
        }
        for number in 9_951..10_000 {
            assert!(!seen.insert(&request(number, 7), &publication("x")), "{number}");
        }
    }
}
