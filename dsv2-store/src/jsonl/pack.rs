//! Sealed files in compressed form: made beside the log by any thread, then put in the place of the plain ones.
//!
//! 1. The compressed file is written under another name, synced, compared with the plain one, and takes its name, durably.
//! 2. The plain one is removed, durably. As long as it is there, it alone counts, and the other may be removed.

use std::io;
use std::sync::Arc;

use super::JsonlStore;
use super::files::{Form, packed_path};
use super::packed::{PackedFile, pack};
use super::scan::Segment;
use crate::disk::{Disk, DiskFile, OpenMode, dir_of, read_exact};
use crate::error::StoreError;

/// So much is compared or copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// A sealed file that is to be compressed. Any thread may do it, while the log is written to; but the log must not be
/// compacted, nor another of its files be compressed, until its store has adopted the result or it is dropped.
#[derive(Debug)]
pub struct Packing {
    disk: Arc<dyn Disk>,
    segment: u32,
    path: String,
    bytes: u64,
}

/// A sealed file that was compressed; [`EventStore::adopt`](crate::EventStore::adopt) puts it in the place of the plain
/// one.
#[derive(Debug)]
pub struct Packed {
    segment: u32,
    path: String,
    bytes: u64,
    packed_bytes: u64,
}

impl Packed {
    /// Bytes of the plain file, and of the compressed one.
    #[must_use]
    pub const fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.packed_bytes)
    }
}

impl Packing {
    /// Compresses it. Takes some seconds a gigabyte.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`]; [`StoreError::Corrupt`] where what was written reads back as
    /// something else. In no case did anything change that counts.
    pub fn run(&self) -> Result<Packed, StoreError> {
        let to = packed_path(&self.path);
        let temporary = format!("{to}.tmp");
        self.write(&temporary).inspect_err(|_| {
            // Gives back its room; what is left is written over the next time.
            let _ = self.disk.remove(&temporary);
        })?;
        let failed = |action| move |source| StoreError::Io { action, path: self.path.clone(), source };
        self.disk.rename(&temporary, &to).map_err(failed("rename the compressed form of"))?;
        self.disk.sync_dir(dir_of(&to)).map_err(failed("sync the directory of"))?;
        let packed_bytes = self.disk.open(&to, OpenMode::Read).and_then(|file| file.len_bytes());
        let packed_bytes = packed_bytes.map_err(failed("open the compressed form of"))?;
        Ok(Packed { segment: self.segment, path: self.path.clone(), bytes: self.bytes, packed_bytes })
    }

    fn write(&self, temporary: &str) -> Result<(), StoreError> {
        let failed = |action| move |source| StoreError::io(action, &self.path, source);
        let from = self.disk.open(&self.path, OpenMode::Read).map_err(failed("open"))?;
        let to = self.disk.open(temporary, OpenMode::Append).map_err(failed("create the compressed form of"))?;
        let written = to.truncate(0).and_then(|()| pack(&*from, self.bytes, &*to)).and_then(|_| to.sync());
        written.map_err(failed("write the compressed form of"))?;
        let same = PackedFile::open(to).and_then(|packed| equal(&*from, &packed, self.bytes));
        if same.map_err(failed("read the compressed form of"))? {
            Ok(())
        } else {
            let reason = "it does not read back as it was written";
            Err(StoreError::Corrupt { path: temporary.to_owned(), offset: 0, reason })
        }
    }
}

