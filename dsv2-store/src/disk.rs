//! What the store asks of a disk: files as bytes under one directory.
//!
//! The interface is small so that a test can fake the *disk* and run the store's real parser and real recovery on it.

#[cfg(any(unix, windows))]
mod fs;
mod mem;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

#[cfg(any(unix, windows))]
pub use fs::FsDisk;
pub use mem::MemDisk;
#[cfg(any(test, feature = "testing"))]
pub(crate) use mem::read_slice;

/// One directory of files.
///
/// Paths are relative, with `/` between a directory and a file; they are constants of the store and never contain what
/// a user typed. A directory is made, durably, when the first file in it is.
///
/// What a crash may lose is what real disks lose: any part of what was written to a file since its last
/// [`DiskFile::sync`], and any of the creations, renames and removals in a directory since its last
/// [`Disk::sync_dir`].
pub trait Disk: Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] in [`OpenMode::Read`] where there is no such file; whatever the system says.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives the file `from` the name `to`, in the same directory, atomically; replaces a file of that name.
    ///
    /// # Errors
    /// Whatever the system says; then nothing changed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Writes what stands in a file from byte `from` up to byte `to` once more, in place, and makes the file and its length
    /// durable. After a sync that failed, the system may show what it gave up to write; only what is written again is synced
    /// again.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the file ends before; whatever the system says. The content is the same.
    fn rewrite(&self, path: &str, from: u64, to: u64) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Whatever the system says; then nothing changed.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// The names of the files in a directory (`""` is the disk's own), without those in directories below it, in no
    /// certain order; none where there is no such directory.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// Whatever the system says; then none of them may be relied upon.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Takes the disk for this holder alone, until the returned guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`LockError::Held`] at once where somebody else has it.
    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// To read what is there.
    Read,
    /// To read and to append; made empty where there is none.
    Append,
}

/// An open file. It stays the same file when its name changes.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads from byte `offset` on, until `into` is full or the file ends; returns how many bytes were read.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes at the end of the file.
    ///
    /// # Errors
    /// Whatever the system says; then any part of `bytes` may have been written.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// How long the file is.
    ///
    /// # Errors
    /// Whatever the system says.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Drops all from byte `len` on.
    ///
    /// # Errors
    /// Whatever the system says.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the file's content and length durable.
    ///
    /// # Errors
    /// Whatever the system says; then everything since the last sync may be lost, and a second attempt proves nothing,
    /// because systems may drop what they failed to write.
    fn sync(&self) -> io::Result<()>;
}

/// Holds a disk until it is dropped.
pub trait DiskLock: Debug + Send + Sync {}

/// Why a disk could not be locked. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else holds it; says who, as far as can be told.
    #[error("it is in use by {0}")]
    Held(String),
    /// The system failed.
    #[error("the lock file cannot be used")]
    Io(#[from] io::Error),
}

/// The directory part of a path; `""` for a file at the top.
pub(crate) fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Reads exactly `len` bytes from `offset` on, into a buffer that is cleared first.
pub(crate) fn read_exact(file: &dyn DiskFile, offset: u64, len: usize, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    into.resize(len, 0);
    if file.read_at(offset, into)? == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
