//! What the storage thread does beside its commits: snapshots and compression of sealed files, by a thread of their own,
//! and compaction, a file at a time while there is nothing else to do.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dsv2_core::{Floors, ServerName};
use dsv2_store::{Disk, EventStore, Packed, Snapshotted, StoreError, remove_snapshot};

use dsv2_sync::stored;

/// A snapshot is made, while there is nothing else to do, when the log has grown by so many events,
const GROWN_EVENTS: u64 = 50_000;
/// and by at least one of so many parts of it: so all snapshots together cost a constant for each event.
const GROWN_PART: u64 = 2;
/// Once it has grown by so many events, and has doubled, there is no waiting for that any more,
const OVERGROWN_EVENTS: u64 = 500_000;
/// nor after so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Compression that failed, as on a full disk, is tried again after so long.
const AFTER_FAILURE: Duration = Duration::from_secs(15 * 60);
/// How often a snapshot that is being made is looked after.
const POLL: Duration = Duration::from_millis(200);
/// One of so many snapshots reads and checks the whole log.
const WHOLE_EVERY: u32 = 8;

/// What is under way in a thread of its own. Never two at once: what a snapshot reads must not move, nor must what is
/// compressed.
#[derive(Debug)]
enum Work {
    Snapshot(thread::JoinHandle<Result<Snapshotted, StoreError>>),
    Packing(thread::JoinHandle<Result<Packed, StoreError>>),
}

impl Work {
    fn is_finished(&self) -> bool {
        match self {
            Self::Snapshot(thread) => thread.is_finished(),
            Self::Packing(thread) => thread.is_finished(),
        }
    }
}

/// What is to be done, and under way.
#[derive(Debug)]
pub(super) struct Maintenance {
    name: ServerName,
    disk: Option<Arc<dyn Disk>>,
    work: Option<Work>,
    /// How many events the last snapshot goes over, about, and how many came since.
    covered: u64,
    grown: u64,
    made: u32,
    /// Since when a snapshot waits for a moment without anything to do.
    due_since: Option<Instant>,
    /// Since when a sealed file waits to be compressed.
    packable_since: Option<Instant>,
    /// When the last attempt failed: the next one is not made at once.
    packing_failed: Option<Instant>,
    /// Whether a step of compaction may give back room, as far as known below these floors.
    compact: bool,
    floors: Floors,
}

impl Maintenance {
    pub(super) fn new(name: ServerName, store: &dyn EventStore) -> Self {
        // What the last snapshot lacks had to be read at the start, so it counts as not covered by one.
        let events = store.stats().events;
        let covered = store.snapshot_position().map_or(0, |position| position.events().min(events));
        let (grown, floors) = (events - covered, store.floors());
        Self {
            name,
            disk: store.disk(),
            work: None,
            covered,
            grown,
            made: 0,
            due_since: None,
            packable_since: None,
            packing_failed: None,
            compact: true,
            floors,
        }
    }

    /// So many events were appended.
    pub(super) fn grew(&mut self, events: usize) {
        self.grown += events as u64;
    }

    /// How long until something is to be looked after, if nothing else happens.
    pub(super) fn wait(&self) -> Option<Duration> {
        match (&self.work, self.compact) {
            (Some(_), _) => Some(POLL),
            (None, true) => Some(Duration::ZERO),
            (None, false) => (self.is_due() || self.packable_since.is_some()).then_some(POLL),
        }
    }

    fn is_due(&self) -> bool {
        self.disk.is_some() && self.grown >= GROWN_EVENTS.max(self.covered / GROWN_PART)
    }

    fn is_overdue(&mut self) -> bool {
        if !self.is_due() {
            self.due_since = None;
            return false;
        }
        let since = *self.due_since.get_or_insert_with(Instant::now);
        self.grown >= OVERGROWN_EVENTS.max(self.covered) || since.elapsed() >= PATIENCE
    }

