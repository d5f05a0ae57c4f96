//! A store without a disk.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Clock, Event, EventBody, EventId, Feed, Floors, Origin, Position, Retention, Timestamp};

use crate::error::StoreError;
use crate::index::{Entry, EventRef, FeedNames, Index, Place};
use crate::meta::Meta;
use crate::store::{EventStore, FeedCursor, Limit, Page, StoreStats, Stretch};

/// A store in memory, for servers that need not survive and for tests. It keeps the laws of [`EventStore`] but one:
/// nothing outlives it.
///
/// ```
/// use dsv2_store::{EventStore, MemoryStore, Meta};
/// let mut store = MemoryStore::new(Meta::new(7));
/// store.append(&[])?;
/// assert!(store.vector().is_empty());
/// # Ok::<(), dsv2_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    /// By the order in which they were appended.
    events: BTreeMap<u32, Event>,
    appended: u32,
    floors: Floors,
    index: Index<Slot>,
    bytes: u64,
    cap_bytes: u64,
    durable_index: u64,
    meta: Meta,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: u32,
    bytes: u32,
}

impl Place for Slot {
    fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

impl MemoryStore {
    /// An empty store that may grow until memory ends.
    #[must_use]
    pub fn new(meta: Meta) -> Self {
        Self::with_cap(meta, u64::MAX)
    }

    /// An empty store whose events may take about `cap_bytes`; beyond, it is [`StoreError::Full`].
    #[must_use]
    pub fn with_cap(meta: Meta, cap_bytes: u64) -> Self {
        Self {
            events: BTreeMap::new(),
            appended: 0,
            floors: Floors::default(),
            index: Index::default(),
            bytes: 0,
            cap_bytes,
            durable_index: 0,
            meta,
        }
    }

    fn fetch(&self, found: &[EventRef<Slot>]) -> Vec<Event> {
        let slots = found.iter().filter_map(|event| self.events.get(&event.entry.place.at));
        slots.cloned().collect()
    }
}

impl EventStore for MemoryStore {
    fn append(&mut self, events: &[Event]) -> Result<(), StoreError> {
        self.index.check_follows(events)?;
        let bytes: u64 = events.iter().map(size_bytes).sum();
        let slots = usize::try_from(self.appended).ok().and_then(|used| u32::try_from(used + events.len()).ok());
        if slots.is_none() || self.bytes.saturating_add(bytes) > self.cap_bytes {
            return Err(StoreError::Full { path: "the store in memory".to_owned() });
        }
        for event in events {
            let bytes = u32::try_from(size_bytes(event)).unwrap_or(u32::MAX);
            let place = Slot { at: self.appended, bytes };
            let id = self.index.origin_id(&event.id.origin);
            self.index.push(id, Entry::new(event.clock, event.timestamp.ms, place), FeedNames::of(&event.body));
            self.events.insert(self.appended, event.clone());
            self.appended += 1;
        }
        self.bytes += bytes;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.durable_index = u64::from(self.appended);
        Ok(())
    }

    fn vector(&self) -> &Position {
        self.index.vector()
    }

    fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> Result<Stretch, StoreError> {
        let (found, upto) = self.index.range(origin, from_seq, limit);
        Ok(Stretch { events: self.fetch(&found), upto })
    }

    fn read(&self, feed: &Feed, cursor: FeedCursor, limit: Limit) -> Result<Page, StoreError> {
        self.index.page(feed, cursor, limit, |found| Ok(self.fetch(found)))
    }

    fn replay_after(&self, after: &Position, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError> {
        let events = self.events.values().filter(|event| !after.contains(&event.id));
        events.for_each(|event| visit(event.clone()));
        Ok(())
    }

    fn skip(&mut self, origin: &Origin, upto: u64) {
        let id = self.index.origin_id(origin);
        self.index.skip(id, upto, |_| ());
    }

    fn floors(&self) -> Floors {
        self.floors
    }

    fn position_at(&self, clock: Clock) -> Position {
        self.index.position_at(clock)
    }

    fn floors_for(&self, retention: &Retention, now: Timestamp) -> Floors {
        self.index.floors_for(retention, self.floors, now)
    }

    fn retire(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) -> Result<(), StoreError> {
        self.floors.merge(floors);
        for (id, ranges) in self.index.below(self.floors, hidden) {
            let (events, bytes) = (&mut self.events, &mut self.bytes);
            self.index.retire(id, &ranges, |entry| {
                events.remove(&entry.place.at);
                *bytes -= u64::from(entry.place.bytes);
            });
        }
        self.index.tidy_feeds();
        Ok(())
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn save_meta(&mut self, meta: &Meta) -> Result<(), StoreError> {
        self.meta = meta.clone();
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            events: self.index.events(),
            bytes: self.bytes,
            last_index: u64::from(self.appended),
            durable_index: self.durable_index,
            index_bytes: self.index.memory_bytes(),
            ..StoreStats::default()
        }
    }
}

/// About how much memory an event takes: its struct, its text, and what its names and ids take at most when not shared.
fn size_bytes(event: &Event) -> u64 {
    let text = match &event.body {
        EventBody::Publish { message, .. } | EventBody::Message { message, .. } => message.len(),
        EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => 0,
    };
    (size_of::<Event>() + text) as u64
}
