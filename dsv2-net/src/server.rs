//! The server as a process runs it: the machine of `dsv2-sync`, its store, and its sockets.
//!
//! ```no_run
//! use dsv2_net::server::{ServerOptions, Server};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut options = ServerOptions::new("server1".parse()?);
//! options.data = Some("data".into());
//! let server = Server::start(options).await?;
//! println!("links at {}", server.link());
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod brokers;
mod envelope;
mod links;
mod log;
mod reference;
mod role;

pub(crate) use envelope::Envelope;
pub use role::{Disk, ServerHandle, ServerStats, Tally};

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use dsv2_core::{Format, Level, Retention, ServerName};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore, MemoryStore, Meta, StoreError};
use dsv2_sync::election::{CoordinatorRank, ElectionForm, NodeId};
use dsv2_sync::server::{Server as Machine, ServerConfig};
use dsv2_sync::stored;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoint::{BindError, Endpoint};
use crate::engine::{Limits, Router};
use crate::port::{Backoff, PortLimits};
use crate::stats::Asker;
use crate::time::{Clocks, random_u64};

/// What a server is told at its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Its name. The one that the data directory remembers wins.
    pub name: ServerName,
    /// Its data directory; in memory only where there is none.
    pub data: Option<PathBuf>,
    /// The servers' side of every broker. It takes requests of all of them.
    pub brokers: Vec<Endpoint>,
    /// The publishers' side of every proxy. It publishes everything at all of them.
    pub publish: Vec<Endpoint>,
    /// The subscribers' side of every proxy.
    pub subscribe: Vec<Endpoint>,
    /// The reference.
    pub reference: Endpoint,
    /// Where it listens for other servers; port 0 for any.
    pub link: Endpoint,
    /// The address of its link that others are told; the bound one where there is none.
    pub advertise: Option<Endpoint>,
    /// The servers whose majority a write at `quorum` needs; every voter is given the same list. None: every server
    /// writes, and `local` is the only level.
    pub voters: BTreeSet<ServerName>,
    /// The serialization of its publications, and of its questions to the reference.
    pub format: Format,
    /// The level of writes that ask for none: `quorum` with voters, `local` without.
    pub level: Option<Level>,
    /// Which rank leads.
    pub coordinator_rank: CoordinatorRank,
    /// How a coordinator is chosen: with a quorum where there are voters. Every server is given the same.
    pub election: ElectionForm,
    /// How much is kept of what is final at every voter; that of the coordinator counts. Needs voters.
    pub retention: Retention,
    /// How long it may take to finish what was begun when it is stopped.
    pub drain: Duration,
}

impl ServerOptions {
    /// A server of that name at the seed's ports on this machine, in memory, without voters; its link at 5560.
    #[must_use]
    pub fn new(name: ServerName) -> Self {
        let local = |port| Endpoint::tcp("127.0.0.1", port);
        Self {
            name,
            data: None,
            brokers: vec![local(5556)],
            publish: vec![local(5557)],
            subscribe: vec![local(5558)],
            reference: local(5559),
            link: local(5560),
            advertise: None,
            voters: BTreeSet::new(),
            format: Format::default(),
            level: None,
            coordinator_rank: CoordinatorRank::default(),
            election: ElectionForm::default(),
            retention: Retention::default(),
            drain: Duration::from_secs(5),
        }
    }
}

