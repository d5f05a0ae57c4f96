//! The log's open files.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use dsv2_core::EventKind;

use super::BUFFER_KEEP_BYTES;
use super::files::{self, Form};
use super::scan::Segment;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::StoreError;

/// So many sealed files are kept open for reading.
const OPEN_CAP: usize = 64;

/// All log files by their internal numbers, which places in them refer to. A number stays when the name changes.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    files: Vec<SegmentFile>,
    /// How many sealed ones are not compressed.
    plain: usize,
    /// Sealed files that are open, the last used last.
    open: Mutex<Vec<(u32, Arc<dyn DiskFile>)>>,
}

#[derive(Debug)]
struct SegmentFile {
    path: String,
    kind: EventKind,
    state: State,
    /// So many bytes of it are lines of retired events.
    dead_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Open as long as it is active.
    Active(Arc<dyn DiskFile>),
    Sealed {
        bytes: u64,
        /// What it takes on the disk in compressed form.
        packed_bytes: Option<u64>,
    },
    /// Compaction left nothing of it.
    Removed,
}

impl Segments {
    /// Opens or makes the active file of a kind; returns its number, too.
    pub(crate) fn create(&mut self, disk: &dyn Disk, kind: EventKind) -> Result<(u32, Arc<dyn DiskFile>), StoreError> {
        let path = files::active_path(kind);
        let file = disk.open(path, OpenMode::Append).map_err(|e| StoreError::io("create", path, e))?;
        Ok((self.add_active(kind, Arc::clone(&file)), file))
    }

    /// Takes in the active file of a kind, which is open; yields its number.
    pub(crate) fn add_active(&mut self, kind: EventKind, file: Arc<dyn DiskFile>) -> u32 {
        let path = files::active_path(kind).to_owned();
        self.files.push(SegmentFile { path, kind, state: State::Active(file), dead_bytes: 0 });
        self.files.len() as u32 - 1
    }

    /// Takes in a sealed file, which gets the next number.
    pub(crate) fn add_sealed(&mut self, found: &Segment) -> u32 {
        // What had to be cut is plain since.
        let is_packed = found.at.form == Form::Packed && found.kept == found.len;
        let packed_bytes = is_packed.then_some(found.disk_bytes);
        let state = State::Sealed { bytes: found.kept, packed_bytes };
        self.plain += usize::from(packed_bytes.is_none());
        let (path, kind, dead_bytes) = (found.at.path.clone(), found.at.kind, found.dead_bytes);
        self.files.push(SegmentFile { path, kind, state, dead_bytes });
        self.files.len() as u32 - 1
    }

    /// The active file with that number has become a sealed one.
    pub(crate) fn seal(&mut self, segment: u32, path: String, bytes: u64) {
        if let Some(file) = self.files.get_mut(segment as usize) {
            (file.path, file.state) = (path, State::Sealed { bytes, packed_bytes: None });
            self.plain += 1;
        }
    }

    /// A line of a retired event stands there.
    pub(crate) fn add_dead(&mut self, segment: u32, bytes: u64) {
        if let Some(file) = self.files.get_mut(segment as usize) {
            file.dead_bytes += bytes;
        }
    }

    pub(crate) fn dead_bytes(&self, segment: u32) -> u64 {
        self.files.get(segment as usize).map_or(0, |file| file.dead_bytes)
    }