    /// Looks after what is under way, and begins what is due; with `idle`, does a step of compaction.
    pub(super) fn step(&mut self, store: &mut dyn EventStore, idle: bool) {
        self.finish(store, false);
        if store.floors() != self.floors {
            (self.compact, self.floors) = (true, store.floors());
        }
        if self.work.is_none() && (self.is_overdue() || (idle && !self.compact && self.is_due())) {
            self.begin_snapshot();
        }
        if idle && self.compact && self.work.is_none() {
            self.compact = store.compact().unwrap_or_else(|error| {
                tracing::warn!(server = %self.name, %error, "retired messages could not be removed from the disk");
                false
            });
        }
        if self.work.is_none() {
            self.look_for_packing(store, idle && !self.compact);
        }
    }

    fn begin_snapshot(&mut self) {
        let Some(disk) = self.disk.clone() else { return };
        let (name, floors) = (self.name.clone(), self.floors);
        (self.covered, self.grown) = (self.covered + self.grown, 0);
        self.made += 1;
        let whole = self.made.is_multiple_of(WHOLE_EVERY);
        let make = move || stored::snapshot(&disk, &name, floors, whole);
        // If there is no thread for it, the log has grown further by the next time.
        self.work = thread::Builder::new().name(format!("snapshot {}", self.name)).spawn(make).ok().map(Work::Snapshot);
    }

    /// Begins to compress the next sealed file, if it is time to.
    fn look_for_packing(&mut self, store: &dyn EventStore, idle: bool) {
        let Some(packing) = store.packing() else {
            self.packable_since = None;
            return;
        };
        let since = *self.packable_since.get_or_insert_with(Instant::now);
        let may = self.packing_failed.is_none_or(|failed| failed.elapsed() >= AFTER_FAILURE);
        if may && (idle || since.elapsed() >= PATIENCE) {
            let pack = move || packing.run();
            self.work = thread::Builder::new().name(format!("pack {}", self.name)).spawn(pack).ok().map(Work::Packing);
        }
    }

    /// Takes the result of what is under way; with `wait`, waits for it.
    pub(super) fn finish(&mut self, store: &mut dyn EventStore, wait: bool) {
        match self.work.take_if(|work| wait || work.is_finished()) {
            Some(Work::Snapshot(thread)) => self.snapshot_made(thread.join()),
            Some(Work::Packing(thread)) => self.packed(thread.join(), store),
            None => {}
        }
    }

    fn packed(&mut self, packed: thread::Result<Result<Packed, StoreError>>, store: &mut dyn EventStore) {
        let server = &self.name;
        self.packing_failed = Some(Instant::now());
        let adopted = match packed {
            Ok(packed) => packed.and_then(|packed| {
                let bytes = packed.bytes();
                store.adopt(packed).map(|()| bytes)
            }),
            Err(_) => return tracing::error!(%server, "compressing a sealed file ended in a panic"),
        };
        match adopted {
            Ok((bytes, packed_bytes)) => {
                self.packing_failed = None;
                tracing::info!(%server, bytes, packed_bytes, "a sealed file is compressed");
            }
            Err(error) => tracing::warn!(%server, %error, "a sealed file could not be compressed"),
        }
    }

    fn snapshot_made(&self, made: thread::Result<Result<Snapshotted, StoreError>>) {
        let server = &self.name;
        match made {
            Ok(Ok(Snapshotted::Made { last_index, events, bytes })) => {
                tracing::info!(%server, last_index, events, bytes, "a snapshot is made");
            }
            Ok(Ok(Snapshotted::Damaged(damage))) => {
                tracing::error!(%server, damage, "the log is damaged: restart the server, so that it is repaired");
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%server, %error, "no snapshot could be made"),
            Err(_) => tracing::error!(%server, "making a snapshot ended in a panic"),
        }
    }

    /// A read found damage: the next start is to read and repair the whole log.
    pub(super) fn distrust(&self) {
        let Some(disk) = &self.disk else { return };
        let server = &self.name;
        tracing::error!(%server, "the log is damaged: restart the server, so that it is repaired");
        if let Err(error) = remove_snapshot(&**disk) {
            tracing::warn!(%server, %error, "the snapshot could not be removed");
        }
    }
}
