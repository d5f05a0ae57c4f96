//! What every [`Port`] must do, as checks that an implementer of another transport can run too.
//!
//! Each check binds `endpoint` (with a free port, or a name of its own), opens ports by `open`, and panics where a
//! port does not conform. Every wait has a deadline; none sleeps for luck.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Backoff, Port, PortEvent, PortLimits, SendError, SocketKind};
use crate::endpoint::Endpoint;
use crate::engine::{Connection, Limits, Listener, LocalSocket, Outbox, PeerId, Router, RouterEvent};
use crate::zmtp::{Batch, Command, Item, Message, SocketType};

/// The longest wait of any step.
const DEADLINE: Duration = Duration::from_secs(20);

/// How the checks open a port.
pub type Open = dyn Fn(SocketKind, Endpoint, PortLimits) -> Box<dyn Port> + Send + Sync;

fn limits() -> PortLimits {
    let backoff = Backoff { first: Duration::from_millis(5), cap: Duration::from_millis(100) };
    PortLimits { backoff, ..PortLimits::default() }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Receives until `found` says so.
async fn until(port: &mut dyn Port, what: &str, mut found: impl FnMut(&PortEvent) -> bool) {
    within(what, async {
        let mut events = Vec::new();
        loop {
            assert_eq!(port.recv(&mut events).await, Ok(()), "{what}");
            if events.drain(..).any(|event| found(&event)) {
                return;
            }
        }
    })
    .await;
}

async fn until_up(port: &mut dyn Port) {
    until(port, "up", |event| matches!(event, PortEvent::Up { .. })).await;
}

/// Receives exactly this many messages.
async fn messages(port: &mut dyn Port, count: usize) -> Vec<Message> {
    let mut got = Vec::new();
    until(port, "messages", |event| {
        if let PortEvent::Message(message) = event {
            got.push(message.clone());
        }
        got.len() == count
    })
    .await;
    got
}

fn numbered(n: usize) -> Message {
    Message::from_frames([format!("id-{n}").as_bytes(), b"", format!("body of {n}").as_bytes()])
}

/// A ROUTER that echoes, or only listens until told to.
struct Echo {
    endpoint: Endpoint,
    seen: mpsc::UnboundedReceiver<Message>,
    begin: Option<oneshot::Sender<()>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Echo {
    async fn start(endpoint: &Endpoint, limits: Limits, at_once: bool) -> Self {
        let router = match Router::bind(endpoint, limits).await {
            Ok(router) => router,
            Err(error) => panic!("{error}"),
        };
        let endpoint = router.endpoint().clone();
        let (seen_sender, seen) = mpsc::unbounded_channel();
        let (begin, begun) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(echo(router, begun, stopped, seen_sender));
        let begin = if at_once { begin.send(()).map(|()| None) } else { Ok(Some(begin)) };
        Self { endpoint, seen, begin: begin.unwrap_or(None), stop, task }
    }

    fn begin(&mut self) {
        if let Some(begin) = self.begin.take() {
            assert_eq!(begin.send(()), Ok(()), "the echo task runs");
        }
    }

    async fn stop(self) {
        drop(self.stop);
        within("echo stops", self.task).await.unwrap_or_else(|e| panic!("{e}"));
    }
}

async fn echo(
    mut router: Router,
    begun: oneshot::Receiver<()>,
    mut stopped: oneshot::Receiver<()>,
    seen: mpsc::UnboundedSender<Message>,
) {
    let mut events = Vec::new();
    tokio::select! {
        _ = begun => {
            while tokio::select! { more = router.recv(&mut events) => more, _ = &mut stopped => false } {
                for event in events.drain(..) {
                    if let RouterEvent::Message { peer, message } = event {
                        // The check may have ended.
                        let _ = seen.send(message.detach());
                        answer(&router, peer, &message).await;
                    }
                }
            }
        }
        _ = &mut stopped => {}
    }
    router.shutdown(Duration::from_secs(1)).await;
}

async fn answer(router: &Router, peer: PeerId, message: &Message) {
    while router.send(peer, message) == Err(crate::engine::RouteError::Full) {
        if let Some(outbox) = router.outbox(peer)
            && outbox.writable().await.is_err()
        {
            return;
        }
    }
}

/// DEALER: messages of all shapes come back whole and in order.
pub async fn echoes_in_order(open: &Open, endpoint: &Endpoint) {
    let echo = Echo::start(endpoint, Limits::default(), true).await;
    let mut port = open(SocketKind::Dealer, echo.endpoint.clone(), limits());
    until_up(&mut *port).await;
    let mut sent: Vec<Message> = (0..2000).map(numbered).collect();
    sent.extend([0, 1, 255, 256, 70_000, 3 << 20].map(|n| Message::from_frames([&b"big"[..], b"", &vec![0xA5; n]])));
    sent.push(Message::from_frames(std::iter::repeat_n([1u8], 100)));
    for message in &sent {
        assert_eq!(port.send(message.clone()), Ok(()));
    }
    assert_eq!(messages(&mut *port, sent.len()).await, sent);
    let stats = port.stats();
    assert_eq!((stats.sent, stats.received, stats.connected), (sent.len() as u64, sent.len() as u64, 1));
    echo.stop().await;
}

/// DEALER: nothing is accepted while the peer is away, and the port comes back by itself, again and again.
pub async fn reconnects(open: &Open, endpoint: &Endpoint) {
    let mut echo = Echo::start(endpoint, Limits::default(), true).await;
    let address = echo.endpoint.clone();
    let mut port = open(SocketKind::Dealer, address.clone(), limits());
    assert_eq!(port.send(numbered(0)), Err(SendError::Down(numbered(0))), "not up yet");
    for round in 1..=3 {
        until_up(&mut *port).await;
        assert_eq!(port.send(numbered(round)), Ok(()));
        assert_eq!(messages(&mut *port, 1).await, [numbered(round)]);
        echo.stop().await;
        until(&mut *port, "down", |e| matches!(e, PortEvent::Down { unsent_messages: 0, .. })).await;
        assert_eq!(port.send(numbered(9)), Err(SendError::Down(numbered(9))));
        echo = Echo::start(&address, Limits::default(), true).await;
    }
    echo.stop().await;
    assert_eq!(port.stats().lost, 0);
}

/// A peer that takes little, and a port that holds little.
fn narrow() -> (Limits, PortLimits) {
    let peer = Limits { inbox_cap_bytes: 64 << 10, ..Limits::default() };
    (peer, PortLimits { queue_cap_bytes: 1 << 20, queue_cap_messages: 500, ..limits() })
}

/// Sends until the port is full, and says how many were accepted.
async fn fill(port: &mut dyn Port) -> usize {
    let body = vec![0x5A; 16 << 10];
    for n in 0..10_000 {
        let message = Message::from_frames([&n.to_string().into_bytes()[..], b"", &body]);
        match port.send(message.clone()) {
            Ok(()) => {}
            Err(refused) => {
                assert_eq!(refused, SendError::Full(message), "the message comes back");
                return n;
            }
        }
        // So that the port works even where there is one thread only.
        tokio::task::yield_now().await;
    }
    panic!("160 MB were accepted for a peer that reads nothing");
}

/// DEALER: a peer that does not read fills the port, which says so, and says when there is room again. What was
/// accepted arrives, in order.
pub async fn is_bounded(open: &Open, endpoint: &Endpoint) {
    let (peer_limits, port_limits) = narrow();
    let mut echo = Echo::start(endpoint, peer_limits, false).await;
    let mut port = open(SocketKind::Dealer, echo.endpoint.clone(), port_limits);
    until_up(&mut *port).await;
    let accepted = fill(&mut *port).await;
    assert!(accepted >= 10, "only {accepted} accepted");
    echo.begin();
    let (mut writable, mut got) = (false, 0);
    until(&mut *port, "the answers and Writable", |event| {
        match event {
            PortEvent::Writable => writable = true,
            PortEvent::Message(message) => {
                assert_eq!(message.first(), got.to_string().as_bytes());
                got += 1;
            }
            other => panic!("unexpected {other:?}"),
        }
        writable && got == accepted
    })
    .await;
    assert_eq!(port.send(numbered(1)), Ok(()));
    assert_eq!(messages(&mut *port, 1).await, [numbered(1)]);
    echo.stop().await;
}

/// DEALER: what was accepted and did not leave is counted when the connection ends.
pub async fn counts_what_is_lost(open: &Open, endpoint: &Endpoint) {
    let (mut peer_limits, mut port_limits) = narrow();
    // The peer refuses the large message by its header, and no system's buffers hold it: it cannot be handed over whole.
    let large = vec![0; 64 << 20];
    (port_limits.queue_cap_bytes, port_limits.connection.message_cap_bytes) = (2 * large.len(), large.len());
    peer_limits.message_cap_bytes = 1 << 20;
    let echo = Echo::start(endpoint, peer_limits, false).await;
    let mut port = open(SocketKind::Dealer, echo.endpoint.clone(), port_limits);
    until_up(&mut *port).await;
    for _ in 0..100 {
        assert_eq!(port.send(Message::single(&[0; 1 << 10])), Ok(()));
    }
    assert_eq!(port.send(Message::single(&large)), Ok(()));
    echo.stop().await;
    let mut lost = 0;
    until(&mut *port, "down", |event| {
        if let PortEvent::Down { unsent_messages, .. } = event {
            lost = *unsent_messages;
        }
        matches!(event, PortEvent::Down { .. })
    })
    .await;
    assert!((1..=101).contains(&lost), "{lost} lost");
    assert_eq!(port.stats().lost, lost as u64);
}

/// DEALER: a message beyond the limit is handed back, and harms nothing.
pub async fn refuses_what_is_too_large(open: &Open, endpoint: &Endpoint) {
    let echo = Echo::start(endpoint, Limits::default(), true).await;
    let mut port_limits = limits();
    port_limits.connection.message_cap_bytes = 1000;
    let mut port = open(SocketKind::Dealer, echo.endpoint.clone(), port_limits);
    until_up(&mut *port).await;
    let large = Message::from_frames([vec![0; 500], vec![0; 501]]);
    assert_eq!(port.send(large.clone()), Err(SendError::TooLarge(large)));
    let fits = Message::from_frames([vec![0; 500], vec![0; 500]]);
    assert_eq!(port.send(fits.clone()), Ok(()));
    assert_eq!(messages(&mut *port, 1).await, [fits]);
    echo.stop().await;
}

/// DEALER: after a drain that reports nothing unsent, the port may go and everything has arrived.
pub async fn drains(open: &Open, endpoint: &Endpoint) {
    let mut echo = Echo::start(endpoint, Limits::default(), true).await;
    let mut port = open(SocketKind::Dealer, echo.endpoint.clone(), limits());
    until_up(&mut *port).await;
    for n in 0..5000 {
        assert_eq!(port.send(numbered(n)), Ok(()));
    }
    let report = within("drain", port.drain(DEADLINE)).await;
    assert_eq!(report.unsent_messages, 0);
    drop(port);
    for n in 0..5000 {
        assert_eq!(within("arrival", echo.seen.recv()).await, Some(numbered(n)));
    }
    echo.stop().await;
}

/// The other end of PUB and SUB: one connection at a time, its subscriptions and messages as they come.
struct Counterpart {
    listener: Listener,
    peers: mpsc::UnboundedReceiver<(Outbox, mpsc::UnboundedReceiver<Seen>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Subscribe(Vec<u8>),
    Cancel(Vec<u8>),
    Message(Message),
}

impl Counterpart {
    async fn start(socket_type: SocketType, endpoint: &Endpoint) -> Self {
        let (sender, peers) = mpsc::unbounded_channel();
        let local = Arc::new(LocalSocket::new(socket_type, Limits::default()));
        let handler = move |connection: Connection| {
            let (seen_sender, seen) = mpsc::unbounded_channel();
            // The check may have ended.
            let _ = sender.send((connection.outbox().clone(), seen));
            watch(connection, seen_sender)
        };
        match Listener::bind(endpoint, local, handler).await {
            Ok(listener) => Self { listener, peers },
            Err(error) => panic!("{error}"),
        }
    }

    async fn peer(&mut self) -> (Outbox, mpsc::UnboundedReceiver<Seen>) {
        match within("a peer", self.peers.recv()).await {
            Some(peer) => peer,
            None => panic!("the listener ended"),
        }
    }
}

async fn watch(mut connection: Connection, seen: mpsc::UnboundedSender<Seen>) {
    let mut batch = Batch::new();
    while connection.next_batch(&mut batch).await.is_ok() {
        for (i, item) in batch.items().enumerate() {
            // The check may have ended.
            let _ = seen.send(match item {
                Item::Subscribe(topic) => Seen::Subscribe(topic.to_vec()),
                Item::Cancel(topic) => Seen::Cancel(topic.to_vec()),
                Item::Message { .. } => Seen::Message(batch.message(i)),
            });
        }
    }
}

async fn next_seen(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    match within("traffic", seen.recv()).await {
        Some(item) => item,
        None => panic!("the connection ended"),
    }
}

/// SUB: subscriptions are counted, reach the publisher, and are renewed after a reconnection.
pub async fn subscribes_and_resubscribes(open: &Open, endpoint: &Endpoint) {
    let mut publisher = Counterpart::start(SocketType::Xpub, endpoint).await;
    let address = publisher.listener.endpoint().clone();
    let mut port = open(SocketKind::Sub, address.clone(), limits());
    port.subscribe(b"early");
    until_up(&mut *port).await;
    let (outbox, mut seen) = publisher.peer().await;
    assert_eq!(next_seen(&mut seen).await, Seen::Subscribe(b"early".to_vec()));
    port.subscribe(b"bytes \xff\x00");
    assert_eq!(next_seen(&mut seen).await, Seen::Subscribe(b"bytes \xff\x00".to_vec()));
    // Only the first and the last of a topic are the publisher's business.
    port.subscribe(b"early");
    port.unsubscribe(b"early");
    port.unsubscribe(b"never");
    port.unsubscribe(b"early");
    assert_eq!(next_seen(&mut seen).await, Seen::Cancel(b"early".to_vec()));
    assert_eq!(port.send(numbered(1)), Err(SendError::Unsupported(numbered(1))));
    for n in 0..1000 {
        assert_eq!(outbox.push(&numbered(n)), Ok(()));
    }
    assert_eq!(messages(&mut *port, 1000).await, (0..1000).map(numbered).collect::<Vec<_>>());

    publisher.listener.shutdown(Duration::from_secs(1)).await;
    until(&mut *port, "down", |e| matches!(e, PortEvent::Down { .. })).await;
    port.subscribe(b"while down");
    publisher = Counterpart::start(SocketType::Xpub, &address).await;
    until_up(&mut *port).await;
    let (_, mut seen) = publisher.peer().await;
    let renewed = [next_seen(&mut seen).await, next_seen(&mut seen).await];
    for topic in [&b"bytes \xff\x00"[..], b"while down"] {
        assert!(renewed.contains(&Seen::Subscribe(topic.to_vec())), "{renewed:?}");
    }
    publisher.listener.shutdown(Duration::from_secs(1)).await;
}

/// PUB: only what the peer subscribed to leaves; a peer that does not read costs messages, never memory.
pub async fn publishes_what_is_wanted(open: &Open, endpoint: &Endpoint) {
    let mut subscriber = Counterpart::start(SocketType::Xsub, endpoint).await;
    let address = subscriber.listener.endpoint().clone();
    let mut port = open(SocketKind::Pub, address.clone(), PortLimits { queue_cap_bytes: 64 << 10, ..limits() });
    until_up(&mut *port).await;
    let (outbox, mut seen) = subscriber.peer().await;
    let publication = |topic: &str| Message::from_frames([topic, "body"]);
    assert_eq!(port.send(publication("news")), Ok(()));
    assert_eq!(port.stats().unwanted, 1, "nobody subscribed yet");
    for (topic, by_command) in [("ne", true), ("old", false)] {
        assert_eq!(outbox.append_wire(&Command::subscription(topic.as_bytes(), true, by_command), 0), Ok(()));
    }
    outbox.flush();
    // The subscription is on its way; a publication that arrives proves that it is in force.
    within("the subscription", async {
        while port.stats().sent == 0 {
            assert_eq!(port.send(publication("old story")), Ok(()));
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(next_seen(&mut seen).await, Seen::Message(publication("old story")));
    for topic in ["n", "news", "x", "ne"] {
        assert_eq!(port.send(publication(topic)), Ok(()));
    }
    assert_eq!(next_seen(&mut seen).await, Seen::Message(publication("news")));
    assert_eq!(next_seen(&mut seen).await, Seen::Message(publication("ne")));
    let flood = Message::from_frames([&b"news"[..], &[0; 10_000]]);
    for _ in 0..1000 {
        assert_eq!(port.send(flood.clone()), Ok(()), "PUB never refuses");
    }
    let stats = port.stats();
    assert!(stats.dropped > 0 && stats.sent + stats.dropped == 1003, "{stats:?}");
    subscriber.listener.shutdown(Duration::from_secs(1)).await;
    until(&mut *port, "down", |e| matches!(e, PortEvent::Down { .. })).await;
    assert_eq!(port.send(publication("news")), Err(SendError::Down(publication("news"))));
}
