//! The files of a data directory after anything may have happened to them.

use std::sync::Arc;

use dsv2_core::{Event, Floors};
use dsv2_store::testing::Sampler;
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, MemDisk, StoreError};
use dsv2_sync::server::Replay;

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

/// A small log, closed.
pub fn sample() -> MemDisk {
    let disk = MemDisk::new();
    let config = JsonlConfig { segment_bytes: 1_000, node: 1 };
    let mut store = JsonlStore::open(Arc::new(disk.clone()), config).expect("a new disk");
    let mut sampler = Sampler::new(1);
    for _ in 0..4 {
        store.append(&sampler.batch(3)).and_then(|()| store.sync()).expect("there is room");
    }
    store.close().expect("there is room");
    disk
}

/// A snapshot of any content with a right checksum, a note of what is retired, or a saved state, as the first byte says:
/// beside a sound log, the store opens or says why not; what it then serves, whoever wrote that, ends no process.
pub fn snapshot(data: &[u8]) {
    let Some((part, data)) = data.split_first() else { return };
    let disk = sample();
    match part % 3 {
        0 => {
            let body = &data[..data.len().saturating_sub(4)];
            disk.put("snapshot.bin", [body, &crc32fast::hash(body).to_le_bytes()].concat());
        }
        1 => disk.put("retired.json", signed(data)),
        _ => {
            if let Ok(name) = "server1".parse() {
                let loaded = Replay::load(name, Floors::default(), data);
                if let Some(loaded) = loaded {
                    assert_eq!(
                        Replay::load("server1".parse().expect("a name"), Floors::default(), &loaded.save())
                            .map(|again| again.save()),
                        Some(loaded.save())
                    );
                }
            }
            return;
        }
    }
    let Ok(mut store) = JsonlStore::open(Arc::new(disk), JsonlConfig::default()) else { return };
    let taken = store.take_snapshot().map(|(position, _)| position).unwrap_or_default();
    let mut last = Vec::new();
    let replayed = store.replay_after(&taken, &mut |event| last.push(event));
    assert!(matches!(replayed, Ok(()) | Err(StoreError::Corrupt { .. })), "{replayed:?}");
    let origins: Vec<_> = store.vector().iter().map(|(origin, _)| origin.clone()).collect();
    for origin in origins {
        let range = store.range(&origin, 1, dsv2_store::Limit::default());
        assert!(matches!(range, Ok(_) | Err(StoreError::Corrupt { .. } | StoreError::Io { .. })), "{range:?}");
    }
    let _ = store.compact();
}
