//! Making a log whole again: what a scan found is made durable, noted, and cut.
//!
//! The order matters, for the power may fail between any two steps and recovery starts over:
//! 1. What is kept is synced, so that nothing is served that a second crash could take. Of what no line says to be durable,
//!    the process before may have learned that its sync failed; the system still shows it, and would sync nothing. So that
//!    is written again first, in place: whatever a crash leaves of it, it is the same bytes.
//! 2. The manifest notes the last index that is kept, and what is lost. From now on a scan comes to the same end
//!    whatever remains of what is to be cut, even if the lines that knew more are already gone.
//! 3. What is cut is copied aside, then cut, and the cuts are synced before anything is appended: an index is given out
//!    again only when no line has it any more.

use std::io;

use super::files::{self, CUT_DIR, LOG_DIRS};
use super::manifest::Manifest;
use super::pack::unpack;
use crate::disk::{Disk, DiskFile, OpenMode, dir_of};
use crate::error::StoreError;

/// Cut-off ends are kept in at most so many files; then none are kept until somebody removes them.
const CUT_FILES_CAP: usize = 256;
const COPY_BYTES: usize = 64 << 10;

/// What is to be done before the first append.
#[derive(Clone, Debug)]
pub(crate) struct Repair {
    /// The manifest as it must be, if it must change.
    pub(crate) manifest: Option<Manifest>,
    /// What must be made durable.
    pub(crate) unsure: Vec<Unsure>,
    /// The ends to cut: file, its new length, its present one.
    pub(crate) cuts: Vec<Cut>,
    /// The first index that is cut, for the names of the files it is kept in.
    pub(crate) first_cut: u64,
}

/// A file that must be durable, and from where to where it may not be yet.
#[derive(Clone, Debug)]
pub(crate) struct Unsure {
    pub(crate) path: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The end of a file that is to go.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) path: String,
    pub(crate) kept: u64,
    pub(crate) len: u64,
    /// It lies there in compressed form; what is kept becomes plain.
    pub(crate) is_packed: bool,
}

impl Repair {
    /// Carries it out; returns the files that what was cut is kept in.
    ///
    /// # Errors
    /// [`StoreError::Full`]: try again when there is room. [`StoreError::Io`]: try again after a restart. However far it
    /// came, nothing that is to be kept is harmed.
    pub(crate) fn run(&self, disk: &dyn Disk) -> Result<Vec<String>, StoreError> {
        for Unsure { path, from, to } in &self.unsure {
            disk.rewrite(path, *from, *to).map_err(|e| StoreError::io("write again the end of", path, e))?;
        }
        for dir in LOG_DIRS {
            let failed = |source| StoreError::Io { action: "sync the directory", path: dir.to_owned(), source };
            disk.sync_dir(dir).map_err(failed)?;
        }
        if let Some(manifest) = &self.manifest {
            manifest.save(disk)?;
        }
        let mut kept_in = Vec::new();
        for cut in &self.cuts {
            match keep_aside(disk, cut, self.first_cut) {
                Ok(path) => kept_in.extend(path),
                Err(e) => {
                    let error = StoreError::io("keep aside the end of", &cut.path, e);
                    if !matches!(error, StoreError::Full { .. }) {
                        return Err(error);
                    }
                    // Nobody was ever told of these events; room for new ones comes first.
                    tracing::warn!(file = cut.path, "no room to keep what is cut from the log");
                }
            }
        }
        for cut in &self.cuts {
            if cut.is_packed {
                unpack(disk, &cut.path, cut.kept)?;
                continue;
            }
            let failed = |source| StoreError::Io { action: "cut", path: cut.path.clone(), source };
            // Opening to append would make a file that is not there.
            disk.open(&cut.path, OpenMode::Read).map_err(failed)?;
            let file = disk.open(&cut.path, OpenMode::Append).map_err(failed)?;
            file.truncate(cut.kept).and_then(|()| file.sync()).map_err(failed)?;
        }
        Ok(kept_in)
    }
}

/// Copies what is to be cut to a file whose name tells what it is, so that a second attempt writes the same file.
fn keep_aside(disk: &dyn Disk, cut: &Cut, first_cut: u64) -> io::Result<Option<String>> {
    let source = files::open(disk, &cut.path)?;
    if source.len_bytes()? <= cut.kept {
        return Ok(None);
    }
    let mut hasher = crc32fast::Hasher::new();
    each_block(&*source, cut, |block| {
        hasher.update(block);
        Ok(())
    })?;
    let name = format!("{}.{first_cut}.{:08x}", cut.path.replace('/', "-"), hasher.finalize());
    let present = disk.list(CUT_DIR)?;
    if present.len() >= CUT_FILES_CAP && !present.contains(&name) {
        tracing::warn!(dir = CUT_DIR, "too many files there already: what is cut from the log is not kept");
        return Ok(None);
    }
    let path = format!("{CUT_DIR}/{name}");
    let file = disk.open(&path, OpenMode::Append)?;
    let copied = file.truncate(0).and_then(|()| each_block(&*source, cut, |block| file.append(block)));
    if let Err(e) = copied {
        // Part of it would mislead, and holds room. If it cannot be removed, the next attempt starts over it.
        let _ = disk.remove(&path);
        return Err(e);
    }
    file.sync()?;
    disk.sync_dir(dir_of(&path))?;
    Ok(Some(path))
}

fn each_block(file: &dyn DiskFile, cut: &Cut, mut visit: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut block = vec![0; COPY_BYTES];
    let mut at = cut.kept;
    while at < cut.len {
        let room = usize::try_from(cut.len - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let read = file.read_at(at, &mut block[..room])?;
        if read == 0 {
            break;
        }
        visit(&block[..read])?;
        at += read as u64;
    }
    Ok(())
}
