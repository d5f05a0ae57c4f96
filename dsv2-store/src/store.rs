//! The event store as the rest of the system sees it.

use std::collections::BTreeSet;
use std::sync::Arc;

use dsv2_core::{Change, Clock, Event, EventId, Feed, Floors, OrderKey, Origin, Position, Retention, Timestamp};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::jsonl::{Packed, Packing};
use crate::meta::Meta;

/// A durable, append-only log of events, with the reads that servers need.
///
/// ```text
///   append ──► written, visible to reads ──► sync ──► durable
/// ```
///
/// Laws, which `testing::conformance` checks (feature `testing`):
/// - an origin's events are held without gaps but those of what is retired, in the order of their numbers, each at most
///   once;
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

    /// The events of one origin from number `from_seq` (0 counts as 1) on, in their order, as far as `limit` allows, and
    /// up to which number these are all that is not retired.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`]. The store is not fenced.
    fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> Result<Stretch, StoreError>;

    /// A page of one feed.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`]. The store is not fenced.
    fn read(&self, feed: &Feed, cursor: FeedCursor, limit: Limit) -> Result<Page, StoreError>;

    /// Hands all events to `visit`, one by one, in log order; an origin's events come in the order of their numbers.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`]; the events visited so far are right. The store is not fenced.
    fn replay(&self, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError> {
        self.replay_after(&Position::default(), visit)
    }

    /// As [`EventStore::replay`], but only the events that `after` does not mean.
    ///
    /// # Errors
    /// As [`EventStore::replay`].
    fn replay_after(&self, after: &Position, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError>;

    /// The state that the last snapshot before this store was opened holds, and the position it stands for; once. A start
    /// goes on from it with [`EventStore::replay_after`].
    fn take_snapshot(&mut self) -> Option<(Position, Vec<u8>)> {
        None
    }

    /// What the snapshot covers that the store was opened with, if it was.
    fn snapshot_position(&self) -> Option<&Position> {
        None
    }

    /// Counts the numbers of an origin up to `upto` that are not held as retired: another store that holds all of the
    /// origin up to there has retired them. What is appended next may follow them. It is durable with the next event of
    /// the origin; if it is forgotten, it can be said again.
    fn skip(&mut self, origin: &Origin, upto: u64);

    /// Below which clocks messages are retired.
    fn floors(&self) -> Floors;

    /// The floors that a retention asks for as of `now`: none below the present ones. A hint; nothing changes.
    fn floors_for(&self, retention: &Retention, now: Timestamp) -> Floors;

    /// The last event of each origin up to which none has a higher clock than `clock`; retired ones count as lower.
    fn position_at(&self, clock: Clock) -> Position;

    /// Retires messages below the floors, durably, but of every feed the last event of each origin; an event in `hidden`
    /// is never such a last one. Retired events are no longer served, and [`EventStore::vector`] still means them.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Fenced`]: nothing changed. [`StoreError::Io`]: old or new, and the store is
    /// fenced.
    fn retire(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) -> Result<(), StoreError>;

    /// Makes changes, in their order, and takes those that are made out of `changes`.
    ///
    /// # Errors
    /// As [`EventStore::append`] and [`EventStore::retire`]. Where some changes were made before, they are durable then,
    /// unless the store is fenced.
    fn change(&mut self, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        while let Some(first) = changes.first() {
            let done = match first {
                Change::Append(_) => {
                    let run = changes.iter().map_while(|change| match change {
                        Change::Append(event) => Some(Event::clone(event)),
                        _ => None,
                    });
                    let run: Vec<Event> = run.collect();
                    self.append(&run).map(|()| run.len())
                }
                Change::Skip { origin, upto } => {
                    self.skip(origin, *upto);
                    Ok(1)
                }
                Change::Retire { floors, hidden } => self.retire(*floors, hidden).map(|()| 1),
            };
            match done {
                Ok(count) => drop(changes.drain(..count)),
                Err(error) if error.changed_nothing() => {
                    self.sync()?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives back some of the room that retired events take, if it is worth it: a step of bounded size. True where another
    /// step may give back more.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Fenced`]: nothing changed. [`StoreError::Io`]: no event is harmed, and the
    /// store is fenced.
    fn compact(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// What of the log is to be compressed next, which any thread may do; `None` where nothing is, or nothing can be.
    fn packing(&self) -> Option<Packing> {
        None
    }

    /// Puts what was compressed in the place of what it was made of.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]: nothing changed. [`StoreError::Io`]: no event is harmed; where it stays unknown which of the
    /// two is on the disk, the store is fenced.
    fn adopt(&mut self, _packed: Packed) -> Result<(), StoreError> {
        Ok(())
    }

    /// Compresses the next part of the log that is to be compressed, if there is one, and waits for it. False where
    /// there is none.
    ///
    /// # Errors
    /// As [`Packing::run`] and [`EventStore::adopt`].
    fn pack(&mut self) -> Result<bool, StoreError> {
        let Some(packing) = self.packing() else { return Ok(false) };
        self.adopt(packing.run()?)?;
        Ok(true)
    }

    /// The disk that a snapshot of it can be made on; `None` where there is none, or no snapshots.
    fn disk(&self) -> Option<Arc<dyn Disk>> {
        None
    }

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

/// A part of what one origin wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// The events, by their numbers; those between them are retired.
    pub events: Vec<Event>,
    /// Up to this number these are all.
    pub upto: u64,
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
    /// Predecessors of events of this page that are retired, and that the cursor did not mean.
    pub retired: Vec<EventId>,
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Events that are served.
    pub events: u64,
    /// Bytes of lines of retired events that are still in the files.
    pub retired_bytes: u64,
    /// Bytes of all log files, before compression.
    pub bytes: u64,
    /// Bytes that all log files take on the disk.
    pub disk_bytes: u64,
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
