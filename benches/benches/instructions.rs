//! How many instructions the hot paths take, counted by callgrind, so that a busy machine changes nothing.
//!
//! `cargo bench -p dsv2-benches --bench instructions` (needs `valgrind`, and `gungraun-runner` of the version that
//! `Cargo.lock` names). Each has the count that it had when it was last looked at: with 5% more it fails. Whoever changes
//! such a number says why in the commit.
#![allow(missing_docs, reason = "the macros make undocumented items")]

use std::hint::black_box;
use std::sync::Arc;

use dsv2_core::{
    Clock, Event, EventBody, EventId, Format, Limits, Machine, MessageId, Mono, Now, Origin, Publication, RawTimestamp,
    ReplicationEvent, Reply, Request, RequestBody, RequestExt, Service, SessionId, Timestamp, Wall,
};
use dsv2_net::engine::dispatch::{Dispatch, DispatchConfig, Effect as Dispatched, Pace};
use dsv2_net::engine::subscriptions::{MatchMode, SubscriptionLimits, Subscriptions};
use dsv2_net::zmtp::Message;
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, MemDisk};
use dsv2_sync::election::NodeId;
use dsv2_sync::server::{Effect, Input, Server, ServerConfig};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};

const NAME: &str = "a fixed name is valid";
const MESSAGES: u64 = 1_000;
/// How often a codec does its work: once would count what the loader does at first calls.
const REPEATED: usize = 100;

/// The bound of a benchmark that took so many instructions.
fn counted(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions / 100 * 105)]));
    config
}

fn repeat<T>(work: impl Fn() -> T) {
    for _ in 0..REPEATED {
        black_box(work());
    }
}

fn event(seq: u64) -> Event {
    let origin = Origin { server: "server1".parse().expect(NAME), incarnation: 7 };
    Event {
        id: EventId { origin: origin.clone(), seq },
        clock: Clock::new(seq).expect("in range"),
        prev: (seq > 1).then(|| EventId { origin, seq: seq - 1 }),
        message_id: MessageId::Request { session: SessionId::new(Clock::ZERO, 7), number: seq },
        timestamp: Timestamp { ms: 1_795_407_353_924 },
        body: EventBody::Publish {
            user: "ana".parse().expect(NAME),
            channel: "dev".parse().expect(NAME),
            message: "x".repeat(128),
        },
    }
}

fn publish(format: Format, number: u64) -> Request {
    Request {
        format,
        timestamp: Some(RawTimestamp::Integer(1_795_407_353_924)),
        clock: Clock::new(number),
        ext: RequestExt {
            session: Some(SessionId::new(Clock::ZERO, 7)),
            number: Some(number),
            ..RequestExt::default()
        },
        body: RequestBody::Publish {
            user: "ana".parse().expect(NAME),
            channel: "dev".parse().expect(NAME),
            message: "x".repeat(128),
        },
    }
}

#[library_benchmark]
#[bench::json(args = (publish(Format::Json, 42)), config = counted(184_491))]
#[bench::msgpack(args = (publish(Format::MsgPack, 42)), config = counted(174_091))]
fn encode_request(request: Request) {
    repeat(|| black_box(&request).encode());
}

#[library_benchmark]
#[bench::json(args = (publish(Format::Json, 42).encode()), config = counted(370_922))]
#[bench::msgpack(args = (publish(Format::MsgPack, 42).encode()), config = counted(265_722))]
fn decode_request(body: Vec<u8>) {
    repeat(|| Request::decode(black_box(&body), &Limits::default()).expect("our own bytes"));
}

fn published(event: &Event, format: Format) -> Vec<u8> {
    let mut body = Vec::with_capacity(512);
    Publication::encode_event(event, format, &mut body);
    body
}

#[library_benchmark]
#[bench::json(args = (event(42), Format::Json), config = counted(198_390))]
#[bench::msgpack(args = (event(42), Format::MsgPack), config = counted(221_990))]
fn encode_publication(event: Event, format: Format) {
    repeat(|| published(black_box(&event), format));
}

#[library_benchmark]
#[bench::json(args = (published(&event(42), Format::Json)), config = counted(447_822))]
#[bench::msgpack(args = (published(&event(42), Format::MsgPack)), config = counted(343_222))]
fn decode_publication(body: Vec<u8>) {
    repeat(|| Publication::decode(black_box(&body), &Limits::default()).expect("our own bytes"));
}

#[library_benchmark]
#[bench::json(args = (event(42), Format::Json), config = counted(294_892))]
#[bench::msgpack(args = (event(42), Format::MsgPack), config = counted(306_592))]
fn encode_replication(event: Event, format: Format) {
    repeat(|| ReplicationEvent::encode(black_box(&event), format));
}

#[library_benchmark]
#[bench::json(args = (ReplicationEvent::encode(&event(42), Format::Json)), config = counted(105_313))]
#[bench::msgpack(args = (ReplicationEvent::encode(&event(42), Format::MsgPack)), config = counted(212_213))]
fn recognise_replication(body: Vec<u8>) {
    repeat(|| ReplicationEvent::is_ours(black_box(&body), &Limits::default()));
}

fn dispatch() -> (Dispatch, Message) {
    let (mut dispatch, mut out) = (Dispatch::new(DispatchConfig::default(), 0), Vec::new());
    for _ in 0..4 {
        dispatch.server_joined(0, Pace::Window, true, &mut out);
    }
    (dispatch, Message::from_frames([&b"id"[..], b"", &[0; 128]]))
}

