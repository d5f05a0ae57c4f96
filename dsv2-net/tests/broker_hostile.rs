//! Peers of a broker that are slow, broken or greedy: they harm themselves only.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod broker_support;
mod forwarder_support;
mod zmtp_support;

use std::time::Duration;

use broker_support::*;
use dsv2_net::engine::{BrokerConfig, DispatchConfig, Limits, Quota};
use dsv2_net::zmtp::{Message, SocketType};
use forwarder_support::*;
use tokio::task::JoinHandle;
use zmtp_support::*;

const MIB: usize = 1 << 20;

/// A server that answers with what `reply` makes of the whole request.
async fn echo_server(broker: &Running, reply: impl Fn(Message) -> Message + Send + 'static) -> JoinHandle<()> {
    let server = ready_server(broker).await;
    tokio::spawn(async move {
        let mut server = server;
        let mut batch = dsv2_net::zmtp::Batch::new();
        while server.connection.next_batch(&mut batch).await.is_ok() {
            for message in batch.messages() {
                let _ = server.connection.outbox().append(&reply(message));
            }
            server.connection.outbox().flush();
        }
    })
}

async fn assert_serves(client: &mut Peer, body: &str) {
    client.send(&["id", "", body]);
    assert_eq!(client.recv().await.last(), body.as_bytes());
}

#[tokio::test]
async fn hostile_bytes_on_either_side_disturb_nobody() {
    let _alone = alone().await;
    let short = Limits { handshake_timeout: Duration::from_millis(500), ..Limits::default() };
    let broker = Running::start(BrokerConfig { client_limits: short.clone(), server_limits: short, ..tcp() }).await;
    let server = echo_server(&broker, |request| request).await;
    let mut client = Peer::connect(&broker.clients, SocketType::Dealer).await;
    assert_serves(&mut client, "before").await;
    let before = resident_bytes();
    for endpoint in [&broker.clients, &broker.servers] {
        for opening in hostile_openings() {
            let mut raw = Raw::connect(endpoint).await;
            raw.write(&opening).await;
            raw.read_to_end().await;
            assert_serves(&mut client, "alive").await;
        }
    }
    assert_grew_less_than(before, 64 * MIB);
    eventually("gone", || (broker.handle.stats().load.clients, broker.handle.stats().load.servers) == (1, 1)).await;
    server.abort();
}

#[tokio::test]
async fn what_is_no_request_or_no_reply_is_dropped_and_counted() {
    let _alone = alone().await;
    let broker = Running::start(tcp()).await;
    let server = ready_server(&broker).await;
    let client = Peer::connect(&broker.clients, SocketType::Dealer).await;
    for frames in [&["no delimiter"][..], &["id", "body"], &["id", ""], &[""]] {
        client.send(frames);
    }
    eventually("malformed", || broker.handle.stats().malformed == 4).await;
    for frames in [&["x"][..], &["8 bytes."], &["8 bytes.", "", "body"], &["_dsv2"], &["_dsv2", "what"]] {
        server.send(frames);
    }
    eventually("stray", || broker.handle.stats().replies_stray == 5).await;
    let stats = broker.handle.stats();
    assert_eq!((stats.requests, stats.replies, stats.load.available_servers), (0, 0, 1));
}

#[tokio::test]
async fn a_flood_without_servers_is_held_back_at_the_client() {
    let _alone = alone().await;
    let dispatch = DispatchConfig {
        client_waiting: Quota { messages: 100, bytes: MIB },
        wait_deadline_ms: 600_000,
        ..DispatchConfig::default()
    };
    let broker = Running::start(BrokerConfig { dispatch, ..tcp() }).await;
    let mut flooding = Peer::connect(&broker.clients, SocketType::Dealer).await;
    let before = resident_bytes();
    let message = Message::from_frames([&b"id"[..], b"", &[5; 1000]]);
    let outbox = flooding.connection.outbox().clone();
    for _ in 0..100_000 {
        outbox.append(&message).unwrap();
    }
    outbox.flush();
    eventually("parked", || broker.handle.stats().parked > 0).await;
    let mut other = Peer::connect(&broker.clients, SocketType::Dealer).await;
    other.send(&["me", "", "too"]);
    eventually("others wait beside", || broker.handle.stats().load.waiting.messages == 101).await;
    assert!(outbox.queued_bytes() > 80 * MIB, "held back at the client");
    // Our own queue is in this process too.
    assert_grew_less_than(before, 100_000 * 1100 + 32 * MIB);
    // When a server comes, all of it flows.
    let server = echo_server(&broker, |request| request).await;
    assert_eq!(other.recv_text().await, ["me", "", "too"]);
    for _ in 0..100_000 {
        flooding.recv().await;
    }
    assert_eq!(broker.handle.stats().replies, 100_001);
    server.abort();
}

