//! Looking at a data directory: it tells what opening would do, and does nothing.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{LOG_FILES, events, open_mem};
use dsv2_store::testing::{FaultyDisk, Sampler, SplitMix64};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, MemDisk, StoreError, inspect, inspect_dir};

#[test]
fn a_sound_directory_is_described() {
    let disk = MemDisk::new();
    let given = Sampler::new(1).batch(60);
    let mut store = common::try_open(disk.clone(), 3_000).expect("opens");
    for chunk in given.chunks(6) {
        store.append(chunk).expect("appends");
        store.sync().expect("syncs");
    }
    let meta = dsv2_store::Meta { name: "server1".parse().ok(), ..store.meta().clone() };
    store.save_meta(&meta).expect("saves");
    // The store is still open.
    let found = inspect(&disk).expect("reads");
    let stats = store.stats();
    assert!(found.is_sound());
    assert_eq!((found.events, found.last_index, found.meta.as_ref()), (60, 60, Some(&meta)));
    assert_eq!(found.files.len() as u64, stats.segments);
    assert_eq!(found.files.iter().map(|file| file.bytes).sum::<u64>(), stats.bytes);
    assert_eq!(found.files.iter().map(|file| file.lines).sum::<u64>(), 60);
    assert_eq!(found.origins.iter().map(|origin| origin.held).sum::<u64>(), 60);
    let text = found.to_string();
    for part in ["server1", "messages/publishes.000001.jsonl", "60 events", "\nsound\n"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}

#[test]
fn damage_is_told_as_opening_finds_it_and_nothing_changes() {
    let mut unsound = 0;
    for seed in 0..200 {
        let mut rng = SplitMix64::new(seed);
        let disk = MemDisk::new();
        let given = Sampler::new(seed).batch(40);
        let mut store = open_mem(&disk);
        store.append(&given).expect("appends");
        if rng.chance(50) {
            store.close().expect("closes");
        }
        drop(store);
        for path in LOG_FILES {
            if rng.chance(40) {
                continue;
            }
            let mut content = disk.content(path).unwrap_or_default();
            let at = rng.index(content.len() + 1);
            if rng.chance(50) {
                content.truncate(at);
            } else if let Some(byte) = content.get_mut(at) {
                *byte ^= 1;
            }
            disk.put(path, content);
        }
        let before = disk.fork();
        let found = inspect(&disk).expect("reads");
        assert_eq!(disk.paths(), before.paths(), "seed {seed}: no file comes or goes");
        assert!(
            disk.paths().iter().all(|path| disk.content(path) == before.content(path)),
            "seed {seed}: nothing changes"
        );
        let store = open_mem(&disk);
        let mut recovery = store.recovery().clone();
        recovery.cut_kept_in.clear();
        assert_eq!(found.recovery, recovery, "seed {seed}");
        assert_eq!((found.events, found.last_index), (events(&store).len() as u64, store.stats().last_index));
        unsound += u64::from(!found.is_sound());
        assert_eq!(found.to_string().ends_with("NOT SOUND\n"), !found.is_sound());
    }
    assert!((20..180).contains(&unsound), "{unsound}");
}

#[test]
fn damaged_metadata_and_missing_directories_are_told() {
    let disk = FaultyDisk::new(1);
    drop(common::open(&disk, u64::MAX));
    assert!(disk.flip_bit("meta.json", 77));
    let found = inspect(&disk).expect("reads");
    assert!(!found.is_sound() && found.meta.is_none());
    assert!(found.to_string().contains("meta.json is damaged"), "{found}");
    assert!(inspect(&MemDisk::new()).expect("reads").is_sound(), "nothing is sound");
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(inspect_dir(dir.path().join("none")), Err(StoreError::Io { .. })));
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_server_at_work_looks_sound() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = JsonlConfig { segment_bytes: 20_000, node: 1 };
    let mut store = JsonlStore::open_dir(dir.path(), config).expect("opens");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                let found = inspect_dir(dir.path()).expect("reads");
                assert!(found.is_sound(), "{found}");
                assert!(found.events >= most, "it never goes back");
                most = found.events;
            }
            most
        });
        let mut sampler = Sampler::new(1);
        for _ in 0..400 {
            store.append(&sampler.batch(7)).expect("appends");
            store.sync().expect("syncs");
        }
        done.store(true, Ordering::Relaxed);
        assert!(looker.join().expect("no panic") > 0);
    });
}
