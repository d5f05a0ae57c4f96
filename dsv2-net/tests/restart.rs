//! Starting with a long log, joining one, and retiring most of it.
//!
//! `DSV2_RESTART_EVENTS=1000000 cargo nextest run -p dsv2-net --release --test restart --no-capture` measures a start with
//! a million events, with a snapshot and without; with that many events the limits are judged.
#![cfg(feature = "cluster")]

mod server_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use dsv2_core::{
    Clock, Event, EventBody, EventId, Format, HistoryQuery, HistorySpan, Keep, MessageId, Origin, Position, ReplyBody,
    RequestBody, Retention, ServerName, SessionId, Subject, Timestamp,
};
use dsv2_net::reference::Reference;
use dsv2_net::server::{Server, ServerError};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, Meta, Snapshotted, StoreError};
use dsv2_sync::stored;

use server_support::{Front, options, publish, reference};

/// Without a snapshot, and with one.
const LIMITS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(1)];

fn events() -> u64 {
    std::env::var("DSV2_RESTART_EVENTS").map_or(20_000, |text| text.parse().expect("a number of events"))
}

/// Writes a log of so many events: two users, a channel, then publications of 128 bytes.
fn write_log(dir: &Path, name: &str, count: u64) {
    let mut store = JsonlStore::open_dir(dir.join(name), JsonlConfig::default()).expect("opens");
    let meta = Meta { name: name.parse().ok(), ..store.meta().clone() };
    store.save_meta(&meta).expect("saves");
    let origin = Origin { server: name.parse().expect("a name"), incarnation: 7 };
    let session = SessionId::new(Clock::ZERO, 7);
    let body = |seq: u64| match seq {
        1 => EventBody::UserLogin { user: "ana".parse().expect("a name") },
        2 => EventBody::ChannelCreate { channel: "dev".parse().expect("a name") },
        _ => EventBody::Publish {
            user: "ana".parse().expect("a name"),
            channel: "dev".parse().expect("a name"),
            message: format!("{seq:0128}"),
        },
    };
    let event = |seq: u64| Event {
        id: EventId { origin: origin.clone(), seq },
        clock: Clock::ZERO.plus(2 * seq),
        prev: (seq > 3).then(|| EventId { origin: origin.clone(), seq: seq - 1 }),
        message_id: MessageId::Request { session, number: seq },
        timestamp: Timestamp { ms: 1_795_407_353_924 + i64::try_from(seq).expect("fits") },
        body: body(seq),
    };
    let all: Vec<u64> = (1..=count).collect();
    for batch in all.chunks(10_000) {
        store.append(&batch.iter().map(|&seq| event(seq)).collect::<Vec<_>>()).expect("appends");
        store.sync().expect("syncs");
    }
    store.close().expect("closes");
}