#[tokio::test]
async fn a_client_that_reads_no_replies_is_held_back_and_harms_nobody() {
    let _alone = alone().await;
    const REQUESTS: usize = 2000;
    let config = BrokerConfig {
        client_limits: Limits { outbox_cap_bytes: 4 * MIB, ..Limits::default() },
        dispatch: DispatchConfig { server_window: Quota { messages: 64, bytes: MIB }, ..DispatchConfig::default() },
        ..tcp()
    };
    let broker = Running::start(config).await;
    let large = vec![1; 16 << 10];
    let reply = Message::from_frames([&b"id"[..], b"", &large]);
    let server = echo_server(&broker, move |request| {
        let mut frames: Vec<_> = request.frames().collect();
        if request.last() == b"large" {
            frames.pop();
            frames.push(large.clone().into());
        }
        Message::from_frames(frames)
    })
    .await;
    let mut deaf = raw_peer(&broker.clients, "DEALER", 0).await;
    let mut honest = Peer::connect(&broker.clients, SocketType::Dealer).await;
    assert_serves(&mut honest, "small").await;
    let before = resident_bytes();
    assert!(deaf.write(&Message::from_frames(["id", "", "large"]).wire().repeat(REQUESTS)).await);
    eventually("held back", || {
        let stats = broker.handle.stats();
        stats.held > 0 && stats.load.handed == 0
    })
    .await;
    for _ in 0..100 {
        assert_serves(&mut honest, "small").await;
    }
    let stats = broker.handle.stats();
    assert!(stats.load.waiting.messages <= DispatchConfig::default().client_waiting.messages, "{stats:?}");
    assert!(stats.load.waiting.messages > 0, "{stats:?}");
    assert_grew_less_than(before, 32 * MIB);
    // When it reads at last, it finds every reply.
    for _ in 0..REQUESTS {
        expect_bytes(&mut deaf, reply.wire()).await;
    }
    let stats = broker.handle.stats();
    assert_eq!((stats.disconnected_clients, stats.unknown, stats.rejected), (0, 0, 0), "{stats:?}");
    server.abort();
}

#[tokio::test]
async fn servers_that_come_and_go_in_the_middle_leave_no_request_unanswered() {
    let _alone = alone().await;
    let broker = Running::start(tcp()).await;
    let mut client = Peer::connect(&broker.clients, SocketType::Dealer).await;
    let steady = echo_server(&broker, |request| request).await;
    client.send(&["", "settle down here"]);
    client.recv().await;
    for round in 0..30u32 {
        let mut unsteady = ready_server(&broker).await;
        // A new client takes the server with the fewest clients: the new one.
        let mut victim = Peer::connect(&broker.clients, SocketType::Dealer).await;
        for n in 0..20u32 {
            victim.send(&[&n.to_string(), "", "x"]);
            client.send(&[&n.to_string(), "", "y"]);
        }
        let handed = unsteady.recv().await;
        unsteady.send_message(&handed);
        assert_eq!(victim.recv_text().await, ["0", "", "x"]);
        drop(unsteady);
        let mut ids = std::collections::BTreeSet::new();
        for _ in 1..20 {
            let reply = victim.recv().await;
            assert!(ids.insert(reply.first().to_vec()), "answered twice in round {round}");
            assert_eq!(reply.last(), b"ServerLost Unknown: x");
        }
        for n in 0..20u32 {
            assert_eq!(client.recv_text().await, [&n.to_string(), "", "y"]);
        }
    }
    assert_eq!(broker.handle.stats().unknown, 30 * 19);
    assert_eq!(broker.handle.stats().load.handed, 0);
    steady.abort();
}
