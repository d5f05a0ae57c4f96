//! Disks that fail while the store runs: syncs that fail, and no room.

mod common;

use common::{events, open, try_open};
use dsv2_core::Event;
use dsv2_store::testing::{Call, Fault, FaultyDisk, Sampler, SplitMix64};
use dsv2_store::{EventStore, FeedCursor, JsonlStore, Limit, Meta, StoreError};

/// The calls that may fail, and up to the how manieth each does here.
const CALLS: [(Call, u64); 6] = [
    (Call::Sync, 60),
    (Call::SyncDir, 12),
    (Call::Append, 60),
    (Call::Rename, 10),
    (Call::Open, 20),
    (Call::Truncate, 10),
];

/// Appends and syncs in groups until a call fails; returns how much was synced, and the failure.
fn write(store: &mut JsonlStore, groups: &[Vec<Event>]) -> (usize, Option<StoreError>) {
    let mut synced = 0;
    for group in groups {
        if let Err(error) = store.append(group).and_then(|()| store.sync()) {
            return (synced, Some(error));
        }
        synced += group.len();
    }
    (synced, None)
}

/// A store in whose writing one call failed.
struct Failed {
    disk: FaultyDisk,
    sampler: Sampler,
    store: JsonlStore,
    groups: Vec<Vec<Event>>,
    synced: usize,
    error: StoreError,
}

/// Writes groups while the `nth` call of a sort fails; `None` where there are not so many.
fn fail(call: Call, nth: u64) -> Option<Failed> {
    let disk = FaultyDisk::new(nth);
    let mut sampler = Sampler::new(nth);
    let groups: Vec<_> = (0..12).map(|_| sampler.batch(5)).collect();
    let mut store = open(&disk, 1_200);
    disk.fail_nth(call, nth, Fault::Broken);
    let (synced, error) = write(&mut store, &groups);
    Some(Failed { disk, sampler, store, groups, synced, error: error? })
}

fn assert_fenced(store: &mut JsonlStore, sampler: &mut Sampler, what: &str) {
    let held = store.vector().clone();
    sampler.resume(&held);
    let meta = Meta { epoch: 99, ..store.meta().clone() };
    for result in [store.append(&sampler.batch(1)), store.sync(), store.save_meta(&meta), store.close()] {
        match result {
            Err(error @ StoreError::Fenced { .. }) => assert!(error.changed_nothing() && !error.may_retry()),
            other => panic!("{what}: fenced, not {other:?}"),
        }
    }
    assert_eq!((store.vector(), store.meta().epoch), (&held, 0), "{what}: nothing changed");
    assert_eq!(events(store).len() as u64, held.events(), "{what}: reads go on");
}

#[test]
fn a_failed_sync_is_never_acknowledged_and_never_tried_again() {
    for (call, most) in CALLS {
        let mut failures = 0;
        for nth in 1..most {
            let Some(failed) = fail(call, nth) else { continue };
            let Failed { disk, mut sampler, mut store, groups, synced, error } = failed;
            failures += 1;
            let what = format!("{call:?} number {nth}");
            assert!(matches!(error, StoreError::Io { .. }) && !error.changed_nothing(), "{what}: {error:?}");
            let syncs = disk.syncs();
            assert_fenced(&mut store, &mut sampler, &what);
            assert_eq!(disk.syncs(), syncs, "{what}: no sync is tried again");
            disk.crash();
            drop(store);
            let found = events(&open(&disk, 1_200));
            assert!(found.len() >= synced, "{what}: {synced} were acknowledged, {} are there", found.len());
            assert_eq!(found, groups.concat()[..found.len()], "{what}");
        }
        assert!(failures > 0, "{call:?} failed sometimes");
    }
}

/// The system still shows what it could not write; whoever opens the store next must not take that for durable.
#[test]
fn what_a_store_shows_after_a_failed_sync_and_a_new_start_is_durable() {
    for (call, most) in CALLS {
        for (nth, again) in (1..most).flat_map(|nth| [(nth, false), (nth, true)]) {
            let Some(Failed { disk, mut sampler, store, synced, .. }) = fail(call, nth) else { continue };
            drop(store);
            let mut store = open(&disk, 1_200);
            let shown = events(&store);
            assert!(
                shown.len() >= synced,
                "{call:?} number {nth}: {synced} were acknowledged, {} are there",
                shown.len()
            );
            if again {
                sampler.resume(store.vector());
                let (_, error) = write(&mut store, &[sampler.batch(5)]);
                assert!(error.is_none(), "{call:?} number {nth}: {error:?}");
            }
            disk.crash();
            drop(store);
            let found = events(&open(&disk, 1_200));
            assert!(
                found.starts_with(&shown),
                "{call:?} number {nth}: {} were shown, {} are there",
                shown.len(),
                found.len()
            );
            assert_eq!(found.len(), shown.len() + 5 * usize::from(again), "{call:?} number {nth}");
        }
    }
}

