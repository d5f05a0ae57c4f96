//! A whole cluster through its own broker and proxy, with this test as a client of the family.
#![cfg(feature = "cluster")]

use std::time::Duration;

use dsv2_core::{Format, Level, Limits, Publication, Reply, ReplyBody, Request, RequestBody, RequestExt};
use dsv2_net::cluster::{Cluster, ClusterOptions};
use dsv2_net::port::{Port, PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::Message;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

struct Peer {
    dealer: Box<dyn Port>,
    sub: Box<dyn Port>,
    events: Vec<PortEvent>,
}

impl Peer {
    async fn connect(cluster: &Cluster, topics: &[&str]) -> Self {
        let port = |kind, endpoint: &dsv2_net::Endpoint| {
            connect(Transport::Native, kind, endpoint.clone(), PortLimits::default()).expect("a port")
        };
        let mut peer = Self {
            dealer: port(SocketKind::Dealer, &cluster.endpoints().clients),
            sub: port(SocketKind::Sub, &cluster.endpoints().subscribers),
            events: Vec::new(),
        };
        topics.iter().for_each(|topic| peer.sub.subscribe(topic.as_bytes()));
        while !matches!(peer.events.last(), Some(PortEvent::Up { .. })) {
            timeout(PATIENCE, peer.dealer.recv(&mut peer.events)).await.expect("in time").expect("open");
        }
        peer.events.clear();
        peer
    }

    async fn ask(&mut self, body: RequestBody) -> ReplyBody {
        let request =
            Request { format: Format::MsgPack, timestamp: None, clock: None, ext: RequestExt::default(), body };
        let service = request.body.service();
        self.dealer.send(Message::from_frames([&b"1"[..], b"", &request.encode()])).expect("there is room");
        loop {
            timeout(PATIENCE, self.dealer.recv(&mut self.events)).await.expect("an answer in time").expect("open");
            for event in self.events.drain(..) {
                if let PortEvent::Message(message) = event {
                    return Reply::decode(service, message.last(), &Limits::default()).expect("a reply").body;
                }
            }
        }
    }

    /// Asks again while no server is ready.
    async fn done(&mut self, body: RequestBody) -> dsv2_core::Receipt {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(body.clone()).await {
                ReplyBody::Done(Some(receipt)) => return receipt,
                ReplyBody::Failed(failure)
                    if failure.code == dsv2_core::Code::NoServer && Instant::now() < deadline => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn publication(&mut self) -> (String, Publication) {
        loop {
            timeout(PATIENCE, self.sub.recv(&mut self.events)).await.expect("a publication in time").expect("open");
            for event in self.events.drain(..) {
                if let PortEvent::Message(message) = event {
                    let publication = Publication::decode(message.last(), &Limits::default()).expect("a publication");
                    return (String::from_utf8_lossy(message.first()).into_owned(), publication);
                }
            }
        }
    }
}

fn login(user: &str) -> RequestBody {
    RequestBody::Login { user: user.parse().expect("a name") }
}

async fn exchange(options: ClusterOptions) {
    let cluster = Cluster::start(options).await.expect("starts");
    let mut ana = Peer::connect(&cluster, &[]).await;
    let mut bob = Peer::connect(&cluster, &["dev", "bob"]).await;
    assert_eq!(ana.done(login("ana")).await.level, Level::Quorum);
    ana.done(RequestBody::Channel { channel: "dev".parse().expect("a name") }).await;
    bob.done(login("bob")).await;
    // The subscription travels on a way of its own: publish until it has arrived.
    let deadline = Instant::now() + PATIENCE;
    let (topic, publication) = loop {
        let body = RequestBody::Publish {
            user: "ana".parse().expect("a name"),
            channel: "dev".parse().expect("a name"),
            message: "oi".into(),
        };
        ana.done(body).await;
        if let Ok(found) = timeout(Duration::from_millis(200), bob.publication()).await {
            break found;
        }
        assert!(Instant::now() < deadline, "nothing was published");
    };
    assert_eq!((topic.as_str(), publication.body.text(), publication.body.author()), ("dev", "oi", "ana"));
    assert!(publication.event.is_some() && publication.id.is_some());
    // Ana's server may not have heard of bob yet: a client of ours would send its position.
    loop {
        let body = RequestBody::Message {
            src: "ana".parse().expect("a name"),
            dst: "bob".parse().expect("a name"),
            message: "psiu".into(),
        };
        if matches!(ana.ask(body).await, ReplyBody::Done(_)) {
            break;
        }
        assert!(Instant::now() < deadline, "bob stays unknown");
    }
    let private = loop {
        let (topic, publication) = bob.publication().await;
        if topic == "bob" {
            break publication;
        }
    };
    assert_eq!((private.body.text(), private.body.author()), ("psiu", "ana"));
    cluster.stop().await.expect("stops cleanly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_over_tcp_carry_messages() {
    exchange(ClusterOptions::local(3, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_in_memory_carry_messages() {
    exchange(ClusterOptions::memory(3)).await;
}
