//! A peer made of raw bytes, and an honest one to compare it with.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part; a panic is how tests fail

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dsv2_net::Endpoint;
use dsv2_net::engine::{Counters, Limits, PeerId, Router, RouterEvent};
use dsv2_net::port::{PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::{Command, GREETING_BYTES, Greeting, Message, Metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub const DEADLINE: Duration = Duration::from_secs(20);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits for a condition that another task brings about.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A router that echoes what it gets, in a task of its own. Its other events can be waited for.
pub struct Victim {
    pub endpoint: Endpoint,
    pub counters: Arc<Counters>,
    pub events: mpsc::UnboundedReceiver<RouterEvent>,
    task: JoinHandle<()>,
}

impl Victim {
    pub async fn start(limits: Limits) -> Self {
        let mut router = Router::bind(&Endpoint::loopback(), limits).await.unwrap();
        let (endpoint, counters) = (router.endpoint().clone(), Arc::clone(router.counters()));
        let (sender, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut batch = Vec::new();
            while router.recv(&mut batch).await {
                for event in batch.drain(..) {
                    if let RouterEvent::Message { peer, message } = &event {
                        // A full queue or a lost peer is what some of these tests are about.
                        let _ = router.send(*peer, message);
                    } else {
                        sender.send(event).unwrap();
                    }
                }
            }
        });
        Self { endpoint, counters, events, task }
    }

    pub async fn raw(&self) -> Raw {
        Raw::connect(&self.endpoint).await
    }

    /// The next peer that goes, with the reason.
    pub async fn peer_down(&mut self) -> (PeerId, dsv2_net::engine::CloseReason) {
        within("a peer goes", async {
            loop {
                if let RouterEvent::PeerDown { peer, reason, .. } = self.events.recv().await.unwrap() {
                    return (peer, reason);
                }
            }
        })
        .await
    }

    /// An honest client is served, now.
    pub async fn assert_serves(&self) {
        let mut port =
            connect(Transport::Native, SocketKind::Dealer, self.endpoint.clone(), PortLimits::default()).unwrap();
        let message = Message::from_frames([&b"id"[..], b"", b"still there?"]);
        let mut events = Vec::new();
        within("service", async {
            loop {
                port.recv(&mut events).await.unwrap();
                for event in events.drain(..) {
                    match event {
                        PortEvent::Up { .. } => port.send(message.clone()).unwrap(),
                        PortEvent::Message(answer) => {
                            assert_eq!(answer, message);
                            return;
                        }
                        // Refused for the moment: the port tries again.
                        _ => {}
                    }
                }
            }
        })
        .await;
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(endpoint: &Endpoint) -> Self {
        let Endpoint::Tcp { host, port } = endpoint else { panic!("{endpoint} is not TCP") };
        // Little room in the system's buffers, so that what a peer does not read is soon felt at the other end.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        Self(socket.connect(format!("{host}:{port}").parse().unwrap()).await.unwrap())
    }

    /// Writes all of it; `false` if the other side has had enough.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        within("write", self.0.write_all(bytes)).await.is_ok()
    }

    /// Greets and says READY as a socket of this type, speaking ZMTP 3.`minor`; reads the other side's greeting.
    pub async fn shake_hands(&mut self, socket_type: &str, minor: u8) {
        let greeting = Greeting { minor, ..Greeting::ours() };
        assert!(self.write(&greeting.encode()).await);
        let mut theirs = [0; GREETING_BYTES];
        within("greeting", self.0.read_exact(&mut theirs)).await.unwrap();
        assert!(Greeting::parse(&theirs).unwrap().is_some());
        let mut metadata = Metadata::new();
        assert!(metadata.push("Socket-Type", socket_type.to_owned()));
        assert!(self.write(&Command::Ready(metadata).encode()).await);
    }

    /// Everything that comes until the other side hangs up.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset is an end like any other.
        let _ = within("hang-up", self.0.read_to_end(&mut all)).await;
        all
    }
}

/// Resident memory of this process, where the system tells.
pub fn resident_bytes() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<usize>().ok()? * 4096)
}

/// Asserts that what lies between did not take this much more memory.
pub fn assert_grew_less_than(before: Option<usize>, bytes: usize) {
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        assert!(after < before + bytes, "memory grew from {before} to {after} bytes");
    }
}
