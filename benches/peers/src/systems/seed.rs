//! A server in Python, as the seed describes it, with the durability of ours; see `seed_server.py`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dsv2_net::port::{PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::Message;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::process::{Server, folder, free_ports};
use super::{Publisher, Running, System};
use crate::Result;

/// Requests that may wait for the connection's task.
const QUEUE: usize = 4_096;

pub(crate) struct Seed;

struct Instance {
    server: Server,
    port: u16,
}

#[async_trait]
impl System for Seed {
    fn name(&self) -> &'static str {
        "seed-python"
    }

    fn durability(&self) -> &'static str {
        "synced, one at a time"
    }

    async fn start(&self) -> Result<Box<dyn Running>> {
        let (dir, port) = (folder()?, free_ports(4)?);
        // What the tests' peers are run with: see bins/tests/peers/setup.sh.
        let python = std::env::var("DSV2_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("seed_server.py"));
        command.arg(port.to_string()).arg(dir.path());
        let mut server = Server::start(command, dir)?;
        server.says("ready").await?;
        server.listens(port).await?;
        Ok(Box::new(Instance { server, port }))
    }
}

#[async_trait]
impl Running for Instance {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let (asks, asked) = mpsc::channel(QUEUE);
        let (up, is_up) = oneshot::channel();
        tokio::spawn(exchange(self.port, asked, up));
        is_up.await?;
        Ok(Arc::new(Dealer(asks)))
    }
}

type Ask = (Bytes, oneshot::Sender<()>);

/// A DEALER: each request carries its number, each answer the same.
async fn exchange(port: u16, mut asked: mpsc::Receiver<Ask>, up: oneshot::Sender<()>) -> Result<()> {
    let endpoint = format!("tcp://127.0.0.1:{port}").parse()?;
    let mut dealer = connect(Transport::Native, SocketKind::Dealer, endpoint, PortLimits::default())?;
    let (mut waiting, mut next, mut up) = (HashMap::<u64, oneshot::Sender<()>>::new(), 0_u64, Some(up));
    let mut events = Vec::new();
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some((body, answered)) = ask else { return Ok(()) };
                next += 1;
                waiting.insert(next, answered);
                dealer.send(Message::from_frames([&next.to_be_bytes()[..], b"", &body])).map_err(|e| e.to_string())?;
            }
            received = dealer.recv(&mut events) => received?,
        }
        for event in events.drain(..) {
            match event {
                PortEvent::Up { .. } => {
                    let _ = up.take().map(|up| up.send(()));
                }
                PortEvent::Message(message) => {
                    let number = message.frame(0).and_then(|frame| frame.try_into().ok()).map(u64::from_be_bytes);
                    if let Some(answered) = number.and_then(|number| waiting.remove(&number)) {
                        let _ = answered.send(());
                    }
                }
                PortEvent::Down { reason, .. } => return Err(reason.into()),
                _ => {}
            }
        }
    }
}

struct Dealer(mpsc::Sender<Ask>);

#[derive(Serialize)]
struct Request<'a> {
    service: &'static str,
    data: Publication<'a>,
}

#[derive(Serialize)]
struct Publication<'a> {
    user: &'static str,
    channel: &'static str,
    message: &'a str,
    clock: u64,
}

#[async_trait]
impl Publisher for Dealer {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        let message = std::str::from_utf8(&payload)?;
        let data = Publication { user: "ana", channel: "bench", message, clock: 1 };
        let body = rmp_serde::to_vec_named(&Request { service: "publish", data })?;
        let (done, answered) = oneshot::channel();
        self.0.send((body.into(), done)).await?;
        Ok(answered.await?)
    }
}
