//! Retirement, compaction and snapshots, under power failures, full disks and damage.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{events, open, state, try_open};
use dsv2_core::{Clock, Event, Floors};
use dsv2_store::testing::{FaultyDisk, Model, Sampler, SplitMix64, conformance};
use dsv2_store::{Disk, EventStore, Fold, JsonlStore, OpenMode, Snapshotted, StoreError, make_snapshot};

const SEGMENT_BYTES: u64 = 1_500;

/// A state that tells which events it was made of, in which order.
#[derive(Debug, Default, PartialEq)]
struct Ids(Vec<String>);

impl Fold for Ids {
    fn restore(&mut self, state: &[u8]) -> bool {
        self.0 = String::from_utf8_lossy(state).lines().map(str::to_owned).collect();
        true
    }

    fn apply(&mut self, event: Event) {
        self.0.push(event.id.to_string());
    }

    fn save(&self) -> Vec<u8> {
        self.0.join("\n").into_bytes()
    }
}

fn snapshot(disk: &FaultyDisk, whole: bool) -> Result<Snapshotted, StoreError> {
    make_snapshot(&(Arc::new(disk.clone()) as Arc<dyn Disk>), Ids::default, whole)
}

/// What a start makes of the snapshot and the log behind it.
fn started(store: &mut JsonlStore) -> (Ids, bool) {
    let (mut fold, mut after, mut restored) = (Ids::default(), dsv2_core::Position::default(), false);
    if let Some((position, state)) = store.take_snapshot() {
        (after, restored) = (position, fold.restore(&state));
    }
    store.replay_after(&after, &mut |event| fold.apply(event)).expect("replays");
    (fold, restored)
}

fn clock(value: u64) -> Clock {
    Clock::new(value).expect("in range")
}

/// Raises the floors to a part of the clocks held, in store and model.
fn retire(store: &mut JsonlStore, model: &mut Model, rng: &mut SplitMix64) -> Result<(), StoreError> {
    let highest = model.events.iter().map(|event| event.clock.get()).max().unwrap_or(0);
    let mut floors = Floors { publish: clock(rng.below(highest + 1)), message: clock(rng.below(highest + 1)) };
    floors.merge(store.floors());
    model.retire(floors, &BTreeSet::new());
    store.retire(floors, &BTreeSet::new())
}

#[test]
fn a_compacted_store_equals_one_that_never_was() {
    let (mut removed, mut restored, mut packed) = (0, 0, 0);
    for seed in 0..150 {
        let mut rng = SplitMix64::new(seed);
        let disk = FaultyDisk::new(seed);
        let (mut sampler, mut model) = (Sampler::new(seed), Model::default());
        for _ in 0..5 {
            let mut store = open(&disk, SEGMENT_BYTES);
            let (fold, from_snapshot) = started(&mut store);
            restored += u64::from(from_snapshot);
            // A fold may know more than is left: that is why it is kept.
            let ids: Vec<String> = model.events.iter().map(|event| event.id.to_string()).collect();
            let left: Vec<&String> = fold.0.iter().filter(|id| ids.contains(id)).collect();
            assert_eq!(left, ids.iter().collect::<Vec<_>>(), "seed {seed}: each event once, in order");
            conformance::compare(&store, &model, &mut rng);
            for _ in 0..rng.below(5) {
                let batch = sampler.batch(rng.index(20));
                store.append(&batch).expect("appends");
                model.events.extend(batch);
                store.sync().expect("syncs");
                if rng.chance(30) {
                    retire(&mut store, &mut model, &mut rng).expect("retires");
                }
                if rng.chance(30) {
                    let before = store.stats().bytes;
                    while store.compact().expect("compacts") {}
                    removed += before - store.stats().bytes;
                    let stats = store.stats();
                    assert!(stats.bytes <= 2 * (stats.bytes - stats.retired_bytes) + 4 * SEGMENT_BYTES);
                }
                while rng.chance(30) && store.pack().expect("compresses") {
                    packed += 1;
                }
                if rng.chance(20) {
                    snapshot(&disk, rng.chance(20)).expect("makes a snapshot");
                }
            }
            conformance::compare(&store, &model, &mut rng);
            disk.crash();
        }
    }
    assert!(removed > 100_000 && restored > 50, "{removed} bytes were removed, {restored} starts from a snapshot");
    assert!(packed > 100, "{packed} files were compressed");
}