/// Why a server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The data directory cannot be used.
    #[error("the data directory cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The link cannot listen.
    #[error("the link cannot listen: {0}")]
    Bind(#[from] BindError),
    /// The system refused something.
    #[error("the system refused: {0}")]
    Io(#[from] std::io::Error),
    /// It must not run: its name is taken by another live server, for example.
    #[error("{0}")]
    Fatal(String),
}

/// A running server. Dropping it stops it at once, without a drain; nothing acknowledged is lost.
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    link: Endpoint,
    handle: ServerHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    /// Opens the data directory, replays it, and begins to serve.
    ///
    /// # Errors
    /// [`ServerError`]; nothing runs then.
    pub async fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let store = open(&options)?;
        Self::start_with(options, store).await
    }

    /// The same over a store of your own.
    ///
    /// # Errors
    /// [`ServerError`]; nothing runs then.
    pub async fn start_with(mut options: ServerOptions, mut store: Box<dyn EventStore>) -> Result<Self, ServerError> {
        if let Some(name) = remember_name(&options, store.as_mut())? {
            options.name = name;
        }
        if options.link.is_wildcard() && options.advertise.is_none() {
            let text =
                format!("others cannot be told to come to {}: say with `advertise` where they reach it", options.link);
            return Err(ServerError::Fatal(text));
        }
        let router = Router::bind(&options.link, Limits::default()).await?;
        let link = router.endpoint().clone();
        options.link = link.clone();
        let (stop, stopped) = watch::channel(false);
        let name = options.name.clone();
        let (asker, asked) = Asker::new();
        let task = tokio::spawn(role::run(options, store, router, asked, stopped));
        Ok(Self { name, link, handle: ServerHandle(asker), stop, task })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// Where it listens for other servers.
    #[must_use]
    pub fn link(&self) -> &Endpoint {
        &self.link
    }

    /// Asks it for its numbers.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Finishes what was begun, and ends.
    ///
    /// # Errors
    /// What had made it end before.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        self.stop.send_replace(true);
        ended((&mut self.task).await)
    }

    /// Waits until it ends by itself, which it does only when it must not run. Cancel-safe.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        ended((&mut self.task).await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ended(result: Result<Result<(), ServerError>, tokio::task::JoinError>) -> Result<(), ServerError> {
    result.unwrap_or_else(|error| Err(ServerError::Fatal(format!("the server's task ended: {error}"))))
}

fn open(options: &ServerOptions) -> Result<Box<dyn EventStore>, ServerError> {
    let node = u128::from(random_u64()?) << 64 | u128::from(random_u64()?);
    Ok(match &options.data {
        Some(dir) => Box::new(JsonlStore::open_dir(dir, JsonlConfig { node, ..JsonlConfig::default() })?),
        None => Box::new(MemoryStore::new(Meta::new(node))),
    })
}

/// How a server connects. It tries again sooner than clients do, of which there are many: whoever comes back waits for it.
fn port_limits() -> PortLimits {
    let backoff = Backoff { cap: Duration::from_secs(1), ..Backoff::default() };
    PortLimits { backoff, ..PortLimits::default() }
}

/// The name that the data directory remembers, which wins; a new directory remembers the given one.
fn remember_name(options: &ServerOptions, store: &mut dyn EventStore) -> Result<Option<ServerName>, StoreError> {
    match &store.meta().name {
        Some(name) => {
            if *name != options.name {
                tracing::warn!(given = %options.name, remembered = %name, "the data directory belongs to another name, which is kept");
            }
            Ok(Some(name.clone()))
        }
        None => {
            let meta = Meta { name: Some(options.name.clone()), ..store.meta().clone() };
            store.save_meta(&meta)?;
            Ok(None)
        }
    }
}

/// The machine, with everything that the store remembers.
fn machine(options: &ServerOptions, store: &mut dyn EventStore, clocks: Clocks) -> Result<Machine, ServerError> {
    let mut config = ServerConfig::new(options.name.clone(), NodeId(store.meta().node), random_u64()?);
    config.voters.clone_from(&options.voters);
    config.address = Some(options.advertise.as_ref().unwrap_or(&options.link).to_string());
    config.format = options.format;
    config.level = options.level;
    stored::configure(&mut config, store);
    config.election.rank = options.coordinator_rank;
    config.form = options.election;
    config.retention = options.retention;
    let replay = stored::replay(&config.name, store)?;
    Ok(Machine::restore(config, clocks.now(), replay))
}
