//! Small files that are replaced as a whole: one sealed JSON object each.

use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::line;
use crate::disk::{Disk, DiskFile, OpenMode, dir_of, read_exact};
use crate::error::StoreError;

/// Such files are small; a larger one is not ours.
const CAP_BYTES: u64 = 64 << 20;

/// Replaces the file `path` by `value`, durably: a new file is written and synced, takes the name, and the directory is
/// synced.
///
/// # Errors
/// [`StoreError::Full`]: the old one stands. [`StoreError::Io`]: the old or the new one stands after a crash.
pub(crate) fn save<T: Serialize>(disk: &dyn Disk, path: &str, value: &T) -> Result<(), StoreError> {
    let invalid = |e: serde_json::Error| StoreError::Unreadable { path: path.to_owned(), reason: e.to_string() };
    let mut bytes = serde_json::to_vec(value).map_err(invalid)?;
    bytes.pop();
    line::seal(&mut bytes, 0);
    bytes.push(b'\n');
    replace(disk, path, &bytes)
}

/// Replaces a file's content durably, as [`save`] does.
pub(crate) fn replace(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = format!("{path}.tmp");
    let write = || -> Result<Arc<dyn DiskFile>, (&'static str, io::Error)> {
        let file = disk.open(&temporary, OpenMode::Append).map_err(|e| ("create", e))?;
        file.truncate(0).map_err(|e| ("truncate", e))?;
        file.append(bytes).map_err(|e| ("write", e))?;
        Ok(file)
    };
    let file = write().map_err(|(action, error)| {
        // Gives back what room it took. That may fail as the write did; then the next attempt starts over it.
        let _ = disk.remove(&temporary);
        StoreError::io(action, &temporary, error)
    })?;
    // From here on nothing is merely "full": whatever fails leaves open what a crash would leave.
    let failed = |action| move |source| StoreError::Io { action, path: path.to_owned(), source };
    file.sync().map_err(failed("sync"))?;
    disk.rename(&temporary, path).map_err(failed("rename"))?;
    disk.sync_dir(dir_of(path)).map_err(failed("sync the directory of"))
}

/// Reads what [`save`] wrote; `None` where there is no file.
///
/// # Errors
/// [`StoreError::Corrupt`] where the checksum does not fit, [`StoreError::Unreadable`] where it does and yet the content
/// is not understood, [`StoreError::Io`].
pub(crate) fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &str) -> Result<Option<T>, StoreError> {
    let failed = |source| StoreError::Io { action: "read", path: path.to_owned(), source };
    let corrupt = |reason| StoreError::Corrupt { path: path.to_owned(), offset: 0, reason };
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let len = file.len_bytes().map_err(failed)?;
    let len = usize::try_from(len).ok().filter(|_| len <= CAP_BYTES).ok_or_else(|| corrupt("it is far too large"))?;
    let mut bytes = Vec::new();
    read_exact(&*file, 0, len, &mut bytes).map_err(failed)?;
    let Some(covered) = bytes.strip_suffix(b"\n").and_then(line::unseal) else {
        return Err(corrupt("the checksum does not fit"));
    };
    let mut json = covered.to_vec();
    json.push(b'}');
    let unreadable = |e: serde_json::Error| StoreError::Unreadable { path: path.to_owned(), reason: e.to_string() };
    serde_json::from_slice(&json).map(Some).map_err(unreadable)
}
