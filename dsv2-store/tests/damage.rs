//! Truncated and damaged files: no wrong event is ever served, and what is lost can be put back.

mod common;

use std::collections::BTreeSet;

use common::{LOG_FILES, events, open_mem, vector, waiting};
use dsv2_core::{Event, EventId};
use dsv2_store::testing::{Call, Fault, FaultyDisk, Sampler};
use dsv2_store::{EventStore, FeedCursor, JsonlStore, Limit, MemDisk, StoreError};
use proptest::prelude::*;

/// A disk with a log of so many events that were appended at once, none known durable by another line.
fn unsynced_log(seed: u64, count: usize) -> (MemDisk, Vec<Event>) {
    let disk = MemDisk::new();
    let given = Sampler::new(seed).batch(count);
    open_mem(&disk).append(&given).expect("appends");
    (disk, given)
}

/// A disk with a log that was closed in order, so that all of it is known durable.
fn closed_log(seed: u64, count: usize) -> (MemDisk, Vec<Event>) {
    let disk = MemDisk::new();
    let given = Sampler::new(seed).batch(count);
    let mut store = open_mem(&disk);
    for chunk in given.chunks(5) {
        store.append(chunk).expect("appends");
        store.sync().expect("syncs");
    }
    store.close().expect("closes");
    (disk, given)
}

/// The positions, in the order of the log, of the events whose lines lie in each file; with the ends of the lines.
fn lines_of(disk: &MemDisk, path: &str) -> Vec<(usize, usize)> {
    let content = disk.content(path).unwrap_or_default();
    let mut end = 0;
    let line = |line: &[u8]| {
        end += line.len() + 1;
        let json: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        (json["n"].as_u64().expect("an index") as usize - 1, end)
    };
    content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(line).collect()
}

