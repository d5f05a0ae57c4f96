//! A server over real sockets and files, with this test in the broker's place.
#![cfg(feature = "cluster")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use dsv2_core::{
    Failure, Format, HistoryQuery, HistorySpan, Level, Limits as BodyLimits, Position, Reply, ReplyBody, Request,
    RequestBody, RequestExt, ServerName, StatusReport, Subject,
};
use dsv2_net::Endpoint;
use dsv2_net::engine::{Limits, PeerId, Router, RouterEvent};
use dsv2_net::reference::{Reference, ReferenceOptions};
use dsv2_net::server::{Server, ServerOptions};
use dsv2_net::zmtp::Message;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// The broker's side of one server.
struct Front {
    router: Router,
    peer: Option<PeerId>,
    ready: bool,
    next: u64,
}

impl Front {
    async fn bind() -> Self {
        let router = Router::bind(&Endpoint::loopback(), Limits::default()).await.expect("a free port");
        Self { router, peer: None, ready: false, next: 0 }
    }

    fn endpoint(&self) -> Endpoint {
        self.router.endpoint().clone()
    }

    /// Waits for the next message that is not about readiness.
    async fn next(&mut self, until_ready: bool) -> Option<Message> {
        let mut events = Vec::new();
        loop {
            timeout(PATIENCE, self.router.recv(&mut events)).await.expect("the server says something in time");
            let mut found = None;
            for event in events.drain(..) {
                match event {
                    RouterEvent::PeerUp { peer, .. } => self.peer = Some(peer),
                    RouterEvent::PeerDown { .. } => self.ready = false,
                    RouterEvent::Message { message, .. } if message.first() == b"_dsv2" => {
                        self.ready = message.last() == b"ready"
                    }
                    RouterEvent::Message { message, .. } => {
                        assert!(found.replace(message).is_none(), "one question, one answer");
                    }
                }
            }
            if found.is_some() || (until_ready && self.ready) {
                return found;
            }
        }
    }

    async fn until_ready(&mut self) {
        while !self.ready {
            self.next(true).await;
        }
    }

    async fn ask(&mut self, format: Format, body: RequestBody) -> ReplyBody {
        let request = Request { format, timestamp: None, clock: None, ext: RequestExt::default(), body };
        let service = request.body.service();
        let reply = self.ask_raw(&request.encode()).await;
        assert_eq!(Format::detect(&reply), Some(format), "the request's serialization");
        let reply = Reply::decode(service, &reply, &BodyLimits::default()).expect("a reply");
        assert!(reply.clock.is_some_and(|clock| clock.get() > 0));
        reply.body
    }

    async fn ask_raw(&mut self, body: &[u8]) -> Vec<u8> {
        self.next += 1;
        let id = self.next.to_be_bytes();
        let message = Message::from_frames([&b"client"[..], &id, b"", body]);
        self.router.send(self.peer.expect("connected"), &message).expect("there is room");
        let answer = self.next(false).await.expect("an answer");
        let frames: Vec<_> = answer.frames().collect();
        assert_eq!(frames[..3], [&b"client"[..], &id, b""], "the envelope comes back as it was");
        frames[3].to_vec()
    }

    async fn status(&mut self) -> StatusReport {
        match self.ask(Format::Json, RequestBody::Status).await {
            ReplyBody::Status(report) => *report,
            other => panic!("{other:?}"),
        }
    }
}

fn options(name: &str, front: &Front, reference: &Reference, data: &Path) -> ServerOptions {
    let mut options = ServerOptions::new(name.parse().expect("a name"));
    options.data = Some(data.join(name));
    options.broker = front.endpoint();
    // Nobody listens there: servers replicate without the proxy.
    options.publish = Endpoint::memory("nobody");
    options.subscribe = Endpoint::memory("nobody");
    options.reference = reference.endpoint().clone();
    options.link = Endpoint::loopback();
    options
}

async fn reference(data: &Path) -> Reference {
    let mut options = ReferenceOptions::default();
    options.bind = Endpoint::loopback();
    options.data = Some(data.join("reference"));
    Reference::start(options).await.expect("a free port")
}

fn publish(text: &str) -> RequestBody {
    RequestBody::Publish {
        user: "ana".parse().expect("a name"),
        channel: "dev".parse().expect("a name"),
        message: text.into(),
    }
}

