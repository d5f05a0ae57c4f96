//! A store so simple that it is right, to compare others with.

use dsv2_core::{Event, Feed, Origin, Position};

use crate::store::{FeedCursor, Page};

/// Events in a list, and what every store must answer about them, computed the slow way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// All events, in the order in which they were appended.
    pub events: Vec<Event>,
}

impl Model {
    /// What is held.
    #[must_use]
    pub fn vector(&self) -> Position {
        self.events.iter().map(|event| (event.id.origin.clone(), event.id.seq)).collect()
    }

    /// The events of one origin from a number on, at most so many.
    #[must_use]
    pub fn range(&self, origin: &Origin, from_seq: u64, events: usize) -> Vec<Event> {
        let found = self.events.iter().filter(|event| event.id.origin == *origin && event.id.seq >= from_seq);
        found.take(events).cloned().collect()
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
        Page { events: found.into_iter().cloned().collect(), next, more, heads }
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
