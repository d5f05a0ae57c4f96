//! This test in the broker's place, and the parts around one server.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dsv2_core::{
    Format, HistoryQuery, HistorySpan, Limits as BodyLimits, Position, Reply, ReplyBody, Request, RequestBody,
    RequestExt, Service, StatusReport, Subject,
};
use dsv2_net::Endpoint;
use dsv2_net::engine::{Limits, PeerId, Router, RouterEvent};
use dsv2_net::reference::{Reference, ReferenceOptions};
use dsv2_net::server::ServerOptions;
use dsv2_net::zmtp::Message;
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The broker's side of one server.
pub(crate) struct Front {
    router: Router,
    peer: Option<PeerId>,
    ready: bool,
    next: u64,
    /// Answers that nobody waited for yet, by the request's number.
    answers: BTreeMap<u64, Vec<u8>>,
    /// How often the server went away.
    pub(crate) losses: u32,
}

impl Front {
    pub(crate) async fn bind() -> Self {
        let router = Router::bind(&Endpoint::loopback(), Limits::default()).await.expect("a free port");
        Self { router, peer: None, ready: false, next: 0, answers: BTreeMap::new(), losses: 0 }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.router.endpoint().clone()
    }

    /// Takes what the server says next.
    async fn listen(&mut self) {
        let mut events = Vec::new();
        timeout(PATIENCE, self.router.recv(&mut events)).await.expect("the server says something in time");
        for event in events.drain(..) {
            match event {
                RouterEvent::PeerUp { peer, .. } => self.peer = Some(peer),
                RouterEvent::PeerDown { .. } => {
                    self.ready = false;
                    self.losses += 1;
                }
                RouterEvent::Message { message, .. } if message.first() == b"_dsv2" => {
                    self.ready = message.last() == b"ready"
                }
                RouterEvent::Message { message, .. } => {
                    let frames: Vec<_> = message.frames().collect();
                    assert!(frames[0] == b"client"[..] && frames[2].is_empty(), "the envelope comes back as it was");
                    let number = u64::from_be_bytes(frames[1][..].try_into().expect("eight bytes"));
                    let again = self.answers.insert(number, frames[3].to_vec());
                    assert!(again.is_none(), "one question, one answer");
                }
            }
        }
    }

    pub(crate) async fn until_ready(&mut self) {
        self.until(true).await;
    }

    /// Waits until the server takes writes, or no longer does.
    pub(crate) async fn until(&mut self, ready: bool) {
        while self.ready != ready {
            self.listen().await;
        }
    }

    /// Whether there is no answer yet.
    pub(crate) fn waits(&self, number: u64) -> bool {
        !self.answers.contains_key(&number)
    }

    /// Sends a request, and yields its number.
    pub(crate) fn send(&mut self, format: Format, body: RequestBody) -> u64 {
        let request = Request { format, timestamp: None, clock: None, ext: RequestExt::default(), body };
        self.send_raw(&request.encode())
    }

    fn send_raw(&mut self, body: &[u8]) -> u64 {
        self.next += 1;
        let message = Message::from_frames([&b"client"[..], &self.next.to_be_bytes(), b"", body]);
        self.router.send(self.peer.expect("connected"), &message).expect("there is room");
        self.next
    }

    /// Waits for the answer to a request.
    pub(crate) async fn answer(&mut self, number: u64, service: Service) -> Reply {
        let body = self.answer_raw(number).await;
        Reply::decode(service, &body, &BodyLimits::default()).expect("a reply")
    }

    async fn answer_raw(&mut self, number: u64) -> Vec<u8> {
        loop {
            if let Some(answer) = self.answers.remove(&number) {
                return answer;
            }
            self.listen().await;
        }
    }

    pub(crate) async fn ask(&mut self, format: Format, body: RequestBody) -> ReplyBody {
        let service = body.service();
        let number = self.send(format, body);
        let reply = self.answer(number, service).await;
        assert_eq!(reply.format, format, "the request's serialization");
        assert!(reply.clock.is_some_and(|clock| clock.get() > 0));
        reply.body
    }

    pub(crate) async fn ask_raw(&mut self, body: &[u8]) -> Vec<u8> {
        let number = self.send_raw(body);
        self.answer_raw(number).await
    }

    pub(crate) async fn status(&mut self) -> StatusReport {
        match self.ask(Format::Json, RequestBody::Status).await {
            ReplyBody::Status(report) => *report,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn options(name: &str, front: &Front, reference: &Reference, data: &Path) -> ServerOptions {
    let mut options = ServerOptions::new(name.parse().expect("a name"));
    options.data = Some(data.join(name));
    options.brokers = vec![front.endpoint()];
    // Nobody listens there: servers replicate without the proxy.
    options.publish = vec![Endpoint::memory("nobody")];
    options.subscribe = vec![Endpoint::memory("nobody")];
    options.reference = reference.endpoint().clone();
    options.link = Endpoint::loopback();
    options
}

pub(crate) async fn reference(data: &Path) -> Reference {
    let mut options = ReferenceOptions::default();
    options.bind = Endpoint::loopback();
    options.data = Some(data.join("reference"));
    Reference::start(options).await.expect("a free port")
}

pub(crate) fn publish(text: &str) -> RequestBody {
    RequestBody::Publish {
        user: "ana".parse().expect("a name"),
        channel: "dev".parse().expect("a name"),
        message: text.into(),
    }
}

pub(crate) async fn history(front: &mut Front) -> Vec<String> {
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
