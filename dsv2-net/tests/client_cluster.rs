//! The client SDK against a whole cluster in this process.
#![cfg(all(feature = "client", feature = "cluster"))]

use std::future::IntoFuture;
use std::time::Duration;

use dsv2_core::{Code, EventId, Feed, Level};
use dsv2_net::client::{
    Changed, Client, ClientBuilder, ConnectError, Cursor, Delivery, IdempotencyKey, Message, Order, Subscription,
    WriteError,
};
use dsv2_net::cluster::{Cluster, ClusterOptions};
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

async fn cluster(servers: usize) -> Cluster {
    Cluster::start(ClusterOptions::memory(servers)).await.expect("it starts")
}

fn describe(cluster: &Cluster) -> ClientBuilder {
    Client::builder(cluster.endpoints().clients.to_string()).timeout(PATIENCE).connect_timeout(PATIENCE)
}

async fn connect(cluster: &Cluster, user: &str) -> Client {
    describe(cluster).user(user).connect().await.expect("it connects")
}

/// The next message; other deliveries are passed.
async fn message(subscription: &mut Subscription) -> Message {
    let next = async {
        loop {
            match subscription.next().await.expect("the client lives") {
                Delivery::Message(message) => return message,
                Delivery::Gap { missing, .. } => panic!("a gap at {missing:?}"),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, next).await.expect("a message in time")
}

#[tokio::test]
async fn a_channel_from_end_to_end() {
    let cluster = cluster(3).await;
    let (ana, bob) = (connect(&cluster, "ana").await, connect(&cluster, "bob").await);
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    dev.create().await.expect("creating twice is a success");
    assert_eq!(ana.channels().await.expect("channels"), ["dev"]);
    let mut news = bob.subscribe(["dev"]).await.expect("subscribed");
    assert!(news.is_gapless());
    let receipt = dev.publish("hello").await.expect("acknowledged");
    assert_eq!(receipt.level, Some(Level::Quorum));
    let first = message(&mut news).await;
    assert_eq!((first.text(), first.author(), &first.publication.event), ("hello", "ana", &receipt.event));
    assert_eq!(first.topic, Feed::Channel("dev".parse().expect("a name")));
    dev.publish_as(&("order", 7)).level(Level::All).await.expect("acknowledged by all");
    assert_eq!(message(&mut news).await.parse::<(String, u32)>().expect("a pair"), ("order".to_owned(), 7));
    assert_eq!(ana.users().await.expect("users"), ["ana", "bob"]);
    let status = ana.status().await.expect("a status");
    assert_eq!((status.users, status.channels), (2, 1));
    let page = bob.channel("dev").history().limit(1).await.expect("history");
    assert_eq!(page.messages.len(), 1);
    let older = bob.channel("dev").history().before(page.oldest().expect("a key")).await.expect("history");
    assert_eq!(older.messages[0].body.text(), "hello");
    assert!(!older.more);
    cluster.stop().await.expect("it stops");
}

#[tokio::test]
async fn private_messages_and_their_history() {
    let cluster = cluster(1).await;
    let (ana, bob) = (connect(&cluster, "ana").await, connect(&cluster, "bob").await);
    let mut inbox = bob.inbox().await.expect("subscribed");
    ana.message("bob", "psst").await.expect("sent");
    let received = message(&mut inbox).await;
    assert_eq!((received.text(), received.author()), ("psst", "ana"));
    assert_eq!(received.topic, Feed::Inbox("bob".parse().expect("a name")));
    bob.message("ana", "what?").await.expect("sent");
    let both = ana.history_with("bob").await.expect("history");
    assert_eq!(both.messages.iter().map(|m| m.body.text()).collect::<Vec<_>>(), ["psst", "what?"]);
    assert_eq!(ana.inbox_history().await.expect("history").messages.len(), 1);
    let nobody = describe(&cluster).connect().await.expect("it connects");
    assert!(nobody.inbox().await.is_err());
    assert!(nobody.history_with("ana").await.is_err());
    let refused = nobody.channel("dev").publish("x").await.expect_err("nobody cannot write");
    assert_eq!(
        (refused.changed(), refused.retry_helps(), refused.code()),
        (Changed::No, false, Some(Code::UnknownUser))
    );
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_that_nothing_changed() {
    let cluster = cluster(1).await;
    let ana = connect(&cluster, "ana").await;
    for (error, code) in [
        (ana.channel("nowhere").publish("x").await.expect_err("no such channel"), Some(Code::UnknownChannel)),
        (ana.channel("../etc").create().await.expect_err("no name"), None),
        (ana.channel("dev").publish("x".repeat(300 << 10)).await.expect_err("too large"), None),
        (ana.message("nobody", "x").await.expect_err("no such user"), Some(Code::UnknownUser)),
        (ana.channel("ana").create().await.expect_err("a user's name"), Some(Code::NameTaken)),
    ] {
        assert_eq!((error.code(), error.changed(), error.retry_helps()), (code, Changed::No, false), "{error}");
    }
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let key = IdempotencyKey::new("order-7").expect("a key");
    let once = dev.publish("seven").with_key(key.clone()).await.expect("acknowledged");
    let twice = dev.publish("seven").with_key(key.clone()).await.expect("acknowledged again");
    assert_eq!(once.event, twice.event);
    let other = dev.publish("eight").with_key(key).await.expect_err("the key is used");
    assert_eq!(other.code(), Some(Code::IdReused));
    ana.drain(PATIENCE).await;
    assert_eq!(dev.publish("late").await, Err(WriteError::Closed));
    for (builder, what) in [
        (Client::builder("nonsense"), "an endpoint"),
        (Client::builder("ipc:///tmp/x"), "a proxy"),
        (describe(&cluster).user("a/b"), "a user"),
    ] {
        assert!(builder.connect().await.is_err(), "{what}");
    }
    let nobody_there = Client::builder("memory://nobody/clients").connect_timeout(Duration::from_millis(300));
    let error = nobody_there.connect().await.expect_err("nobody is there");
    assert!(matches!(error, ConnectError::Unreachable) && error.retry_helps());
}

#[tokio::test]
async fn a_stored_position_continues_exactly_where_it_was() {
    let cluster = cluster(1).await;
    let ana = connect(&cluster, "ana").await;
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut publisher = dev.publisher().expect("a name");
    for n in 0..500 {
        publisher.send(n.to_string()).await.expect("queued");
    }
    assert_eq!(publisher.flush().await.expect("all acknowledged"), 500);
    let mut next = 0;
    let mut cursor = Cursor::Beginning;
    while next < 500 {
        let mut news = ana.subscribe(["dev"]).from(cursor).await.expect("subscribed");
        let mut stored = String::new();
        for _ in 0..77.min(500 - next) {
            let message = message(&mut news).await;
            assert_eq!(message.text(), next.to_string());
            stored = serde_json::to_string(&message.position).expect("serializable");
            next += 1;
        }
        cursor = Cursor::At(serde_json::from_str(&stored).expect("its own form"));
    }
    let mut rest = ana.subscribe(["dev"]).from(cursor).await.expect("subscribed");
    dev.publish("last").await.expect("acknowledged");
    assert_eq!(message(&mut rest).await.text(), "last");
}

#[tokio::test]
async fn a_slow_consumer_gets_everything_in_bounded_memory() {
    let cluster = cluster(1).await;
    let ana = connect(&cluster, "ana").await;
    let slow = describe(&cluster).window(16).session(|session| session.held = 64).connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = slow.subscribe(["dev"]).await.expect("subscribed");
    let mut publisher = dev.publisher().expect("a name");
    for n in 0..5_000 {
        publisher.send(n.to_string()).await.expect("queued");
    }
    publisher.flush().await.expect("all acknowledged");
    for n in 0..5_000 {
        assert_eq!(message(&mut news).await.text(), n.to_string());
    }
}

#[tokio::test]
async fn any_server_may_die_and_nothing_is_lost_or_doubled() {
    let data = tempfile::tempdir().expect("a directory");
    let mut options = ClusterOptions::memory(3);
    options.data = Some(data.path().to_owned());
    let mut cluster = Cluster::start(options).await.expect("it starts");
    let (ana, bob) = (connect(&cluster, "ana").await, connect(&cluster, "bob").await);
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = bob.subscribe(["dev"]).await.expect("subscribed");
    let writer = tokio::spawn(async move {
        let mut written = Vec::new();
        for n in 0..300 {
            let receipt = dev.publish(n.to_string()).await.unwrap_or_else(|error| panic!("{n}: {error}"));
            written.push(receipt.event.expect("a receipt"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        written
    });
    let mut seen: Vec<(String, EventId)> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for server in [0, 1, 2] {
        let goal = seen.len() + 40;
        while seen.len() < goal {
            assert!(Instant::now() < deadline, "{} seen", seen.len());
            let message = message(&mut news).await;
            seen.push((message.text().to_owned(), message.publication.event.clone().expect("an event")));
        }
        cluster.stop_server(server).await.expect("it stops");
        cluster.start_server(server).await.expect("it starts");
    }
    while seen.len() < 300 {
        let message = message(&mut news).await;
        seen.push((message.text().to_owned(), message.publication.event.clone().expect("an event")));
    }
    let written = writer.await.expect("the writer ends");
    let mut texts: Vec<u32> = seen.iter().map(|(text, _)| text.parse().expect("a number")).collect();
    texts.sort_unstable();
    assert_eq!(texts, (0..300).collect::<Vec<_>>());
    assert_eq!(written.len(), 300);
}

#[tokio::test]
async fn a_drain_answers_everything_and_ends_subscriptions() {
    let cluster = cluster(1).await;
    let ana = connect(&cluster, "ana").await;
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).await.expect("subscribed");
    let mut publisher = dev.publisher().expect("a name");
    for n in 0..100 {
        publisher.send(n.to_string()).await.expect("queued");
    }
    let report = ana.drain(PATIENCE).await;
    assert_eq!((report.unknown, report.failed), (0, 0));
    assert_eq!(publisher.flush().await.expect("all acknowledged"), 100);
    let rest = timeout(PATIENCE, async { while news.next().await.is_some() {} }).await;
    assert!(rest.is_ok(), "a subscription ends with its client");
    assert_eq!(ana.drain(PATIENCE).await.flushed, 0, "draining twice does no harm");
}

/// Logical times and texts of so many messages.
async fn in_order(subscription: &mut Subscription, count: usize) -> Vec<(Option<dsv2_core::Clock>, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = message(subscription).await;
        seen.push((message.publication.clock, message.text().to_owned()));
    }
    seen
}

#[tokio::test]
async fn two_subscribers_see_one_stable_order() {
    let cluster = cluster(3).await;
    let (ana, bob) = (connect(&cluster, "ana").await, connect(&cluster, "bob").await);
    ana.channel("dev").create().await.expect("created");
    let stable = |client: &Client| client.subscribe(["dev"]).from(Cursor::Beginning).order(Order::Stable).into_future();
    let (mut one, mut two) = (stable(&ana).await.expect("subscribed"), stable(&bob).await.expect("subscribed"));
    let write = |client: Client, who: &'static str| async move {
        for n in 0..100 {
            client.channel("dev").publish(format!("{who} {n}")).await.expect("acknowledged");
        }
    };
    let ((), (), first, second) = tokio::join!(
        write(ana.clone(), "ana"),
        write(bob.clone(), "bob"),
        in_order(&mut one, 200),
        in_order(&mut two, 200)
    );
    assert_eq!(first, second);
    assert!(first.is_sorted_by_key(|(clock, _)| *clock));
}

#[tokio::test]
async fn a_killed_server_holds_nobody_up() {
    let data = tempfile::tempdir().expect("a directory");
    let mut options = ClusterOptions::memory(3);
    options.data = Some(data.path().to_owned());
    let mut cluster = Cluster::start(options).await.expect("it starts");
    let (ana, bob) = (connect(&cluster, "ana").await, connect(&cluster, "bob").await);
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = bob.subscribe(["dev"]).await.expect("subscribed");
    for server in 0..3 {
        dev.publish(format!("before {server}")).await.expect("acknowledged");
        cluster.kill_server(server);
        dev.publish(format!("after {server}")).await.expect("acknowledged by the other two");
        for text in [format!("before {server}"), format!("after {server}")] {
            assert_eq!(message(&mut news).await.text(), text);
        }
        // What was killed in this very process holds its directory until its storage thread has ended.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = cluster.start_server(server).await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A program keeps its position in a file; the program and the whole cluster end, and go on later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persisted_position_goes_on_in_a_restarted_cluster() {
    let data = tempfile::tempdir().expect("a directory");
    let mut options = ClusterOptions::memory(3);
    options.data = Some(data.path().to_owned());
    let file = data.path().join("position.json");
    let first = Cluster::start(options.clone()).await.expect("it starts");
    let ana = connect(&first, "ana").await;
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).from(Cursor::Beginning).await.expect("subscribed");
    for n in 0..10 {
        dev.publish(n.to_string()).await.expect("acknowledged");
    }
    for n in 0..4 {
        let message = message(&mut news).await;
        assert_eq!(message.text(), n.to_string());
        std::fs::write(&file, serde_json::to_vec(&message.position).expect("serializable")).expect("written");
    }
    drop((news, dev, ana));
    first.stop().await.expect("it stops");
    let second = Cluster::start(options).await.expect("it starts again, with what it had");
    let ana = connect(&second, "ana").await;
    let stored = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("its own form");
    let mut news = ana.subscribe(["dev"]).from(Cursor::At(stored)).await.expect("subscribed");
    ana.channel("dev").publish("10").await.expect("acknowledged");
    for n in 4..=10 {
        assert_eq!(message(&mut news).await.text(), n.to_string(), "nothing missed, nothing twice");
    }
}

#[tokio::test]
async fn a_subscription_is_a_stream() {
    use futures_core::Stream;
    let cluster = cluster(1).await;
    let ana = connect(&cluster, "ana").await;
    ana.channel("dev").create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).and_inbox().await.expect("subscribed");
    ana.channel("dev").publish("to all").await.expect("acknowledged");
    ana.message("ana", "to myself").await.expect("acknowledged");
    let mut texts = Vec::new();
    while texts.len() < 2 {
        let next = std::future::poll_fn(|cx| std::pin::Pin::new(&mut news).poll_next(cx));
        if let Some(Delivery::Message(message)) = timeout(PATIENCE, next).await.expect("in time") {
            texts.push(message.text().to_owned());
        }
    }
    texts.sort();
    assert_eq!(texts, ["to all", "to myself"]);
}
