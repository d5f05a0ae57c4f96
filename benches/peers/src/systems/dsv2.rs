//! Ours, as a program would use it: `dsv2 up` in one process, the client SDK in ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dsv2_net::client::{Channel, Client, ClientBuilder, Cursor, Delivery, Format};
use tokio::task::JoinSet;

use super::process::{Server, disk_bytes, folder, free_ports};
use super::{Keeper, Publisher, Requester, Running, Segments, System};
use crate::Result;
use crate::loads::Arrivals;

pub(crate) const CHANNEL: &str = "bench";
/// The segment that publications are appended to.
const OPEN: &str = "publishes.jsonl";

pub(crate) struct Dsv2 {
    pub(crate) servers: u8,
}

/// A cluster that runs.
pub(crate) struct Cluster {
    server: Server,
    port: u16,
    /// Dropping it ends them: a client would connect anew for ever.
    subscribers: Mutex<JoinSet<()>>,
}

#[async_trait]
impl System for Dsv2 {
    fn name(&self) -> &'static str {
        if self.servers == 1 { "dsv2" } else { "dsv2-3" }
    }

    fn durability(&self) -> &'static str {
        if self.servers == 1 {
            "synced (fdatasync, group commit)"
        } else {
            "synced at two of three servers, on this machine"
        }
    }

    async fn keep(&self) -> Result<Box<dyn Keeper>> {
        Ok(Box::new(Cluster::start(self.servers).await?))
    }
}

/// One of the workspace's own, built for release.
pub(super) fn program(name: &str) -> PathBuf {
    workspace().join("target/release").join(name)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds them as the sources are now.
///
/// # Errors
/// They do not build.
pub(crate) fn build() -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--release", "--bin", "dsv2", "--bin", "dsv2-proxy", "--target-dir", "target"]);
    if cargo.current_dir(workspace()).status()?.success() { Ok(()) } else { Err("dsv2 does not build".into()) }
}

impl Cluster {
    /// Starts one in a process of its own, with nothing stored but the channel that everybody publishes in.
    pub(crate) async fn start(servers: u8) -> Result<Self> {
        let (dir, port) = (folder()?, free_ports(5 + u16::from(servers))?);
        let mut command = Command::new(program("dsv2"));
        command.args(["up", "--servers", &servers.to_string(), "--base-port", &port.to_string(), "--data"]);
        command.arg(dir.path().join("data"));
        let mut server = Server::start(command, dir)?;
        server.listens(port).await?;
        server.says("ready").await?;
        let cluster = Self { server, port, subscribers: Mutex::default() };
        cluster.client("setup").await?.channel(CHANNEL).create().await?;
        Ok(cluster)
    }

    /// The memory that its process holds, in bytes.
    pub(crate) fn memory_bytes(&self) -> f64 {
        self.server.memory_bytes()
    }

    /// A client of it.
    pub(crate) async fn client(&self, user: &str) -> Result<Client> {
        Ok(self.builder().user(user).connect().await?)
    }

    fn builder(&self) -> ClientBuilder {
        let broker = format!("tcp://127.0.0.1:{}", self.port);
        let proxy = format!("tcp://127.0.0.1:{}", self.port + 3);
        Client::builder(broker).proxy(proxy).serde(Format::MsgPack)
    }
}

#[async_trait]
impl Running for Cluster {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(OurPublisher(self.client("publisher").await?.channel(CHANNEL))))
    }

    async fn subscribe(&self, subscriber: usize, arrivals: Arc<Arrivals>) -> Result<()> {
        let client = self.client(&format!("subscriber-{subscriber}")).await?;
        let mut subscription = client.subscribe([CHANNEL]).from(Cursor::Last).await?;
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            while let Some(delivery) = subscription.next().await {
                if let Delivery::Message(message) = delivery {
                    arrivals.take(subscriber, message.text().as_bytes());
                }
            }
        });
        Ok(())
    }

    async fn requester(&self) -> Result<Arc<dyn Requester>> {
        Ok(Arc::new(OurRequester(self.client("requester").await?)))
    }
}

#[async_trait]
impl Keeper for Cluster {
    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn read(&self) -> Result<()> {
        // Nobody in particular: a login would be a write.
        let client = self.builder().connect().await?;
        let page = client.channel(CHANNEL).history().limit(1).await?;
        if page.messages.is_empty() { Err("nothing is stored".into()) } else { Ok(()) }
    }

    fn segments(&self) -> Result<Option<Segments>> {
        let (mut open, mut sealed_bytes) = (None, 0);
        for entry in fs::read_dir(self.server.dir().join("data/server1/messages"))? {
            let entry = entry?;
            let bytes = disk_bytes(&entry.path())?;
            if entry.file_name() == OPEN {
                let lines = fs::read(entry.path())?.iter().filter(|&&byte| byte == b'\n').count();
                open = Some((bytes, lines as u64));
            } else {
                sealed_bytes += bytes;
            }
        }
        let (open_bytes, open_messages) = open.ok_or_else(|| format!("there is no {OPEN}"))?;
        Ok(Some(Segments { open_bytes, open_messages, sealed_bytes }))
    }
}

struct OurPublisher(Channel);

#[async_trait]
impl Publisher for OurPublisher {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        self.0.publish(String::from_utf8(payload.into())?).await?;
        Ok(())
    }
}

struct OurRequester(Client);

#[async_trait]
impl Requester for OurRequester {
    async fn request(&self) -> Result<()> {
        self.0.users().await?;
        Ok(())
    }
}
