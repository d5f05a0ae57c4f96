//! Peers of a proxy that are slow, broken or greedy: they harm themselves only.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod forwarder_support;
mod zmtp_support;

use std::time::Duration;

use dsv2_net::Endpoint;
use dsv2_net::engine::{Limits, Proxy, ProxyConfig, ProxyHandle, SlowPolicy, SubscriptionLimits};
use dsv2_net::zmtp::{Command, Message, SocketType};
use forwarder_support::*;
use zmtp_support::*;

const MIB: usize = 1 << 20;

async fn start(config: ProxyConfig) -> (Proxy, Endpoint, Endpoint, ProxyHandle) {
    let config =
        ProxyConfig { publishers: vec![Endpoint::loopback()], subscribers: vec![Endpoint::loopback()], ..config };
    let proxy = Proxy::bind(config).await.unwrap();
    let publishers = proxy.publisher_endpoints().next().unwrap().clone();
    let subscribers = proxy.subscriber_endpoints().next().unwrap().clone();
    let handle = proxy.handle();
    (proxy, publishers, subscribers, handle)
}

/// Publishes `rounds` times a megabyte and sees each arrive at `honest` before the next.
async fn publish(publisher: &Peer, honest: &mut Peer, rounds: usize) {
    let message = Message::from_frames([&b"t"[..], &[1; 16 << 10]]);
    for _ in 0..rounds {
        for _ in 0..64 {
            publisher.send_message(&message);
        }
        for _ in 0..64 {
            assert_eq!(honest.recv().await.last().len(), 16 << 10);
        }
    }
}

/// A subscriber that reads nothing from now on.
async fn stalled(subscribers: &Endpoint) -> Raw {
    let mut raw = raw_peer(subscribers, "SUB", 1).await;
    assert!(raw.write(&Command::subscription(b"t", true, true)).await);
    raw
}

#[tokio::test]
async fn a_stalled_subscriber_costs_its_cap_and_nobody_else_anything() {
    let _alone = alone().await;
    let subscriber_limits = Limits { outbox_cap_bytes: 4 * MIB, ..Limits::default() };
    let (_proxy, publishers, subscribers, handle) =
        start(ProxyConfig { subscriber_limits, ..ProxyConfig::default() }).await;
    let _stalled = stalled(&subscribers).await;
    let mut honest = Peer::subscriber(&subscribers, &["t"]).await;
    eventually("subscribed", || handle.stats().subscriptions == 2).await;
    let publisher = Peer::connect(&publishers, SocketType::Pub).await;
    let before = resident_bytes();
    publish(&publisher, &mut honest, 128).await;
    let stats = handle.stats();
    assert!(stats.queued_bytes <= 4 * MIB + 256 * 1024, "{stats:?}");
    assert!(stats.dropped > 128 * 64 * 9 / 10, "{stats:?}");
    assert_eq!((stats.subscribers, stats.disconnected_slow, stats.disconnected_largest), (2, 0, 0));
    // Buffers at the ends of this test included.
    assert_grew_less_than(before, 32 * MIB);
}

#[tokio::test]
async fn by_policy_a_stalled_subscriber_is_disconnected() {
    let _alone = alone().await;
    let subscriber_limits = Limits { outbox_cap_bytes: 2 * MIB, ..Limits::default() };
    let config = ProxyConfig { subscriber_limits, slow_policy: SlowPolicy::Disconnect, ..ProxyConfig::default() };
    let (_proxy, publishers, subscribers, handle) = start(config).await;
    let mut stalled = stalled(&subscribers).await;
    let mut honest = Peer::subscriber(&subscribers, &["t"]).await;
    eventually("subscribed", || handle.stats().subscriptions == 2).await;
    let publisher = Peer::connect(&publishers, SocketType::Pub).await;
    publish(&publisher, &mut honest, 16).await;
    eventually("disconnected", || handle.stats().subscribers == 1).await;
    stalled.read_to_end().await;
    let stats = handle.stats();
    assert_eq!((stats.disconnected_slow, stats.subscriptions), (1, 1));
}

