//! Real processes, killed, and a real disk that is full.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dsv2_store::testing::{Sampler, SplitMix64};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, Limit, StoreError};

const DIR: &str = "DSV2_STORE_TEST_DIR";
const SEED: u64 = 77;

fn open(dir: &Path) -> Result<JsonlStore, StoreError> {
    JsonlStore::open_dir(dir, JsonlConfig { segment_bytes: 30_000, node: 1 })
}

/// The events of the run, from the first on; a store holds a prefix of them.
fn script(skip: u64) -> Sampler {
    let mut sampler = Sampler::new(SEED);
    (0..skip).for_each(|_| drop(sampler.event()));
    sampler
}

/// Not a test of its own: the process that is killed. Writes for ever, and says how much is durable.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut store = open(Path::new(&dir)).expect("opens");
    let mut sampler = script(store.stats().events);
    let mut out = std::io::stdout();
    loop {
        store.append(&sampler.batch(3)).expect("appends");
        store.sync().expect("syncs");
        writeln!(out, "durable {}", store.stats().durable_index).expect("the parent listens");
    }
}

fn start(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["child", "--exact", "--nocapture"]).env(DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("starts")
}

#[test]
fn a_killed_process_loses_nothing_it_had_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rng = SplitMix64::new(1);
    let mut held = 0;
    for _ in 0..20 {
        let mut child = start(dir.path());
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut acknowledged = held;
        for _ in 0..1 + rng.below(30) {
            let line = lines.by_ref().find_map(|line| line.split_once("durable ")?.1.parse().ok());
            acknowledged = line.expect("it goes on writing");
        }
        assert!(
            matches!(open(dir.path()), Err(StoreError::Locked { holder }) if holder.contains(&child.id().to_string()))
        );
        child.kill().expect("is killed");
        child.wait().expect("has ended");
        acknowledged =
            lines.filter_map(|line| line.split_once("durable ")?.1.parse().ok()).last().unwrap_or(acknowledged);

        let store = open(dir.path()).expect("the lock is free");
        let mut found = Vec::new();
        store.replay(&mut |event| found.push(event)).expect("replays");
        assert!(found.len() as u64 >= acknowledged, "{acknowledged} acknowledged, {} found", found.len());
        assert_eq!(found, script(0).batch(found.len()), "and nothing else");
        held = found.len() as u64;
    }
    assert!(held > 100);
}

/// Wants a file system with a few MiB of room: `mount -t tmpfs -o size=4m tmpfs DIR`, `DSV2_SMALL_DISK=DIR`.
#[test]
#[ignore = "needs a small file system at DSV2_SMALL_DISK"]
fn a_small_disk_fills_and_writes_resume() {
    let small = std::env::var_os("DSV2_SMALL_DISK").expect("a small file system");
    let dir = Path::new(&small).join("data");
    let filler = Path::new(&small).join("filler");
    std::fs::write(&filler, vec![1; 1 << 20]).expect("there is room for a filler");
    let mut store = open(&dir).expect("opens");
    let mut sampler = Sampler::new(1).with_text_bytes(5_000);
    let mut given = Vec::new();
    let refused = loop {
        let batch = sampler.batch(7);
        match store.append(&batch).and_then(|()| store.sync()) {
            Ok(()) => given.extend(batch),
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
                break batch;
            }
        }
    };
    let origin = &given[0].id.origin;
    assert_eq!(store.range(origin, 1, Limit::events(1)).expect("reads go on").events[0], given[0]);
    drop(store);
    let mut store = open(&dir).expect("opens on a full disk");
    assert!(matches!(store.append(&refused), Err(StoreError::Full { .. })));
    std::fs::remove_file(&filler).expect("room is made");
    store.append(&refused).expect("writes resume");
    store.sync().expect("syncs");
    drop(store);
    given.extend(refused);
    let mut found = Vec::new();
    open(&dir).expect("opens").replay(&mut |event| found.push(event)).expect("replays");
    assert_eq!(found, given);
    std::fs::remove_dir_all(&dir).expect("cleans up");
}
