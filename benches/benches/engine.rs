//! The forwarders: matching, dispatching, and whole round trips through memory.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dsv2_net::Endpoint;
use dsv2_net::endpoint::{Keepalive, connect};
use dsv2_net::engine::dispatch::{Dispatch, DispatchConfig, Effect, Pace};
use dsv2_net::engine::subscriptions::{MatchMode, SubscriptionLimits, Subscriptions};
use dsv2_net::engine::{Broker, BrokerConfig, Connection, EmptyRefuser, Limits, LocalSocket, Proxy, ProxyConfig};
use dsv2_net::zmtp::{Batch, Command, Message, SocketType};
use tokio::runtime::{Builder, Runtime};

const BURST: usize = 1000;

/// The time must not grow with the number of topics.
fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("match");
    for mode in [MatchMode::Exact, MatchMode::Prefix] {
        for topics in [10u32, 1000, 100_000] {
            let mut index = Subscriptions::new(mode, SubscriptionLimits::default());
            for topic in 0..topics {
                index.subscribe(topic % 50, format!("channel-{topic}").as_bytes()).expect("within limits");
            }
            let published: Vec<String> = (0..1024u32).map(|n| format!("channel-{}", n * 7919 % topics)).collect();
            let mut turn = 0;
            group.bench_function(BenchmarkId::new(format!("{mode:?}"), topics), |b| {
                b.iter(|| {
                    turn = (turn + 1) % published.len();
                    black_box(index.matching(published[turn].as_bytes()).len())
                });
            });
        }
    }
    group.finish();
}

/// One request and its reply, decided.
fn dispatching(c: &mut Criterion) {
    let mut group = c.benchmark_group("dispatch");
    let mut out = Vec::new();
    let mut dispatch = Dispatch::new(DispatchConfig::default(), 0);
    let servers = [(); 4].map(|()| dispatch.server_joined(0, Pace::Window, true, &mut out));
    let clients: Vec<_> = (0..100).map(|_| dispatch.client_joined()).collect();
    let message = Message::from_frames([&b"id"[..], b"", &[0; 128]]);
    let mut turn = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("request and reply", |b| {
        b.iter(|| {
            turn = (turn + 1) % clients.len();
            dispatch.request(1, clients[turn], message.clone(), &mut out).expect("room");
            let Some(Effect::Forward { server, request, .. }) = out.pop() else { panic!("{} servers", servers.len()) };
            black_box(dispatch.reply(1, server, request, &mut out)).expect("outstanding");
        });
    });
    group.finish();
}

async fn peer(endpoint: &Endpoint, kind: SocketType) -> Connection {
    let local = Arc::new(LocalSocket::new(kind, Limits::default()));
    let stream = connect(endpoint, Keepalive::default()).await.expect("connect");
    Connection::establish(stream, String::new(), &local).await.expect("handshake")
}

async fn receive(connection: &mut Connection, batch: &mut Batch, mut messages: usize) {
    while messages > 0 {
        connection.next_batch(batch).await.expect("open");
        messages -= batch.len();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("runtime")
}

/// A publisher, a proxy and some subscribers in one thread.
fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("proxy in memory");
    for subscribers in [1usize, 50] {
        let runtime = runtime();
        let (side_in, side_out) = (format!("in-{subscribers}"), format!("out-{subscribers}"));
        let (side_in, side_out) = (Endpoint::memory(side_in), Endpoint::memory(side_out));
        let config = ProxyConfig {
            publishers: vec![side_in.clone()],
            subscribers: vec![side_out.clone()],
            ..ProxyConfig::default()
        };
        let (_proxy, publisher, mut all) = runtime.block_on(async {
            let proxy = Proxy::bind(config).await.expect("bind");
            let mut all = Vec::new();
            for _ in 0..subscribers {
                let subscriber = peer(&side_out, SocketType::Sub).await;
                subscriber.outbox().append_wire(&Command::subscription(b"t", true, true), 0).expect("room");
                subscriber.outbox().flush();
                all.push(subscriber);
            }
            let publisher = peer(&side_in, SocketType::Pub).await;
            while proxy.handle().stats().subscriptions < subscribers {
                tokio::task::yield_now().await;
            }
            (proxy, publisher, all)
        });
        let message = Message::from_frames([&b"t"[..], &[0; 128]]);
        let mut batch = Batch::new();
        group.throughput(Throughput::Elements((BURST * subscribers) as u64));
        group.bench_function(BenchmarkId::from_parameter(subscribers), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    for _ in 0..BURST {
                        publisher.outbox().append(&message).expect("room");
                    }
                    publisher.outbox().flush();
                    for subscriber in &mut all {
                        receive(subscriber, &mut batch, BURST).await;
                    }
                });
            });
        });
    }
    group.finish();
}

/// A client, a broker and an echoing server in one thread: bursts of requests.
fn echo(c: &mut Criterion) {
    let mut group = c.benchmark_group("broker in memory");
    let runtime = runtime();
    let (clients, servers) = (Endpoint::memory("bench-clients"), Endpoint::memory("bench-servers"));
    let config =
        BrokerConfig { clients: vec![clients.clone()], servers: vec![servers.clone()], ..BrokerConfig::default() };
    let (_broker, mut client) = runtime.block_on(async {
        let broker = Broker::bind(config, Arc::new(EmptyRefuser)).await.expect("bind");
        let mut server = peer(&servers, SocketType::Dealer).await;
        server.outbox().push(&Message::from_frames(["_dsv2", "ready"])).expect("room");
        tokio::spawn(async move {
            let mut batch = Batch::new();
            while server.next_batch(&mut batch).await.is_ok() {
                server.outbox().append_run(&batch, 0..batch.len()).expect("room");
                server.outbox().flush();
            }
        });
        (broker, peer(&clients, SocketType::Dealer).await)
    });
    let request = Message::from_frames([&b"id"[..], b"", &[0; 128]]);
    let mut batch = Batch::new();
    for burst in [1, 100, BURST] {
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_function(BenchmarkId::from_parameter(burst), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    for _ in 0..burst {
                        client.outbox().append(&request).expect("room");
                    }
                    client.outbox().flush();
                    receive(&mut client, &mut batch, burst).await;
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, matching, dispatching, fan_out, echo);
criterion_main!(benches);