/// Appends, retires, compacts and snapshots until the power fails; yields what may be there afterwards: the model before
/// and after the step under way.
fn busy(disk: &FaultyDisk) -> Vec<Model> {
    let (mut rng, mut sampler, mut model) = (SplitMix64::new(7), Sampler::new(7), Model::default());
    let mut possible = vec![model.clone()];
    let Ok(mut store) = try_open(disk.clone(), SEGMENT_BYTES) else { return possible };
    for _ in 0..4 {
        for batch in sampler.batch(24).chunks(8) {
            let done = store.append(batch).and_then(|()| store.sync());
            for event in batch {
                model.events.push(event.clone());
                possible.push(model.clone());
            }
            if done.is_err() {
                return possible;
            }
        }
        possible = vec![model.clone()];
        let retired = retire(&mut store, &mut model, &mut rng);
        possible.push(model.clone());
        if retired.is_err() {
            return possible;
        }
        possible = vec![model.clone()];
        loop {
            match store.compact() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return possible,
            }
        }
        loop {
            match store.pack() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return possible,
            }
        }
        if snapshot(disk, false).is_err() {
            return possible;
        }
    }
    possible
}

#[test]
fn the_power_may_fail_at_every_step_of_retiring_compacting_and_snapshots() {
    for steps in 0.. {
        let disk = FaultyDisk::new(steps);
        disk.power_off_after(steps);
        let possible = busy(&disk);
        let ended = !disk.is_off();
        disk.crash();
        // And once more while it recovers.
        disk.power_off_after(steps % 7);
        drop(try_open(disk.clone(), SEGMENT_BYTES));
        disk.crash();
        let mut store = open(&disk, SEGMENT_BYTES);
        let found = events(&store);
        let model = possible.iter().find(|model| model.events == found && model.vector() == *store.vector());
        let Some(model) = model else {
            panic!("{steps} steps: {} events are there, which is none of the states", found.len())
        };
        assert_eq!((store.stats().waiting_events, store.recovery().missing.len()), (0, 0), "{steps} steps");
        while store.compact().expect("compacts") {}
        conformance::compare(&store, model, &mut SplitMix64::new(steps));
        assert!(store.append(&[]).is_ok());
        if ended {
            assert!(steps > 150, "there was something to interrupt: {steps}");
            return;
        }
    }
}

#[test]
fn a_disk_may_be_full_at_every_byte_of_retiring_compacting_and_snapshots() {
    let (mut full, mut full_packing, mut packed) = (0, 0, 0);
    for spare in (0..6_000).step_by(37) {
        let disk = FaultyDisk::new(spare);
        let (mut rng, mut sampler, mut model) = (SplitMix64::new(spare), Sampler::new(3), Model::default());
        let mut store = open(&disk, SEGMENT_BYTES);
        model.events = sampler.batch(60);
        store.append(&model.events).and_then(|()| store.sync()).expect("is written");
        disk.set_capacity(Some(disk.used_bytes() + spare));
        let mut after = model.clone();
        match retire(&mut store, &mut after, &mut rng) {
            Ok(()) => model = after,
            Err(StoreError::Full { .. }) => full += 1,
            Err(error) => panic!("{spare} bytes to spare: {error:?}"),
        }
        loop {
            match store.compact() {
                Ok(true) => {}
                Ok(false) => break,
                Err(StoreError::Full { .. }) => {
                    full += 1;
                    break;
                }
                Err(error) => panic!("{spare} bytes to spare: {error:?}"),
            }
        }
        loop {
            match store.pack() {
                Ok(true) => packed += 1,
                Ok(false) => break,
                Err(StoreError::Full { .. }) => {
                    full_packing += 1;
                    break;
                }
                Err(error) => panic!("{spare} bytes to spare: {error:?}"),
            }
        }
        let made = snapshot(&disk, false);
        assert!(matches!(made, Ok(_) | Err(StoreError::Full { .. })), "{made:?}");
        conformance::compare(&store, &model, &mut rng);
        disk.set_capacity(None);
        let batch = sampler.batch(5);
        store.append(&batch).and_then(|()| store.sync()).expect("writes go on where there is room");
        model.events.extend(batch);
        disk.crash();
        conformance::compare(&open(&disk, SEGMENT_BYTES), &model, &mut rng);
    }
    assert!(full > 20, "the disk was full {full} times");
    assert!(
        full_packing > 20 && packed > 20,
        "{full_packing} times while compressing, which {packed} times it was not"
    );
}

