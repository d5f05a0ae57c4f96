//! What the storage thread does beside its commits: snapshots, by a thread of their own, and compaction, a file at a time
//! while there is nothing else to do.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dsv2_core::{Floors, ServerName};
use dsv2_store::{Disk, EventStore, Snapshotted, StoreError, remove_snapshot};

use dsv2_sync::stored;

/// A snapshot is made, while there is nothing else to do, when the log has grown by so many events,
const GROWN_EVENTS: u64 = 50_000;
/// and by at least one of so many parts of it: so all snapshots together cost a constant for each event.
const GROWN_PART: u64 = 2;
/// Once it has grown by so many events, and has doubled, there is no waiting for that any more,
const OVERGROWN_EVENTS: u64 = 500_000;
/// nor after so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a snapshot that is being made is looked after.
const POLL: Duration = Duration::from_millis(200);
/// One of so many snapshots reads and checks the whole log.
const WHOLE_EVERY: u32 = 8;

/// The snapshot that is being made.
type Making = thread::JoinHandle<Result<Snapshotted, StoreError>>;

/// What is to be done, and under way.
#[derive(Debug)]
pub(super) struct Maintenance {
    name: ServerName,
    disk: Option<Arc<dyn Disk>>,
    making: Option<Making>,
    /// How many events the last snapshot goes over, about, and how many came since.
    covered: u64,
    grown: u64,
    made: u32,
    /// Since when a snapshot waits for a moment without anything to do.
    due_since: Option<Instant>,
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
        Self { name, disk: store.disk(), making: None, covered, grown, made: 0, due_since: None, compact: true, floors }
    }

    /// So many events were appended.
    pub(super) fn grew(&mut self, events: usize) {
        self.grown += events as u64;
    }

    /// How long until something is to be looked after, if nothing else happens.
    pub(super) fn wait(&self) -> Option<Duration> {
        match (&self.making, self.compact) {
            (Some(_), _) => Some(POLL),
            (None, true) => Some(Duration::ZERO),
            (None, false) => self.is_due().then_some(POLL),
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
        self.finish(false);
        if store.floors() != self.floors {
            (self.compact, self.floors) = (true, store.floors());
        }
        if self.making.is_none() && (self.is_overdue() || (idle && !self.compact && self.is_due())) {
            self.begin();
        }
        // What is read for a snapshot must not move.
        if idle && self.compact && self.making.is_none() {
            self.compact = store.compact().unwrap_or_else(|error| {
                tracing::warn!(server = %self.name, %error, "retired messages could not be removed from the disk");
                false
            });
        }
    }

    fn begin(&mut self) {
        let Some(disk) = self.disk.clone() else { return };
        let (name, floors) = (self.name.clone(), self.floors);
        (self.covered, self.grown) = (self.covered + self.grown, 0);
        self.made += 1;
        let whole = self.made.is_multiple_of(WHOLE_EVERY);
        let make = move || stored::snapshot(&disk, &name, floors, whole);
        // If there is no thread for it, the log has grown further by the next time.
        self.making = thread::Builder::new().name(format!("snapshot {}", self.name)).spawn(make).ok();
    }

    /// Takes the result of a snapshot that is made; with `wait`, waits for it.
    pub(super) fn finish(&mut self, wait: bool) {
        let Some(making) = self.making.take_if(|making| wait || making.is_finished()) else { return };
        let server = &self.name;
        match making.join() {
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
