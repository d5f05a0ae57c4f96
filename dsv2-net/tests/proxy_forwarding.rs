//! What a proxy forwards to whom, and what it tells publishers.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod forwarder_support;
mod zmtp_support;

use std::time::Duration;

use dsv2_net::Endpoint;
use dsv2_net::engine::{MatchMode, Proxy, ProxyConfig, ProxyHandle};
use dsv2_net::zmtp::{Command, Message, SocketType};
use forwarder_support::*;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zmtp_support::*;

struct Running {
    publishers: Endpoint,
    subscribers: Endpoint,
    handle: ProxyHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<dsv2_net::engine::DrainReport>,
}

impl Running {
    async fn start(config: ProxyConfig) -> Self {
        let proxy = Proxy::bind(config).await.unwrap();
        let publishers = proxy.publisher_endpoints().next().unwrap().clone();
        let subscribers = proxy.subscriber_endpoints().next().unwrap().clone();
        let handle = proxy.handle();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(proxy.run(stopped));
        Self { publishers, subscribers, handle, stop: Some(stop), task }
    }

    async fn subscriptions(&self, count: usize) {
        eventually("subscribed", || self.handle.stats().subscriptions == count).await;
    }
}

fn config(publishers: Endpoint, subscribers: Endpoint) -> ProxyConfig {
    ProxyConfig { publishers: vec![publishers], subscribers: vec![subscribers], ..ProxyConfig::default() }
}

fn tcp() -> ProxyConfig {
    config(Endpoint::loopback(), Endpoint::loopback())
}

#[tokio::test]
async fn exact_topics_reach_their_subscribers_and_nobody_else() {
    let proxy = Running::start(tcp()).await;
    let mut an = Peer::subscriber(&proxy.subscribers, &["an", "end"]).await;
    let mut ana = Peer::subscriber(&proxy.subscribers, &["ana", "end"]).await;
    let mut all = Peer::subscriber(&proxy.subscribers, &["", "end"]).await;
    proxy.subscriptions(6).await;
    let publisher = Peer::connect(&proxy.publishers, SocketType::Pub).await;
    for topic in ["an", "ana", "anab", "a", "end"] {
        publisher.send(&[topic, "body", "more"]);
    }
    assert_eq!(an.recv_text().await, ["an", "body", "more"]);
    assert_eq!(an.recv_text().await[0], "end");
    assert_eq!(ana.recv_text().await[0], "ana");
    assert_eq!(ana.recv_text().await[0], "end");
    assert_eq!(all.recv_text().await[0], "end", "the empty topic is a topic like any other");
    let stats = proxy.handle.stats();
    assert_eq!((stats.messages_in, stats.deliveries, stats.unmatched, stats.dropped), (5, 5, 2, 0));
}

#[tokio::test]
async fn prefix_mode_delivers_once_to_whoever_subscribed_twice() {
    let proxy = Running::start(ProxyConfig { match_mode: MatchMode::Prefix, ..tcp() }).await;
    let mut wide = Peer::subscriber(&proxy.subscribers, &["", "an", "ana"]).await;
    let mut narrow = Peer::subscriber(&proxy.subscribers, &["ana"]).await;
    proxy.subscriptions(4).await;
    let publisher = Peer::connect(&proxy.publishers, SocketType::Pub).await;
    for topic in ["an", "anab", "x", "ana"] {
        publisher.send(&[topic]);
    }
    for topic in ["an", "anab", "x", "ana"] {
        assert_eq!(wide.recv_text().await, [topic]);
    }
    assert_eq!(narrow.recv_text().await, ["anab"]);
    assert_eq!(narrow.recv_text().await, ["ana"]);
}

#[tokio::test]
async fn when_one_of_two_subscribers_leaves_the_other_goes_on() {
    let proxy = Running::start(tcp()).await;
    let mut publisher = Peer::connect(&proxy.publishers, SocketType::Pub).await;
    let mut one = Peer::subscriber(&proxy.subscribers, &["t"]).await;
    assert_eq!(publisher.told().await, ("t".into(), true));
    let two = Peer::subscriber(&proxy.subscribers, &["t", "t"]).await;
    let three = Peer::subscriber(&proxy.subscribers, &["t"]).await;
    proxy.subscriptions(3).await;
    two.subscribe("t", false);
    drop(three);
    proxy.subscriptions(1).await;
    publisher.send(&["t", "still"]);
    assert_eq!(one.recv_text().await, ["t", "still"]);
    one.subscribe("u", true);
    // Nothing about `t` came in between.
    assert_eq!(publisher.told().await, ("u".into(), true));
    drop(one);
    let mut withdrawn = [publisher.told().await, publisher.told().await];
    withdrawn.sort();
    assert_eq!(withdrawn, [("t".into(), false), ("u".into(), false)]);
    drop(two);
}

#[tokio::test]
async fn a_publisher_that_comes_late_is_told_everything() {
    let proxy = Running::start(tcp()).await;
    let _subscriber = Peer::subscriber(&proxy.subscribers, &["a", "b", "a", "c"]).await;
    proxy.subscriptions(3).await;
    let mut publisher = Peer::connect(&proxy.publishers, SocketType::Xpub).await;
    let mut told = [publisher.told().await, publisher.told().await, publisher.told().await];
    told.sort();
    assert_eq!(told, [("a".into(), true), ("b".into(), true), ("c".into(), true)]);
}

