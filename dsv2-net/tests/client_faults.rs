//! The client SDK when connections are cut, when it is moved, and among servers of the family.
#![cfg(all(feature = "client", feature = "cluster"))]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dsv2_core::{Clock, Code, Format, Limits, RawTimestamp, Reply, ReplyBody, Request, RequestBody};
use dsv2_net::client::{Changed, Client, ClientBuilder, Cursor, Delivery, Subscription};
use dsv2_net::cluster::{Cluster, ClusterOptions};
use dsv2_net::engine::{self, Router, RouterEvent};
use dsv2_net::port::Transport;
use dsv2_net::zmtp::Message;
use dsv2_net::{Endpoint, client};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// A relay in front of a TCP endpoint, whose connections can be cut, and which can refuse new ones.
struct Relay {
    address: SocketAddr,
    /// Connections end when the number changes; none are taken while it is odd.
    cuts: watch::Sender<u64>,
}

impl Relay {
    async fn start(target: &Endpoint) -> Self {
        let Endpoint::Tcp { port, .. } = target else { panic!("{target} is not TCP") };
        let target: SocketAddr = ([127, 0, 0, 1], *port).into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (cuts, watched) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut watched = watched.clone();
                let cuts: u64 = *watched.borrow_and_update();
                if !cuts.is_multiple_of(2) {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = watched.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn endpoint(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// Ends all connections; new ones are taken.
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 2);
    }

    /// Ends all connections and takes none, or takes them again.
    fn toggle(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

struct Bench {
    cluster: Cluster,
    broker: Relay,
    proxy: Relay,
}

impl Bench {
    async fn start() -> Self {
        let cluster = Cluster::start(ClusterOptions::local(1, 0)).await.expect("it starts");
        let broker = Relay::start(&cluster.endpoints().clients).await;
        let proxy = Relay::start(&cluster.endpoints().subscribers).await;
        Self { cluster, broker, proxy }
    }

    fn describe(&self) -> ClientBuilder {
        let builder = Client::builder(self.broker.endpoint()).proxy(self.proxy.endpoint());
        builder
            .timeout(PATIENCE)
            .connect_timeout(PATIENCE)
            .ports(|ports| ports.backoff.cap = Duration::from_millis(200))
    }
}

/// Takes messages until there are so many, and checks that none comes twice; yields what else was delivered.
async fn collect(subscription: &mut Subscription, count: usize) -> (BTreeSet<String>, Vec<Delivery>) {
    let (mut texts, mut others) = (BTreeSet::new(), Vec::new());
    let all = async {
        while texts.len() < count {
            match subscription.next().await.expect("the client lives") {
                Delivery::Message(message) => {
                    assert!(texts.insert(message.text().to_owned()), "{} twice", message.text());
                }
                Delivery::Gap { missing, .. } => panic!("a gap at {missing:?}"),
                other => others.push(other),
            }
        }
    };
    timeout(PATIENCE, all).await.expect("all in time");
    (texts, others)
}

#[tokio::test]
async fn cut_connections_lose_and_double_nothing() {
    let bench = Bench::start().await;
    let ana = bench.describe().user("ana").connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).await.expect("subscribed");
    let mut publisher = dev.publisher().expect("a name");
    let writing = async {
        for n in 0..3_000 {
            publisher.send(n.to_string()).await.expect("queued");
            if n % 500 == 250 {
                bench.broker.cut();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if n % 1_000 == 800 {
                bench.proxy.cut();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        publisher.flush().await
    };
    let (written, (texts, others)) = tokio::join!(writing, collect(&mut news, 3_000));
    assert_eq!(written.expect("all acknowledged"), 3_000);
    assert_eq!(texts.len(), 3_000);
    assert!(others.iter().any(|other| matches!(other, Delivery::Reconnected)), "{others:?}");
    let page = dev.history().limit(1_000).await.expect("history");
    assert_eq!(page.messages.last().map(|message| message.body.text()), Some("2999"));
}

#[tokio::test]
async fn without_a_proxy_subscriptions_go_on_by_history() {
    let bench = Bench::start().await;
    let ana = bench.describe().user("ana").connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).await.expect("subscribed");
    bench.proxy.toggle();
    let mut state = ana.clone();
    while state.state().proxy_connected {
        timeout(PATIENCE, state.state_changed()).await.expect("in time");
    }
    for n in 0..5 {
        dev.publish(n.to_string()).await.expect("acknowledged");
        collect(&mut news, 1).await;
    }
    bench.proxy.toggle();
    let back = async { while !matches!(news.next().await, Some(Delivery::Reconnected)) {} };
    timeout(PATIENCE, back).await.expect("it comes back");
}

#[tokio::test]
async fn another_endpoint_is_tried_and_writes_go_on() {
    let bench = Bench::start().await;
    let second = (
        Relay::start(&bench.cluster.endpoints().clients).await,
        Relay::start(&bench.cluster.endpoints().subscribers).await,
    );
    let builder = bench.describe().user("ana").or(second.0.endpoint()).proxy(second.1.endpoint());
    let ana = builder.connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).await.expect("subscribed");
    bench.broker.toggle();
    bench.proxy.toggle();
    dev.publish("over there").await.expect("acknowledged");
    let (texts, _) = collect(&mut news, 1).await;
    assert!(texts.contains("over there"));
}

/// Pauses before attempts grow while connections do not last; who knows another endpoint does not sit them out.
#[tokio::test]
async fn connections_that_break_again_and_again_hold_nobody_up_who_knows_another_endpoint() {
    let bench = Bench::start().await;
    let second = Relay::start(&bench.cluster.endpoints().clients).await;
    let builder = bench.describe().user("ana").or(second.endpoint());
    let patient = |ports: &mut dsv2_net::port::PortLimits| ports.backoff = dsv2_net::port::Backoff::default();
    let ana = builder.ports(patient).connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    for round in 0..12 {
        bench.broker.cut();
        second.cut();
        let cut = std::time::Instant::now();
        dev.publish(format!("text {round}")).await.expect("acknowledged");
        let took = cut.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?} in round {round}");
    }
}

#[tokio::test]
async fn a_client_without_any_broker_fails_in_time_and_says_that_nothing_changed() {
    let bench = Bench::start().await;
    let ana = bench.describe().user("ana").connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    bench.broker.toggle();
    let mut state = ana.clone();
    while state.state().connected {
        timeout(PATIENCE, state.state_changed()).await.expect("in time");
    }
    let error = dev.publish("x").timeout(Duration::from_millis(300)).await.expect_err("there is no broker");
    assert_eq!((error.code(), error.changed(), error.retry_helps()), (Some(Code::NoServer), Changed::No, true));
    bench.broker.toggle();
    dev.publish("x").await.expect("acknowledged");
}

#[cfg(feature = "zeromq")]
#[tokio::test]
async fn the_zeromq_crate_carries_it_too() {
    let bench = Bench::start().await;
    let builder = bench.describe().transport(Transport::ZeroMq).serde(Format::MsgPack);
    let ana = builder.user("ana").connect().await.expect("it connects");
    let dev = ana.channel("dev");
    dev.create().await.expect("created");
    let mut news = ana.subscribe(["dev"]).await.expect("subscribed");
    let mut publisher = dev.publisher().expect("a name");
    for n in 0..1_000 {
        publisher.send(n.to_string()).await.expect("queued");
    }
    assert_eq!(publisher.flush().await.expect("all acknowledged"), 1_000);
    let (texts, _) = collect(&mut news, 1_000).await;
    assert_eq!(texts.len(), 1_000);
    bench.broker.cut();
    dev.publish("after").await.expect("acknowledged");
    collect(&mut news, 1).await;
}

/// A server as the family has them: it acknowledges without a receipt and has no history. It publishes nothing.
async fn family(name: &str) -> (String, Arc<tokio::sync::Mutex<Vec<Request>>>) {
    let endpoint = Endpoint::memory(format!("{name}/clients"));
    let mut router = Router::bind(&endpoint, engine::Limits::default()).await.expect("it binds");
    let received = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&received);
    tokio::spawn(async move {
        let mut events = Vec::new();
        while router.recv(&mut events).await {
            for event in events.drain(..) {
                let RouterEvent::Message { peer, message } = event else { continue };
                let request =
                    Request::decode(message.last(), &Limits::default()).expect("a client speaks the protocol");
                let body = match &request.body {
                    RequestBody::Login { .. } | RequestBody::Publish { .. } => ReplyBody::Done(None),
                    RequestBody::Channels => ReplyBody::Channels(vec!["dev".to_owned()]),
                    _ => ReplyBody::Failed(dsv2_core::Failure::rejected(Code::Other, "erro")),
                };
                let silent = matches!(&request.body, RequestBody::Publish { message, .. } if message == "lost");
                let reply = Reply {
                    format: request.format,
                    service: request.body.service().as_str().into(),
                    timestamp: RawTimestamp::Integer(1),
                    clock: Clock::new(5),
                    position: None,
                    body,
                };
                log.lock().await.push(request);
                if !silent {
                    let id = message.first().to_vec();
                    // The client may be gone.
                    let _ = router.send(peer, &Message::from_frames([&id[..], b"", &reply.encode()]));
                }
            }
        }
    });
    (endpoint.to_string(), received)
}

#[tokio::test]
async fn servers_of_the_family_are_served_with_less() {
    let (broker, received) = family("family").await;
    let ana =
        Client::builder(&broker).user("ana").timeout(Duration::from_secs(3)).connect().await.expect("it connects");
    assert_eq!(ana.state().extensions, Some(false));
    let dev = ana.channel("dev");
    dev.create().await.expect("it exists, whatever the server says");
    assert!(ana.channel("new").create().await.is_err());
    let receipt = dev.publish("hello").await.expect("acknowledged");
    assert_eq!((receipt.event, receipt.clock), (None, Clock::new(5)));
    let error = dev.publish("lost").await.expect_err("there is no answer");
    assert_eq!(error.changed(), Changed::Unknown);
    let lost = received
        .lock()
        .await
        .iter()
        .filter(|r| matches!(&r.body, RequestBody::Publish { message, .. } if message == "lost"))
        .count();
    assert_eq!(lost, 1, "it may have happened, so it is not repeated");
    let live = ana.subscribe(["dev"]).await.expect("subscribed");
    assert!(!live.is_gapless());
    let past = ana.subscribe(["dev"]).from(Cursor::Beginning).await;
    assert!(matches!(past, Err(client::SubscribeError::Failed(_))));
}

/// However much waits to be taken, a drain ends when it is to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_in_time_however_much_waits() {
    let bench = Bench::start().await;
    let client =
        bench.describe().user("ana").session(|session| session.in_flight = 16).connect().await.expect("connects");
    let dev = client.channel("dev");
    dev.create().await.expect("created");
    bench.broker.toggle();
    let mut writes = Vec::new();
    for n in 0..500 {
        let write = dev.publish(n.to_string()).timeout(PATIENCE);
        writes.push(tokio::spawn(async move { write.await }));
    }
    let began = std::time::Instant::now();
    client.drain(Duration::from_millis(300)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    for write in writes {
        let answered = timeout(PATIENCE, write).await.expect("every call is answered").expect("no panic");
        assert!(answered.is_err(), "nobody could answer: {answered:?}");
    }
}
