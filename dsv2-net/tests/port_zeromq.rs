//! What the `zeromq` crate cannot cope with by itself: its port notices, and starts afresh.
#![cfg(feature = "zeromq")]
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use std::time::Duration;

use bytes::Bytes;
use dsv2_net::Endpoint;
use dsv2_net::port::{Backoff, Port, PortEvent, PortLimits, SendError, SocketKind, Transport, connect};
use dsv2_net::zmtp::{Command, Greeting, Message, Metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A ROUTER made by hand, which can do what no well-meaning one does.
struct HandMade(TcpListener);

impl HandMade {
    async fn bind() -> (Self, Endpoint) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Self(listener), Endpoint::tcp("127.0.0.1", port))
    }

    async fn accept(&self) -> TcpStream {
        let (mut stream, _) = timeout(Duration::from_secs(20), self.0.accept()).await.unwrap().unwrap();
        let mut metadata = Metadata::new();
        metadata.push("Socket-Type", "ROUTER");
        stream.write_all(&Greeting { minor: 0, ..Greeting::ours() }.encode()).await.unwrap();
        stream.write_all(&Command::Ready(metadata).encode()).await.unwrap();
        stream
    }
}

fn open(endpoint: Endpoint, limits: PortLimits) -> Box<dyn Port> {
    let backoff = Backoff { first: Duration::from_millis(5), cap: Duration::from_millis(50) };
    connect(Transport::ZeroMq, SocketKind::Dealer, endpoint, PortLimits { backoff, ..limits }).unwrap()
}

async fn next(port: &mut dyn Port) -> PortEvent {
    let mut events = Vec::new();
    timeout(Duration::from_secs(20), port.recv(&mut events)).await.unwrap().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

#[tokio::test]
async fn a_ping_costs_the_connection_and_no_more() {
    let (peer, endpoint) = HandMade::bind().await;
    let mut port = open(endpoint, PortLimits::default());
    let mut stream = peer.accept().await;
    assert!(matches!(next(&mut *port).await, PortEvent::Up { .. }));
    port.send(Message::single(b"request")).unwrap();
    stream.write_all(&Command::Ping { ttl_ds: 0, context: Bytes::new() }.encode()).await.unwrap();
    assert!(matches!(next(&mut *port).await, PortEvent::Down { unsent_messages: 1, .. }));
    assert_eq!(port.send(Message::single(b"x")), Err(SendError::Down(Message::single(b"x"))));

    let mut stream = peer.accept().await;
    assert!(matches!(next(&mut *port).await, PortEvent::Up { .. }));
    stream.write_all(Message::single(b"hello again").wire()).await.unwrap();
    assert_eq!(next(&mut *port).await, PortEvent::Message(Message::single(b"hello again")));
}

#[tokio::test]
async fn a_peer_that_answers_nothing_is_given_up() {
    let (peer, endpoint) = HandMade::bind().await;
    let mut port = open(endpoint, PortLimits { answer_timeout: Duration::from_millis(200), ..PortLimits::default() });
    let mut stream = peer.accept().await;
    assert!(matches!(next(&mut *port).await, PortEvent::Up { .. }));
    port.send(Message::single(b"request")).unwrap();
    let PortEvent::Down { reason, unsent_messages } = next(&mut *port).await else { panic!("not down") };
    assert_eq!((reason.as_str(), unsent_messages), ("the peer answers nothing", 1));
    // The old connection is closed, not left behind.
    let mut rest = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.ends_with(Message::single(b"request").wire()));
    let _stream = peer.accept().await;
    assert!(matches!(next(&mut *port).await, PortEvent::Up { .. }));
    assert_eq!(port.stats().lost, 1);
}