/// Starts the server, and yields how long it took until it answered a question about its last message.
async fn start(data: &Path, reference: &Reference, count: u64) -> (Duration, Server) {
    let mut front = Front::bind().await;
    let started = Instant::now();
    let server = loop {
        match Server::start(options("server1", &front, reference, data)).await {
            Ok(server) => break server,
            // The thread of the one before ends a moment later.
            Err(ServerError::Store(StoreError::Locked { .. })) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    front.until_ready().await;
    let texts = last(&mut front, 1).await;
    let took = started.elapsed();
    assert_eq!(texts, [format!("{count:0128}")]);
    (took, server)
}

async fn last(front: &mut Front, limit: u64) -> Vec<String> {
    page(front, HistorySpan::Before(None), limit).await.0
}

/// The texts of a page, and what retention took before them.
async fn page(front: &mut Front, span: HistorySpan, limit: u64) -> (Vec<String>, usize) {
    let query = HistoryQuery { subject: Subject::Topic("dev".into()), span, limit };
    match front.ask(Format::MsgPack, RequestBody::History(query)).await {
        ReplyBody::History(page) => {
            (page.events.iter().map(|event| event.body.text().to_owned()).collect(), page.retired.len())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_long_log_is_quick_and_quicker_from_a_snapshot() {
    let (data, count) = (tempfile::tempdir().expect("a directory"), events());
    write_log(data.path(), "server1", count);
    let reference = reference(data.path()).await;
    let (without, server) = start(data.path(), &reference, count).await;
    server.stop().await.expect("stops cleanly");
    let store = JsonlStore::open_dir(data.path().join("server1"), JsonlConfig::default()).expect("opens");
    let (disk, floors) = (store.disk().expect("a disk"), store.floors());
    drop(store);
    let name: ServerName = "server1".parse().expect("a name");
    let making = Instant::now();
    let made = stored::snapshot(&disk, &name, floors, false).expect("makes one");
    let making = making.elapsed();
    assert!(matches!(made, Snapshotted::Made { events, .. } if events == count) || made == Snapshotted::Current);
    let (with, server) = start(data.path(), &reference, count).await;
    println!(
        "{count} events: serving after {without:?} without a snapshot, {with:?} with; made in {making:?}: {made:?}"
    );
    server.stop().await.expect("stops cleanly");
    if count >= 1_000_000 {
        assert!(without < LIMITS[0] && with < LIMITS[1], "{without:?}, {with:?}");
    }
    reference.stop().await.expect("stops cleanly");
}

/// Three voters; the third joins when the other two have a long log, and while they are written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_joins_under_load_and_lacks_nothing() {
    let (data, count) = (tempfile::tempdir().expect("a directory"), events());
    write_log(data.path(), "server1", count);
    let reference = reference(data.path()).await;
    let voters: BTreeSet<ServerName> = (1..=3).map(|n| format!("server{n}").parse().expect("a name")).collect();
    let (mut fronts, mut servers) = (Vec::new(), Vec::new());
    for number in 1..=2 {
        let front = Front::bind().await;
        let mut options = options(&format!("server{number}"), &front, &reference, data.path());
        options.voters.clone_from(&voters);
        servers.push(Server::start(options).await.expect("starts"));
        fronts.push(front);
    }
    fronts[0].until_ready().await;
    let mut front = Front::bind().await;
    let mut joining = options("server3", &front, &reference, data.path());
    joining.voters.clone_from(&voters);
    let started = Instant::now();
    servers.push(Server::start(joining).await.expect("starts"));
    let mut written = 0;
    let mut caught_up = None;
    while caught_up.is_none() {
        for _ in 0..20 {
            let text = format!("new {written}");
            written += 1;
            let done: ReplyBody = fronts[0].ask(Format::MsgPack, publish(&text)).await;
            assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
        }
        let held = fronts[0].status().await.position;
        front.until_ready().await;
        let there = front.status().await.position;
        caught_up = there.covers(&held).then(|| started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(60), "it holds {} of {}", there.events(), held.events());
    }
    let expected: Vec<String> = (0..written).map(|number| format!("new {number}")).collect();
    assert_eq!(last(&mut front, 1_000).await.split_off(1_000 - expected.len().min(1_000)), expected);
    println!("{count} events, and {written} while it joined: caught up after {:?}", caught_up.expect("it is"));
    for server in servers {
        server.stop().await.expect("stops cleanly");
    }
    reference.stop().await.expect("stops cleanly");
}

/// Most of a long log is retired, at all servers alike; what is read across the floor says so, and disks shrink.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_of_a_log_is_retired_by_all_and_given_back() {
    let (data, count) = (tempfile::tempdir().expect("a directory"), 20_000);
    write_log(data.path(), "server1", count);
    let log_bytes = || {
        let messages = std::fs::read_dir(data.path().join("server1/messages")).expect("is there");
        messages.map(|file| file.expect("listed").metadata().expect("is there").len()).sum::<u64>()
    };
    let before = log_bytes();
    let reference = reference(data.path()).await;
    let voters: BTreeSet<ServerName> = (1..=2).map(|n| format!("server{n}").parse().expect("a name")).collect();
    let keep = Keep { age: None, bytes: Some(200_000) };
    let (mut fronts, mut servers) = (Vec::new(), Vec::new());
    for number in 1..=2 {
        let front = Front::bind().await;
        let mut options = options(&format!("server{number}"), &front, &reference, data.path());
        options.voters.clone_from(&voters);
        options.retention = Retention { publish: keep, message: Keep::default() };
        servers.push(Server::start(options).await.expect("starts"));
        fronts.push(front);
    }
    let deadline = Instant::now() + Duration::from_secs(40);
    let from_start = || HistorySpan::After(Position::default());
    for front in &mut fronts {
        front.until_ready().await;
        loop {
            let (texts, retired) = page(front, from_start(), 1_000).await;
            if retired > 0 && texts.len() < 1_000 {
                assert_eq!(texts.last(), Some(&format!("{count:0128}")));
                assert!(texts.len() > 300, "{} messages are left of 200,000 bytes", texts.len());
                break;
            }
            assert!(Instant::now() < deadline, "{} messages, {retired} gaps", texts.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    while log_bytes() > 2 * 200_000 + (64 << 10) {
        assert!(Instant::now() < deadline, "{} bytes are left of {before}", log_bytes());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{before} bytes of messages before, {} after", log_bytes());
    let done = fronts[0].ask(Format::Json, publish("goes on")).await;
    assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
    for server in servers {
        server.stop().await.expect("stops cleanly");
    }
    reference.stop().await.expect("stops cleanly");
}
