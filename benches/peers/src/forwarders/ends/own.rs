//! Connections of the engine: tasks for subscribers and servers, and a thread for all clients.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use dsv2_net::endpoint::{Keepalive, connect};
use dsv2_net::engine::{Connection, Limits, LocalSocket, Outbox};
use dsv2_net::zmtp::{Batch, Command, Message, SocketType};
use futures_util::future::select_all;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{Clients, Ends, PATIENCE, Publisher, TOPIC, note};

pub(crate) struct Own(Runtime);

impl Default for Own {
    fn default() -> Self {
        Self(Builder::new_multi_thread().enable_all().build().expect("runtime"))
    }
}

/// Within a runtime, which then writes what is queued.
async fn connection(endpoint: &str, kind: SocketType) -> Connection {
    let endpoint = endpoint.parse().expect("endpoint");
    let limits = Limits { outbox_cap_bytes: 64 << 20, ..Limits::default() };
    let stream = connect(&endpoint, Keepalive::default()).await.expect("connect");
    Connection::establish(stream, String::new(), &Arc::new(LocalSocket::new(kind, limits))).await.expect("handshake")
}

impl Ends for Own {
    fn publisher(&self, endpoint: &str) -> Box<dyn Publisher> {
        let mut connection = self.0.block_on(connection(endpoint, SocketType::Pub));
        let outbox = connection.outbox().clone();
        // Subscriptions come in all the time.
        self.0.spawn(async move { while connection.next_batch(&mut Batch::new()).await.is_ok() {} });
        Box::new(outbox)
    }

    fn subscribe(&self, endpoint: &str, payload_bytes: usize, received: &Arc<[AtomicUsize]>) {
        for subscriber in 0..received.len() {
            let mut connection = self.0.block_on(connection(endpoint, SocketType::Sub));
            connection.outbox().append_wire(&Command::subscription(TOPIC.as_bytes(), true, true), 0).expect("room");
            connection.outbox().flush();
            let received = Arc::clone(received);
            self.0.spawn(async move {
                let mut batch = Batch::new();
                while connection.next_batch(&mut batch).await.is_ok() {
                    let messages = batch.messages().filter(|message| message.last().len() == payload_bytes).count();
                    note(&received[subscriber], messages, messages < batch.len());
                }
            });
        }
    }

    fn serve(&self, endpoint: &str, rep: bool) {
        assert!(!rep, "the engine has no REP");
        let mut connection = self.0.block_on(connection(endpoint, SocketType::Dealer));
        if connection.peer().is_dsv2() {
            // A broker of ours hands nothing to a server of ours before this.
            connection.outbox().push(&Message::from([&b"_dsv2"[..], b"ready"])).expect("room");
        }
        self.0.spawn(async move {
            let mut batch = Batch::new();
            while connection.next_batch(&mut batch).await.is_ok() {
                for message in batch.messages() {
                    connection.outbox().append(&message).expect("room");
                }
                connection.outbox().flush();
            }
        });
    }

    fn clients(&self, endpoint: &str, clients: usize) -> Box<dyn Clients> {
        // Of its own: the thread that sends then reads and writes, too.
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        let dealer = || (runtime.block_on(connection(endpoint, SocketType::Dealer)), Batch::new());
        let dealers = std::iter::repeat_with(dealer).take(clients).collect();
        Box::new(Dealers { dealers, runtime })
    }
}

impl Publisher for Outbox {
    fn send(&mut self, body: &[u8]) {
        self.append(&Message::from([TOPIC.as_bytes(), body])).expect("room");
    }

    fn flush(&mut self) {
        Outbox::flush(self);
    }
}

struct Dealers {
    dealers: Vec<(Connection, Batch)>,
    runtime: Runtime,
}

impl Clients for Dealers {
    fn send(&mut self, client: usize, number: u64, body: &[u8]) {
        let message = Message::from([&number.to_be_bytes()[..], b"", body]);
        self.dealers[client].0.outbox().append(&message).expect("room");
    }

    fn receive(&mut self, payload_bytes: usize, replies: &mut [usize]) {
        let next = self.dealers.iter_mut().map(|(connection, batch)| {
            connection.outbox().flush();
            Box::pin(connection.next_batch(batch))
        });
        let next = select_all(next);
        let (received, client, _) = self
            .runtime
            .block_on(async { timeout(PATIENCE, next).await })
            .unwrap_or_else(|_| panic!("nothing arrived for {PATIENCE:?}: messages were lost"));
        received.expect("open");
        for message in self.dealers[client].1.messages() {
            assert_eq!(message.last().len(), payload_bytes, "an echo, and no refusal");
            replies[client] += 1;
        }
    }
}
