//! A directory of the file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Disk, DiskFile, DiskLock, LockError, OpenMode, dir_of};

const LOCK_FILE: &str = "lock";

/// So much is written again at a time.
const REWRITE_BYTES: usize = 64 << 10;

/// A directory of the file system.
///
/// Syncs are `fdatasync`, or `fsync` after a truncation, whose new length some systems count as metadata only. The lock
/// is an advisory lock on the file `lock`, which holds the process id for people; the system releases it however the
/// process ends.
#[derive(Debug)]
pub struct FsDisk {
    root: PathBuf,
}

impl FsDisk {
    /// The directory at `root`; made where there is none.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn create(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if !root.is_dir() {
            fs::create_dir_all(&root)?;
            if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_dir(parent)?;
            }
        }
        Ok(Self { root })
    }

    /// The directory at `root`, which must exist: for programs that only look.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] or [`io::ErrorKind::NotADirectory`]; whatever the system says.
    pub fn existing(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if fs::metadata(&root)?.is_dir() { Ok(Self { root }) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn make_dir_of(&self, path: &str) -> io::Result<()> {
        let dir = self.root.join(dir_of(path));
        match fs::create_dir(&dir) {
            Ok(()) => sync_dir(&self.root),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl Disk for FsDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let full = self.root.join(path);
        let file = match mode {
            OpenMode::Read => File::open(full)?,
            OpenMode::Append => {
                self.make_dir_of(path)?;
                OpenOptions::new().read(true).append(true).create(true).open(full)?
            }
        };
        Ok(Arc::new(FsFile { file, resized: AtomicBool::new(false) }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn rewrite(&self, path: &str, from: u64, to: u64) -> io::Result<()> {
        // Systems append whatever is written to a file that was opened for appending, wherever it is to go.
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(path))?;
        let file = FsFile { file, resized: AtomicBool::new(false) };
        let mut block = vec![0; REWRITE_BYTES];
        let mut at = from;
        while at < to {
            let room = usize::try_from(to - at).map_or(REWRITE_BYTES, |left| left.min(REWRITE_BYTES));
            let read = file.read_at(at, &mut block[..room])?;
            if read < room {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (&file.file).seek(SeekFrom::Start(at))?;
            (&file.file).write_all(&block[..read])?;
            at += read as u64;
        }
        // A truncation before may have been given up as well.
        file.file.set_len(file.file.metadata()?.len())?;
        file.file.sync_all()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A name that is not UTF-8 is not one of ours.
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        match sync_dir(&self.root.join(dir)) {
            // No file was ever made there, so there is nothing to lose.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !dir.is_empty() => Ok(()),
            other => other,
        }
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let path = self.root.join(LOCK_FILE);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(e)) => return Err(e.into()),
        }
        // The text is for people; a full disk must not keep a server from serving reads.
        let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::debug!(%error, "the process id could not be noted in the lock file");
        }
        Ok(Box::new(FsLock { _file: file }))
    }
}

/// The text for people about whoever holds the lock: it wrote its process id, if it came so far.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) if pid == std::process::id() => format!("this very process, {pid}"),
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Directories cannot be synced there; the file system's journal orders its own changes.
#[cfg(windows)]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[derive(Debug)]
struct FsLock {
    _file: File,
}

impl DiskLock for FsLock {}

#[derive(Debug)]
struct FsFile {
    file: File,
    /// Truncated since the last sync.
    resized: AtomicBool,
}

impl DiskFile for FsFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match read_once(&self.file, &mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.resized.store(true, Ordering::Relaxed);
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        if self.resized.swap(false, Ordering::Relaxed) { self.file.sync_all() } else { self.file.sync_data() }
    }
}

#[cfg(unix)]
fn read_once(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

#[cfg(windows)]
fn read_once(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}
