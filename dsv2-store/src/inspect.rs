//! Looking at a data directory without changing it.

use std::fmt;

use dsv2_core::{Floors, Origin};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::jsonl::files::CUT_DIR;
use crate::jsonl::manifest::Manifest;
use crate::jsonl::note::Note;
use crate::jsonl::scan::{Known, Scan, scan};
use crate::jsonl::snapshot::Snapshot;
use crate::jsonl::{META_PATH, Recovery, record, recovery_of};
use crate::meta::Meta;

/// What a data directory holds, and whether it is sound.
///
/// Its [`Display`](fmt::Display) is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The metadata; `None` where there are none.
    pub meta: Option<Meta>,
    /// Why the metadata cannot be read, if they cannot; a server does not start then.
    pub meta_damage: Option<String>,
    /// The log files, each kind's in the order of the log.
    pub files: Vec<FileReport>,
    /// The events held of each origin.
    pub origins: Vec<OriginReport>,
    /// Below which clocks messages are retired.
    pub floors: Floors,
    /// How many events are retired.
    pub retired_events: u64,
    /// The log index up to which a snapshot goes, if there is one that is whole.
    pub snapshot_index: Option<u64>,
    /// How many events are served.
    pub events: u64,
    /// The last log index.
    pub last_index: u64,
    /// Log indices that damage took, earlier finds included.
    pub lost_indices: u64,
    /// What opening the store would find and do. The end of the log looks incomplete while a server writes to it.
    pub recovery: Recovery,
    /// How many files of cut-off ends are kept, for people.
    pub kept_aside: usize,
}

/// A log file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileReport {
    /// Its path in the data directory.
    pub path: String,
    /// Its length, before compression.
    pub bytes: u64,
    /// What it takes on the disk; less than `bytes` where it is compressed.
    pub disk_bytes: u64,
    /// How many intact lines are kept.
    pub lines: u64,
    /// The first and the last log index in it; zeros if it has no lines.
    pub indices: (u64, u64),
    /// How many bytes at its end are to be cut.
    pub cut_bytes: u64,
    /// How many bytes before that are no intact lines.
    pub damaged_bytes: u64,
}

/// The events of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OriginReport {
    /// Whose.
    pub origin: Origin,
    /// Numbers 1 to this one are held.
    pub held: u64,
}

/// Reads all of a data directory, checks every line, and changes nothing. Needs no lock, so a server may be at work.
///
/// # Errors
/// [`StoreError::Io`], and [`StoreError::Unreadable`] where a later version wrote it.
pub fn inspect(disk: &dyn Disk) -> Result<Inspection, StoreError> {
    let (meta, meta_damage) = match record::load(disk, META_PATH) {
        Ok(meta) => (meta, None),
        Err(error @ StoreError::Corrupt { .. }) => (None, Some(error.to_string())),
        Err(error) => return Err(error),
    };
    // Before the log: a server at work notes in it only what is in the log already.
    let manifest = match Manifest::load(disk) {
        Ok(manifest) => Some(manifest.unwrap_or_default()),
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => return Err(error),
    };
    let note = Note::load(disk)?;
    // All of it, whatever a snapshot may cover: somebody wants to know.
    let found = scan(disk, Known { manifest: manifest.as_ref(), note: note.as_ref() }, None)?;
    let mut recovery = recovery_of(&found, manifest.is_none());
    recovery.metadata_missing = meta.is_none() && meta_damage.is_none() && found.last > 0;
    let kept_aside =
        disk.list(CUT_DIR).map_err(|e| StoreError::Io { action: "list", path: CUT_DIR.into(), source: e })?;
    Ok(Inspection {
        meta,
        meta_damage,
        files: files(&found),
        origins: found
            .index
            .vector()
            .iter()
            .map(|(origin, held)| OriginReport { origin: origin.clone(), held })
            .collect(),
        floors: note.as_ref().map_or_else(Floors::default, |note| note.floors),
        retired_events: found.index.retired().map(|(_, ranges)| ranges.count()).sum(),
        snapshot_index: Snapshot::load(disk).map(|snapshot| snapshot.last),
        events: found.index.events(),
        last_index: found.last,
        lost_indices: manifest.map_or(0, |manifest| manifest.lost.count()) + recovery.lost.count(),
        recovery,
        kept_aside: kept_aside.len(),
    })
}