/// A log of which some is retired and compacted away, with a snapshot.
fn compacted(seed: u64) -> (FaultyDisk, Model) {
    let disk = FaultyDisk::new(seed);
    let (mut sampler, mut model) = (Sampler::new(seed), Model { events: Vec::new(), ..Model::default() });
    let mut store = open(&disk, SEGMENT_BYTES);
    for _ in 0..3 {
        let batch = sampler.batch(30);
        store.append(&batch).and_then(|()| store.sync()).expect("is written");
        model.events.extend(batch);
    }
    let floors = Floors::both(clock(model.events[40].clock.get()));
    model.retire(floors, &BTreeSet::new());
    store.retire(floors, &BTreeSet::new()).expect("retires");
    while store.compact().expect("compacts") {}
    store.close().expect("closes");
    (disk, model)
}

#[test]
fn no_flipped_bit_of_a_snapshot_or_a_note_changes_anything() {
    let (disk, model) = compacted(5);
    assert!(matches!(snapshot(&disk, false), Ok(Snapshotted::Made { .. })));
    let mut store = open(&disk, SEGMENT_BYTES);
    assert!(store.take_snapshot().is_some(), "the snapshot is used");
    drop(store);
    for path in ["snapshot.bin", "retired.json", "retired.copy.json"] {
        let bits = 8 * disk.content(path).expect("is there").len() as u64;
        // Eleven is prime to eight: every place in a byte comes.
        for bit in (0..bits).step_by(if path == "snapshot.bin" { 11 } else { 1 }) {
            let copy = disk.fork(bit);
            assert!(copy.flip_bit(path, bit));
            let mut store = open(&copy, SEGMENT_BYTES);
            assert_eq!(events(&store), model.events, "bit {bit} of {path}");
            assert_eq!(store.vector(), &model.vector(), "bit {bit} of {path}");
            let from_snapshot = store.take_snapshot().is_some();
            assert_eq!(from_snapshot, path != "snapshot.bin", "bit {bit} of {path}");
        }
    }
}

/// Every line of the log files: its file, where it begins, and its event's identity.
fn lines(disk: &FaultyDisk) -> Vec<(String, u64, String)> {
    let is_log = |path: &String| ["users", "channels", "messages/"].iter().any(|start| path.starts_with(start));
    let mut lines = Vec::new();
    for path in disk.paths().into_iter().filter(is_log) {
        let mut at = 0;
        for line in disk.content(&path).expect("is there").split_inclusive(|byte| *byte == b'\n') {
            let value: serde_json::Value = serde_json::from_slice(line).expect("a line");
            lines.push((path.clone(), at, value["ev"].as_str().expect("an identity").to_owned()));
            at += line.len() as u64;
        }
    }
    lines
}

#[test]
fn damage_to_a_compacted_log_is_told_from_what_is_retired() {
    let (disk, model) = compacted(8);
    let (mut repaired, mut dead) = (0, 0);
    for (path, at, id) in lines(&disk) {
        let copy = disk.fork(at);
        assert!(copy.flip_bit(&path, 8 * (at + 20)));
        let mut store = open(&copy, SEGMENT_BYTES);
        let missing: Vec<String> = store.recovery().missing.iter().map(ToString::to_string).collect();
        let Some(lost) = model.events.iter().find(|event| event.id.to_string() == id) else {
            assert_eq!((missing.len(), events(&store)), (0, model.events.clone()), "{path} at {at}: it was retired");
            dead += 1;
            continue;
        };
        assert_eq!(missing, [format!("{}#{seq}-{seq}", lost.id.origin, seq = lost.id.seq)], "{path} at {at}");
        assert!(events(&store).iter().all(|event| model.events.contains(event)), "{path} at {at}: nothing is wrong");
        // Another server sends it and what follows, passing over what is retired.
        let behind = |event: &&Event| event.id.origin == lost.id.origin && event.id.seq >= lost.id.seq;
        for event in model.events.iter().filter(behind) {
            store.skip(&event.id.origin, event.id.seq - 1);
            store.append(std::slice::from_ref(event)).expect("is put back");
        }
        let sorted = |mut events: Vec<Event>| {
            events.sort_by_key(Event::key);
            events
        };
        assert_eq!(sorted(events(&store)), sorted(model.events.clone()), "{path} at {at}");
        repaired += 1;
    }
    assert!(repaired > 30 && dead > 3, "{repaired} and {dead}");
}

