//! The files of a data directory after anything may have happened to them.

use std::sync::Arc;

use dsv2_core::Event;
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, MemDisk, StoreError};

/// The files of a target's input, in this order.
pub const FILES: [&str; 6] = [
    "users.json",
    "channels.json",
    "messages/publishes.jsonl",
    "messages/messages.jsonl",
    "manifest.json",
    "meta.json",
];

/// Files of any content, parted by form feeds, as they are and with right checksums: either the store does not open and says why, or what it serves, it
/// serves again when it is opened once more; and it can be written to.
pub fn log(data: &[u8]) {
    let files: Vec<&[u8]> = data.split(|&byte| byte == b'\x0c').collect();
    for sign in [<[u8]>::to_vec as fn(&[u8]) -> Vec<u8>, signed] {
        let disk = MemDisk::new();
        for (path, content) in FILES.iter().zip(&files).filter(|(_, content)| !content.is_empty()) {
            disk.put(path, sign(content));
        }
        let Some(first) = open(&disk) else { continue };
        assert_eq!(open(&disk).as_ref(), Some(&first), "recovery twice is recovery once");
    }
}

/// The content with every line's checksum made right, so that what lies behind that check is met too.
fn signed(content: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = b",\"crc\":\"";
    let mut lines = content.to_vec();
    for line in lines.split_mut(|&byte| byte == b'\n') {
        let Some(end) = line.len().checked_sub(KEY.len() + 10).filter(|&end| line[end..].starts_with(KEY)) else {
            continue;
        };
        let crc = format!("{:08x}", crc32fast::hash(&line[..end]));
        line[end + KEY.len()..][..8].copy_from_slice(crc.as_bytes());
    }
    lines
}

/// The events served, and whether a line turned out to be none: one with a right checksum that no store wrote.
fn open(disk: &MemDisk) -> Option<(Vec<Event>, bool)> {
    let mut store = JsonlStore::open(Arc::new(disk.clone()), JsonlConfig::default()).ok()?;
    let mut events = Vec::new();
    let replayed = store.replay(&mut |event| events.push(event));
    assert!(matches!(replayed, Ok(()) | Err(StoreError::Corrupt { .. })), "{replayed:?}");
    for event in &events {
        assert!(store.vector().contains(&event.id));
    }
    store.sync().expect("a disk in memory syncs");
    Some((events, replayed.is_err()))
}
