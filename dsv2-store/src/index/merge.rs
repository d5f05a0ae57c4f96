//! Reading a feed: its runs, one per origin, merged by order key.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use dsv2_core::{Clock, Event, EventId, Feed, OrderKey, Origin, Position};

use super::{Budget, Entry, FeedKey, Index, Place, Run};
use crate::store::{FeedCursor, Limit, Page};

/// An event of the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventRef<P> {
    pub(crate) origin: u32,
    pub(crate) seq: u64,
    pub(crate) entry: Entry<P>,
}

/// The next event of one run, ordered so that a heap yields the one to return next.
struct Head<'a, P> {
    clock: Clock,
    origin: &'a Origin,
    event: EventRef<P>,
    run: &'a Run,
    /// Its place in the run.
    at: usize,
    forward: bool,
}

impl<P> Ord for Head<'_, P> {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |head: &Self| (head.clock, head.origin, head.event.seq);
        let order = key(self).cmp(&key(other));
        if self.forward { order.reverse() } else { order }
    }
}

impl<P> PartialOrd for Head<'_, P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for Head<'_, P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P> Eq for Head<'_, P> {}

impl<P: Place> Index<P> {
    /// A page of a feed, whose events `fetch` reads.
    pub(crate) fn page<E>(
        &self,
        feed: &Feed,
        cursor: FeedCursor,
        limit: Limit,
        fetch: impl FnOnce(&[EventRef<P>]) -> Result<Vec<Event>, E>,
    ) -> Result<Page, E> {
        let runs = self.runs(feed);
        let heads = self.position(runs.iter().map(|run| (run, run.seqs.len())));
        let (known, (found, more, next)) = match cursor {
            FeedCursor::After(position) => (position.clone(), self.after(runs, position, limit)),
            FeedCursor::Before(key) => (Position::default(), self.before(runs, key.as_ref(), limit)),
        };
        let events = fetch(&found)?;
        let lost = |prev: &&EventId| {
            let id = self.find_origin(&prev.origin);
            !known.contains(prev) && id.is_some_and(|id| self.is_retired(id, prev.seq))
        };
        let retired = events.iter().filter_map(|event| event.prev.as_ref()).filter(lost).cloned().collect();
        Ok(Page { events, next, more, heads, retired })
    }

    fn after(&self, runs: &[Run], mut position: Position, limit: Limit) -> (Vec<EventRef<P>>, bool, Position) {
        let starts = runs.iter().filter_map(|run| {
            let read = position.get(self.origin(run.origin)?);
            Some((run, run.seqs.partition_point(|seq| u64::from(seq) <= read)))
        });
        let (found, more) = self.merge(starts, true, limit);
        for event in &found {
            if let Some(origin) = self.origin(event.origin) {
                position.advance_to(origin, event.seq);
            }
        }
        (found, more, position)
    }

    fn before(&self, runs: &[Run], key: Option<&OrderKey>, limit: Limit) -> (Vec<EventRef<P>>, bool, Position) {
        let ends: Vec<_> = runs.iter().map(|run| (run, self.end_before(run, key))).collect();
        let next = self.position(ends.iter().copied());
        let starts = ends.into_iter().filter_map(|(run, end)| Some((run, end.checked_sub(1)?)));
        let (mut found, more) = self.merge(starts, false, limit);
        found.reverse();
        (found, more, next)
    }

    /// How many events of the run stand before the key; all if there is none.
    fn end_before(&self, run: &Run, key: Option<&OrderKey>) -> usize {
        let (Some(key), Some(origin)) = (key, self.origin(run.origin)) else { return run.seqs.len() };
        run.seqs.partition_point(|seq| {
            let clock = self.entry(run.origin, u64::from(seq)).map_or(Clock::MAX, |entry| entry.clock);
            (clock, origin, u64::from(seq)) < (key.clock, &key.id.origin, key.id.seq)
        })
    }

    /// The position that means the first so many events of each run.
    fn position<'a>(&self, counts: impl Iterator<Item = (&'a Run, usize)>) -> Position {
        let last = |(run, count): (&Run, usize)| {
            let seq = run.seqs.get(count.checked_sub(1)?)?;
            Some((self.origin(run.origin)?.clone(), u64::from(seq)))
        };
        counts.filter_map(last).collect()
    }

    fn merge<'a>(
        &'a self,
        starts: impl Iterator<Item = (&'a Run, usize)>,
        forward: bool,
        limit: Limit,
    ) -> (Vec<EventRef<P>>, bool) {
        let mut heap: BinaryHeap<_> = starts.filter_map(|(run, at)| self.head(run, at, forward)).collect();
        let mut budget = Budget::new(limit);
        let mut found = Vec::new();
        while let Some(mut top) = heap.peek_mut() {
            if !budget.admits(top.event.entry.place.bytes()) {
                return (found, true);
            }
            found.push(top.event);
            let next = if forward { Some(top.at + 1) } else { top.at.checked_sub(1) };
            match next.and_then(|at| self.head(top.run, at, forward)) {
                Some(next) => *top = next,
                None => drop(std::collections::binary_heap::PeekMut::pop(top)),
            }
        }
        (found, false)
    }

    fn head<'a>(&'a self, run: &'a Run, at: usize, forward: bool) -> Option<Head<'a, P>> {
        let seq = u64::from(run.seqs.get(at)?);
        let entry = self.entry(run.origin, seq)?;
        let event = EventRef { origin: run.origin, seq, entry };
        Some(Head { clock: entry.clock, origin: self.origin(run.origin)?, event, run, at, forward })
    }

    fn runs(&self, feed: &Feed) -> &[Run] {
        let name = |name: &str| self.names.get(name).copied();
        let key = match feed {
            Feed::Channel(channel) => name(channel.as_str()).map(FeedKey::Channel),
            Feed::Inbox(user) => name(user.as_str()).map(FeedKey::Inbox),
            Feed::Conversation(a, b) => match (name(a.as_str()), name(b.as_str())) {
                (Some(a), Some(b)) => Some(FeedKey::Conversation(a.min(b), a.max(b))),
                _ => None,
            },
        };
        key.and_then(|key| self.feeds.get(&key)).map_or(&[], Vec::as_slice)
    }
}
