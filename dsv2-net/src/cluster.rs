//! A whole cluster in one process: for embedding, for examples, for tests.
//!
//! ```no_run
//! use dsv2_net::cluster::{Cluster, ClusterOptions};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::start(ClusterOptions::memory(3)).await?;
//! println!("clients connect to {}", cluster.endpoints().clients);
//! cluster.stop().await?;
//! # Ok(())
//! # }
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use dsv2_core::{Format, Retention, ServerName};
use dsv2_sync::election::CoordinatorRank;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::endpoint::{BindError, Endpoint};
use crate::engine::{Broker, BrokerConfig, BrokerHandle, DrainReport, Proxy, ProxyConfig, ProxyHandle};
use crate::reference::{Reference, ReferenceError, ReferenceHandle, ReferenceOptions};
use crate::refuse::EnvelopeRefuser;
use crate::server::{Server, ServerError, ServerHandle, ServerOptions};
use crate::time::random_u64;

/// What a cluster is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterOptions {
    /// How many servers; they are called `server1`, `server2`, and so on, and are each other's voters.
    pub servers: usize,
    /// Where everything listens.
    pub place: Place,
    /// The data directory; each server has one of its name in it. In memory only where there is none.
    pub data: Option<PathBuf>,
    /// The serialization of what servers publish.
    pub format: Format,
    /// Which rank leads.
    pub coordinator_rank: CoordinatorRank,
    /// How much is kept; everything by default.
    pub retention: Retention,
}

/// Where a cluster listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Within the process: no sockets.
    Memory,
    /// TCP, at ports from a base on: clients, servers, publishers, subscribers, reference, and a link for each server.
    /// The seed's base is 5555. Base 0 takes free ports.
    Tcp {
        /// The host to listen on; `*` for every address, at which the servers tell each other of the loopback address.
        host: String,
        /// The base port.
        base_port: u16,
    },
}

impl ClusterOptions {
    /// So many servers within the process, without sockets and files.
    #[must_use]
    pub fn memory(servers: usize) -> Self {
        Self {
            servers,
            place: Place::Memory,
            data: None,
            format: Format::default(),
            coordinator_rank: CoordinatorRank::default(),
            retention: Retention::default(),
        }
    }

    /// So many servers at the ports from `base_port` on, on this machine, in memory.
    #[must_use]
    pub fn local(servers: usize, base_port: u16) -> Self {
        Self { place: Place::Tcp { host: "127.0.0.1".to_owned(), base_port }, ..Self::memory(servers) }
    }
}

/// Where the parts of a cluster listen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoints {
    /// The broker, for clients.
    pub clients: Endpoint,
    /// The broker, for servers.
    pub servers: Endpoint,
    /// The proxy, for publishers.
    pub publishers: Endpoint,
    /// The proxy, for subscribers.
    pub subscribers: Endpoint,
    /// The reference.
    pub reference: Endpoint,
    /// Each server's link.
    pub links: Vec<Endpoint>,
}

/// Why a cluster did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A part cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The reference failed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A server failed.
    #[error("{name}: {source}")]
    Server {
        /// Which.
        name: ServerName,
        /// Why.
        source: ServerError,
    },
    /// The options ask for ports beyond 65535, or for no server.
    #[error("{0}")]
    Options(String),
    /// The system refused something.
    #[error("the system refused: {0}")]
    Io(#[from] std::io::Error),
}

/// A running cluster. Dropping it stops everything at once; nothing acknowledged is lost that is on disk.
#[derive(Debug)]
pub struct Cluster {
    endpoints: Endpoints,
    reference: Option<Reference>,
    broker: Forwarder,
    proxy: Forwarder,
    handles: (BrokerHandle, ProxyHandle),
    servers: Vec<Slot>,
}

/// The broker or the proxy. Dropping it stops it at once.
#[derive(Debug)]
struct Forwarder {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<DrainReport>,
}

impl Forwarder {
    fn start<F>(run: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self
    where
        F: Future<Output = DrainReport> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let run = run(stopped);
        Self { stop: Some(stop), task: tokio::spawn(run) }
    }

