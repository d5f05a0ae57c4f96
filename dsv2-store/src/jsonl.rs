//! The store in files: JSON Lines, one event a line, in the files of the family.
//!
//! See the [crate documentation](crate) for the layout, and `scan` and `repair` for what happens at start.

mod compact;
pub(crate) mod files;
pub(crate) mod line;
pub(crate) mod manifest;
mod names;
pub(crate) mod note;
pub(crate) mod open;
mod pack;
mod packed;
pub(crate) mod record;
mod recovery;
mod repair;
pub(crate) mod scan;
mod segments;
pub(crate) mod snapshot;
pub(crate) mod stream;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use dsv2_core::{Clock, Event, EventId, EventKind, Feed, Floors, Origin, Position, Retention, Timestamp};

use self::manifest::Manifest;
pub(crate) use self::open::recovery_of;
pub use self::pack::{Packed, Packing};
pub use self::recovery::{Damage, Missing, Recovery};
use self::repair::Repair;
use self::segments::ActiveFile;
pub use self::snapshot::{Fold, Snapshotted, make_snapshot, remove_snapshot};
use self::stream::{Loc, Source};
use self::view::View;
use crate::disk::{Disk, DiskLock, dir_of};
use crate::error::StoreError;
use crate::index::{Entry, FeedNames, Index};
use crate::meta::Meta;
use crate::store::{EventStore, FeedCursor, Limit, Page, StoreStats, Stretch};

/// The longest line, and so about the largest event, in bytes.
pub const LINE_CAP_BYTES: usize = 16 << 20;

/// The largest file: places in it are 32-bit numbers.
const FILE_CAP_BYTES: u64 = u32::MAX as u64;

/// Buffers that a large append has grown beyond this are given back.
const BUFFER_KEEP_BYTES: usize = 4 << 20;

pub(crate) const META_PATH: &str = "meta.json";

/// How a [`JsonlStore`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonlConfig {
    /// The size from which on a file is sealed and a new one begun, at the next sync; at most 1 GiB counts.
    pub segment_bytes: u64,
    /// The random identity that the data directory gets if it has none yet.
    pub node: u128,
}

impl Default for JsonlConfig {
    /// 64 MiB, node 0: programs draw a random one.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, node: 0 }
    }
}

/// The store in files. See the [crate documentation](crate).
#[derive(Debug)]
pub struct JsonlStore {
    config: JsonlConfig,
    _lock: Box<dyn DiskLock>,
    view: View,
    active: [ActiveFile; EventKind::ALL.len()],
    /// Directories in which files were made since their last sync.
    new_in: Vec<&'static str>,
    /// What the snapshot that it was opened from covers.
    snapshot: Option<Restored>,
    floors: Floors,
    /// Of origins with numbers that were skipped, the last number before them: the next line tells it.
    skipped_from: HashMap<u32, u64>,
    meta: Meta,
    manifest: Manifest,
    /// The log index of the last event.
    last: u64,
    /// The log index up to which everything is durable.
    durable: u64,
    /// Why no more writes are taken.
    fenced: Option<Arc<str>>,
    /// What there was no room for when the store was opened; it precedes the first append.
    repair: Option<Repair>,
    recovery: Recovery,
    /// Where the events of the append under way lie.
    placed: Vec<Placed>,
}

/// What a store was opened with.
#[derive(Debug)]
struct Restored {
    position: Position,
    /// Where what it does not cover begins in each file, by internal number.
    starts: Vec<u64>,
    /// Until its owner takes it.
    state: Option<Vec<u8>>,
}

/// An event of an append: new in a file, or one that waited on disk.
#[derive(Clone, Copy, Debug)]
struct Placed {
    loc: Loc,
    waited: bool,
}

impl JsonlStore {
    /// All files, each from where it is asked for up to where it is known.
    fn sources(&self, start: impl Fn(u32) -> u64) -> Vec<Vec<Source>> {
        let mut kinds = vec![Vec::new(); self.active.len()];
        for (segment, path, kind, end) in self.view.segments.sealed() {
            let (path, start) = (path.to_owned(), start(segment));
            kinds[kind as usize].push(Source { segment, path, file: None, start, end });
        }
        for active in self.active.iter().filter(|active| active.file.is_some()) {
            let (path, file, start) = (active.path().to_owned(), active.file.clone(), start(active.segment));
            kinds[active.kind as usize].push(Source { segment: active.segment, path, file, start, end: active.len });
        }
        kinds
    }

