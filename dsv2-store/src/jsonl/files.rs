//! The names of the log's files.
//!
//! Per kind of event there is one *active* file, which grows, and any number of *sealed* segments before it, which do
//! not: `messages/publishes.jsonl` after `messages/publishes.000001.jsonl`, `messages/publishes.000002.jsonl`, …

use std::io;

use dsv2_core::EventKind;

use crate::disk::{Disk, dir_of};

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

/// A log file that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFile {
    pub(crate) path: String,
    pub(crate) kind: EventKind,
    /// The number of a sealed segment; `None` for the active file.
    pub(crate) sealed: Option<u32>,
}

/// The files of one kind, the oldest first, the active one last.
pub(crate) fn list(disk: &dyn Disk, kind: EventKind) -> io::Result<Vec<LogFile>> {
    let active = active_path(kind);
    let dir = dir_of(active);
    let (stem, extension) = parts(kind);
    let mut files = Vec::new();
    for name in disk.list(dir)? {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let middle = path.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
        let sealed = match middle {
            Some(".") => None,
            Some(middle) => match middle.trim_matches('.').parse() {
                // Only the very name that we give: `publishes.1.jsonl` is somebody else's.
                Ok(number) if sealed_path(kind, number) == path => Some(number),
                _ => continue,
            },
            None => continue,
        };
        files.push(LogFile { path, kind, sealed });
    }
    files.sort_by_key(|file| file.sealed.map_or(u64::MAX, u64::from));
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
        ] {
            disk.put(path, "");
        }
        let sealed = |kind| list(&disk, kind).expect("listed").iter().map(|file| file.sealed).collect::<Vec<_>>();
        assert_eq!(sealed(EventKind::Publish), [Some(2), Some(10), Some(1_000_000), None]);
        assert_eq!(sealed(EventKind::UserLogin), [Some(1)]);
        assert_eq!(sealed(EventKind::Message), []);
    }
}
