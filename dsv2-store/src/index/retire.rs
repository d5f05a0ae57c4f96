//! Retirement: which events are below the floors, and forgetting them.
//!
//! Of every feed the last event of each origin stays, whatever its clock, as the *anchor* from which readers see that
//! something before it is gone. All the rest below the floor of its kind goes. An origin's clocks never fall, so what goes
//! of a run is all up to some place in it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use dsv2_core::{Clock, EventId, EventKind, Floors, Origin, Position, Retention, Timestamp};

use super::{Entry, FeedKey, Index, OriginLog, Place, Run};
use crate::index::chunks::SeqList;
use crate::ranges::Ranges;

/// Into so many parts the clocks held are divided when the floor for a size is sought; it is right to one part.
const PARTS: u64 = 4_096;

impl FeedKey {
    const fn kind(self) -> EventKind {
        match self {
            Self::Channel(_) => EventKind::Publish,
            Self::Inbox(_) | Self::Conversation(..) => EventKind::Message,
        }
    }
}

impl<P: Place> Index<P> {
    /// The numbers of each origin that are retired.
    pub(crate) fn retired(&self) -> impl Iterator<Item = (&Origin, &Ranges)> {
        self.origins.iter().map(|log| (&log.origin, &log.retired)).filter(|(_, retired)| !retired.is_empty())
    }

    pub(crate) fn is_retired(&self, id: u32, seq: u64) -> bool {
        self.origins.get(id as usize).is_some_and(|log| log.retired.contains(seq))
    }

    /// What the floors retire of what is held and is not retired yet. `hidden` events are no anchors.
    pub(crate) fn below(&self, floors: Floors, hidden: &BTreeSet<EventId>) -> BTreeMap<u32, Ranges> {
        let is_hidden = |origin: u32, seq: u32| {
            !hidden.is_empty()
                && self
                    .origin(origin)
                    .is_some_and(|origin| hidden.contains(&EventId { origin: origin.clone(), seq: u64::from(seq) }))
        };
        let runs = || self.feeds.iter().flat_map(|(key, runs)| runs.iter().map(move |run| (key.kind(), *key, run)));
        let anchor = |run: &Run| run.seqs.iter().rev().find(|&seq| !is_hidden(run.origin, seq));
        // A private message stands in two feeds, and may be the last in either.
        let anchors: HashSet<(u32, u32)> = runs().filter_map(|(_, _, run)| Some((run.origin, anchor(run)?))).collect();
        let mut gone: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (kind, _, run) in runs().filter(|(_, key, _)| !matches!(key, FeedKey::Conversation(..))) {
            let end = run.seqs.partition_point(|seq| {
                self.entry(run.origin, u64::from(seq)).is_some_and(|entry| floors.retires(kind, entry.clock))
            });
            let below = run.seqs.iter().take(end).filter(|seq| !anchors.contains(&(run.origin, *seq)));
            gone.entry(run.origin).or_default().extend(below.map(u64::from));
        }
        gone.retain(|_, seqs| !seqs.is_empty());
        let ranges = |(origin, mut seqs): (u32, Vec<u64>)| {
            seqs.sort_unstable();
            (origin, seqs.into_iter().collect())
        };
        gone.into_iter().map(ranges).collect()
    }

    /// Forgets events of one origin; `dropped` is told of those that were held.
    pub(crate) fn retire(&mut self, id: u32, seqs: &Ranges, mut dropped: impl FnMut(&Entry<P>)) {
        let Some(log) = self.origins.get_mut(id as usize) else { return };
        let mut count = 0;
        log.held.retain(|at, entry| {
            let goes = seqs.contains(at as u64 + 1);
            if goes {
                count += 1;
                dropped(entry);
            }
            !goes
        });
        let before = log.waiting.len();
        log.waiting.retain(|&seq, entry| {
            let goes = seqs.contains(u64::from(seq));
            if goes {
                dropped(entry);
            }
            !goes
        });
        self.waiting -= (before - log.waiting.len()) as u64;
        log.retired.union(seqs);
        self.events -= count;
        self.pass_retired(id);
    }

    /// Takes retired numbers out of the feeds, once all origins are done.
    pub(crate) fn tidy_feeds(&mut self) {
        let origins = &self.origins;
        for runs in self.feeds.values_mut() {
            runs.retain_mut(|run| {
                let Some(log) = origins.get(run.origin as usize) else { return false };
                let held = |seq: u32| log.held.get(seq as usize - 1).is_some();
                if run.seqs.iter().all(held) {
                    return true;
                }
                let left = SeqList::from_ascending(run.seqs.iter().filter(|&seq| held(seq)));
                left.map(|left| run.seqs = left).is_some()
            });
        }
        self.feeds.retain(|_, runs| !runs.is_empty());
    }