/// Inspects a directory of the file system.
///
/// # Errors
/// As [`inspect`]; [`StoreError::Io`] where there is no such directory.
#[cfg(any(unix, windows))]
pub fn inspect_dir(dir: impl Into<std::path::PathBuf>) -> Result<Inspection, StoreError> {
    let dir = dir.into();
    let path = dir.display().to_string();
    let disk = crate::disk::FsDisk::existing(dir);
    inspect(&disk.map_err(|source| StoreError::Io { action: "open", path, source })?)
}

fn files(found: &Scan) -> Vec<FileReport> {
    let report = |(id, segment): (usize, &crate::jsonl::scan::Segment)| {
        let bad = found.bad.iter().filter(|bad| bad.segment as usize == id && bad.offset < segment.kept);
        FileReport {
            path: segment.at.path.clone(),
            bytes: segment.len,
            disk_bytes: segment.disk_bytes,
            lines: segment.lines,
            indices: (segment.first, segment.last),
            cut_bytes: segment.len - segment.kept,
            damaged_bytes: bad.map(|bad| bad.len).sum(),
        }
    };
    found.segments.iter().enumerate().map(report).collect()
}

impl Inspection {
    /// Whether nothing is damaged, lost or missing. An incomplete end, as after a crash, is sound.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let recovery = &self.recovery;
        self.meta_damage.is_none()
            && !recovery.manifest_damaged
            && !recovery.metadata_missing
            && recovery.lost.is_empty()
            && recovery.missing.is_empty()
            && recovery.waiting == 0
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.meta, &self.meta_damage) {
            (Some(meta), _) => {
                let name = meta.name.as_ref().map_or("(no name yet)", |name| name.as_str());
                writeln!(
                    f,
                    "server    {name}, node {:032x}, epoch {}, clocks up to {}",
                    meta.node, meta.epoch, meta.clock_limit
                )?;
            }
            (None, Some(damage)) => writeln!(f, "server    UNKNOWN: {damage}")?,
            (None, None) => writeln!(f, "server    no metadata")?,
        }
        writeln!(f, "log       {} events, last index {}", self.events, self.last_index)?;
        for file in &self.files {
            let (first, last) = file.indices;
            write!(
                f,
                "file      {}: {} lines, {} bytes, indices {first} to {last}",
                file.path, file.lines, file.bytes
            )?;
            if file.disk_bytes != file.bytes {
                write!(f, ", compressed to {}", file.disk_bytes)?;
            }
            if file.damaged_bytes > 0 {
                write!(f, ", {} bytes DAMAGED", file.damaged_bytes)?;
            }
            if file.cut_bytes > 0 {
                write!(f, ", {} bytes incomplete at its end", file.cut_bytes)?;
            }
            writeln!(f)?;
        }
        if self.retired_events > 0 {
            let Floors { publish, message } = self.floors;
            let count = self.retired_events;
            writeln!(
                f,
                "retired   {count} events: publications up to clock {publish}, private messages up to {message}"
            )?;
        }
        if let Some(index) = self.snapshot_index {
            writeln!(f, "snapshot  up to index {index}")?;
        }
        for origin in &self.origins {
            writeln!(f, "origin    {}: 1 to {}", origin.origin, origin.held)?;
        }
        self.recovery.missing.iter().try_for_each(|missing| writeln!(f, "MISSING   {missing}"))?;
        if self.recovery.waiting > 0 {
            writeln!(f, "WAITING   {} intact events wait for missing ones", self.recovery.waiting)?;
        }
        self.recovery.damage.iter().try_for_each(|damage| writeln!(f, "DAMAGED   {damage}"))?;
        if self.lost_indices > 0 {
            writeln!(f, "lost      {} lines in all of its life", self.lost_indices)?;
        }
        if self.recovery.manifest_damaged {
            writeln!(f, "DAMAGED   the manifest")?;
        }
        if self.kept_aside > 0 {
            writeln!(f, "aside     {} files of cut-off ends in {CUT_DIR}/", self.kept_aside)?;
        }
        writeln!(f, "{}", if self.is_sound() { "sound" } else { "NOT SOUND" })
    }
}
