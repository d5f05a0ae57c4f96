//! The replication log: which events are held, which are missing, and who else holds what.
//!
//! ```text
//!   own event ──► record ─────────────► streamed to every peer ──► acknowledged by durable vector ──► holders
//!   theirs    ──► offer ──► Accept      the next one of its origin: append it
//!                       ├─► Duplicate   held already: acknowledge again
//!                       └─► Gap         something is missing before it: pull from the number given
//! ```
//!
//! Every origin's events are held without gaps, so one number per origin, a version vector, says all of it.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{EventId, Origin, Position, ServerName};

/// What is to be done with an event that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is the next one of its origin, and now counts as held: append it.
    Accept,
    /// It is held already.
    Duplicate,
    /// Events before it are missing, from this number on. Nothing changed.
    Gap(u64),
}

/// The bookkeeping of replication: order, duplicates, gaps and vectors.
///
/// Laws, which the property tests check on [`VectorLog`]: offering the same events in any order and any number of
/// times, with repairs by what [`ReplicationLog::missing`] names, ends in the same vector; nothing is accepted twice;
/// an origin's events are accepted in the order of their numbers.
pub trait ReplicationLog {
    /// Judges an event that arrived, and counts it as held if it is the next one of its origin.
    fn offer(&mut self, event: &EventId) -> Offer;

    /// Counts all numbers of an origin up to `upto` as held: those that did not come are retired elsewhere.
    fn skip(&mut self, origin: &Origin, upto: u64);

    /// What is held.
    fn held(&self) -> &Position;

    /// Notes what a server says it holds, durable. Never goes back.
    fn note(&mut self, server: &ServerName, durable: &Position);

    /// What a server said it holds, durable.
    fn durable(&self, server: &ServerName) -> Option<&Position>;

    /// Forgets what a server said: it lost its disk, and is a new one under an old name.
    fn forget(&mut self, server: &ServerName);

    /// How many of `servers` are known to hold the event durable. Ourselves count where we hold it, since what tells of
    /// it waits for the disk.
    fn holders(&self, event: &EventId, servers: &BTreeSet<ServerName>) -> usize;

    /// What is held elsewhere and not here: an origin, and the first number missing.
    fn missing(&self, theirs: &Position) -> Vec<(Origin, u64)>;
}

/// A [`ReplicationLog`] of version vectors: one for ourselves, one for every other server.
#[derive(Debug)]
pub struct VectorLog {
    this: ServerName,
    held: Position,
    others: BTreeMap<ServerName, Position>,
}

impl VectorLog {
    /// The log of a server that holds the events in `held`.
    #[must_use]
    pub fn new(this: ServerName, held: Position) -> Self {
        Self { this, held, others: BTreeMap::new() }
    }
}

impl ReplicationLog for VectorLog {
    fn offer(&mut self, event: &EventId) -> Offer {
        let have = self.held.get(&event.origin);
        if event.seq <= have {
            Offer::Duplicate
        } else if event.seq == have + 1 {
            self.held.advance(event);
            Offer::Accept
        } else {
            Offer::Gap(have + 1)
        }
    }

    fn skip(&mut self, origin: &Origin, upto: u64) {
        self.held.advance_to(origin, upto);
    }

    fn held(&self) -> &Position {
        &self.held
    }

    fn note(&mut self, server: &ServerName, durable: &Position) {
        self.others.entry(server.clone()).or_default().merge(durable);
    }

    fn durable(&self, server: &ServerName) -> Option<&Position> {
        self.others.get(server)
    }

    fn forget(&mut self, server: &ServerName) {
        self.others.remove(server);
    }

    fn holders(&self, event: &EventId, servers: &BTreeSet<ServerName>) -> usize {
        let holds = |server: &&ServerName| {
            if **server == self.this {
                self.held.contains(event)
            } else {
                self.others.get(*server).is_some_and(|durable| durable.contains(event))
            }
        };
        servers.iter().filter(holds).count()
    }

    fn missing(&self, theirs: &Position) -> Vec<(Origin, u64)> {
        let beyond = theirs.iter().filter(|(origin, seq)| *seq > self.held.get(origin));
        beyond.map(|(origin, _)| (origin.clone(), self.held.get(origin) + 1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(origin: u64, seq: u64) -> EventId {
        EventId { origin: Origin { server: "s1".parse().expect("a name"), incarnation: origin }, seq }
    }

    fn log() -> VectorLog {
        VectorLog::new("s2".parse().expect("a name"), Position::default())
    }

    proptest! {
        /// Whatever arrives in whatever order, however often: pulling what is missing ends in the senders' vector.
        #[test]
        fn replication_commutes(
            lengths in proptest::collection::vec(1u64..20, 1..5),
            arrivals in proptest::collection::vec((any::<prop::sample::Index>(), 1u64..20), 0..200),
        ) {
            let theirs: Position = lengths.iter().enumerate().map(|(origin, &seq)| { let id = id(origin as u64, seq); (id.origin, id.seq) }).collect();
            let mut log = log();
            let mut accepted = BTreeSet::new();
            let mut offer = |log: &mut VectorLog, event: EventId| {
                let before = log.held().get(&event.origin);
                match log.offer(&event) {
                    Offer::Accept => { assert!(accepted.insert(event.clone()), "twice"); assert_eq!(event.seq, before + 1); }
                    Offer::Duplicate => assert!(event.seq <= before),
                    Offer::Gap(from) => { assert_eq!(from, before + 1); assert!(event.seq > from); }
                }
            };
            for (origin, seq) in arrivals {
                let origin = origin.index(lengths.len());
                if seq <= lengths[origin] {
                    offer(&mut log, id(origin as u64, seq));
                }
            }
            for (origin, from) in log.missing(&theirs) {
                for seq in from..=theirs.get(&origin) {
                    offer(&mut log, EventId { origin: origin.clone(), seq });
                }
            }
            prop_assert_eq!(log.held(), &theirs);
            prop_assert!(log.missing(&theirs).is_empty());
        }
    }

    #[test]
    fn holders_are_those_that_said_so_and_ourselves() {
        let mut log = log();
        let servers: BTreeSet<ServerName> = ["s1", "s2", "s3"].iter().filter_map(|name| name.parse().ok()).collect();
        let event = id(1, 1);
        assert_eq!(log.holders(&event, &servers), 0);
        assert_eq!(log.offer(&event), Offer::Accept);
        assert_eq!(log.holders(&event, &servers), 1);
        let s3 = "s3".parse().expect("a name");
        log.note(&s3, &Position::from_iter([(event.origin.clone(), 1)]));
        assert_eq!(log.holders(&event, &servers), 2);
        log.forget(&s3);
        assert_eq!(log.holders(&event, &servers), 1);
    }
}