    /// All numbers of an origin up to `upto` that are not held are retired.
    pub(crate) fn skip(&mut self, id: u32, upto: u64, dropped: impl FnMut(&Entry<P>)) {
        let Some(log) = self.origins.get(id as usize) else { return };
        let first = log.held.len() as u64 + 1;
        if upto >= first && u32::try_from(upto).is_ok() {
            let mut seqs = Ranges::default();
            seqs.insert(first, upto);
            self.retire(id, &seqs, dropped);
        }
    }

    /// Counts retired numbers that follow what is held as held.
    pub(super) fn pass_retired(&mut self, id: u32) {
        let Some(log) = self.origins.get_mut(id as usize) else { return };
        while let Some(end) = log.retired.end_of(log.held.len() as u64 + 1) {
            // Numbers of events are 32-bit.
            let end = end.min(u64::from(u32::MAX));
            if end <= log.held.len() as u64 {
                break;
            }
            log.held.skip_to(end as usize);
        }
        self.vector.advance_to(&log.origin, log.held.len() as u64);
    }

    /// The last event of each origin before the first that is held and has a higher clock.
    pub(crate) fn position_at(&self, clock: Clock) -> Position {
        let last = |log: &OriginLog<P>| {
            let first = log.held.first_where(|entry| entry.clock > clock);
            (log.origin.clone(), first.unwrap_or(log.held.len()) as u64)
        };
        self.origins.iter().map(last).collect()
    }

    /// The floors that keep what is to be kept, as of `now`, and retire the rest; none is below the present ones. Where
    /// events carry strange times, more is kept.
    pub(crate) fn floors_for(&self, retention: &Retention, present: Floors, now: Timestamp) -> Floors {
        let floor = |kind: EventKind| {
            let keep = retention.of(kind);
            let live = || self.of_kind(kind).filter(move |entry| !present.retires(kind, entry.clock));
            let by_age = keep.age.map_or(Clock::ZERO, |age| {
                let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                let oldest = now.ms.saturating_sub(age_ms).div_euclid(1_000).max(0);
                let young = live().filter(|entry| i64::from(entry.secs) >= oldest);
                let least = young.map(|entry| entry.clock).min();
                let last = || live().map(|entry| entry.clock).max().unwrap_or(Clock::ZERO);
                least.map_or_else(last, before)
            });
            let by_size = keep.bytes.map_or(Clock::ZERO, |bytes| floor_by_size(live, bytes));
            by_age.max(by_size).max(present.of(kind))
        };
        Floors { publish: floor(EventKind::Publish), message: floor(EventKind::Message) }
    }

    /// The events of a kind of messages, in no certain order.
    fn of_kind(&self, kind: EventKind) -> impl Iterator<Item = Entry<P>> {
        let wanted = move |key: &FeedKey| key.kind() == kind && !matches!(key, FeedKey::Conversation(..));
        let runs = self.feeds.iter().filter(move |(key, _)| wanted(key)).flat_map(|(_, runs)| runs);
        runs.flat_map(|run| run.seqs.iter().filter_map(|seq| self.entry(run.origin, u64::from(seq))))
    }
}

/// The floor above which the events take at most so many bytes.
fn floor_by_size<P: Place, E: Iterator<Item = Entry<P>>>(events: impl Fn() -> E, bytes: u64) -> Clock {
    let clocks = events().map(|entry| entry.clock.get());
    let (low, high) = clocks.fold((u64::MAX, 0), |(low, high), clock| (low.min(clock), high.max(clock)));
    if low > high {
        return Clock::ZERO;
    }
    let width = (high - low) / PARTS + 1;
    let mut parts = vec![0u64; PARTS as usize];
    for entry in events() {
        parts[((entry.clock.get() - low) / width) as usize] += entry.place.bytes() as u64;
    }
    let mut sum = 0u64;
    for (part, size) in parts.iter().enumerate().rev() {
        sum = sum.saturating_add(*size);
        if sum > bytes {
            // All of this part goes: its last clock is the floor.
            let last = low.saturating_add((part as u64 + 1).saturating_mul(width)) - 1;
            return Clock::new(last.min(high)).unwrap_or(Clock::ZERO);
        }
    }
    Clock::ZERO
}

fn before(clock: Clock) -> Clock {
    Clock::new(clock.get().saturating_sub(1)).unwrap_or(Clock::ZERO)
}
