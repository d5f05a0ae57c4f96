//! The event store as the rest of the system sees it.

use dsv2_core::{Event, Feed, OrderKey, Origin, Position};

use crate::error::StoreError;
use crate::meta::Meta;

/// A durable, append-only log of events, with the reads that servers need.
///
/// ```text
///   append ──► written, visible to reads ──► sync ──► durable
/// ```
///
/// Laws, which `testing::conformance` checks (feature `testing`):
/// - an origin's events are held without gaps, in the order of their numbers, each at most once;
/// - a call that fails with anything but [`StoreError::Io`] changes nothing;
/// - what was appended before a successful [`EventStore::sync`] is there after any crash; of what came later, any
///   prefix of the log may be;
/// - an event that is returned is the event that was appended, bit for bit.
///
/// The methods block: call them off the async threads.
pub trait EventStore: Send {
    /// Appends events in the order given; each must be the next one of its origin. They are visible to reads at once,
    /// and durable once [`EventStore::sync`] has returned. Many events cost little more than one.
    ///
    /// # Errors
    /// [`StoreError::Gap`], [`StoreError::ClockOrder`], [`StoreError::Conflict`], [`StoreError::TooLarge`] and
    /// [`StoreError::Full`]: nothing was appended, not even events before the one at fault. [`StoreError::Io`]: unknown,
    /// and the store is fenced. [`StoreError::Fenced`]: nothing was appended.
    fn append(&mut self, events: &[Event]) -> Result<(), StoreError>;

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]: what was appended since the last sync may be lost. It is never tried again: the store is
    /// fenced, and says [`StoreError::Fenced`] from then on.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// What is held: of every origin, all events up to the number given.
    fn vector(&self) -> &Position;

    /// The events of one origin from number `from_seq` (0 counts as 1) on, in their order, as far as `limit` allows.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`]. The store is not fenced.
    fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> Result<Vec<Event>, StoreError>;

    /// A page of one feed.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`]. The store is not fenced.
    fn read(&self, feed: &Feed, cursor: FeedCursor, limit: Limit) -> Result<Page, StoreError>;

    /// Hands all events to `visit`, one by one, in log order; an origin's events come in the order of their numbers.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`]; the events visited so far are right. The store is not fenced.
    fn replay(&self, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError>;

    /// What the server must remember besides events, as last saved.
    fn meta(&self) -> &Meta;

    /// Replaces [`EventStore::meta`]; durable once it has returned.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Fenced`]: nothing changed. [`StoreError::Io`]: old or new, and the store
    /// is fenced.
    fn save_meta(&mut self, meta: &Meta) -> Result<(), StoreError>;

    /// Figures for operators.
    fn stats(&self) -> StoreStats;

    /// Syncs, and notes for the next start that nothing was under way, so that it can tell damage to the last events
    /// from a crash. The store can still be used afterwards. Dropping a store without it is safe, like a crash.
    ///
    /// # Errors
    /// As [`EventStore::sync`].
    fn close(&mut self) -> Result<(), StoreError> {
        self.sync()
    }
}

/// How much a read may return. One event is returned whatever its size, so that every reader makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The most events.
    pub events: usize,
    /// The most bytes, counted as the store holds them.
    pub bytes: usize,
}

impl Default for Limit {
    /// 1,000 events, 1 MiB.
    fn default() -> Self {
        Self { events: 1_000, bytes: 1 << 20 }
    }
}

impl Limit {
    /// So many events, of whatever size.
    #[must_use]
    pub const fn events(events: usize) -> Self {
        Self { events, bytes: usize::MAX }
    }
}

/// From where a feed is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedCursor {
    /// Forward: the events that the position does not mean, the smallest order keys first. Nothing is missed, events
    /// included that arrived late and stand before others already read.
    After(Position),
    /// Backward: the last events whose order key is less than the one given, or the last ones of all.
    Before(Option<OrderKey>),
}

/// A part of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The events, by ascending order key.
    pub events: Vec<Event>,
    /// Where to read on *forward*. After [`FeedCursor::After`]: the given position, advanced over exactly what was
    /// returned. After [`FeedCursor::Before`]: a position that means, of this feed, exactly the events below the given
    /// key; so a reader of the last page follows the feed from there.
    pub next: Position,
    /// Whether there is more in the direction of the cursor. Backward, read on before the key of the first event.
    pub more: bool,
    /// The number of each origin's last event in the feed.
    pub heads: Position,
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Events that are served.
    pub events: u64,
    /// Bytes of all log files.
    pub bytes: u64,
    /// Log files, active and sealed.
    pub segments: u64,
    /// Log index of the last event.
    pub last_index: u64,
    /// Log index up to which everything is durable.
    pub durable_index: u64,
    /// Bytes that were cut from the end of the log when it was opened, because a crash had left them incomplete.
    pub cut_bytes: u64,
    /// Log indices that damage has taken so far, in all of the log's life.
    pub lost_indices: u64,
    /// Events that are known to be missing now: damage took them, and later ones of the same origins are held.
    pub missing_events: u64,
    /// Intact events that wait, unserved, for missing ones.
    pub waiting_events: u64,
    /// Approximate memory of the index, in bytes.
    pub index_bytes: u64,
}
