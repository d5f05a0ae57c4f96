//! Writes the first corpus: the golden frames of foreign libraries, and an example of everything else.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dsv2_core::{Clock, Event, Floors, Level, Position, Retirement};
use dsv2_net::zmtp::{Command, GREETING_BYTES, Greeting, Message};
use dsv2_store::testing::Sampler;
use dsv2_store::{Disk, EventStore, JsonlConfig, JsonlStore, MemDisk};
use dsv2_sync::election::{ElectionMessage, Epoch, NodeId};
use dsv2_sync::link::{LinkHello, LinkMessage};
use dsv2_sync::server::Replay;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let events = Sampler::new(1).batch(12);
    bodies()?;
    zmtp()?;
    link(&events)?;
    log(&events)?;
    snapshot(&events)?;
    cursor(&events)
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn keep(target: &str, data: &[u8]) -> Done {
    let folder = here().join(target);
    fs::create_dir_all(&folder)?;
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    Ok(fs::write(folder.join(format!("{:016x}", hasher.finish())), data)?)
}

fn bodies() -> Done {
    for name in ["python.json", "node.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bins/tests/peers/golden").join(name);
        let entries: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(path)?)?;
        for entry in entries {
            let hex = entry["hex"].as_str().ok_or("a golden frame without bytes")?;
            let body = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
            let body = body.collect::<Result<Vec<u8>, _>>()?;
            keep(if body.contains(&b'{') && body[0] < 0x80 { "json" } else { "msgpack" }, &body)?;
        }
    }
    Ok(())
}

fn zmtp() -> Done {
    let greeting = Greeting::ours().encode();
    assert_eq!(greeting.len(), GREETING_BYTES);
    let mut huge = vec![0b010];
    huge.extend_from_slice(&(1u64 << 62).to_be_bytes());
    let ping = Command::Ping { ttl_ds: 10, context: bytes::Bytes::from_static(b"ct") }.encode();
    let two = [Message::prefix(b"dev").to_vec(), Message::single(b"oi").wire().to_vec()].concat();
    let long = [Message::prefix(b"").to_vec(), Message::single(&[b'x'; 300]).wire().to_vec()].concat();
    let subscriptions =
        [Message::single(b"\x01dev").wire().to_vec(), Message::single(b"\x00dev").wire().to_vec()].concat();
    for choice in [0u8, 1, 7, 8] {
        for wire in [&greeting[..], &huge, &ping, &two, &long, &subscriptions] {
            keep("zmtp", &[&[choice], wire].concat())?;
        }
    }
    Ok(())
}

fn vector(events: &[Event]) -> Position {
    events.iter().map(|event| (event.id.origin.clone(), event.id.seq)).collect()
}

fn link(events: &[Event]) -> Done {
    let durable = vector(events);
    let origin = events[0].id.origin.clone();
    let hello = LinkHello {
        name: "server1".parse()?,
        node: 7,
        voters: 3,
        rank: Some(1),
        address: Some("tcp://127.0.0.1:5560".to_owned()),
        incarnation: 7,
        clock: Clock::ZERO.plus(9),
        durable: durable.clone(),
        departed: BTreeSet::new(),
    };
    let retirement = Retirement { floors: Floors::both(Clock::ZERO.plus(7)), at: durable.clone() };
    let some = vec![Arc::new(events[0].clone())];
    for message in [
        LinkMessage::Hello(hello.clone()),
        LinkMessage::Welcome { hello },
        LinkMessage::Refused { why: "other voters".to_owned() },
        LinkMessage::Events { events: events.iter().cloned().map(Arc::new).collect() },
        LinkMessage::Ack { durable: durable.clone() },
        LinkMessage::Vector { durable: durable.clone(), answer: true, retirement: retirement.clone() },
        LinkMessage::Stretch {
            origin: origin.clone(),
            from: 1,
            upto: 9,
            events: some,
            retirement: retirement.clone(),
        },
        LinkMessage::Pull { origin, from: 3 },
        LinkMessage::Bound {
            clock: Clock::ZERO.plus(9),
            events: durable,
            stable: Clock::ZERO.plus(8),
            retirement,
            departed: BTreeSet::new(),
        },
        LinkMessage::Ping,
        LinkMessage::Forward { ticket: 1, body: b"{}".to_vec(), level: Level::Quorum },
        LinkMessage::Forwarded { ticket: 1, body: b"{}".to_vec() },
        LinkMessage::Election(ElectionMessage::Resign { epoch: Epoch { number: 2, node: NodeId(7) } }),
    ] {
        keep("link", &message.encode())?;
    }
    Ok(())
}

fn log(events: &[Event]) -> Done {
    for count in [1, events.len()] {
        let disk = MemDisk::new();
        let mut store = JsonlStore::open(Arc::new(disk.clone()), JsonlConfig::default())?;
        for chunk in events[..count].chunks(3) {
            store.append(chunk)?;
            store.sync()?;
        }
        store.close()?;
        drop(store);
        let files: Vec<Vec<u8>> = dsv2_fuzz::FILES.iter().map(|path| disk.content(path).unwrap_or_default()).collect();
        keep("log", &files.join(&b'\x0c'))?;
        keep("log", &files[..4].join(&b'\x0c'))?;
    }
    Ok(())
}

fn snapshot(events: &[Event]) -> Done {
    let name = "server1".parse()?;
    let mut replay = Replay::new(name, Floors::default());
    events.iter().for_each(|event| replay.apply(event));
    keep("snapshot", &[&[2], &replay.save()[..]].concat())?;
    for floor in [0, 9] {
        let disk = dsv2_fuzz::sample();
        let mut store = JsonlStore::open(Arc::new(disk.clone()), JsonlConfig::default())?;
        store.retire(Floors::both(Clock::ZERO.plus(floor)), &BTreeSet::new())?;
        store.close()?;
        let made: Arc<dyn Disk> = Arc::new(disk.clone());
        dsv2_sync::stored::snapshot(&made, &"server1".parse()?, store.floors(), true)?;
        for (part, path) in (0u8..).zip(["snapshot.bin", "retired.json"]) {
            if let Some(content) = disk.content(path) {
                keep("snapshot", &[&[part], &content[..]].concat())?;
            }
        }
    }
    Ok(())
}

fn cursor(events: &[Event]) -> Done {
    let (position, key) = (serde_json::to_string(&vector(events))?, serde_json::to_string(&events[1].key())?);
    keep("cursor", position.as_bytes())?;
    keep("cursor", format!(r#"{{"channels":{{"dev":{position}}},"inboxes":{{"ana":{position}}}}}"#).as_bytes())?;
    for query in [
        r#""topic":"dev","limit":10"#.to_owned(),
        format!(r#""topic":"dev","kind":"channel","after":{position}"#),
        format!(r#""user":"ana","with":"bob","before":{key}"#),
    ] {
        keep("cursor", query.as_bytes())?;
    }
    Ok(())
}
