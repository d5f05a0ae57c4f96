//! Opening a store.

use std::collections::HashMap;
use std::sync::Arc;

use dsv2_core::{EventKind, Floors};

use super::files::Form;
use super::manifest::Manifest;
use super::note::Note;
use super::recovery::{Damage, Missing, Recovery};
use super::repair::{Cut, Repair, Unsure};
use super::scan::{Known, Scan, Segment, scan};
use super::segments::{ActiveFile, Segments};
use super::snapshot::Snapshot;
use super::view::View;
use super::{JsonlConfig, JsonlStore, META_PATH, Restored, pack, record};
use crate::disk::{Disk, LockError};
use crate::error::StoreError;
use crate::meta::Meta;

impl JsonlStore {
    /// Opens the store on a disk, or makes one; recovers it from whatever happened to it.
    ///
    /// On a full disk it opens nevertheless: reads work, and writes once there is room.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while somebody else holds it. [`StoreError::Corrupt`] where `meta.json` is damaged: votes
    /// and clocks that were given must not be forgotten silently. [`StoreError::Unreadable`] where a newer version wrote
    /// it. [`StoreError::Io`]; [`StoreError::Full`] only where a new data directory has no room to begin. In no case is
    /// any event harmed, and opening it again is safe.
    pub fn open(disk: Arc<dyn Disk>, config: JsonlConfig) -> Result<Self, StoreError> {
        let lock = disk.lock().map_err(|error| match error {
            LockError::Held(holder) => StoreError::Locked { holder },
            LockError::Io(source) => StoreError::Io { action: "lock", path: "the data directory".to_owned(), source },
        })?;
        let stored: Option<Meta> = record::load(&*disk, META_PATH)?;
        let manifest = load_manifest(&*disk)?;
        let note = Note::load(&*disk)?;
        let known = Known { manifest: manifest.as_ref(), note: note.as_ref() };
        let found = scan(&*disk, known, Snapshot::load(&*disk))?;
        let mut recovery = recovery_of(&found, manifest.is_none());
        recovery.metadata_missing = stored.is_none() && found.last > 0;
        let meta = match stored {
            Some(meta) => meta,
            None => new_meta(&*disk, &config)?,
        };
        let (manifest, repair) = plan(&found, manifest);
        let repair = match repair.run(&*disk) {
            Ok(kept_in) => {
                recovery.cut_kept_in = kept_in;
                None
            }
            Err(StoreError::Full { .. }) => {
                recovery.unfinished = true;
                Some(repair)
            }
            Err(error) => return Err(error),
        };
        recovery.log();
        pack::remove_twins(&*disk, &found.segments);
        let (segments, active) = open_files(&*disk, &found)?;
        let durable = if repair.is_none() { found.last } else { 0 };
        let snapshot = found.snapshot.as_ref().map(|snapshot| Restored {
            position: snapshot.position.clone(),
            starts: found.segments.iter().map(|segment| segment.start).collect(),
            state: Some(snapshot.state().to_vec()),
        });
        Ok(Self {
            config,
            _lock: lock,
            view: View { disk, segments, index: found.index },
            active,
            new_in: Vec::new(),
            snapshot,
            floors: note.map_or_else(Floors::default, |note| note.floors),
            skipped_from: HashMap::new(),
            meta,
            manifest,
            last: found.last,
            durable,
            fenced: None,
            repair,
            recovery,
            placed: Vec::new(),
        })
    }

    /// Opens the store in a directory of the file system, which is made where there is none.
    ///
    /// # Errors
    /// As [`JsonlStore::open`].
    #[cfg(any(unix, windows))]
    pub fn open_dir(dir: impl Into<std::path::PathBuf>, config: JsonlConfig) -> Result<Self, StoreError> {
        let dir = dir.into();
        let path = dir.display().to_string();
        let disk = crate::disk::FsDisk::create(dir).map_err(|e| StoreError::io("create", &path, e))?;
        Self::open(Arc::new(disk), config)
    }
}

fn new_meta(disk: &dyn Disk, config: &JsonlConfig) -> Result<Meta, StoreError> {
    let meta = Meta::new(config.node);
    record::save(disk, META_PATH, &meta)?;
    Ok(meta)
}

/// `None` where it is damaged.
pub(super) fn load_manifest(disk: &dyn Disk) -> Result<Option<Manifest>, StoreError> {
    match Manifest::load(disk) {
        Ok(manifest) => Ok(Some(manifest.unwrap_or_default())),
        Err(StoreError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What opening the store finds.
pub(crate) fn recovery_of(found: &Scan, manifest_damaged: bool) -> Recovery {
    let cut_bytes = found.segments.iter().map(|segment| segment.len - segment.kept).sum();
    let segment = |id: u32| &found.segments[id as usize];
    let kept = found.bad.iter().filter(|bad| bad.offset < segment(bad.segment).kept);
    let damage =
        kept.map(|bad| Damage { path: segment(bad.segment).at.path.clone(), offset: bad.offset, len: bad.len });
    let missing = found.index.missing().into_iter().chain(found.short.iter().cloned());
    Recovery {
        cut_from: found.cut_from,
        cut_bytes,
        lost: found.lost.clone(),
        missing: missing.map(|(origin, first, last)| Missing { origin, first, last }).collect(),
        waiting: found.index.waiting(),
        damage: damage.collect(),
        repeated: found.repeated,
        manifest_damaged,
        ..Recovery::default()
    }
}

/// The manifest as it is to be, and what is to be done.
fn plan(found: &Scan, manifest: Option<Manifest>) -> (Manifest, Repair) {
    let old = manifest.clone();
    let mut new = manifest.unwrap_or_default();
    new.durable = new.durable.max(found.last);
    for (from, to) in found.lost.iter() {
        new.lost.insert(from, to);
    }
    let is_active = |segment: &&Segment| segment.at.sealed.is_none();
    let cut = |segment: &Segment| Cut {
        path: segment.at.path.clone(),
        kept: segment.kept,
        len: segment.len,
        is_packed: segment.at.form == Form::Packed,
    };
    let unsure = |segment: &Segment| Unsure {
        path: segment.at.path.clone(),
        from: segment.unsure.min(segment.kept),
        to: segment.kept,
    };
    let repair = Repair {
        manifest: (old.as_ref() != Some(&new)).then(|| new.clone()),
        unsure: found.segments.iter().filter(is_active).map(unsure).collect(),
        cuts: found.segments.iter().filter(|segment| segment.kept < segment.len).map(cut).collect(),
        first_cut: found.last + 1,
    };
    (new, repair)
}

/// Opens the files under the internal numbers that the scan gave them.
fn open_files(disk: &dyn Disk, found: &Scan) -> Result<(Segments, [ActiveFile; EventKind::ALL.len()]), StoreError> {
    let mut segments = Segments::default();
    let mut active = EventKind::ALL.map(|kind| ActiveFile::new(kind, 1));
    for segment in &found.segments {
        let file = &mut active[segment.at.kind as usize];
        if let Some(number) = segment.at.sealed {
            segments.add_sealed(segment);
            file.next_sealed = number.saturating_add(1);
        } else {
            let (id, handle) = segments.create(disk, segment.at.kind)?;
            segments.add_dead(id, segment.dead_bytes);
            (file.segment, file.file, file.len) = (id, Some(handle), segment.kept);
        }
    }
    Ok((segments, active))
}
