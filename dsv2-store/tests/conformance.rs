//! Both stores keep the laws, on every disk.

use std::sync::Arc;

use dsv2_core::Position;
use dsv2_store::testing::{FaultyDisk, Sampler, conformance};
use dsv2_store::{Disk, EventStore, FsDisk, JsonlConfig, JsonlStore, MemDisk, MemoryStore, Meta};

/// A small size, so that files are sealed all the time.
fn config() -> JsonlConfig {
    JsonlConfig { segment_bytes: 1_500, node: 9 }
}

fn open(disk: Arc<dyn Disk>) -> JsonlStore {
    JsonlStore::open(disk, config()).expect("opens")
}

#[test]
fn the_store_in_memory() {
    conformance::run(|| MemoryStore::new(Meta::new(1)));
}

#[test]
fn files_on_a_disk_in_memory() {
    conformance::run(|| open(Arc::new(MemDisk::new())));
}

struct Files(tempfile::TempDir);

impl conformance::Medium for Files {
    type Store = JsonlStore;

    fn open(&mut self) -> JsonlStore {
        JsonlStore::open_dir(self.0.path(), config()).expect("opens")
    }

    /// As when the process is killed: the system keeps what it was given.
    fn crash(&mut self, store: JsonlStore) {
        drop(store);
    }
}

#[test]
fn files_in_the_file_system() {
    conformance::run_durable(|| Files(tempfile::tempdir().expect("a directory")));
}

struct Power(FaultyDisk);

impl conformance::Medium for Power {
    type Store = JsonlStore;

    fn open(&mut self) -> JsonlStore {
        open(Arc::new(self.0.clone()))
    }

    fn crash(&mut self, store: JsonlStore) {
        self.0.crash();
        drop(store);
    }
}

#[test]
fn files_on_a_disk_that_loses_power() {
    let mut seed = 0;
    conformance::run_durable(|| {
        seed += 1;
        Power(FaultyDisk::new(seed))
    });
}

/// Whoever composes a server may choose the store at run time.
#[test]
fn a_store_behind_a_pointer() {
    let stores: [Box<dyn EventStore>; 2] =
        [Box::new(MemoryStore::new(Meta::new(1))), Box::new(open(Arc::new(MemDisk::new())))];
    for mut store in stores {
        store.append(&Sampler::new(1).batch(3)).expect("appends");
        store.close().expect("closes");
        assert_eq!(store.stats().durable_index, 3);
    }
}

#[test]
fn one_holder_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = JsonlStore::open_dir(dir.path(), config()).expect("opens");
    let second = JsonlStore::open_dir(dir.path(), config());
    let text = second.expect_err("it is held").to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(first);
    drop(JsonlStore::open_dir(dir.path(), config()).expect("free again"));
    assert!(FsDisk::existing(dir.path().join("nothing")).is_err());
}

/// More than one thread reads alone: the other visits, in the same order.
#[test]
fn a_long_log_is_replayed_in_order_from_anywhere() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let config = || JsonlConfig { segment_bytes: 1 << 20, node: 9 };
    let mut store = JsonlStore::open(Arc::clone(&disk), config()).expect("opens");
    let (mut sampler, mut written) = (Sampler::new(4), Vec::new());
    while store.stats().bytes < 6 << 20 {
        let batch = sampler.batch(500);
        store.append(&batch).and_then(|()| store.sync()).expect("is written");
        written.extend(batch);
    }
    let replayed = |after: &Position| {
        let mut events = Vec::new();
        store.replay_after(after, &mut |event| events.push(event)).expect("replays");
        events
    };
    assert!(replayed(&Position::default()) == written);
    let half: Position =
        written[..written.len() / 2].iter().map(|event| (event.id.origin.clone(), event.id.seq)).collect();
    assert!(replayed(&half) == written[written.len() / 2..]);
}