// What the broker decides of 1,000 requests and their replies.
#[library_benchmark]
// 682,588 before the crate grew: the same source, inlined otherwise, because its codegen units were cut elsewhere.
#[bench::window(args = (dispatch()), config = counted(770_568))]
fn dispatch_requests((mut dispatch, message): (Dispatch, Message)) -> Dispatch {
    let (client, mut out) = (dispatch.client_joined(), Vec::new());
    for _ in 0..MESSAGES {
        dispatch.request(1, client, message.clone(), &mut out).expect("room");
        let Some(Dispatched::Forward { server, request, .. }) = out.pop() else { panic!("four servers") };
        black_box(dispatch.reply(1, server, request, &mut out)).expect("outstanding");
    }
    dispatch
}

fn subscriptions(mode: MatchMode) -> (Subscriptions, Vec<String>) {
    let mut index = Subscriptions::new(mode, SubscriptionLimits::default());
    for topic in 0..10_000_u32 {
        index.subscribe(topic % 50, format!("channel-{topic}").as_bytes()).expect("within limits");
    }
    (index, (0..MESSAGES).map(|n| format!("channel-{}", n * 7_919 % 10_000)).collect())
}

// Who wants each of 1,000 publications, among 10,000 topics.
#[library_benchmark]
#[bench::exact(args = (subscriptions(MatchMode::Exact)), config = counted(413_629))]
#[bench::prefix(args = (subscriptions(MatchMode::Prefix)), config = counted(750_139))]
fn match_topics((mut index, topics): (Subscriptions, Vec<String>)) -> Subscriptions {
    for topic in &topics {
        black_box(index.matching(topic.as_bytes()).len());
    }
    index
}

fn store() -> (JsonlStore, Vec<Event>) {
    let store = JsonlStore::open(Arc::new(MemDisk::new()), JsonlConfig::default()).expect("an empty disk");
    (store, (1..=MESSAGES).map(event).collect())
}

// 1,000 events appended and synced together, to memory.
#[library_benchmark]
#[bench::group(args = (store()), config = counted(4_738_369))]
fn append_events((mut store, events): (JsonlStore, Vec<Event>)) -> JsonlStore {
    store.append(&events).and_then(|()| store.sync()).expect("memory takes it");
    store
}

fn server() -> (Server, Vec<Vec<u8>>) {
    let config = ServerConfig::new("server1".parse().expect(NAME), NodeId(1), 7);
    let (mut server, mut effects) = (Server::start(config, Now::default(), []), Vec::new());
    server.step(Now::default(), Input::Wake, &mut effects);
    for body in [
        RequestBody::Login { user: "ana".parse().expect(NAME) },
        RequestBody::Channel { channel: "dev".parse().expect(NAME) },
    ] {
        let request = Request { body, ..publish(Format::MsgPack, 1) };
        server.step(Now::default(), Input::Request { from: 1, request: Ok(request) }, &mut effects);
        save(&mut server, &mut effects);
    }
    (server, (2..MESSAGES + 2).map(|number| publish(Format::MsgPack, number).encode()).collect())
}

/// The disk takes at once what is to be remembered.
fn save(server: &mut Server, effects: &mut Vec<Effect>) {
    let saved = |effect| match effect {
        Effect::Save(saved) => Some(saved),
        _ => None,
    };
    for saved in effects.drain(..).filter_map(saved).collect::<Vec<_>>() {
        server.step(Now::default(), Input::Saved(saved), effects);
    }
}

// What a server does for 1,000 publications that arrive together, but for its sockets and its disk: requests are decoded
// and decided, answers and publications encoded.
#[library_benchmark]
#[bench::turn(args = (server()), config = counted(32_866_462))]
fn serve_publications((mut server, requests): (Server, Vec<Vec<u8>>)) -> Server {
    let now = Now { mono: Mono::from_ms(1), wall: Wall { us: 1_795_407_353_924_000 } };
    let mut effects = Vec::new();
    for (from, body) in (1..).zip(&requests) {
        let request = Request::decode(body, &Limits::default());
        server.step(now, Input::Request { from, request }, &mut effects);
    }
    server.step(now, Input::Flush, &mut effects);
    let (mut answers, mut scratch) = (0, Vec::new());
    for effect in effects {
        match effect {
            Effect::Reply { reply, .. } => {
                answers += 1;
                scratch.clear();
                reply.encode_into(&mut scratch);
                black_box(&scratch);
            }
            Effect::Publish(outgoing) => {
                black_box(outgoing.publication(Format::Json, &mut scratch));
                black_box(outgoing.replication(Format::Json, &mut scratch));
            }
            effect => drop(black_box(effect)),
        }
    }
    assert_eq!(answers, MESSAGES, "every publication is answered");
    server
}

fn reply() -> Vec<u8> {
    let (mut server, requests) = server();
    let mut effects = Vec::new();
    server.step(
        Now::default(),
        Input::Request { from: 9, request: Request::decode(&requests[0], &Limits::default()) },
        &mut effects,
    );
    let reply = effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply, .. } => Some(reply.encode()),
        _ => None,
    });
    reply.expect("it is answered")
}

#[library_benchmark]
#[bench::msgpack(args = (reply()), config = counted(240_993))]
fn decode_reply(body: Vec<u8>) {
    repeat(|| Reply::decode(Service::Publish, black_box(&body), &Limits::default()).expect("our own bytes"));
}

library_benchmark_group!(
    name = codecs,
    benchmarks = [
        encode_request,
        decode_request,
        decode_reply,
        encode_publication,
        decode_publication,
        encode_replication,
        recognise_replication
    ]
);
library_benchmark_group!(name = engine, benchmarks = [dispatch_requests, match_topics]);
library_benchmark_group!(name = state, benchmarks = [append_events, serve_publications]);

main!(library_benchmark_groups = [codecs, engine, state]);
