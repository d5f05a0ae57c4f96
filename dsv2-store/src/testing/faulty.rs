//! A disk that loses, tears, flips, fails and fills up, as its seed tells it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SplitMix64;
use crate::disk::{Disk, DiskFile, DiskLock, LockError, OpenMode, dir_of, read_slice};

mod state;

use state::State;

/// A disk in memory that behaves as badly as real ones may, deterministically. Clones share it.
///
/// - Between the files and their durable content stands a page cache. [`FaultyDisk::crash`] lets any part of what was
///   not synced survive: nothing, all, a prefix torn anywhere, any subset of sectors; file lengths included. The same
///   holds for creations, renames and removals since the last sync of their directory.
/// - A failed sync drops what it could not write: a later one that succeeds does not bring it back.
/// - [`FaultyDisk::fail_nth`] lets one call fail; [`FaultyDisk::power_off_after`] stops everything after so many
///   changes; [`FaultyDisk::set_capacity`] makes the disk run full; [`FaultyDisk::flip_bit`] flips a bit.
///
/// ```
/// use dsv2_store::testing::FaultyDisk;
/// use dsv2_store::{Disk, OpenMode};
/// let disk = FaultyDisk::new(42);
/// let file = disk.open("f", OpenMode::Append)?;
/// file.append(b"synced")?;
/// file.sync()?;
/// disk.sync_dir("")?;
/// file.append(b", not synced")?;
/// disk.crash();
/// assert!(disk.content("f").is_some_and(|content| content.starts_with(b"synced")));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FaultyDisk(Arc<Mutex<State>>);

/// The calls that can be told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Opening or making a file.
    Open,
    /// Reading.
    Read,
    /// Appending; any part of the bytes may then be in the file.
    Append,
    /// Truncating.
    Truncate,
    /// Syncing a file.
    Sync,
    /// Syncing a directory.
    SyncDir,
    /// Renaming.
    Rename,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device failed (EIO).
    Broken,
    /// There is no room (ENOSPC).
    Full,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Broken => io::Error::other("the device failed, as the test asked"),
            Self::Full => io::Error::new(io::ErrorKind::StorageFull, "the disk is full, as the test asked"),
        }
    }
}

impl FaultyDisk {
    /// An empty disk; the seed decides what crashes leave.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(SplitMix64::new(seed)))))
    }

    /// A disk of its own in the same state, without open files and unlocked. `seed` decides about *its* crashes.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.reset_holders(SplitMix64::new(seed));
        Self(Arc::new(Mutex::new(state)))
    }

    /// The power fails, and comes back: what was not synced survives in part, open files are dead, the lock is free,
    /// and no call is told to fail any more.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// The `nth` call of that sort from now on (1 is the next) fails, once. Several may be told.
    pub fn fail_nth(&self, call: Call, nth: u64, fault: Fault) {
        self.state().faults.push((call, nth, fault));
    }

    /// The power fails in the course of the change after the next `changes` ones. From then on every call fails, until
    /// [`FaultyDisk::crash`]. Changes are appends, truncations, syncs, renames, removals and creations.
    pub fn power_off_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// How many changes were made so far.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// How many syncs of files were asked for so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// All files together hold at most so many bytes; an append beyond writes what fits, and fails. `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// How many bytes all files hold.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used()
    }

    /// Flips one bit of a file, on the platter and in the cache. False where there is no such bit.
    #[must_use]
    pub fn flip_bit(&self, path: &str, bit: u64) -> bool {
        self.state().flip_bit(path, bit)
    }

    /// The paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.state().cached.keys().cloned().collect()
    }

    /// A file's content, as it is read now.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.cached.get(path).map(|&id| state.files[id].cached.clone())
    }

    /// Replaces or makes a file, durably.
    pub fn put(&self, path: &str, content: &[u8]) {
        self.state().put(path, content);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Call::Open)?;
        let id = match (state.cached.get(path), mode) {
            (Some(&id), _) => id,
            (None, OpenMode::Read) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Append) => state.create(path)?,
        };
        Ok(Arc::new(FaultyFile { disk: self.clone(), id, generation: state.generation }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Rename)?;
        state.rename(from, to)
    }

    fn rewrite(&self, path: &str, from: u64, to: u64) -> io::Result<()> {
        self.state().rewrite(path, from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.state().remove(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check_power()?;
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(state.cached.keys().filter(|path| dir_of(path) == dir).map(name).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::SyncDir)?;
        state.sync_dir(dir)
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state();
        state.check_power()?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held("another store of this test".to_owned()));
        }
        Ok(Box::new(FaultyLock { disk: self.clone(), generation: state.generation }))
    }
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    generation: u64,
}

impl DiskLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation == self.generation {
            state.locked = false;
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    id: usize,
    generation: u64,
}

impl FaultyFile {
    /// The disk, if the file is still good.
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.generation != self.generation {
            return Err(io::Error::other("the file was open when the power failed"));
        }
        state.check_power()?;
        Ok(state)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.enter()?;
        state.call(Call::Read)?;
        Ok(read_slice(&state.files[self.id].cached, offset, into))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.enter()?.append(self.id, bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.enter()?.files[self.id].cached.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.enter()?;
        state.call(Call::Truncate)?;
        state.truncate(self.id, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.enter()?.sync(self.id)
    }
}

/// The names in a directory tree: path to file number.
type Names = BTreeMap<String, usize>;