/// What a crash left behind is cut; where that sync fails, the next start must not believe it is done.
#[test]
fn a_cut_whose_sync_failed_is_made_durable_by_the_next_start() {
    let mut failures = 0;
    for (seed, nth) in (0..60).flat_map(|seed| (1..8).map(move |nth| (seed, nth))) {
        let disk = FaultyDisk::new(seed);
        let mut sampler = Sampler::new(seed);
        let mut store = open(&disk, u64::MAX);
        let (synced, error) = write(&mut store, &[sampler.batch(5), sampler.batch(5)]);
        assert!(error.is_none(), "{error:?}");
        store.append(&sampler.batch(6)).expect("there is room");
        disk.crash();
        drop(store);
        disk.fail_nth(Call::Sync, nth, Fault::Broken);
        if try_open(disk.clone(), u64::MAX).is_ok() {
            continue;
        }
        failures += 1;
        let mut store = open(&disk, u64::MAX);
        let shown = events(&store);
        assert!(shown.len() >= synced, "seed {seed}, sync {nth}: {} of {synced} are there", shown.len());
        sampler.resume(store.vector());
        let new = sampler.batch(4);
        assert!(write(&mut store, std::slice::from_ref(&new)).1.is_none());
        disk.crash();
        drop(store);
        assert_eq!(events(&open(&disk, u64::MAX)), [shown, new].concat(), "seed {seed}, sync {nth}");
    }
    assert!(failures > 100, "{failures}");
}

#[test]
fn a_failed_save_of_metadata_fences_or_changes_nothing() {
    for (call, fault) in [(Call::Sync, Fault::Broken), (Call::Rename, Fault::Broken), (Call::SyncDir, Fault::Broken)] {
        let disk = FaultyDisk::new(5);
        let mut store = open(&disk, u64::MAX);
        disk.fail_nth(call, 1, fault);
        let meta = Meta { epoch: 7, ..store.meta().clone() };
        assert!(matches!(store.save_meta(&meta), Err(StoreError::Io { .. })), "{call:?}");
        assert_fenced(&mut store, &mut Sampler::new(1), "metadata");
        disk.crash();
        drop(store);
        let epoch = open(&disk, u64::MAX).meta().epoch;
        assert!(epoch == 0 || epoch == 7, "{call:?}: old or new, not {epoch}");
    }
    for (call, fault) in [(Call::Append, Fault::Full), (Call::Open, Fault::Full)] {
        let disk = FaultyDisk::new(5);
        let mut store = open(&disk, u64::MAX);
        disk.fail_nth(call, 1, fault);
        let meta = Meta { epoch: 7, ..store.meta().clone() };
        assert!(matches!(store.save_meta(&meta), Err(StoreError::Full { .. })), "{call:?}");
        assert_eq!(store.meta().epoch, 0);
        store.save_meta(&meta).expect("there is room again");
        disk.crash();
        drop(store);
        assert_eq!(open(&disk, u64::MAX).meta().epoch, 7);
    }
}

/// The store is full: it serves, and takes nothing.
fn assert_full(store: &mut JsonlStore, group: &[Event], what: &str) {
    let held = store.vector().clone();
    match store.append(group) {
        Err(error @ StoreError::Full { .. }) => assert!(error.changed_nothing() && error.may_retry()),
        other => panic!("{what}: full, not {other:?}"),
    }
    assert_eq!(store.vector(), &held, "{what}: nothing was appended");
    let served = events(store);
    assert_eq!(served.len() as u64, held.events(), "{what}: reads go on");
    for feed in served.iter().flat_map(|event| event.body.feeds()).flatten().take(3) {
        store.read(&feed, FeedCursor::Before(None), Limit::default()).expect("reads go on");
    }
}

#[test]
fn a_full_disk_stops_writes_only_and_they_resume() {
    for fault_at in 1..40 {
        let disk = FaultyDisk::new(fault_at);
        let mut sampler = Sampler::new(fault_at);
        let groups: Vec<_> = (0..10).map(|_| sampler.batch(6)).collect();
        let mut store = open(&disk, 900);
        disk.fail_nth(Call::Append, fault_at, Fault::Full);
        let mut full = 0;
        for group in &groups {
            if let Err(error) = store.append(group) {
                assert!(matches!(error, StoreError::Full { .. }), "write {fault_at}: {error:?}");
                full += 1;
                store.append(group).expect("there is room again");
            }
            store.sync().expect("syncs");
        }
        assert!(full <= 1);
        assert_eq!(events(&store), groups.concat(), "write {fault_at}");
        disk.crash();
        drop(store);
        let store = open(&disk, 900);
        assert_eq!((events(&store), store.recovery().cut_bytes), (groups.concat(), 0), "write {fault_at}");
    }
}

