//! A durable publish through the whole path: client, broker, server, disk, and back.
//!
//! `cargo bench -p dsv2-benches --bench publish`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dsv2_core::{Clock, Format, Limits, RawTimestamp, Reply, ReplyBody, Request, RequestBody, RequestExt, SessionId};
use dsv2_net::cluster::{Cluster, ClusterOptions};
use dsv2_net::port::{Port, PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::Message;

const WINDOW: u64 = 1_000;

/// A client that knows nothing but the wire.
struct Peer {
    dealer: Box<dyn Port>,
    events: Vec<PortEvent>,
    session: SessionId,
    next: u64,
}

impl Peer {
    async fn connect(cluster: &Cluster) -> Self {
        let endpoint = cluster.endpoints().clients.clone();
        let dealer = connect(Transport::Native, SocketKind::Dealer, endpoint, PortLimits::default()).expect("a port");
        let mut peer = Self { dealer, events: Vec::new(), session: SessionId::new(Clock::ZERO, 7), next: 0 };
        while peer.events.is_empty() {
            peer.dealer.recv(&mut peer.events).await.expect("open");
        }
        while peer.round(&RequestBody::Login { user: user_name() }, 1).await == 0 {}
        peer.round(&RequestBody::Channel { channel: channel_name() }, 1).await;
        peer
    }

    /// Sends `count` requests, at most [`WINDOW`] unanswered; yields how many succeeded.
    async fn round(&mut self, body: &RequestBody, count: u64) -> u64 {
        let (mut sent, mut answered, mut done) = (0, 0, 0);
        while answered < count {
            while sent < count && sent - answered < WINDOW {
                self.next += 1;
                let ext = RequestExt { session: Some(self.session), number: Some(self.next), ..RequestExt::default() };
                let timestamp = Some(RawTimestamp::Integer(1_795_407_353_924));
                let request = Request {
                    format: Format::MsgPack,
                    timestamp,
                    clock: Clock::new(self.next),
                    ext,
                    body: body.clone(),
                };
                self.dealer
                    .send(Message::from_frames([&self.next.to_be_bytes()[..], b"", &request.encode()]))
                    .expect("room");
                sent += 1;
            }
            self.dealer.recv(&mut self.events).await.expect("open");
            for event in self.events.drain(..) {
                if let PortEvent::Message(message) = event {
                    answered += 1;
                    let reply = Reply::decode(body.service(), message.last(), &Limits::default()).expect("a reply");
                    done += u64::from(matches!(reply.body, ReplyBody::Done(_)));
                }
            }
        }
        done
    }
}

fn user_name() -> dsv2_core::UserName {
    "ana".parse().expect("a name")
}

fn channel_name() -> dsv2_core::ChannelName {
    "dev".parse().expect("a name")
}

fn publish() -> RequestBody {
    RequestBody::Publish { user: user_name(), channel: channel_name(), message: "x".repeat(128) }
}

fn publishes(c: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for servers in [1, 3] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = ClusterOptions::local(servers, 0);
        options.data = Some(dir.path().to_owned());
        let cluster = runtime.block_on(Cluster::start(options)).expect("starts");
        let mut peer = runtime.block_on(Peer::connect(&cluster));
        let body = publish();
        let mut group = c.benchmark_group(format!("publish/{servers} servers"));
        group.sample_size(10);
        for (name, count) in [("1 in flight", 1), ("1,000 in flight", 20_000)] {
            group.throughput(Throughput::Elements(count));
            group.bench_function(name, |b| {
                b.iter(|| {
                    let done = runtime.block_on(peer.round(&body, count));
                    assert_eq!(done, count, "every publish is acknowledged");
                });
            });
        }
        group.finish();
        drop(peer);
        runtime.block_on(cluster.stop()).expect("stops");
    }
}

criterion_group!(benches, publishes);
criterion_main!(benches);
