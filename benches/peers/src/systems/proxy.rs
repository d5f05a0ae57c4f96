//! Our proxy alone, with the ports that servers and clients of ours reach it by: nothing is stored, as in NATS' core.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dsv2_net::Endpoint;
use dsv2_net::port::{Port, PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::dsv2::program;
use super::process::{Server, folder, free_ports};
use super::{Publisher, Running, System};
use crate::Result;
use crate::loads::Arrivals;

const TOPIC: &[u8] = b"bench";
/// Messages that may wait for the task of a port.
const QUEUE: usize = 4_096;
/// Of these so many are taken at a time.
const BATCH: usize = 256;
const UP_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Proxy;

struct Instance {
    server: Server,
    publishers: u16,
    subscribers: u16,
    /// Dropping it ends them: a port would connect anew for ever.
    tasks: Mutex<JoinSet<()>>,
}

#[async_trait]
impl System for Proxy {
    fn name(&self) -> &'static str {
        "dsv2-proxy"
    }

    fn durability(&self) -> &'static str {
        "the proxy alone: nothing is kept or acknowledged"
    }

    async fn start(&self) -> Result<Box<dyn Running>> {
        let (dir, port) = (folder()?, free_ports(2)?);
        let (publishers, subscribers) = (port, port + 1);
        let mut command = Command::new(program("dsv2-proxy"));
        command.args(["--publishers", &endpoint(publishers).to_string()]);
        command.args(["--subscribers", &endpoint(subscribers).to_string()]);
        let mut server = Server::start(command, dir)?;
        server.says("ready").await?;
        Ok(Box::new(Instance { server, publishers, subscribers, tasks: Mutex::default() }))
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::tcp("127.0.0.1", port)
}

/// A port that is up, with its default bounds.
async fn port(kind: SocketKind, at: u16) -> Result<Box<dyn Port>> {
    let mut port = connect(Transport::Native, kind, endpoint(at), PortLimits::default())?;
    let mut events = Vec::new();
    while !events.iter().any(|event| matches!(event, PortEvent::Up { .. })) {
        tokio::time::timeout(UP_WITHIN, port.recv(&mut events)).await??;
    }
    Ok(port)
}

impl Instance {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

#[async_trait]
impl Running for Instance {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        self.spawn(publish(port(SocketKind::Pub, self.publishers).await?, waiting));
        Ok(Arc::new(Announcer(queue)))
    }

    async fn subscribe(&self, subscriber: usize, arrivals: Arc<Arrivals>) -> Result<()> {
        let mut port = port(SocketKind::Sub, self.subscribers).await?;
        port.subscribe(TOPIC);
        self.spawn(async move {
            let mut events = Vec::new();
            while port.recv(&mut events).await.is_ok() {
                for event in events.drain(..) {
                    if let PortEvent::Message(message) = event {
                        arrivals.take(subscriber, message.last());
                    }
                }
            }
        });
        Ok(())
    }
}

/// Owns a port, as whoever publishes does: sends what is queued, and learns whether the port is up. Ends with either.
async fn publish(mut port: Box<dyn Port>, mut queue: mpsc::Receiver<Message>) {
    let (mut messages, mut events) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            count = queue.recv_many(&mut messages, BATCH) => {
                if count == 0 || messages.drain(..).any(|message| port.send(message).is_err()) {
                    return;
                }
            }
            received = port.recv(&mut events) => {
                events.clear();
                if received.is_err() {
                    return;
                }
            }
        }
    }
}

struct Announcer(mpsc::Sender<Message>);

#[async_trait]
impl Publisher for Announcer {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        self.0.send(Message::from([TOPIC, &payload])).await.map_err(|_| "the port is down")?;
        Ok(())
    }
}