    pub(crate) fn all_dead_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.dead_bytes).sum()
    }

    /// A sealed file was written anew under its name without its dead lines, or was removed where nothing was left.
    pub(crate) fn replaced(&mut self, segment: u32, bytes: u64) {
        if let Some(file) = self.files.get_mut(segment as usize) {
            let was_plain = matches!(file.state, State::Sealed { packed_bytes: None, .. });
            file.state = if bytes > 0 { State::Sealed { bytes, packed_bytes: None } } else { State::Removed };
            file.dead_bytes = 0;
            self.plain = self.plain + usize::from(bytes > 0) - usize::from(was_plain);
        }
        self.close(segment);
    }

    /// A sealed file is there in compressed form now, and in no other.
    pub(crate) fn packed(&mut self, segment: u32, disk_bytes: u64) {
        if let Some(SegmentFile { state: State::Sealed { packed_bytes: packed @ None, .. }, .. }) =
            self.files.get_mut(segment as usize)
        {
            *packed = Some(disk_bytes);
            self.plain -= 1;
        }
        self.close(segment);
    }

    /// The next sealed file that is not compressed: number, path, bytes.
    pub(crate) fn next_plain(&self) -> Option<(u32, &str, u64)> {
        let sealed = || self.files.iter().enumerate();
        (self.plain > 0).then(sealed)?.find_map(|(id, file)| match file.state {
            State::Sealed { bytes, packed_bytes: None } => Some((id as u32, file.path.as_str(), bytes)),
            _ => None,
        })
    }

    /// What compression spares on the disk.
    pub(crate) fn spared_bytes(&self) -> u64 {
        let spared = self.files.iter().map(|file| match file.state {
            State::Sealed { bytes, packed_bytes: Some(packed) } => bytes.saturating_sub(packed),
            _ => 0,
        });
        spared.sum()
    }

    fn close(&mut self, segment: u32) {
        self.open.get_mut().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| *id != segment);
    }

    pub(crate) fn path(&self, segment: u32) -> &str {
        self.files.get(segment as usize).map_or("", |file| &file.path)
    }

    /// The file with that number, opened if need be.
    pub(crate) fn file(&self, disk: &dyn Disk, segment: u32) -> io::Result<Arc<dyn DiskFile>> {
        let entry = self.files.get(segment as usize).ok_or(io::ErrorKind::NotFound)?;
        if let State::Active(file) = &entry.state {
            return Ok(Arc::clone(file));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match open.iter().position(|(id, _)| *id == segment) {
            Some(at) => open.remove(at).1,
            None => files::open(disk, &entry.path)?,
        };
        if open.len() >= OPEN_CAP {
            open.remove(0);
        }
        open.push((segment, Arc::clone(&file)));
        Ok(file)
    }

    /// The sealed files, each kind's in the order of the log: number, path, kind, bytes.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = (u32, &str, EventKind, u64)> {
        self.files.iter().enumerate().filter_map(|(id, file)| match file.state {
            State::Active(_) | State::Removed => None,
            State::Sealed { bytes, .. } => Some((id as u32, file.path.as_str(), file.kind, bytes)),
        })
    }
}

/// The file of one kind that grows.
#[derive(Debug)]
pub(crate) struct ActiveFile {
    pub(crate) kind: EventKind,
    /// `None` until there is something to write.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) segment: u32,
    /// Its length without what is being appended.
    pub(crate) len: u64,
    /// The number of the next sealed segment.
    pub(crate) next_sealed: u32,
    /// What is being appended.
    pub(crate) buffer: Vec<u8>,
    /// Written to since its last sync.
    dirty: bool,
}

impl ActiveFile {
    pub(crate) const fn new(kind: EventKind, next_sealed: u32) -> Self {
        Self { kind, file: None, segment: 0, len: 0, next_sealed, buffer: Vec::new(), dirty: false }
    }

    pub(crate) const fn path(&self) -> &'static str {
        files::active_path(self.kind)
    }

    pub(crate) fn clear_buffer(&mut self) {
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_KEEP_BYTES {
            self.buffer.shrink_to(BUFFER_KEEP_BYTES);
        }
    }

    /// Appends the buffer to the file.
    pub(crate) fn write(&mut self) -> Result<(), (&'static str, io::Error)> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        let file = self.file.as_ref().ok_or_else(|| (self.path(), io::ErrorKind::NotFound.into()))?;
        file.append(&self.buffer).map_err(|e| (self.path(), e))
    }

    /// Counts the buffer as part of the file.
    pub(crate) fn written(&mut self) {
        self.len += self.buffer.len() as u64;
        self.clear_buffer();
    }

    /// Cuts off, durably, what of the buffer came into the file.
    pub(crate) fn take_back(&mut self) -> Result<(), (&'static str, io::Error)> {
        let Some(file) = self.file.as_ref().filter(|_| !self.buffer.is_empty()) else { return Ok(()) };
        file.truncate(self.len).and_then(|()| file.sync()).map_err(|e| (self.path(), e))?;
        self.dirty = false;
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(file) = self.file.as_ref().filter(|_| self.dirty) {
            file.sync().map_err(|source| StoreError::Io { action: "sync", path: self.path().to_owned(), source })?;
        }
        self.dirty = false;
        Ok(())
    }
}