    /// What opening the store found and did.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The events that are missing now: damage took them, and later ones of the same origins are held. Appending them
    /// again, as [`EventStore::vector`] asks for, makes the later ones served too.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let missing = self.view.index.missing().into_iter();
        missing.map(|(origin, first, last)| Missing { origin, first, last }).collect()
    }

    /// Hands the intact events that wait for missing ones to `visit`. Where no other server has the missing ones, these
    /// are what can be saved, as new events of another origin.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Corrupt`].
    pub fn waiting(&self, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError> {
        for event in self.view.index.waiting_refs() {
            self.view.fetch(&[event])?.into_iter().for_each(&mut *visit);
        }
        Ok(())
    }

    /// Nothing more is written. Fences at the first failure, and tells it.
    fn fence(&mut self, error: StoreError) -> StoreError {
        if self.fenced.is_none() {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            tracing::error!(%error, source, "the store is fenced: it takes no more writes until it is opened again");
            self.fenced = Some(format!("{error}{source}").into());
        }
        error
    }

    /// Fences where a failure leaves open what is on disk.
    fn fence_unless_clean(&mut self, error: StoreError) -> StoreError {
        if error.changed_nothing() { error } else { self.fence(error) }
    }

    fn check_unfenced(&self) -> Result<(), StoreError> {
        self.fenced.as_ref().map_or(Ok(()), |reason| Err(StoreError::Fenced { reason: Arc::clone(reason) }))
    }

    /// Does what there was no room for when the store was opened.
    fn finish_repair(&mut self) -> Result<(), StoreError> {
        let Some(repair) = &self.repair else { return Ok(()) };
        match repair.run(&*self.view.disk) {
            Ok(kept_in) => {
                self.recovery.cut_kept_in = kept_in;
                if let Some(manifest) = repair.manifest.clone() {
                    self.manifest = manifest;
                }
                self.repair = None;
                self.durable = self.last;
                Ok(())
            }
            Err(error) => Err(self.fence_unless_clean(error)),
        }
    }

    /// The places of waiting events that are appended again; nothing is written for those.
    fn place_waiting(&mut self, events: &[Event]) -> Result<(), StoreError> {
        self.placed.clear();
        for event in events {
            let waiting = self.view.index.find_waiting(&event.id);
            let waited = match waiting {
                Some(entry) if self.view.read_one(&event.id, entry.place)? == *event => true,
                Some(_) => return Err(StoreError::Conflict { event: event.id.clone() }),
                None => false,
            };
            let nowhere = Loc { segment: 0, offset: 0, len: 0 };
            self.placed.push(Placed { loc: waiting.map_or(nowhere, |entry| entry.place), waited });
        }
        Ok(())
    }

    /// Encodes the events that are not on disk yet into the buffers of their files; returns the last index given out.
    fn encode(&mut self, events: &[Event]) -> Result<u64, StoreError> {
        let mut last = self.last;
        for file in &mut self.active {
            file.clear_buffer();
        }
        for (event, placed) in events.iter().zip(&mut self.placed).filter(|(_, placed)| !placed.waited) {
            last += 1;
            let after = skip_before(&self.skipped_from, &self.view.index, event);
            let file = &mut self.active[event.body.kind() as usize];
            let start = file.buffer.len();
            line::encode(&mut file.buffer, last, self.durable, after, event);
            let len = file.buffer.len() - start;
            let too_large = |what, bytes: u64, cap_bytes| StoreError::TooLarge { what, bytes, cap_bytes };
            if len > LINE_CAP_BYTES {
                return Err(too_large("an event", len as u64, LINE_CAP_BYTES as u64));
            }
            let offset = file.len + start as u64;
            let Ok(offset) = u32::try_from(offset) else {
                return Err(too_large("unsynced events", offset, FILE_CAP_BYTES));
            };
            placed.loc = Loc { segment: file.segment, offset, len: len as u32 };
        }
        Ok(last)
    }

    /// Makes the files that are written to and not there yet.
    fn open_active(&mut self, events: &[Event]) -> Result<(), StoreError> {
        for (event, _) in events.iter().zip(&self.placed).filter(|(_, placed)| !placed.waited) {
            let kind = event.body.kind();
            if self.active[kind as usize].file.is_none() {
                let (segment, file) = self.view.segments.create(&*self.view.disk, kind)?;
                let active = &mut self.active[kind as usize];
                (active.segment, active.file, active.len) = (segment, Some(file), 0);
                self.new_in.push(dir_of(files::active_path(kind)));
            }
        }
        Ok(())
    }

    /// Writes the buffers; on failure, takes back what was written.
    fn write_buffers(&mut self) -> Result<(), StoreError> {
        for at in 0..self.active.len() {
            if let Err((path, error)) = self.active[at].write() {
                let error = StoreError::io("append to", path, error);
                return Err(match error {
                    StoreError::Full { .. } => self.take_back(at, error),
                    other => self.fence(other),
                });
            }
        }
        self.active.iter_mut().for_each(ActiveFile::written);
        Ok(())
    }

    /// Cuts the files up to number `last`, to which an append that failed has written, back to where they were. The cuts
    /// are synced at once, before the same indices are given out again.
    fn take_back(&mut self, last: usize, error: StoreError) -> StoreError {
        for at in 0..=last {
            if let Err((path, source)) = self.active[at].take_back() {
                return self.fence(StoreError::Io {
                    action: "take back what was appended to",
                    path: path.to_owned(),
                    source,
                });
            }
        }
        error
    }

    fn sync_files(&mut self) -> Result<(), StoreError> {
        for file in &mut self.active {
            file.sync()?;
        }
        while let Some(&dir) = self.new_in.last() {
            let failed = |source| StoreError::Io { action: "sync the directory", path: dir.to_owned(), source };
            self.view.disk.sync_dir(dir).map_err(failed)?;
            self.new_in.retain(|&new| new != dir);
        }
        self.durable = self.last;
        Ok(())
    }

    /// Seals the files that are large enough. All is durable at this point, and noted to be before a name changes.
    fn rotate(&mut self) -> Result<(), StoreError> {
        let cap = self.config.segment_bytes.clamp(1, FILE_CAP_BYTES / 4);
        EventKind::ALL
            .into_iter()
            .filter(|&kind| self.active[kind as usize].len >= cap)
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|kind| self.seal(kind))
    }

    /// Seals the active file of a kind. Everything in it is durable.
    fn seal(&mut self, kind: EventKind) -> Result<(), StoreError> {
        self.note_durable()?;
        let disk = Arc::clone(&self.view.disk);
        let active = &mut self.active[kind as usize];
        let sealed = files::sealed_path(kind, active.next_sealed);
        let from = files::active_path(kind);
        let failed = |source| StoreError::Io { action: "sync the directory of", path: from.to_owned(), source };
        disk.rename(from, &sealed).map_err(|e| StoreError::io("seal", from, e))?;
        self.view.segments.seal(active.segment, sealed, active.len);
        active.file = None;
        active.len = 0;
        active.next_sealed += 1;
        // The name must be durable before the next file takes the old one.
        disk.sync_dir(dir_of(from)).map_err(failed)
    }

    /// Notes in the manifest how far the log is durable.
    fn note_durable(&mut self) -> Result<(), StoreError> {
        if self.manifest.durable < self.durable {
            let manifest = Manifest { durable: self.durable, ..self.manifest.clone() };
            manifest.save(&*self.view.disk)?;
            self.manifest = manifest;
        }
        Ok(())
    }
}