/// Whether two files have the same first `len` bytes, and one of them no more.
fn equal(plain: &dyn DiskFile, packed: &dyn DiskFile, len: u64) -> io::Result<bool> {
    let (mut left, mut right, mut at) = (Vec::new(), Vec::new(), 0);
    if packed.len_bytes()? != len {
        return Ok(false);
    }
    while at < len {
        let bytes = usize::try_from(len - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        read_exact(plain, at, bytes, &mut left)?;
        read_exact(packed, at, bytes, &mut right)?;
        if left != right {
            return Ok(false);
        }
        at += bytes as u64;
    }
    Ok(true)
}

impl JsonlStore {
    pub(super) fn next_packing(&self) -> Option<Packing> {
        let (segment, path, bytes) =
            self.view.segments.next_plain().filter(|_| self.fenced.is_none() && self.repair.is_none())?;
        Some(Packing { disk: Arc::clone(&self.view.disk), segment, path: path.to_owned(), bytes })
    }

    pub(super) fn adopt_packed(&mut self, packed: &Packed) -> Result<(), StoreError> {
        self.check_unfenced()?;
        let is_it = |(segment, path, bytes)| (segment, path, bytes) == (packed.segment, &*packed.path, packed.bytes);
        if !self.view.segments.next_plain().is_some_and(is_it) {
            // Not what was compressed any more. It does not count beside the plain one.
            return Ok(());
        }
        let disk = Arc::clone(&self.view.disk);
        let failed = |action| move |source| StoreError::Io { action, path: packed.path.clone(), source };
        disk.remove(&packed.path).map_err(failed("remove"))?;
        self.view.segments.packed(packed.segment, packed.packed_bytes);
        let synced = disk.sync_dir(dir_of(&packed.path)).map_err(failed("sync the directory of"));
        synced.map_err(|error| self.fence(error))
    }
}

/// Writes the first `len` bytes of a compressed file in plain form, durably, and removes it.
pub(super) fn unpack(disk: &dyn Disk, path: &str, len: u64) -> Result<(), StoreError> {
    if disk.open(path, OpenMode::Read).is_ok() {
        // An attempt before this one came so far.
        remove_twin(disk, path);
        return Ok(());
    }
    let temporary = format!("{path}.tmp");
    let copy = || -> io::Result<Arc<dyn DiskFile>> {
        let from = PackedFile::open(disk.open(&packed_path(path), OpenMode::Read)?)?;
        let to = disk.open(&temporary, OpenMode::Append)?;
        to.truncate(0)?;
        let (mut bytes, mut at) = (Vec::new(), 0);
        while at < len {
            let count = usize::try_from(len - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            read_exact(&from, at, count, &mut bytes)?;
            to.append(&bytes)?;
            at += count as u64;
        }
        Ok(to)
    };
    let copied = copy().map_err(|error| {
        // Gives back its room; what is left is written over the next time.
        let _ = disk.remove(&temporary);
        StoreError::io("write the plain form of", path, error)
    })?;
    let failed = |action| move |source| StoreError::Io { action, path: path.to_owned(), source };
    copied.sync().map_err(failed("sync the plain form of"))?;
    disk.rename(&temporary, path).map_err(failed("rename the plain form of"))?;
    disk.sync_dir(dir_of(path)).map_err(failed("sync the directory of"))?;
    remove(disk, &packed_path(path))
}

/// Removes a file, durably, if it is there.
pub(super) fn remove(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    match disk.remove(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(|e| StoreError::io("remove", path, e))?,
    }
    let failed = |source| StoreError::Io { action: "sync the directory of", path: path.to_owned(), source };
    disk.sync_dir(dir_of(path)).map_err(failed)
}

/// Removes compressed forms of files that are there in plain form, too.
pub(super) fn remove_twins(disk: &dyn Disk, segments: &[Segment]) {
    for segment in segments.iter().filter(|segment| segment.at.form == Form::Both) {
        remove_twin(disk, &segment.at.path);
    }
}

/// Removes the compressed form of a file that is there in plain form, if it has one. Where that fails it takes room, and that
/// is all: the plain one counts, and the next compression writes over it.
pub(super) fn remove_twin(disk: &dyn Disk, path: &str) {
    if let Err(error) = remove(disk, &packed_path(path)) {
        tracing::warn!(file = path, %error, "a compressed form of no use stays");
    }
}