    async fn stop(&mut self) {
        let asked = self.stop.take().is_some_and(|stop| stop.send(()).is_ok());
        if asked {
            // It ends by its own deadline; a panic in it has been logged by the runtime.
            let _panicked = (&mut self.task).await.is_err();
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn one<'a>(mut endpoints: impl Iterator<Item = &'a Endpoint>) -> Result<Endpoint, ClusterError> {
    endpoints.next().cloned().ok_or_else(|| ClusterError::Options("a part listens nowhere".to_owned()))
}

/// A server of the cluster, running or not.
#[derive(Debug)]
struct Slot {
    options: ServerOptions,
    server: Option<Server>,
}

impl Cluster {
    /// Starts all parts; returns as soon as they listen. Clients may connect at once, and wait until a server is ready.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing runs then.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let wanted = Plan::new(&options)?;
        let broker = BrokerConfig {
            clients: vec![wanted.part(0, "clients")?],
            servers: wanted.shared(1, "servers")?,
            ..BrokerConfig::default()
        };
        let broker = Broker::bind(broker, Arc::new(EnvelopeRefuser::default())).await?;
        let proxy = ProxyConfig {
            publishers: wanted.shared(2, "publishers")?,
            subscribers: wanted.shared(3, "subscribers")?,
            ..ProxyConfig::default()
        };
        let proxy = Proxy::bind(proxy).await?;
        let reference = ReferenceOptions {
            bind: wanted.part(4, "reference")?,
            data: options.data.as_ref().map(|dir| dir.join("reference")),
        };
        let reference = Reference::start(reference).await?;
        let mut endpoints = Endpoints {
            clients: one(broker.client_endpoints())?,
            servers: one(broker.server_endpoints())?,
            publishers: one(proxy.publisher_endpoints())?,
            subscribers: one(proxy.subscriber_endpoints())?,
            reference: reference.endpoint().clone(),
            links: Vec::new(),
        };
        let handles = (broker.handle(), proxy.handle());
        let broker = Forwarder::start(|stop| broker.run(stop));
        let proxy = Forwarder::start(|stop| proxy.run(stop));
        let mut servers = Vec::new();
        for index in 0..options.servers {
            let mut server = ServerOptions::new(server_name(index)?);
            server.voters = (0..options.servers).map(server_name).collect::<Result<_, _>>()?;
            server.brokers = vec![wanted.inner("servers")];
            server.publish = vec![wanted.inner("publishers")];
            server.subscribe = vec![wanted.inner("subscribers")];
            server.reference = reached(&endpoints.reference);
            server.link = wanted.part(5 + index, &format!("link{}", index + 1))?;
            server.advertise = server.link.is_wildcard().then(|| reached(&server.link));
            server.data = options.data.as_ref().map(|dir| dir.join(server.name.as_str()));
            server.format = options.format;
            server.coordinator_rank = options.coordinator_rank;
            server.retention = options.retention;
            let running = start_server(&server).await?;
            server.link = running.link().clone();
            endpoints.links.push(server.link.clone());
            servers.push(Slot { options: server, server: Some(running) });
        }
        Ok(Self { endpoints, reference: Some(reference), broker, proxy, handles, servers })
    }

    /// Three servers within the process: what most tests want.
    ///
    /// # Errors
    /// [`ClusterError`]; nothing runs then.
    pub async fn in_memory() -> Result<Self, ClusterError> {
        Self::start(ClusterOptions::memory(3)).await
    }

    /// Where its parts listen.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Reads the broker's numbers.
    #[must_use]
    pub fn broker(&self) -> BrokerHandle {
        self.handles.0.clone()
    }

    /// Reads the proxy's numbers.
    #[must_use]
    pub fn proxy(&self) -> ProxyHandle {
        self.handles.1.clone()
    }

    /// Asks the reference for its numbers; `None` where it was stopped.
    #[must_use]
    pub fn reference(&self) -> Option<ReferenceHandle> {
        self.reference.as_ref().map(Reference::handle)
    }

    /// Asks each server that runs for its numbers; one that is started again later has another handle.
    #[must_use]
    pub fn servers(&self) -> Vec<(ServerName, ServerHandle)> {
        let running = self.servers.iter().filter_map(|slot| slot.server.as_ref());
        running.map(|server| (server.name().clone(), server.handle())).collect()
    }

    /// Stops one server, counted from 0, with a drain.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop_server(&mut self, index: usize) -> Result<(), ClusterError> {
        let Some(slot) = self.servers.get_mut(index) else { return Ok(()) };
        let Some(server) = slot.server.take() else { return Ok(()) };
        server.stop().await.map_err(|source| ClusterError::Server { name: slot.options.name.clone(), source })
    }