#[tokio::test]
async fn old_and_new_peers_are_spoken_to_in_their_own_version() {
    let proxy = Running::start(tcp()).await;
    let mut old_publisher = raw_peer(&proxy.publishers, "PUB", 0).await;
    let mut new_publisher = raw_peer(&proxy.publishers, "PUB", 1).await;
    let mut old_subscriber = raw_peer(&proxy.subscribers, "SUB", 0).await;
    let mut new_subscriber = raw_peer(&proxy.subscribers, "SUB", 1).await;
    let as_message = Command::subscription(b"t", true, false);
    let as_command = Command::subscription(b"t", true, true);
    assert_eq!(&as_message[..], b"\x00\x02\x01t");
    eventually("publishers", || proxy.handle.stats().publishers == 2).await;
    assert!(old_subscriber.write(&as_message).await);
    proxy.subscriptions(1).await;
    assert!(new_subscriber.write(&as_command).await);
    proxy.subscriptions(2).await;
    expect_bytes(&mut old_publisher, &as_message).await;
    expect_bytes(&mut new_publisher, &as_command).await;
    // A long frame for few bytes is allowed; it is forwarded as it came.
    let odd = b"\x03\0\0\0\0\0\0\0\x01t\x00\x04body";
    assert!(old_publisher.write(odd).await);
    expect_bytes(&mut old_subscriber, odd).await;
    expect_bytes(&mut new_subscriber, odd).await;
    assert!(old_subscriber.write(&Command::subscription(b"t", false, false)).await);
    assert!(new_subscriber.write(&Command::subscription(b"t", false, true)).await);
    expect_bytes(&mut old_publisher, &Command::subscription(b"t", false, false)).await;
    expect_bytes(&mut new_publisher, &Command::subscription(b"t", false, true)).await;
}

#[tokio::test]
async fn memory_and_ipc_work_like_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let ipc = Endpoint::Ipc { path: dir.path().join("subscribers").to_str().unwrap().into() };
    let mut config = config(Endpoint::memory("proxy-test-publishers"), ipc.clone());
    config.subscribers.push(Endpoint::memory("proxy-test-subscribers"));
    let proxy = Running::start(config).await;
    let mut over_ipc = Peer::subscriber(&ipc, &["t"]).await;
    let mut in_memory = Peer::subscriber(&Endpoint::memory("proxy-test-subscribers"), &["t"]).await;
    proxy.subscriptions(2).await;
    let publisher = Peer::connect(&proxy.publishers, SocketType::Pub).await;
    publisher.send(&["t", "x"]);
    assert_eq!(over_ipc.recv_text().await, ["t", "x"]);
    assert_eq!(in_memory.recv_text().await, ["t", "x"]);
}

#[tokio::test]
async fn interleaved_topics_and_large_messages_arrive_whole_and_in_order() {
    let proxy = Running::start(tcp()).await;
    let mut both = Peer::subscriber(&proxy.subscribers, &["a", "b"]).await;
    let mut only_b = Peer::subscriber(&proxy.subscribers, &["b"]).await;
    proxy.subscriptions(3).await;
    let publisher = Peer::connect(&proxy.publishers, SocketType::Pub).await;
    let mut sent = Vec::new();
    for n in 0..600usize {
        // Around every size at which something else happens: short and long frames, shared or copied, chunk sizes.
        let size = [1, 200, 254, 255, 256, 300, 16 << 10, 70_000, 300_000][n % 9] + n % 3;
        let topic = if n % 5 < 2 { "a" } else { "b" };
        sent.push(Message::from_frames([topic.as_bytes(), &vec![n as u8; size]]));
    }
    let expected = sent.clone();
    let receiving = tokio::spawn(async move {
        for message in &expected {
            assert_eq!(&both.recv().await, message);
        }
        for message in expected.iter().filter(|m| m.first() == b"b") {
            assert_eq!(&only_b.recv().await, message);
        }
    });
    for message in &sent {
        publisher.send_message(message);
    }
    within("reception", receiving).await.unwrap();
}

#[tokio::test]
async fn a_graceful_end_delivers_what_was_accepted() {
    let mut proxy = Running::start(ProxyConfig { drain_timeout: Duration::from_secs(10), ..tcp() }).await;
    let mut subscriber = Peer::subscriber(&proxy.subscribers, &["t"]).await;
    proxy.subscriptions(1).await;
    let mut publisher = Peer::connect(&proxy.publishers, SocketType::Pub).await;
    let message = Message::from_frames([&b"t"[..], &[7; 1000]]);
    for _ in 0..5000 {
        publisher.send_message(&message);
    }
    eventually("accepted", || proxy.handle.stats().deliveries == 5000).await;
    proxy.stop.take().unwrap().send(()).unwrap();
    subscriber.closed().await;
    assert_eq!(subscriber.received().len(), 5000);
    let report = within("end", proxy.task).await.unwrap();
    assert_eq!((report.drained, report.cut, report.unsent_messages), (1, 0, 0));
    publisher.closed().await;
}