/// What there was no room for is gone for good, even where some of its files had taken their part of it; its indices and
/// numbers are given to other events.
#[test]
fn what_was_taken_back_never_returns() {
    let mut taken_back = 0;
    for seed in 0..400 {
        let mut rng = SplitMix64::new(seed);
        let disk = FaultyDisk::new(seed);
        let mut sampler = Sampler::new(seed);
        let mut store = open(&disk, u64::MAX);
        let mut kept = Vec::new();
        for round in 0..6 {
            if rng.chance(50) {
                disk.fail_nth(Call::Append, 1 + rng.below(3), Fault::Full);
            }
            let batch = sampler.batch(1 + 7 * (round % 2));
            match store.append(&batch) {
                Ok(()) => kept.extend(batch),
                Err(StoreError::Full { .. }) => {
                    taken_back += 1;
                    sampler.resume(store.vector());
                }
                Err(other) => panic!("seed {seed}: {other:?}"),
            }
        }
        store.sync().expect("syncs");
        disk.crash();
        drop(store);
        assert_eq!(events(&open(&disk, u64::MAX)), kept, "seed {seed}");
    }
    assert!(taken_back > 100, "{taken_back}");
}

#[test]
fn a_disk_may_be_full_at_every_byte() {
    let mut sampler = Sampler::new(3);
    let groups: Vec<_> = (0..6).map(|_| sampler.batch(4)).collect();
    let mut reopened_full = 0;
    for capacity in (200..9_000).step_by(61) {
        let disk = FaultyDisk::new(capacity);
        let mut store = open(&disk, 1_000);
        disk.set_capacity(Some(capacity));
        let mut rng = SplitMix64::new(capacity);
        let (synced, error) = write(&mut store, &groups);
        let Some(error) = error else { continue };
        assert!(matches!(error, StoreError::Full { .. }), "{capacity}: {error:?}");
        let at = synced / 4;
        assert_full(&mut store, &groups[at], &format!("capacity {capacity}"));
        if rng.chance(50) {
            // The server may be started again while the disk is full, cleanly or not.
            if rng.chance(50) {
                disk.crash();
            }
            drop(store);
            store = open(&disk, 1_000);
            reopened_full += 1;
            assert_eq!(events(&store), groups[..at].concat(), "capacity {capacity}");
            assert_full(&mut store, &groups[at], &format!("capacity {capacity}, started again"));
            store.sync().expect("there is nothing to sync");
        }
        disk.set_capacity(None);
        assert_eq!(
            write(&mut store, &groups[at..]).0,
            groups[at..].concat().len(),
            "capacity {capacity}: writes resume"
        );
        disk.crash();
        drop(store);
        assert_eq!(events(&open(&disk, 1_000)), groups.concat(), "capacity {capacity}");
    }
    assert!(reopened_full > 10, "{reopened_full}");
}

#[test]
fn a_torn_log_on_a_full_disk_is_served_and_repaired_when_there_is_room() {
    let mut unfinished = 0;
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed);
        let mut sampler = Sampler::new(seed);
        let mut store = open(&disk, u64::MAX);
        store.append(&sampler.batch(10)).expect("appends");
        store.sync().expect("syncs");
        store.append(&sampler.batch(30)).expect("appends");
        disk.crash();
        drop(store);
        let whole = disk.fork(seed);
        let expected = events(&open(&whole, u64::MAX));
        disk.set_capacity(Some(disk.used_bytes()));
        let mut store = open(&disk, u64::MAX);
        assert_eq!(events(&store), expected, "seed {seed}");
        sampler.resume(store.vector());
        let more = sampler.batch(3);
        if store.recovery().unfinished {
            unfinished += 1;
            assert_full(&mut store, &more, "full");
            store.sync().expect("there is nothing to sync");
        }
        disk.set_capacity(None);
        store.append(&more).expect("there is room");
        store.sync().expect("syncs");
        disk.crash();
        drop(store);
        assert_eq!(events(&open(&disk, u64::MAX)), [expected, more].concat(), "seed {seed}");
    }
    assert!(unfinished > 50, "{unfinished}");
}

#[test]
fn too_large_events_are_refused() {
    let disk = FaultyDisk::new(1);
    let mut sampler = Sampler::new(1);
    let mut store = open(&disk, u64::MAX);
    let mut sized = sampler.clone().with_text_bytes(dsv2_store::LINE_CAP_BYTES);
    let mut batch = sized.batch(1);
    while events_without_text(&batch) {
        batch.push(sized.event());
    }
    let error = store.append(&batch).expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { .. }) && error.changed_nothing(), "{error}");
    assert!(store.vector().is_empty());
    let good = sampler.batch(5);
    store.append(&good).expect("appends");
    store.sync().expect("syncs");
    drop(store);
    assert_eq!(events(&open(&disk, u64::MAX)), good);
}

fn events_without_text(events: &[Event]) -> bool {
    events.iter().all(|event| event.body.feeds()[0].is_none())
}
