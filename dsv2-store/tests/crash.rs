//! Power failures: at random places, at every step of recovery, and twice.

mod common;

use common::{State, events, open, state, try_open};
use dsv2_core::{Clock, Event};
use dsv2_store::testing::{FaultyDisk, Model, Sampler, SplitMix64, conformance};
use dsv2_store::{EventStore, JsonlStore, Meta, StoreError};

/// What must be true of the disk.
struct Expected {
    /// All that was ever given to the store and may be there, in order.
    given: Vec<Event>,
    /// How much of it must be there.
    synced: usize,
    /// The metadata that may be there.
    metas: Vec<Meta>,
}

/// A failure is only expected while the power is off; false then.
fn done(disk: &FaultyDisk, result: &Result<(), StoreError>) -> bool {
    assert!(result.is_ok() || disk.is_off(), "no failure without a cause: {result:?}");
    result.is_ok()
}

/// Writes at random until it has enough or the power fails.
fn live(
    store: &mut JsonlStore,
    disk: &FaultyDisk,
    sampler: &mut Sampler,
    rng: &mut SplitMix64,
    expected: &mut Expected,
) {
    for _ in 0..rng.below(12) {
        let batch = sampler.batch(rng.index(10));
        let appended = store.append(&batch);
        expected.given.extend(batch);
        if !done(disk, &appended) {
            return;
        }
        if rng.chance(50) {
            if !done(disk, &store.sync()) {
                return;
            }
            expected.synced = expected.given.len();
        }
        if rng.chance(20) {
            let meta = Meta { clock_limit: store.meta().clock_limit.plus(rng.below(9)), ..store.meta().clone() };
            expected.metas.push(meta.clone());
            if !done(disk, &store.save_meta(&meta)) {
                return;
            }
            expected.metas = vec![meta];
        }
        if rng.chance(5) {
            if !done(disk, &store.close()) {
                return;
            }
            expected.synced = expected.given.len();
        }
    }
}

/// Opens the store; the power fails in between a few times.
fn recover(disk: &FaultyDisk, segment_bytes: u64, rng: &mut SplitMix64) -> JsonlStore {
    for _ in 0..rng.below(3) {
        disk.power_off_after(rng.below(20));
        let opened = try_open(disk.clone(), segment_bytes);
        assert!(opened.is_ok() || disk.is_off(), "no failure without a cause: {opened:?}");
        disk.crash();
    }
    open(disk, segment_bytes)
}

fn run(seed: u64) -> u64 {
    let mut rng = SplitMix64::new(seed);
    let disk = FaultyDisk::new(rng.next());
    let mut sampler = Sampler::new(rng.next());
    let segment_bytes = [300, 2_000, 100_000][rng.index(3)];
    let mut expected = Expected { given: Vec::new(), synced: 0, metas: vec![Meta::new(9)] };
    let mut cuts = 0;
    for _ in 0..4 {
        let mut store = recover(&disk, segment_bytes, &mut rng);
        let found = events(&store);
        assert!(
            found.len() >= expected.synced,
            "seed {seed}: {} were synced, {} are there",
            expected.synced,
            found.len()
        );
        expected.given.truncate(found.len());
        assert_eq!(found, expected.given, "seed {seed}: a prefix of what was given is there");
        assert!(
            expected.metas.contains(store.meta()),
            "seed {seed}: {:?} is none of {:?}",
            store.meta(),
            expected.metas
        );
        assert_eq!(
            (store.stats().waiting_events, store.stats().lost_indices),
            (0, 0),
            "seed {seed}: a crash damages nothing"
        );
        if rng.chance(10) {
            conformance::compare(&store, &Model::from(found), &mut rng);
        }
        cuts += store.recovery().cut_bytes;
        expected.synced = expected.given.len();
        expected.metas = vec![store.meta().clone()];
        sampler.resume(store.vector());
        if rng.chance(50) {
            sampler.restart();
        }
        if rng.chance(50) {
            disk.power_off_after(rng.below(40));
        }
        live(&mut store, &disk, &mut sampler, &mut rng, &mut expected);
        disk.crash();
    }
    cuts
}

/// Four crashes a seed, and those in recovery. `DSV2_STORE_SEEDS` asks for more seeds.
#[test]
fn what_was_synced_survives_thousands_of_crashes() {
    let seeds = std::env::var("DSV2_STORE_SEEDS").map_or(1_200, |text| text.parse().expect("a number of seeds"));
    let cuts: u64 = (0..seeds).map(run).sum();
    assert!(cuts > 50 * seeds, "the disk did lose and tear lines: {cuts} bytes were cut");
}

