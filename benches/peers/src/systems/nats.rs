//! NATS: its core, which keeps nothing, and JetStream, which writes to files.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::task::JoinSet;

use super::process::{Server, folder, free_ports};
use super::{Keeper, Publisher, Requester, Running, System};
use crate::Result;
use crate::loads::Arrivals;

const SUBJECT: &str = "bench";
const ASKED: &str = "users";

pub(crate) struct Nats;
pub(crate) struct JetStream;

struct Instance {
    server: Server,
    url: String,
    keeps: bool,
    /// Dropping it ends them.
    tasks: Mutex<JoinSet<()>>,
}

#[async_trait]
impl System for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn durability(&self) -> &'static str {
        "core: nothing is kept or acknowledged; who answers requests is not in its cpu"
    }

    async fn start(&self) -> Result<Box<dyn Running>> {
        Ok(Box::new(start(false).await?))
    }
}

#[async_trait]
impl System for JetStream {
    fn name(&self) -> &'static str {
        "jetstream"
    }

    fn durability(&self) -> &'static str {
        "written to the system's memory, no sync"
    }

    async fn keep(&self) -> Result<Box<dyn Keeper>> {
        let instance = start(true).await?;
        let context = jetstream::new(instance.connect().await?);
        let stream = jetstream::stream::Config {
            name: SUBJECT.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            storage: jetstream::stream::StorageType::File,
            ..Default::default()
        };
        context.create_stream(stream).await?;
        Ok(Box::new(instance))
    }
}

async fn start(keeps: bool) -> Result<Instance> {
    let (dir, port) = (folder()?, free_ports(1)?);
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    if keeps {
        command.arg("-js").arg("-sd").arg(dir.path());
    }
    let mut server = Server::start(command, dir)?;
    server.listens(port).await?;
    Ok(Instance { server, url: format!("nats://127.0.0.1:{port}"), keeps, tasks: Mutex::default() })
}

impl Instance {
    async fn connect(&self) -> Result<async_nats::Client> {
        // Without a bound it would connect anew for ever, when the server is gone.
        Ok(async_nats::ConnectOptions::new().max_reconnects(1).connect(&self.url).await?)
    }

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
        let client = self.connect().await?;
        if self.keeps { Ok(Arc::new(Stored(jetstream::new(client)))) } else { Ok(Arc::new(Core(client))) }
    }

    async fn subscribe(&self, subscriber: usize, arrivals: Arc<Arrivals>) -> Result<()> {
        let client = self.connect().await?;
        let mut messages = client.subscribe(SUBJECT).await?;
        client.flush().await?;
        self.spawn(async move {
            let _open = client;
            while let Some(message) = messages.next().await {
                arrivals.take(subscriber, &message.payload);
            }
        });
        Ok(())
    }

    async fn requester(&self) -> Result<Arc<dyn Requester>> {
        let answering = self.connect().await?;
        let mut asked = answering.subscribe(ASKED).await?;
        answering.flush().await?;
        self.spawn(async move {
            while let Some(message) = asked.next().await {
                if let Some(reply) = message.reply {
                    let _ = answering.publish(reply, message.payload).await;
                }
            }
        });
        Ok(Arc::new(Core(self.connect().await?)))
    }
}

#[async_trait]
impl Keeper for Instance {
    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn read(&self) -> Result<()> {
        let stream = jetstream::new(self.connect().await?).get_stream(SUBJECT).await?;
        stream.get_last_raw_message_by_subject(SUBJECT).await?;
        Ok(())
    }
}

struct Core(async_nats::Client);

#[async_trait]
impl Publisher for Core {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        Ok(self.0.publish(SUBJECT, payload).await?)
    }
}

#[async_trait]
impl Requester for Core {
    async fn request(&self) -> Result<()> {
        self.0.request(ASKED, Bytes::from_static(&[b'x'; 128])).await?;
        Ok(())
    }
}

struct Stored(jetstream::Context);

#[async_trait]
impl Publisher for Stored {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        self.0.publish(SUBJECT, payload).await?.await?;
        Ok(())
    }
}
