//! A disk in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, DiskLock, LockError, OpenMode, dir_of};

/// A disk in memory, for tests and for clusters within one process. Clones share it; it lives as long as the last
/// clone or open file. It never fails and is as large as memory.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    files: Arc<Mutex<BTreeMap<String, MemFile>>>,
    locked: Arc<AtomicBool>,
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk of its own with the same files, unlocked.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = |(path, file): (&String, &MemFile)| (path.clone(), MemFile::new(guard(&file.0).clone()));
        let files = guard(&self.files).iter().map(copy).collect();
        Self { files: Arc::new(Mutex::new(files)), locked: Arc::default() }
    }

    /// The paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        guard(&self.files).keys().cloned().collect()
    }

    /// A file's content.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        guard(&self.files).get(path).map(|file| guard(&file.0).clone())
    }

    /// Replaces or makes a file.
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        guard(&self.files).insert(path.to_owned(), MemFile::new(content.into()));
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = guard(&self.files);
        let file = match (files.get(path), mode) {
            (Some(file), _) => file.clone(),
            (None, OpenMode::Read) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Append) => files.entry(path.to_owned()).or_default().clone(),
        };
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = guard(&self.files);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn rewrite(&self, path: &str, _from: u64, to: u64) -> io::Result<()> {
        let file = self.open(path, OpenMode::Read)?;
        if file.len_bytes()? < to { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        guard(&self.files).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(guard(&self.files).keys().filter(|path| dir_of(path) == dir).map(name).collect())
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        if self.locked.swap(true, Ordering::AcqRel) {
            return Err(LockError::Held("another store of this process".to_owned()));
        }
        Ok(Box::new(MemLock(Arc::clone(&self.locked))))
    }
}

#[derive(Debug)]
struct MemLock(Arc<AtomicBool>);

impl DiskLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Clone, Debug, Default)]
struct MemFile(Arc<Mutex<Vec<u8>>>);

impl MemFile {
    fn new(content: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(content)))
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        Ok(read_slice(&guard(&self.0), offset, into))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        guard(&self.0).extend_from_slice(bytes);
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(guard(&self.0).len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        guard(&self.0).truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies what `content` holds from `offset` on; returns how many bytes.
pub(crate) fn read_slice(content: &[u8], offset: u64, into: &mut [u8]) -> usize {
    let tail = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
    let len = tail.len().min(into.len());
    into[..len].copy_from_slice(&tail[..len]);
    len
}

/// A panic elsewhere leaves plain bytes behind, which are as good as before.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