async fn history(front: &mut Front) -> Vec<String> {
    let query = HistoryQuery {
        subject: Subject::Topic("dev".into()),
        span: HistorySpan::After(Position::default()),
        limit: 100,
    };
    match front.ask(Format::MsgPack, RequestBody::History(query)).await {
        ReplyBody::History(page) => page.events.iter().map(|event| event.body.text().to_owned()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_answers_persists_and_remembers() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut front, reference) = (Front::bind().await, reference(data.path()).await);
    let options = options("server1", &front, &reference, data.path());
    let server = Server::start(options.clone()).await.expect("starts");
    front.until_ready().await;
    assert!(matches!(
        front.ask(Format::Json, publish("early")).await,
        ReplyBody::Failed(Failure { code: dsv2_core::Code::UnknownUser, .. })
    ));
    for format in [Format::Json, Format::MsgPack] {
        let login = front.ask(format, RequestBody::Login { user: "ana".parse().expect("a name") }).await;
        assert!(matches!(login, ReplyBody::Done(Some(ref receipt)) if receipt.level == Level::Local), "{login:?}");
    }
    front.ask(Format::Json, RequestBody::Channel { channel: "dev".parse().expect("a name") }).await;
    for text in ["one", "two"] {
        let done = front.ask(Format::MsgPack, publish(text)).await;
        assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
    }
    assert_eq!(front.ask(Format::Json, RequestBody::Users).await, ReplyBody::Users(vec!["ana".into()]));
    let users = std::fs::read_to_string(data.path().join("server1/users.json")).expect("persisted");
    assert!(users.contains("\"ana\"") && users.lines().count() == 1, "{users}");
    let refused = front.ask_raw(b"{\"service\":\"dance\",\"data\":{}}").await;
    assert!(String::from_utf8_lossy(&refused).contains("description"));
    // Dropped, not stopped: as a crash.
    drop(server);
    front.ready = false;
    let mut front = Front::bind().await;
    let server = loop {
        let mut again = options.clone();
        again.broker = front.endpoint();
        match Server::start(again).await {
            Ok(server) => break server,
            // The old one's disk thread ends a moment later.
            Err(dsv2_net::server::ServerError::Store(dsv2_store::StoreError::Locked { .. })) => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error}"),
        }
    };
    front.until_ready().await;
    assert_eq!(history(&mut front).await, ["one", "two"]);
    server.stop().await.expect("stops cleanly");
    reference.stop().await.expect("stops cleanly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_elect_replicate_and_survive_a_kill() {
    let data = tempfile::tempdir().expect("a directory");
    let reference = reference(data.path()).await;
    let names = ["server1", "server2", "server3"];
    let voters: BTreeSet<ServerName> = names.iter().map(|name| name.parse().expect("a name")).collect();
    let (mut fronts, mut servers) = (Vec::new(), Vec::new());
    for name in names {
        let front = Front::bind().await;
        let mut options = options(name, &front, &reference, data.path());
        options.voters.clone_from(&voters);
        servers.push(Some(Server::start(options).await.expect("starts")));
        fronts.push(front);
    }
    for front in &mut fronts {
        front.until_ready().await;
    }
    fronts[0].ask(Format::Json, RequestBody::Login { user: "ana".parse().expect("a name") }).await;
    let done = fronts[0].ask(Format::Json, RequestBody::Channel { channel: "dev".parse().expect("a name") }).await;
    assert!(matches!(done, ReplyBody::Done(Some(ref receipt)) if receipt.level == Level::Quorum), "{done:?}");
    for n in 0..20 {
        // Another server may not have heard of user and channel yet: a client of ours would send its position.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while matches!(fronts[n % 3].ask(Format::Json, publish(&n.to_string())).await, ReplyBody::Failed(_)) {
            assert!(tokio::time::Instant::now() < deadline, "server {} never learns of them", n % 3 + 1);
        }
    }
    let leader = agree(&mut fronts, None).await;
    let killed = names.iter().position(|name| *name == leader.as_str()).expect("one of the three");
    servers[killed] = None;
    let front = fronts.remove(killed);
    drop(front);
    let successor = agree(&mut fronts, Some(&leader)).await;
    assert_ne!(successor, leader);
    let done = fronts[0].ask(Format::Json, publish("after")).await;
    assert!(matches!(done, ReplyBody::Done(Some(_))), "two of three are a majority: {done:?}");
    let first = history(&mut fronts[0]).await;
    assert!(first.contains(&"after".to_owned()));
    tokio::time::timeout(PATIENCE, async {
        while history(&mut fronts[1]).await != first {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("both hold the same");
    for server in servers.into_iter().flatten() {
        server.stop().await.expect("stops cleanly");
    }
}

/// Waits until all report one coordinator, other than `not`.
async fn agree(fronts: &mut [Front], not: Option<&ServerName>) -> ServerName {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut seen = BTreeSet::new();
        for front in fronts.iter_mut() {
            seen.insert(front.status().await.coordinator);
        }
        if let (1, Some(Some(name))) = (seen.len(), seen.first())
            && Some(name) != not
        {
            return name.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "no agreement: {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