#[test]
fn a_snapshot_is_made_while_the_log_is_written_to_and_of_what_is_durable_only() {
    for seed in 0..60 {
        let disk = FaultyDisk::new(seed);
        let (mut sampler, mut rng) = (Sampler::new(seed), SplitMix64::new(seed));
        let mut store = open(&disk, SEGMENT_BYTES);
        let mut given = Vec::new();
        for _ in 0..6 {
            let batch = sampler.batch(9);
            store.append(&batch).expect("appends");
            given.extend(batch);
            if rng.chance(60) {
                store.sync().expect("syncs");
            }
            // Nothing of this was promised, and a crash may take it, snapshot or no snapshot.
            snapshot(&disk, false).expect("looks on");
        }
        disk.crash();
        let mut store = open(&disk, SEGMENT_BYTES);
        let found = events(&store);
        assert_eq!(found, given[..found.len()], "seed {seed}");
        let (fold, _) = started(&mut store);
        assert_eq!(fold.0, found.iter().map(|event| event.id.to_string()).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(state(&store).events.len(), found.len());
    }
}

/// A log that is compressed but for its ends.
fn packed(seed: u64) -> (FaultyDisk, Model) {
    let disk = FaultyDisk::new(seed);
    let (mut sampler, mut model) = (Sampler::new(seed), Model::default());
    let mut store = open(&disk, SEGMENT_BYTES);
    for _ in 0..6 {
        let batch = sampler.batch(30);
        store.append(&batch).and_then(|()| store.sync()).expect("is written");
        model.events.extend(batch);
    }
    while store.pack().expect("compresses") {}
    store.close().expect("closes");
    (disk, model)
}

#[test]
fn damage_to_a_compressed_log_takes_what_it_tells_and_can_be_put_back() {
    let (disk, model) = packed(11);
    let files: Vec<String> = disk.paths().into_iter().filter(|path| path.ends_with(".zst")).collect();
    assert!(files.len() > 3, "{files:?}");
    let (mut harmed, mut harmless) = (0, 0);
    for path in files {
        for bit in (0..8 * disk.content(&path).expect("is there").len() as u64).step_by(97) {
            let copy = disk.fork(bit);
            assert!(copy.flip_bit(&path, bit));
            let mut store = open(&copy, SEGMENT_BYTES);
            let found = events(&store);
            assert!(found.iter().all(|event| model.events.contains(event)), "bit {bit} of {path}: nothing is wrong");
            let held = store.vector().clone();
            for event in model.events.iter().filter(|event| !held.contains(&event.id)) {
                store.append(std::slice::from_ref(event)).expect("is put back");
            }
            let sorted = |mut events: Vec<Event>| {
                events.sort_by_key(Event::key);
                events
            };
            assert_eq!(sorted(events(&store)), sorted(model.events.clone()), "bit {bit} of {path}");
            if found.len() < model.events.len() { harmed += 1 } else { harmless += 1 }
        }
    }
    assert!(harmed > 100 && harmless > 10, "{harmed} bits took something, {harmless} nothing");
}

#[test]
fn where_both_forms_are_there_the_plain_one_counts() {
    let (disk, model) = packed(12);
    let paths = disk.paths();
    let zipped: Vec<&String> = paths.iter().filter(|path| path.ends_with(".zst")).collect();
    let (disk_bytes, bytes) = {
        let stats = open(&disk, SEGMENT_BYTES).stats();
        (stats.disk_bytes, stats.bytes)
    };
    assert!(2 * disk_bytes < 2 * bytes && disk_bytes > 0, "{disk_bytes} of {bytes} bytes");
    for path in &zipped {
        // As if the power had failed before the plain one was removed, and the other were of no use.
        let content = disk.content(path).expect("is there");
        let plain = path.trim_end_matches(".zst");
        let file = disk.open(plain, OpenMode::Append).expect("is made");
        file.append(&zstd::decode_all(&content[..]).expect("is whole")).and_then(|()| file.sync()).expect("is written");
        disk.open(path, OpenMode::Append).and_then(|file| file.truncate(9)).expect("is cut");
    }
    let mut store = open(&disk, SEGMENT_BYTES);
    conformance::compare(&store, &model, &mut SplitMix64::new(1));
    assert!(zipped.iter().all(|path| !disk.paths().contains(path)), "what was unfinished is gone");
    assert_eq!(store.stats().disk_bytes, bytes);
    while store.pack().expect("compresses") {}
    drop(store);
    assert_eq!(disk.paths(), paths);
    conformance::compare(&open(&disk, SEGMENT_BYTES), &model, &mut SplitMix64::new(2));
}