/// A disk after a crash in the middle of writing, with and without damage.
fn crashed(seed: u64) -> FaultyDisk {
    let mut rng = SplitMix64::new(seed);
    let disk = FaultyDisk::new(rng.next());
    let mut sampler = Sampler::new(rng.next());
    let mut store = open(&disk, 1_500);
    for _ in 0..4 {
        store.append(&sampler.batch(8)).expect("appends");
        store.sync().expect("syncs");
    }
    store.save_meta(&Meta { clock_limit: Clock::MAX, ..store.meta().clone() }).expect("saves");
    store.append(&sampler.batch(30)).expect("appends");
    if rng.chance(50) {
        let files: Vec<_> =
            disk.paths().into_iter().filter(|path| path.contains("json") && !path.starts_with("m")).collect();
        let path = &files[rng.index(files.len())];
        let bits = 8 * disk.content(path).map_or(0, |content| content.len() as u64);
        assert!(bits == 0 || disk.flip_bit(path, rng.below(bits)));
    }
    if rng.chance(50) {
        let messages: Vec<_> = disk.paths().into_iter().filter(|path| path.starts_with("messages/")).collect();
        let path = &messages[rng.index(messages.len())];
        assert!(disk.flip_bit(path, rng.below(4_000)) || disk.flip_bit(path, 5));
    }
    disk.crash();
    disk
}

fn recovered(disk: &FaultyDisk) -> State {
    state(&open(disk, 1_500))
}

#[test]
fn recovery_twice_is_recovery_once() {
    let mut repaired = 0;
    for seed in 0..300 {
        let disk = crashed(seed);
        let once = recovered(&disk);
        disk.crash();
        let store = open(&disk, 1_500);
        assert_eq!(state(&store), once, "seed {seed}");
        assert_eq!(
            (store.recovery().cut_bytes, store.recovery().lost.count()),
            (0, 0),
            "seed {seed}: nothing left to repair"
        );
        repaired += u64::from(once.lost_indices > 0);
    }
    assert!(repaired > 20, "some of these disks were damaged: {repaired}");
}

#[test]
fn the_power_may_fail_at_every_step_of_recovery_and_again() {
    let mut interrupted = 0;
    for seed in 0..24 {
        let disk = crashed(seed);
        let whole = disk.fork(1);
        let expected = recovered(&whole);
        let steps = whole.changes() - disk.changes();
        for first in 0..steps {
            for second in [None, Some(first / 2), Some(first), Some(first + 1)] {
                let copy = disk.fork(seed ^ first << 8 ^ second.map_or(0, |second| second << 16));
                for step in [Some(first), second].into_iter().flatten() {
                    copy.power_off_after(step);
                    interrupted += u64::from(try_open(copy.clone(), 1_500).is_err());
                    copy.crash();
                }
                assert_eq!(recovered(&copy), expected, "seed {seed}, power failed at steps {first} and {second:?}");
            }
        }
    }
    assert!(interrupted > 500, "{interrupted}");
}

#[test]
fn the_power_may_fail_at_every_step_of_writing() {
    for steps in 0.. {
        let disk = FaultyDisk::new(steps);
        let mut sampler = Sampler::new(1);
        let mut expected = Expected { given: Vec::new(), synced: 0, metas: Vec::new() };
        disk.power_off_after(steps);
        if let Ok(mut store) = try_open(disk.clone(), 700) {
            let mut rng = SplitMix64::new(3);
            for _ in 0..4 {
                live(&mut store, &disk, &mut sampler, &mut rng, &mut expected);
            }
        }
        if !disk.is_off() {
            assert!(steps > 100, "there was something to interrupt: {steps}");
            return;
        }
        disk.crash();
        let found = events(&open(&disk, 700));
        assert!(found.len() >= expected.synced, "{steps} steps: {} synced, {} found", expected.synced, found.len());
        assert_eq!(found, expected.given[..found.len()], "{steps} steps");
    }
}

/// A killed process leaves behind what the system has not yet written; whoever starts next serves it, and so must make
/// it durable first.
#[test]
fn what_a_killed_process_left_is_durable_once_it_is_served() {
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed);
        let mut sampler = Sampler::new(seed);
        let mut store = open(&disk, 2_000);
        for _ in 0..3 {
            store.append(&sampler.batch(7)).expect("appends");
            store.sync().expect("syncs");
        }
        let unsynced = sampler.batch(15);
        store.append(&unsynced).expect("appends");
        drop(store);
        let store = open(&disk, 2_000);
        let served = events(&store);
        assert!(served.ends_with(&unsynced), "seed {seed}: the process died, not the system");
        disk.crash();
        drop(store);
        assert_eq!(events(&open(&disk, 2_000)), served, "seed {seed}: what was served is there");
    }
}
