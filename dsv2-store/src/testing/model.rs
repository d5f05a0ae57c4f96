//! A store so simple that it is right, to compare others with.

use std::collections::BTreeSet;

use dsv2_core::{Event, EventId, Feed, Floors, Origin, Position};

use crate::store::{FeedCursor, Page, Stretch};

/// Events in a list, and what every store must answer about them, computed the slow way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// All events that are not retired, in the order in which they were appended.
    pub events: Vec<Event>,
    /// What was held when events were retired last.
    pub passed: Position,
}

impl From<Vec<Event>> for Model {
    fn from(events: Vec<Event>) -> Self {
        Self { events, passed: Position::default() }
    }
}

impl Model {
    /// What is held.
    #[must_use]
    pub fn vector(&self) -> Position {
        let mut held: Position = self.events.iter().map(|event| (event.id.origin.clone(), event.id.seq)).collect();
        held.merge(&self.passed);
        held
    }

    /// Retires what is below the floors, but for the last event of each origin in each feed that is not hidden.
    pub fn retire(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) {
        self.passed = self.vector();
        let all = self.events.clone();
        let is_last = |event: &Event, feed: &Feed| {
            let of_run = |other: &&Event| {
                let same_feed = other.body.feeds().iter().flatten().any(|other| other == feed);
                other.id.origin == event.id.origin && same_feed && !hidden.contains(&other.id)
            };
            all.iter().filter(of_run).map(|other| other.id.seq).max() == Some(event.id.seq)
        };
        self.events.retain(|event| {
            !floors.retires(event.body.kind(), event.clock)
                || event.body.feeds().iter().flatten().any(|feed| is_last(event, feed))
        });
    }

    /// The events of one origin from a number on, at most so many.
    #[must_use]
    pub fn range(&self, origin: &Origin, from_seq: u64, events: usize) -> Stretch {
        let found = || self.events.iter().filter(|event| event.id.origin == *origin && event.id.seq >= from_seq);
        let upto = found().nth(events).map_or_else(|| self.vector().get(origin), |event| event.id.seq - 1);
        Stretch { events: found().take(events).cloned().collect(), upto }
    }

    /// A page of a feed of at most so many events.
    #[must_use]
    pub fn read(&self, feed: &Feed, cursor: &FeedCursor, events: usize) -> Page {
        let mut all: Vec<_> =
            self.events.iter().filter(|event| event.body.feeds().iter().flatten().any(|f| f == feed)).collect();
        all.sort_by_key(|event| event.key());
        let last = |events: &[&Event]| events.iter().map(|event| (event.id.origin.clone(), event.id.seq)).collect();
        let heads = last(&all);
        let (found, more, next): (Vec<_>, _, _) = match cursor {
            FeedCursor::After(position) => {
                let unread: Vec<_> = all.into_iter().filter(|event| !position.contains(&event.id)).collect();
                let found: Vec<_> = unread.iter().copied().take(events).collect();
                let mut next: Position = position.clone();
                found.iter().for_each(|event| next.advance(&event.id));
                (found.clone(), found.len() < unread.len(), next)
            }
            FeedCursor::Before(key) => {
                let before = |event: &&Event| key.as_ref().is_none_or(|key| event.key() < *key);
                let older: Vec<_> = all.into_iter().filter(before).collect();
                let start = older.len().saturating_sub(events);
                (older[start..].to_vec(), start > 0, last(&older))
            }
        };
        let known = match cursor {
            FeedCursor::After(position) => position.clone(),
            FeedCursor::Before(_) => Position::default(),
        };
        let held = |id: &EventId| self.events.iter().any(|event| event.id == *id);
        let lost = |prev: &&EventId| !known.contains(prev) && self.passed.contains(prev) && !held(prev);
        let retired = found.iter().filter_map(|event| event.prev.as_ref()).filter(lost).cloned().collect();
        Page { events: found.into_iter().cloned().collect(), next, more, heads, retired }
    }

    /// All feeds that hold anything, and one that does not.
    ///
    /// # Panics
    /// Never: the name is a constant that fits.
    #[must_use]
    pub fn feeds(&self) -> Vec<Feed> {
        let mut feeds: Vec<_> = self.events.iter().flat_map(|event| event.body.feeds()).flatten().collect();
        feeds.extend("nobody".parse().map(Feed::Inbox));
        feeds.sort();
        feeds.dedup();
        feeds
    }
}