#[test]
fn every_truncation_recovers_exactly_its_prefix() {
    let (disk, given) = unsynced_log(2, 40);
    for path in LOG_FILES {
        let content = disk.content(path).expect("written");
        let lines = lines_of(&disk, path);
        for len in 0..content.len() {
            let copy = disk.fork();
            copy.put(path, &content[..len]);
            let first_lost = lines.iter().find(|(_, end)| *end > len).map_or(given.len(), |&(at, _)| at);
            let store = open_mem(&copy);
            assert_eq!(events(&store), given[..first_lost], "{path} cut to {len} bytes");
            assert_eq!(store.recovery().lost.count(), 0);
            let kept: u64 =
                store.recovery().cut_kept_in.iter().map(|path| copy.content(path).map_or(0, |c| c.len() as u64)).sum();
            assert_eq!(kept, store.recovery().cut_bytes, "all that was cut is kept aside");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn truncations_of_all_files_recover_a_prefix_that_can_go_on(seed in 0u64..50, cuts: [prop::sample::Index; 4]) {
        let (disk, given) = unsynced_log(seed, 30);
        let mut first_lost = given.len();
        for (path, cut) in LOG_FILES.into_iter().zip(cuts) {
            let content = disk.content(path).unwrap_or_default();
            let len = cut.index(content.len() + 1);
            let lost = lines_of(&disk, path).into_iter().find(|(_, end)| *end > len);
            first_lost = first_lost.min(lost.map_or(given.len(), |(at, _)| at));
            disk.put(path, &content[..len]);
        }
        let mut store = open_mem(&disk);
        prop_assert_eq!(events(&store), &given[..first_lost]);
        store.append(&given[first_lost..]).expect("goes on");
        store.sync().expect("syncs");
        drop(store);
        prop_assert_eq!(events(&open_mem(&disk)), given);
    }
}

/// What is served is right and gapless, and what else is intact waits; returns the store.
fn check_damaged(disk: &MemDisk, given: &[Event], what: &str) -> JsonlStore {
    let store = open_mem(disk);
    let served = events(&store);
    let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<BTreeSet<EventId>>();
    for event in served.iter().chain(&waiting(&store)) {
        assert!(given.contains(event), "{what}: {event:?} was never given");
    }
    assert_eq!(store.vector(), &vector(&served), "{what}");
    assert_eq!(store.vector().events(), served.len() as u64, "{what}: no gaps");
    let present: BTreeSet<_> = ids(&served).union(&ids(&waiting(&store))).cloned().collect();
    let absent: Vec<_> = ids(given).difference(&present).cloned().collect();
    assert!(absent.len() as u64 <= store.stats().lost_indices, "{what}: {absent:?} are missing, unreported");
    for missing in store.missing() {
        let lost = |seq| EventId { origin: missing.origin.clone(), seq };
        assert!(
            (missing.first..=missing.last).all(|seq| absent.contains(&lost(seq))),
            "{what}: {missing} is not missing"
        );
    }
    store
}

/// Gives the store all that it lacks, as another server would.
fn put_back(store: &mut JsonlStore, given: &[Event]) {
    for event in given {
        if !store.vector().contains(&event.id) {
            store.append(std::slice::from_ref(event)).expect("appends");
        }
    }
    store.sync().expect("syncs");
}

fn sorted(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(Event::key);
    events
}

#[test]
fn no_flipped_bit_ever_yields_a_wrong_event() {
    let (disk, given) = closed_log(4, 10);
    let mut lost_most = 0;
    for path in disk.paths().iter().filter(|path| LOG_FILES.contains(&path.as_str())) {
        let content = disk.content(path).expect("there");
        for bit in 0..8 * content.len() {
            let copy = disk.fork();
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            copy.put(path, flipped);
            let what = format!("bit {bit} of {path}");
            let store = check_damaged(&copy, &given, &what);
            let lost = store.recovery().lost.count();
            assert!((1..=2).contains(&lost), "{what}: a flipped bit spoils a line, or joins two; {lost} are lost");
            assert_eq!(store.recovery().cut_from, None, "{what}: nothing intact is cut");
            lost_most = lost_most.max(lost);
            drop(store);
            if bit % 5 > 0 {
                continue;
            }
            // Again, once it is known; then everything is put back, and stays.
            let mut store = check_damaged(&copy, &given, &what);
            assert_eq!(store.recovery().lost.count(), 0, "{what}: damage is reported once");
            put_back(&mut store, &given);
            assert_eq!(store.stats().waiting_events, 0);
            drop(store);
            let store = open_mem(&copy);
            assert_eq!(sorted(events(&store)), sorted(given.clone()), "{what}");
            assert!(store.missing().is_empty());
        }
    }
    assert_eq!(lost_most, 2, "a flipped newline joins two lines");
}

#[test]
fn damaged_notes_never_yield_a_wrong_event() {
    let (disk, given) = closed_log(5, 20);
    for (path, may_open) in [("manifest.json", true), ("meta.json", false)] {
        let content = disk.content(path).expect("there");
        for bit in 0..8 * content.len() {
            let copy = disk.fork();
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            copy.put(path, flipped);
            match common::try_open(copy.clone(), u64::MAX) {
                Ok(store) if may_open => {
                    assert_eq!(events(&store), given, "bit {bit} of {path}");
                    assert!(store.recovery().manifest_damaged);
                }
                Err(StoreError::Corrupt { path: named, .. }) if !may_open => assert_eq!(named, path),
                other => panic!("bit {bit} of {path}: {other:?}"),
            }
        }
    }
}

#[test]
fn truncations_below_what_was_durable_are_damage() {
    let (disk, given) = closed_log(6, 30);
    for path in LOG_FILES {
        let content = disk.content(path).expect("written");
        let lines = lines_of(&disk, path);
        for len in (0..content.len()).step_by(7) {
            let copy = disk.fork();
            copy.put(path, &content[..len]);
            let mut store = check_damaged(&copy, &given, &format!("{path} cut to {len} bytes"));
            let lost = lines.iter().filter(|(_, end)| *end > len).count();
            assert_eq!(store.recovery().lost.count(), lost as u64);
            put_back(&mut store, &given);
            drop(store);
            assert_eq!(sorted(events(&open_mem(&copy))), sorted(given.clone()));
        }
    }
}

#[test]
fn a_file_may_be_gone() {
    let (disk, given) = closed_log(7, 60);
    for path in LOG_FILES {
        let copy = MemDisk::new();
        for other in disk.paths().iter().filter(|other| *other != path) {
            copy.put(other, disk.content(other).expect("there"));
        }
        let mut store = check_damaged(&copy, &given, path);
        assert_eq!(store.recovery().lost.count(), lines_of(&disk, path).len() as u64);
        put_back(&mut store, &given);
        assert_eq!(sorted(events(&store)), sorted(given.clone()), "without {path}");
    }
}

/// Without the manifest nothing tells a crash from damage at the end of the log; then nothing intact is cut.
#[test]
fn damage_beside_a_damaged_manifest_cuts_nothing() {
    for seed in 0..40 {
        let (disk, given) = closed_log(seed, 20);
        let mut manifest = disk.content("manifest.json").expect("there");
        manifest[5] ^= 1;
        disk.put("manifest.json", manifest);
        let spoilt = given.len() - 3;
        let path = LOG_FILES[given[spoilt].body.kind() as usize];
        let mut content = disk.content(path).expect("there");
        let line = lines_of(&disk, path).into_iter().find(|&(at, _)| at == spoilt).expect("its line");
        content[line.1 - 30] ^= 1;
        disk.put(path, content);
        let store = check_damaged(&disk, &given, &format!("seed {seed}"));
        assert_eq!((store.recovery().cut_from, store.recovery().lost.count()), (None, 1), "seed {seed}");
        assert_eq!(store.stats().events + store.stats().waiting_events, given.len() as u64 - 1, "seed {seed}");
    }
}

#[test]
fn missing_notes_are_told() {
    let (disk, given) = closed_log(14, 20);
    let copy = MemDisk::new();
    for path in LOG_FILES {
        copy.put(path, disk.content(path).unwrap_or_default());
    }
    let store = open_mem(&copy);
    assert!(store.recovery().metadata_missing);
    assert_eq!((events(&store), store.recovery().lost.count()), (given, 0));
    drop(store);
    assert!(!open_mem(&copy).recovery().metadata_missing, "it is told once");
    assert!(!open_mem(&MemDisk::new()).recovery().metadata_missing, "a new directory misses nothing");
}

#[test]
fn waiting_events_are_served_once_the_missing_one_is_back() {
    let (disk, given) = closed_log(8, 40);
    let first = given.iter().find(|event| event.id.seq == 1).expect("the first of an origin");
    let at = given.iter().position(|event| event == first).expect("it is there");
    let path = LOG_FILES[first.body.kind() as usize];
    let content = disk.content(path).expect("there");
    let line = lines_of(&disk, path).iter().position(|&(n, _)| n == at).expect("its line");
    let start = if line == 0 { 0 } else { lines_of(&disk, path)[line - 1].1 };
    let mut spoilt = content;
    spoilt[start + 3] = b'x';
    disk.put(path, spoilt);

    let mut store = open_mem(&disk);
    let origin = first.id.origin.clone();
    let of_origin = given.iter().filter(|event| event.id.origin == origin).count() as u64;
    assert_eq!((store.vector().get(&origin), store.stats().waiting_events), (0, of_origin - 1));
    assert_eq!((store.missing().len(), store.missing()[0].first, store.missing()[0].last), (1, 1, 1));
    assert_eq!(store.range(&origin, 1, Limit::default()).expect("reads").events, []);
    let bytes = store.stats().bytes;

    let mut wrong = given.iter().find(|event| event.id.origin == origin && event.id.seq == 2).expect("there").clone();
    wrong.timestamp.ms += 1;
    let error = store.append(&[first.clone(), wrong.clone()]).expect_err("not what is on disk");
    assert!(matches!(&error, StoreError::Conflict { event } if *event == wrong.id), "{error}");
    assert_eq!(store.vector().get(&origin), 0, "nothing was appended");

    store.append(std::slice::from_ref(first)).expect("appends");
    assert_eq!(store.vector().get(&origin), 1, "the others are appended again, too");
    let written = store.stats().bytes - bytes;
    put_back(&mut store, &given);
    assert_eq!(store.stats().bytes - bytes, written, "but not written again");
    assert_eq!(sorted(events(&store)), sorted(given.clone()));
    for feed in first.body.feeds().into_iter().flatten() {
        let page = store.read(&feed, FeedCursor::Before(None), Limit::events(1_000)).expect("reads");
        assert_eq!(page.events.iter().filter(|event| *event == first).count(), 1);
    }
    drop(store);
    assert_eq!(sorted(events(&open_mem(&disk))), sorted(given));
}

#[test]
fn damage_while_the_store_is_open_is_never_served() {
    let disk = FaultyDisk::new(1);
    let given = Sampler::new(9).batch(60);
    let mut store = common::open(&disk, u64::MAX);
    store.append(&given).expect("appends");
    store.close().expect("closes");
    for path in LOG_FILES {
        assert!(disk.flip_bit(path, 8 * 30));
    }
    let mut refused = 0;
    for event in &given {
        match store.range(&event.id.origin, event.id.seq, Limit::events(1)) {
            Ok(found) => assert_eq!(found.events, std::slice::from_ref(event)),
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, LOG_FILES.len());
    assert!(matches!(store.replay(&mut |_| {}), Err(StoreError::Corrupt { .. })));
    store.append(&Sampler::new(10).batch(1)).expect("reading damage does not fence");
}

#[test]
fn a_failing_read_is_an_error_and_no_more() {
    let disk = FaultyDisk::new(1);
    let mut sampler = Sampler::new(1);
    let given = sampler.batch(20);
    let mut store = common::open(&disk, u64::MAX);
    store.append(&given).expect("appends");
    disk.fail_nth(Call::Read, 1, Fault::Broken);
    let range = |store: &JsonlStore| store.range(&given[0].id.origin, 1, Limit::default());
    assert!(matches!(range(&store), Err(StoreError::Io { .. })));
    assert_eq!(range(&store).expect("reads").events[0], given[0]);
    store.append(&sampler.batch(3)).expect("appends");
    store.sync().expect("syncs");
}

#[test]
fn copied_lines_do_no_harm() {
    let (disk, given) = closed_log(11, 30);
    for path in LOG_FILES {
        let content = disk.content(path).expect("there");
        disk.put(path, content.repeat(2));
    }
    let store = open_mem(&disk);
    assert_eq!(events(&store), given);
    assert_eq!(store.recovery().repeated, given.len() as u64);
}

#[test]
fn what_is_intact_but_not_ours_is_left_alone() {
    let (disk, _) = closed_log(12, 10);
    let mut line = br#"{"n":11,"d":10,"kind":"of a later version""#.to_vec();
    let crc = format!(",\"crc\":\"{:08x}\"}}\n", crc32fast::hash(&line));
    line.extend_from_slice(crc.as_bytes());
    let before = [disk.content("users.json").unwrap_or_default(), line].concat();
    disk.put("users.json", before.clone());
    let error = common::try_open(disk.clone(), u64::MAX).expect_err("it must not guess");
    assert!(matches!(&error, StoreError::Unreadable { path, .. } if path == "users.json"), "{error}");
    assert_eq!(disk.content("users.json"), Some(before));
}

/// Found by fuzzing: a replay handed out what waits, because it stands where the next one would.
#[test]
fn an_event_whose_clock_falls_waits_in_its_place() {
    let (disk, given) = closed_log(14, 30);
    let held = open_mem(&disk).vector().clone();
    let (origin, last) = held.iter().max_by_key(|(_, seq)| *seq).expect("an origin");
    let early = given.iter().find(|event| event.id.origin == *origin && event.id.seq == last - 1).expect("there");
    let path = LOG_FILES[early.body.kind() as usize];
    let content = String::from_utf8(disk.content(path).expect("there")).expect("text");
    let own = format!("\"ev\":\"{}\"", early.id);
    let lines = content.lines().map(|line| if line.contains(&own) { later(line) } else { line.to_owned() + "\n" });
    disk.put(path, lines.collect::<String>());
    let store = open_mem(&disk);
    assert_eq!(store.vector().get(origin), last - 1, "the last one waits");
    let mut served = Vec::new();
    let _ = store.replay(&mut |event| served.push(event));
    assert!(served.iter().all(|event| store.vector().contains(&event.id)));
    assert_eq!(events(&store).len(), given.len() - 1);
}

/// The line with a clock far ahead, and the checksum that belongs to it.
fn later(line: &str) -> String {
    let (covered, _) = line.split_once(",\"crc\"").expect("a checksum");
    let (before, after) = covered.split_once("\"clock\":").expect("a clock");
    let digits = after.find(|c: char| !c.is_ascii_digit()).expect("more fields");
    let covered = format!("{before}\"clock\":9000{}", &after[digits..]);
    format!("{covered},\"crc\":\"{:08x}\"}}\n", crc32fast::hash(covered.as_bytes()))
}

#[test]
fn garbage_of_any_sort_is_survived() {
    let (disk, given) = closed_log(13, 20);
    let zeros = vec![0u8; 20 << 20];
    let garbage: [&[u8]; 6] =
        [b"\n\n\n", b"{}", b"not a line\n", &[0xff; 5_000], &zeros, b"{\"n\":18446744073709551615,"];
    for (at, bytes) in garbage.into_iter().enumerate() {
        let path = LOG_FILES[at % LOG_FILES.len()];
        let content = disk.content(path).expect("there");
        for garbled in [[&content, bytes].concat(), [bytes, b"\n", &content].concat()] {
            let copy = disk.fork();
            copy.put(path, garbled);
            let mut store = open_mem(&copy);
            assert_eq!(events(&store), given, "garbage {at}");
            store.append(&Sampler::new(99).batch(4)).expect("goes on");
            drop(store);
            assert_eq!(events(&open_mem(&copy)).len(), given.len() + 4, "garbage {at}");
        }
    }
}
