//! Honest peers of a proxy or broker, on connections of the engine.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part; a panic is how tests fail

use std::collections::VecDeque;
use std::sync::Arc;

use dsv2_net::Endpoint;
use dsv2_net::endpoint::{Keepalive, connect};
use dsv2_net::engine::{CloseReason, Connection, Limits, LocalSocket};
use dsv2_net::zmtp::{Batch, Command, GREETING_BYTES, Item, Message, SocketType};
use tokio::io::AsyncReadExt;

use crate::zmtp_support::{Raw, within};

/// A connected socket of one connection.
pub struct Peer {
    pub connection: Connection,
    batch: Batch,
    received: VecDeque<Message>,
    /// What a publisher was told: (topic, subscribed).
    told: VecDeque<(Vec<u8>, bool)>,
}

impl Peer {
    pub async fn connect(endpoint: &Endpoint, socket_type: SocketType) -> Self {
        let limits = Limits { outbox_cap_bytes: 256 << 20, ..Limits::default() };
        let local = Arc::new(LocalSocket::new(socket_type, limits));
        let stream = within("connect", connect(endpoint, Keepalive::default())).await.unwrap();
        let connection =
            within("handshake", Connection::establish(stream, endpoint.to_string(), &local)).await.unwrap();
        Self { connection, batch: Batch::new(), received: VecDeque::new(), told: VecDeque::new() }
    }

    pub async fn subscriber(endpoint: &Endpoint, topics: &[&str]) -> Self {
        let peer = Self::connect(endpoint, SocketType::Sub).await;
        for topic in topics {
            peer.subscribe(topic, true);
        }
        peer
    }

    pub fn subscribe(&self, topic: &str, subscribe: bool) {
        let wire = Command::subscription(topic.as_bytes(), subscribe, true);
        self.connection.outbox().append_wire(&wire, 0).unwrap();
        self.connection.outbox().flush();
    }

    pub fn send(&self, frames: &[&str]) {
        self.connection.outbox().push(&Message::from_frames(frames)).unwrap();
    }

    pub fn send_message(&self, message: &Message) {
        self.connection.outbox().push(message).unwrap();
    }

    async fn read(&mut self) -> Result<(), CloseReason> {
        within("traffic", self.connection.next_batch(&mut self.batch)).await?;
        for (index, item) in self.batch.items().enumerate() {
            match item {
                Item::Message { .. } => self.received.push_back(self.batch.message(index)),
                Item::Subscribe(topic) => self.told.push_back((topic.to_vec(), true)),
                Item::Cancel(topic) => self.told.push_back((topic.to_vec(), false)),
            }
        }
        Ok(())
    }

    pub async fn recv(&mut self) -> Message {
        while self.received.is_empty() {
            self.read().await.expect("open connection");
        }
        self.received.pop_front().unwrap()
    }

    /// The next message's frames as text.
    pub async fn recv_text(&mut self) -> Vec<String> {
        let message = self.recv().await;
        message.slices().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
    }

    /// The next word from the proxy about a topic.
    pub async fn told(&mut self) -> (String, bool) {
        while self.told.is_empty() {
            self.read().await.expect("open connection");
        }
        let (topic, subscribed) = self.told.pop_front().unwrap();
        (String::from_utf8(topic).unwrap(), subscribed)
    }

    /// Waits until the other side hangs up. What was received before stays receivable.
    pub async fn closed(&mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.read().await {
                return reason;
            }
        }
    }

    /// Messages received and not yet taken.
    pub fn received(&mut self) -> Vec<Message> {
        self.received.drain(..).collect()
    }
}

/// A raw peer that has shaken hands and read the other side's READY: what comes next are messages or subscriptions.
pub async fn raw_peer(endpoint: &Endpoint, socket_type: &str, minor: u8) -> Raw {
    let mut raw = Raw::connect(endpoint).await;
    raw.shake_hands(socket_type, minor).await;
    let mut header = [0; 2];
    within("READY", raw.0.read_exact(&mut header)).await.unwrap();
    let mut ready = vec![0; usize::from(header[1])];
    within("READY", raw.0.read_exact(&mut ready)).await.unwrap();
    raw
}

/// Reads exactly what is expected.
pub async fn expect_bytes(raw: &mut Raw, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within("bytes", raw.0.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, expected);
}

/// Peers that break the protocol in every stage: all must be hung up on, or time out, without harm to others.
pub fn hostile_openings() -> Vec<Vec<u8>> {
    use dsv2_net::zmtp::{Greeting, Metadata};
    let greeting = Greeting::ours().encode();
    let ready = |kind: &str| {
        let mut metadata = Metadata::new();
        metadata.push("Socket-Type", kind.to_owned());
        Command::Ready(metadata).encode()
    };
    let huge = |flags: u8| [&[flags | 2][..], &(1u64 << 62).to_be_bytes()].concat();
    let mut all = vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 200], greeting[..GREETING_BYTES / 2].to_vec()];
    all.push([&greeting[..], &huge(4)].concat());
    for kind in ["SUB", "PUB", "DEALER", "REP"] {
        for flags in [0, 1, 4] {
            all.push([&greeting[..], &ready(kind), &huge(flags)].concat());
        }
        all.push([&greeting[..], &ready(kind), &[0x81, 0]].concat());
    }
    all
}

/// Tests that measure memory run one after the other, also when they share a process.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}