/// The number that an event follows, where those between were skipped.
fn skip_before(skipped_from: &HashMap<u32, u64>, index: &Index<Loc>, event: &Event) -> Option<u64> {
    if skipped_from.is_empty() {
        return None;
    }
    let id = index.find_origin(&event.id.origin)?;
    let first = index.tail(id).0 == event.id.seq;
    skipped_from.get(&id).copied().filter(|_| first)
}

impl EventStore for JsonlStore {
    fn append(&mut self, events: &[Event]) -> Result<(), StoreError> {
        self.check_unfenced()?;
        self.view.index.check_follows(events)?;
        self.finish_repair()?;
        let ready = self.place_waiting(events).and_then(|()| self.open_active(events));
        ready.map_err(|error| self.fence_unless_clean(error))?;
        let last = self.encode(events)?;
        self.write_buffers()?;
        self.last = last;
        for (event, placed) in events.iter().zip(&self.placed) {
            let id = self.view.index.origin_id(&event.id.origin);
            self.skipped_from.remove(&id);
            let entry = Entry::new(event.clock, event.timestamp.ms, placed.loc);
            self.view.index.push(id, entry, FeedNames::of(&event.body));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.check_unfenced()?;
        match self.finish_repair() {
            Ok(()) => {}
            // Nothing was appended since the store was opened, and what it found then is synced.
            Err(StoreError::Full { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.sync_files().map_err(|error| self.fence(error))?;
        match self.rotate() {
            // A new file has no room yet; the old one goes on.
            Ok(()) | Err(StoreError::Full { .. }) => Ok(()),
            Err(error) => Err(self.fence(error)),
        }
    }

    fn vector(&self) -> &Position {
        self.view.index.vector()
    }

    fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> Result<Stretch, StoreError> {
        let (found, upto) = self.view.index.range(origin, from_seq, limit);
        Ok(Stretch { events: self.view.fetch(&found)?, upto })
    }

    fn read(&self, feed: &Feed, cursor: FeedCursor, limit: Limit) -> Result<Page, StoreError> {
        self.view.index.page(feed, cursor, limit, |found| self.view.fetch(found))
    }

    fn replay_after(&self, after: &Position, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError> {
        let covered = self.snapshot.as_ref().filter(|snapshot| after.covers(&snapshot.position));
        let start = |segment: u32| covered.and_then(|snapshot| snapshot.starts.get(segment as usize)).copied();
        self.view.replay(self.sources(|segment| start(segment).unwrap_or(0)), after, visit)
    }

    fn packing(&self) -> Option<Packing> {
        self.next_packing()
    }

    fn adopt(&mut self, packed: Packed) -> Result<(), StoreError> {
        self.adopt_packed(&packed)
    }

    fn disk(&self) -> Option<Arc<dyn Disk>> {
        Some(Arc::clone(&self.view.disk))
    }

    fn take_snapshot(&mut self) -> Option<(Position, Vec<u8>)> {
        let snapshot = self.snapshot.as_mut()?;
        Some((snapshot.position.clone(), snapshot.state.take()?))
    }

    fn snapshot_position(&self) -> Option<&Position> {
        self.snapshot.as_ref().map(|snapshot| &snapshot.position)
    }

    fn skip(&mut self, origin: &Origin, upto: u64) {
        let id = self.view.index.origin_id(origin);
        let (next, _) = self.view.index.tail(id);
        if upto >= next {
            self.skipped_from.entry(id).or_insert(next - 1);
            let segments = &mut self.view.segments;
            self.view.index.skip(id, upto, |entry| segments.add_dead(entry.place.segment, entry.place.len.into()));
        }
    }

    fn floors(&self) -> Floors {
        self.floors
    }

    fn position_at(&self, clock: Clock) -> Position {
        self.view.index.position_at(clock)
    }

    fn floors_for(&self, retention: &Retention, now: Timestamp) -> Floors {
        self.view.index.floors_for(retention, self.floors, now)
    }

    fn retire(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) -> Result<(), StoreError> {
        self.retire_below(floors, hidden)
    }

    fn compact(&mut self) -> Result<bool, StoreError> {
        self.compact_one()
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn save_meta(&mut self, meta: &Meta) -> Result<(), StoreError> {
        self.check_unfenced()?;
        record::save(&*self.view.disk, META_PATH, meta).map_err(|error| self.fence_unless_clean(error))?;
        self.meta = meta.clone();
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        let sealed = self.view.segments.sealed().map(|(_, _, _, bytes)| bytes);
        let active = self.active.iter().filter(|file| file.file.is_some()).map(|file| file.len);
        let bytes = sealed.chain(active).sum();
        StoreStats {
            events: self.view.index.events(),
            bytes,
            disk_bytes: bytes - self.view.segments.spared_bytes(),
            segments: (self.view.segments.sealed().count()
                + self.active.iter().filter(|file| file.file.is_some()).count()) as u64,
            last_index: self.last,
            durable_index: self.durable,
            cut_bytes: self.recovery.cut_bytes,
            retired_bytes: self.view.segments.all_dead_bytes(),
            lost_indices: self.manifest.lost.count(),
            missing_events: self.missing().iter().map(|missing| missing.last - missing.first + 1).sum(),
            waiting_events: self.view.index.waiting(),
            index_bytes: self.view.index.memory_bytes(),
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.check_unfenced()?;
        self.finish_repair()?;
        self.sync()?;
        self.note_durable().map_err(|error| self.fence_unless_clean(error))
    }
}
