//! The names of the log's files.
//!
//! Per kind of event there is one *active* file, which grows, and any number of *sealed* segments before it, which do
//! not: `messages/publishes.jsonl` after `messages/publishes.000001.jsonl`, `messages/publishes.000002.jsonl`, …
//!
//! A sealed segment may be there in compressed form, with `.zst` added to its name. Everybody calls it by its plain name.
//! Where both are there, a change of form was interrupted; the plain one counts.

use std::io;
use std::sync::Arc;

use dsv2_core::EventKind;

use super::packed::PackedFile;
use crate::disk::{Disk, DiskFile, OpenMode, dir_of};

/// The directories that hold log files.
pub(crate) const LOG_DIRS: [&str; 2] = ["", "messages"];

/// Where what was cut is kept.
pub(crate) const CUT_DIR: &str = "cut";

/// The file of a kind that grows.
pub(crate) const fn active_path(kind: EventKind) -> &'static str {
    match kind {
        EventKind::UserLogin => "users.json",
        EventKind::ChannelCreate => "channels.json",
        EventKind::Publish => "messages/publishes.jsonl",
        EventKind::Message => "messages/messages.jsonl",
    }
}

/// A sealed segment of a kind.
pub(crate) fn sealed_path(kind: EventKind, number: u32) -> String {
    let (stem, extension) = parts(kind);
    format!("{stem}.{number:06}.{extension}")
}

fn parts(kind: EventKind) -> (&'static str, &'static str) {
    active_path(kind).rsplit_once('.').unwrap_or((active_path(kind), ""))
}

/// The compressed form of a sealed segment.
pub(crate) fn packed_path(path: &str) -> String {
    format!("{path}{PACKED}")
}

const PACKED: &str = ".zst";

/// A log file that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFile {
    /// Its plain name.
    pub(crate) path: String,
    pub(crate) kind: EventKind,
    /// The number of a sealed segment; `None` for the active file.
    pub(crate) sealed: Option<u32>,
    pub(crate) form: Form,
}

/// How a log file lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Packed,
    /// In both forms: only the plain one counts.
    Both,
}

/// Opens a log file to read, in whatever form it is there.
pub(crate) fn open(disk: &dyn Disk, path: &str) -> io::Result<Arc<dyn DiskFile>> {
    let plain = disk.open(path, OpenMode::Read);
    if !is_not_there(&plain) {
        return plain;
    }
    match disk.open(&packed_path(path), OpenMode::Read) {
        Ok(file) => Ok(Arc::new(PackedFile::open(file)?)),
        // Its form may have changed between the two looks.
        packed if is_not_there(&packed) => disk.open(path, OpenMode::Read),
        packed => packed,
    }
}

fn is_not_there<T>(opened: &io::Result<T>) -> bool {
    opened.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// The files of one kind, the oldest first, the active one last.
pub(crate) fn list(disk: &dyn Disk, kind: EventKind) -> io::Result<Vec<LogFile>> {
    let active = active_path(kind);
    let dir = dir_of(active);
    let (stem, extension) = parts(kind);
    let mut files: Vec<LogFile> = Vec::new();
    for name in disk.list(dir)? {
        let mut path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let is_packed = path.ends_with(PACKED);
        if is_packed {
            path.truncate(path.len() - PACKED.len());
        }
        let middle = path.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
        let sealed = match middle {
            Some(".") if !is_packed => None,
            Some(middle) => match middle.trim_matches('.').parse() {
                // Only the very name that we give: `publishes.1.jsonl` is somebody else's.
                Ok(number) if sealed_path(kind, number) == path => Some(number),
                _ => continue,
            },
            None => continue,
        };
        let form = if is_packed { Form::Packed } else { Form::Plain };
        files.push(LogFile { path, kind, sealed, form });
    }
    files.sort_by_key(|file| file.sealed.map_or(u64::MAX, u64::from));
    files.dedup_by(|second, first| {
        let is_same = first.sealed == second.sealed;
        if is_same {
            first.form = Form::Both;
        }
        is_same
    });
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    #[test]
    fn only_our_own_names_are_listed_and_in_order() {
        let disk = MemDisk::new();
        for path in [
            "messages/publishes.jsonl",
            "messages/publishes.000010.jsonl",
            "messages/publishes.000002.jsonl",
            "messages/publishes.1000000.jsonl",
            "messages/publishes.1.jsonl",
            "messages/publishes.0000002.jsonl",
            "messages/publishs.jsonl",
            "messages/publishes.000003.json",
            "publishes.jsonl",
            "users.000001.json",
            "messages/publishes.jsonl.zst",
            "messages/publishes.000002.jsonl.zst",
            "messages/publishes.000004.jsonl.zst",
            "messages/publishes.000005.jsonl.zst.tmp",
        ] {
            disk.put(path, "");
        }
        let found = |kind| {
            let files = list(&disk, kind).expect("listed");
            files.iter().map(|file| (file.sealed, file.form)).collect::<Vec<_>>()
        };
        let publishes = [
            (Some(2), Form::Both),
            (Some(4), Form::Packed),
            (Some(10), Form::Plain),
            (Some(1_000_000), Form::Plain),
            (None, Form::Plain),
        ];
        assert_eq!(found(EventKind::Publish), publishes);
        assert_eq!(found(EventKind::UserLogin), [(Some(1), Form::Plain)]);
        assert_eq!(found(EventKind::Message), []);
    }
}
