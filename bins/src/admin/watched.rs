//! What this process runs, and how it is.

use std::time::Duration;

use dsv2_core::ServerName;
use dsv2_net::engine::{BrokerHandle, BrokerStats, ProxyHandle, ProxyStats, SocketStats};
use dsv2_net::reference::{ReferenceHandle, ReferenceStats};
use dsv2_net::server::{Disk, ServerHandle, ServerStats};
use tokio::time::timeout;

/// How long a loop may take to answer before it counts as standing still.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that this process runs.
#[derive(Clone, Debug)]
pub enum Watched {
    /// A broker.
    Broker(BrokerHandle),
    /// A proxy.
    Proxy(ProxyHandle),
    /// A reference.
    Reference(ReferenceHandle),
    /// A server of that name.
    Server(ServerName, ServerHandle),
}

/// A part's numbers at one moment, or why there are none.
pub(super) struct State {
    /// `broker`, `proxy`, `reference` or `server`.
    pub(super) role: &'static str,
    /// A server's name.
    pub(super) server: Option<ServerName>,
    pub(super) seen: Result<Seen, &'static str>,
}

/// A part's numbers.
pub(super) enum Seen {
    Broker(BrokerStats, [SocketStats; 2]),
    Proxy(ProxyStats, [SocketStats; 2]),
    Reference(ReferenceStats),
    Server(Box<ServerStats>),
}

impl Watched {
    pub(super) async fn look(self) -> State {
        let late = "its loop stands still";
        let ended = "it has ended";
        let (role, server, seen) = match self {
            // Their numbers are behind the locks that all their connections take: who cannot take them does not answer.
            Self::Broker(handle) => ("broker", None, Ok(Seen::Broker(handle.stats(), handle.sockets()))),
            Self::Proxy(handle) => ("proxy", None, Ok(Seen::Proxy(handle.stats(), handle.sockets()))),
            Self::Reference(handle) => {
                let seen = timeout(PATIENCE, handle.stats()).await.map_err(|_| late);
                ("reference", None, seen.and_then(|stats| stats.ok_or(ended)).map(Seen::Reference))
            }
            Self::Server(name, handle) => {
                let seen = timeout(PATIENCE, handle.stats()).await.map_err(|_| late);
                let seen = seen.and_then(|stats| stats.ok_or(ended));
                ("server", Some(name), seen.map(|stats| Seen::Server(Box::new(stats))))
            }
        };
        State { role, server, seen }
    }
}

impl State {
    /// Its name among the parts of a process.
    fn name(&self) -> &str {
        self.server.as_ref().map_or(self.role, ServerName::as_str)
    }

    /// Why it is not alive.
    pub(super) fn not_alive(&self) -> Option<String> {
        self.seen.as_ref().err().map(|why| format!("{}: {why}", self.name()))
    }

    /// Why it cannot do its work. A broker, a proxy and a reference that run listen; a server needs more.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let reasons = match &self.seen {
            Err(why) => vec![(*why).to_owned()],
            Ok(Seen::Server(stats)) => unready(stats),
            Ok(_) => Vec::new(),
        };
        reasons.into_iter().map(|why| format!("{}: {why}", self.name())).collect()
    }
}

fn unready(stats: &ServerStats) -> Vec<String> {
    let mut reasons = Vec::new();
    if stats.vitals.rank.is_none() {
        reasons.push("the reference has given it no rank yet".to_owned());
    }
    if stats.disk != Disk::Good {
        let why = if stats.disk == Disk::Full { "its disk is full" } else { "its store is fenced: the disk failed" };
        reasons.push(why.to_owned());
    }
    if !stats.vitals.ready {
        let why = stats.vitals.trouble.clone().unwrap_or_else(|| "it takes no requests".to_owned());
        reasons.push(why);
    }
    if !stats.brokers.is_empty() && stats.brokers.iter().all(|port| !port.up) {
        reasons.push("no broker can be reached".to_owned());
    }
    reasons
}