    /// Ends one server at once, as if its process were killed.
    pub fn kill_server(&mut self, index: usize) {
        if let Some(slot) = self.servers.get_mut(index) {
            slot.server = None;
        }
    }

    /// Starts a server again that was stopped or killed. Without a data directory it begins anew and catches up.
    ///
    /// # Errors
    /// [`ClusterError`]; it does not run then.
    pub async fn start_server(&mut self, index: usize) -> Result<(), ClusterError> {
        let Some(slot) = self.servers.get_mut(index) else { return Ok(()) };
        if slot.server.is_none() {
            slot.server = Some(start_server(&slot.options).await?);
        }
        Ok(())
    }

    /// Stops the reference; messages and elections go on without it.
    ///
    /// # Errors
    /// Why it had ended before.
    pub async fn stop_reference(&mut self) -> Result<(), ClusterError> {
        match self.reference.take() {
            Some(reference) => Ok(reference.stop().await?),
            None => Ok(()),
        }
    }

    /// Stops everything: servers first, which finish what they began.
    ///
    /// # Errors
    /// The first failure; the other parts are stopped nevertheless.
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        let mut result = Ok(());
        for index in 0..self.servers.len() {
            let stopped = self.stop_server(index).await;
            result = result.and(stopped);
        }
        let reference = self.stop_reference().await;
        self.proxy.stop().await;
        self.broker.stop().await;
        result.and(reference)
    }
}

async fn start_server(options: &ServerOptions) -> Result<Server, ClusterError> {
    let started = Server::start(options.clone()).await;
    started.map_err(|source| ClusterError::Server { name: options.name.clone(), source })
}

/// Where this process reaches what listens there, perhaps on every address.
fn reached(endpoint: &Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp { port, .. } if endpoint.is_wildcard() => Endpoint::tcp("127.0.0.1", *port),
        other => other.clone(),
    }
}

fn server_name(index: usize) -> Result<ServerName, ClusterError> {
    format!("server{}", index + 1)
        .parse()
        .map_err(|why| ClusterError::Options(format!("the name of server {index} {why}")))
}

/// Which endpoint each part gets.
struct Plan {
    place: Place,
    /// Keeps clusters of one process apart.
    cluster: u64,
}

impl Plan {
    fn new(options: &ClusterOptions) -> Result<Self, ClusterError> {
        if options.servers == 0 {
            return Err(ClusterError::Options("a cluster needs at least one server".to_owned()));
        }
        Ok(Self { place: options.place.clone(), cluster: random_u64()? })
    }

    /// A name within the process.
    fn inner(&self, name: &str) -> Endpoint {
        Endpoint::memory(format!("cluster-{:016x}/{name}", self.cluster))
    }

    /// Where others reach a part, and last where the cluster's own servers do: between two tasks of one process no system
    /// call has to stand.
    fn shared(&self, offset: usize, name: &str) -> Result<Vec<Endpoint>, ClusterError> {
        let (outer, inner) = (self.part(offset, name)?, self.inner(name));
        Ok(if outer == inner { vec![inner] } else { vec![outer, inner] })
    }

    fn part(&self, offset: usize, name: &str) -> Result<Endpoint, ClusterError> {
        match &self.place {
            Place::Memory => Ok(self.inner(name)),
            Place::Tcp { host, base_port: 0 } => Ok(Endpoint::tcp(host.clone(), 0)),
            Place::Tcp { host, base_port } => {
                let port = usize::from(*base_port) + offset;
                let port =
                    u16::try_from(port).map_err(|_| ClusterError::Options(format!("there is no port {port}")))?;
                Ok(Endpoint::tcp(host.clone(), port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_come_to_every_address() {
        for host in ["*", "0.0.0.0", "::"] {
            assert_eq!(reached(&Endpoint::tcp(host, 5560)), Endpoint::tcp("127.0.0.1", 5560));
        }
        for endpoint in [Endpoint::tcp("10.0.0.1", 5560), Endpoint::memory("link")] {
            assert_eq!(reached(&endpoint), endpoint);
        }
    }
}
