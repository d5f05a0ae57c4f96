//! The JSON Lines store on a real file system: group commit, and replay.
//!
//! `cargo bench -p dsv2-benches --bench store`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dsv2_core::{Clock, Event, EventBody, EventId, MessageId, Origin, SessionId, Timestamp};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore};

const GROUP: u64 = 1_000;
const REPLAYED: u64 = 100_000;

fn event(seq: u64) -> Event {
    let name = "a fixed name is valid";
    let origin = Origin { server: "server1".parse().expect(name), incarnation: 7 };
    Event {
        id: EventId { origin, seq },
        clock: Clock::new(seq).expect("in range"),
        prev: None,
        message_id: MessageId::Request { session: SessionId::new(Clock::ZERO, 7), number: seq },
        timestamp: Timestamp { ms: 1_795_407_353_924 },
        body: EventBody::Publish {
            user: "ana".parse().expect(name),
            channel: "dev".parse().expect(name),
            message: "x".repeat(128),
        },
    }
}

fn stores(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = JsonlStore::open_dir(dir.path().join("append"), JsonlConfig::default()).expect("opens");
    let mut next = 1;
    let mut group = c.benchmark_group("store");
    group.sample_size(20).throughput(Throughput::Elements(GROUP));
    group.bench_function("append and sync 1,000 events", |b| {
        b.iter_batched(
            || {
                let events: Vec<Event> = (next..next + GROUP).map(event).collect();
                next += GROUP;
                events
            },
            |events| {
                store.append(&events).expect("there is room");
                store.sync().expect("syncs");
            },
            BatchSize::PerIteration,
        );
    });
    let replayed = dir.path().join("replay");
    let mut store = JsonlStore::open_dir(&replayed, JsonlConfig::default()).expect("opens");
    let events: Vec<Event> = (1..=REPLAYED).map(event).collect();
    store.append(&events).expect("there is room");
    store.close().expect("closes");
    drop(store);
    group.sample_size(10).throughput(Throughput::Elements(REPLAYED));
    group.bench_function("open and replay 100,000 events", |b| {
        b.iter(|| {
            let store = JsonlStore::open_dir(&replayed, JsonlConfig::default()).expect("opens");
            let mut count = 0_u64;
            store.replay(&mut |_| count += 1).expect("reads");
            assert_eq!(count, REPLAYED);
        });
    });
    group.finish();
}

criterion_group!(benches, stores);
criterion_main!(benches);