#[tokio::test]
async fn many_stalled_subscribers_cannot_take_the_room_of_others() {
    let _alone = alone().await;
    let subscriber_limits = Limits { outbox_cap_bytes: 8 * MIB, outbox_total_cap_bytes: 32 * MIB, ..Limits::default() };
    let (_proxy, publishers, subscribers, handle) =
        start(ProxyConfig { subscriber_limits, ..ProxyConfig::default() }).await;
    let mut all_stalled = Vec::new();
    for _ in 0..100 {
        all_stalled.push(stalled(&subscribers).await);
    }
    let mut honest = Peer::subscriber(&subscribers, &["t"]).await;
    eventually("subscribed", || handle.stats().subscriptions == 101).await;
    let publisher = Peer::connect(&publishers, SocketType::Pub).await;
    let before = resident_bytes();
    // 100 × 16 MiB would be fifty times the cap of all; `DSV2_STALL_MIB` publishes more.
    let mib = std::env::var("DSV2_STALL_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(16);
    publish(&publisher, &mut honest, mib).await;
    let stats = handle.stats();
    assert!(stats.queued_bytes <= 32 * MIB, "{stats:?}");
    assert!(stats.disconnected_largest >= 16, "{stats:?}");
    assert_grew_less_than(before, 64 * MIB);
}

/// One message for all weighs more here than what the pressure leaves free, and the stalled ones are served first.
#[tokio::test]
async fn a_large_message_finds_room_for_who_reads() {
    let _alone = alone().await;
    let subscriber_limits = Limits { outbox_cap_bytes: 8 * MIB, outbox_total_cap_bytes: 32 * MIB, ..Limits::default() };
    let (_proxy, publishers, subscribers, handle) =
        start(ProxyConfig { subscriber_limits, ..ProxyConfig::default() }).await;
    let mut all_stalled = Vec::new();
    for _ in 0..10 {
        all_stalled.push(stalled(&subscribers).await);
    }
    eventually("subscribed", || handle.stats().subscriptions == 10).await;
    let mut honest = Peer::subscriber(&subscribers, &["t"]).await;
    eventually("subscribed", || handle.stats().subscriptions == 11).await;
    let publisher = Peer::connect(&publishers, SocketType::Pub).await;
    let mut rounds = 0;
    while handle.stats().queued_bytes < 22 * MIB {
        publish(&publisher, &mut honest, 1).await;
        rounds += 1;
        assert!(rounds < 64, "nothing is queued: {:?}", handle.stats());
    }
    let large = Message::from_frames([&b"t"[..], &vec![2; 2 * MIB]]);
    publisher.send_message(&large);
    assert_eq!(honest.recv().await, large);
    let stats = handle.stats();
    assert!(stats.queued_bytes <= 32 * MIB && stats.disconnected_largest > 0, "{stats:?}");
}

#[tokio::test]
async fn hostile_bytes_on_either_side_disturb_nobody() {
    let _alone = alone().await;
    let short = Limits { handshake_timeout: Duration::from_millis(500), ..Limits::default() };
    let config = ProxyConfig { publisher_limits: short.clone(), subscriber_limits: short, ..ProxyConfig::default() };
    let (_proxy, publishers, subscribers, handle) = start(config).await;
    let mut honest = Peer::subscriber(&subscribers, &["t"]).await;
    eventually("subscribed", || handle.stats().subscriptions == 1).await;
    let publisher = Peer::connect(&publishers, SocketType::Pub).await;
    let before = resident_bytes();
    for endpoint in [&publishers, &subscribers] {
        for opening in hostile_openings() {
            let mut raw = Raw::connect(endpoint).await;
            // Hung up on in the middle of the writing is fine.
            raw.write(&opening).await;
            raw.read_to_end().await;
            publisher.send(&["t", "alive"]);
            assert_eq!(honest.recv_text().await, ["t", "alive"]);
        }
    }
    assert_grew_less_than(before, 64 * MIB);
    eventually("gone", || {
        let stats = handle.stats();
        (stats.publishers, stats.subscribers) == (1, 1)
    })
    .await;
}

#[tokio::test]
async fn a_publisher_cut_in_the_middle_of_a_message_leaves_nothing_behind() {
    let _alone = alone().await;
    let (_proxy, publishers, subscribers, handle) = start(ProxyConfig::default()).await;
    let mut honest = Peer::subscriber(&subscribers, &["t"]).await;
    eventually("subscribed", || handle.stats().subscriptions == 1).await;
    let mut cut = raw_peer(&publishers, "PUB", 1).await;
    let whole = Message::from_frames(["t", "whole"]);
    let half = Message::from_frames(["t", "never whole"]);
    assert!(cut.write(&[&whole.wire()[..], &half.wire()[..10]].concat()).await);
    assert_eq!(honest.recv().await, whole);
    drop(cut);
    eventually("gone", || handle.stats().publishers == 0).await;
    let publisher = Peer::connect(&publishers, SocketType::Pub).await;
    publisher.send(&["t", "next"]);
    assert_eq!(honest.recv_text().await, ["t", "next"]);
}

#[tokio::test]
async fn greedy_subscriptions_and_upstream_messages_are_refused_and_counted() {
    let _alone = alone().await;
    let subscriptions =
        SubscriptionLimits { topics_per_peer: 100, topic_cap_bytes: 64, ..SubscriptionLimits::default() };
    let (_proxy, publishers, subscribers, handle) =
        start(ProxyConfig { subscriptions, ..ProxyConfig::default() }).await;
    let mut publisher = Peer::connect(&publishers, SocketType::Pub).await;
    eventually("publisher", || handle.stats().publishers == 1).await;
    let greedy = Peer::connect(&subscribers, SocketType::Xsub).await;
    for n in 0..150 {
        greedy.subscribe(&format!("topic {n}"), true);
    }
    greedy.subscribe(&"long".repeat(100), true);
    greedy.send(&["\u{2}not a subscription", "at all"]);
    eventually("refused", || handle.stats().ignored == 1).await;
    let stats = handle.stats();
    assert_eq!((stats.subscriptions, stats.topics, stats.subscriptions_refused), (100, 100, 51));
    for n in 0..100 {
        assert_eq!(publisher.told().await, (format!("topic {n}"), true));
    }
    drop(greedy);
    for _ in 0..100 {
        assert!(!publisher.told().await.1);
    }
    assert_eq!(handle.stats().topics, 0);
}

#[tokio::test]
async fn a_publisher_deaf_to_subscriptions_is_let_go_and_does_not_stop_subscribers() {
    let _alone = alone().await;
    let subscriptions = SubscriptionLimits { names_cap_bytes: 64 << 10, topics: 1000, ..SubscriptionLimits::default() };
    let publisher_limits = Limits { outbox_cap_bytes: 64 << 10, ..Limits::default() };
    let config = ProxyConfig { subscriptions, publisher_limits, ..ProxyConfig::default() };
    let (_proxy, publishers, subscribers, handle) = start(config).await;
    let mut deaf = raw_peer(&publishers, "PUB", 1).await;
    eventually("publisher", || handle.stats().publishers == 1).await;
    let flood = tokio::spawn(async move {
        let peer = Peer::connect(&subscribers, SocketType::Sub).await;
        let topic = "x".repeat(1000);
        for _ in 0..20_000 {
            for subscribe in [true, false] {
                let wire = Command::subscription(topic.as_bytes(), subscribe, true);
                while peer.connection.outbox().append_wire(&wire, 0).is_err() {
                    peer.connection.outbox().writable().await.unwrap();
                }
            }
            peer.connection.outbox().flush();
        }
        peer.connection.outbox().flushed().await.unwrap();
    });
    eventually("let go", || handle.stats().disconnected_publishers == 1).await;
    deaf.read_to_end().await;
    within("the flood", flood).await.unwrap();
}
