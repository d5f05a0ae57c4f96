//! The XSUB/XPUB forwarder: publishers connect on one side, subscribers on the other.
//!
//! ```text
//!   PUB, XPUB ──► batch ──match──► one slice per run of messages ──► Outbox of each subscriber ──► SUB, XSUB
//!       ▲                                                                                            │
//!       └───────────── first subscriber of a topic came, last one left ◄──────── SUBSCRIBE, CANCEL ──┘
//! ```
//!
//! What a publisher sends is forwarded in the very bytes that it came in: a run of neighbouring messages for the same
//! subscriber is one slice, whatever the number of subscribers, and each of them is woken once per read.
//!
//! Nobody waits for a slow subscriber. What does not fit into its output queue is dropped and counted, or the
//! subscriber is disconnected ([`SlowPolicy`]). If the queues of all subscribers together come near
//! `Limits::outbox_total_cap_bytes`, the one with the longest queue is disconnected, so that stalled subscribers
//! cannot take the room of the others.
//!
//! Sources: RFC 29 (PUB, SUB, XPUB, XSUB), RFC 37 (SUBSCRIBE and CANCEL).

mod hub;
mod stats;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info};

use self::hub::Hub;
pub use self::stats::ProxyStats;
use super::subscriptions::{MatchMode, SubscriptionLimits};
use super::{Connection, Counters, DrainReport, Limits, Listener, LocalSocket, Outbox, SocketStats};
use crate::endpoint::{BindError, Endpoint};
use crate::zmtp::{Batch, SocketType};

/// How long a subscriber that changes its subscriptions faster than publishers take them is held up at a time.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(1);

/// How many peers' output one task writes in a row.
const DIRECT_CAP: usize = 64;

/// Less than this is left to a peer's writer: more may join it until that runs.
const DIRECT_BYTES: usize = 4 << 10;

/// What becomes of a message for a subscriber whose output queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowPolicy {
    /// It is dropped, as PUB sockets do.
    #[default]
    Drop,
    /// It is dropped and the subscriber disconnected: it comes back, knowing that it missed something.
    Disconnect,
}

/// Configuration of a [`Proxy`].
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where publishers connect.
    pub publishers: Vec<Endpoint>,
    /// Where subscribers connect.
    pub subscribers: Vec<Endpoint>,
    /// How topics are compared with subscriptions.
    pub match_mode: MatchMode,
    /// Bounds of the subscription table.
    pub subscriptions: SubscriptionLimits,
    /// What becomes of messages for a slow subscriber.
    pub slow_policy: SlowPolicy,
    /// Limits of the publishers' side. Their output queues carry subscriptions only and are made large enough for
    /// a full subscription table.
    pub publisher_limits: Limits,
    /// Limits of the subscribers' side; `outbox_cap_bytes` is what a slow subscriber may lag behind.
    pub subscriber_limits: Limits,
    /// How long a graceful end may take.
    pub drain_timeout: Duration,
}

impl Default for ProxyConfig {
    /// The ports of the family, on the loopback interface: 5557 and 5558.
    fn default() -> Self {
        Self {
            publishers: vec![Endpoint::tcp("127.0.0.1", 5557)],
            subscribers: vec![Endpoint::tcp("127.0.0.1", 5558)],
            match_mode: MatchMode::default(),
            subscriptions: SubscriptionLimits::default(),
            slow_policy: SlowPolicy::default(),
            publisher_limits: Limits::default(),
            subscriber_limits: Limits::default(),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// A bound proxy. It forwards as soon as it is bound; [`Proxy::run`] ends it gracefully, dropping it at once.
#[derive(Debug)]
pub struct Proxy {
    publishers: Vec<Listener>,
    subscribers: Vec<Listener>,
    handle: ProxyHandle,
    drain_timeout: Duration,
}

/// Reads the counters of a running proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProxyHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hub: Mutex<Hub>,
    publishers: Arc<LocalSocket>,
    subscribers: Arc<LocalSocket>,
}

impl Proxy {
    /// Binds all endpoints of both sides.
    ///
    /// # Errors
    /// See [`BindError`]; nothing stays bound.
    pub async fn bind(config: ProxyConfig) -> Result<Self, BindError> {
        let mut publisher_limits = config.publisher_limits;
        let table_bytes = config.subscriptions.wire_bytes();
        publisher_limits.outbox_cap_bytes = publisher_limits.outbox_cap_bytes.max(2 * table_bytes);
        let total_cap = &mut publisher_limits.outbox_total_cap_bytes;
        *total_cap = (*total_cap).max(4 * table_bytes);
        let shared = Arc::new(Shared {
            hub: Mutex::new(Hub::new(
                config.match_mode,
                config.subscriptions,
                config.slow_policy,
                &config.subscriber_limits,
            )),
            publishers: Arc::new(LocalSocket::new(SocketType::Xsub, publisher_limits)),
            subscribers: Arc::new(LocalSocket::new(SocketType::Xpub, config.subscriber_limits)),
        });
        let mut publishers = Vec::new();
        for endpoint in &config.publishers {
            let (local, shared) = (Arc::clone(&shared.publishers), Arc::clone(&shared));
            let handler = move |connection| serve_publisher(connection, Arc::clone(&shared));
            publishers.push(Listener::bind(endpoint, local, handler).await?);
        }
        let mut subscribers = Vec::new();
        for endpoint in &config.subscribers {
            let (local, shared) = (Arc::clone(&shared.subscribers), Arc::clone(&shared));
            let handler = move |connection| serve_subscriber(connection, Arc::clone(&shared));
            subscribers.push(Listener::bind(endpoint, local, handler).await?);
        }
        Ok(Self { publishers, subscribers, handle: ProxyHandle(shared), drain_timeout: config.drain_timeout })
    }

    /// Where publishers connect, with actual ports.
    pub fn publisher_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.publishers.iter().map(Listener::endpoint)
    }

    /// Where subscribers connect, with actual ports.
    pub fn subscriber_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.subscribers.iter().map(Listener::endpoint)
    }

    /// A handle that stays valid after the proxy's end.
    #[must_use]
    pub fn handle(&self) -> ProxyHandle {
        self.handle.clone()
    }

    /// Forwards until `shutdown` completes, then takes nothing more from publishers, writes what is queued for
    /// subscribers, and closes everything after `drain_timeout` at latest. The report is about subscribers.
    pub async fn run(self, shutdown: impl Future) -> DrainReport {
        shutdown.await;
        info!(stats = ?self.handle.stats(), "proxy stops");
        // Publishers have nothing to receive any more, so their side ends at once.
        end(self.publishers, Duration::ZERO).await;
        end(self.subscribers, self.drain_timeout).await
    }
}

/// Ends the listeners of one side together.
pub(super) async fn end(listeners: Vec<Listener>, deadline: Duration) -> DrainReport {
    let ends: Vec<_> = listeners.into_iter().map(|listener| tokio::spawn(listener.shutdown(deadline))).collect();
    let mut total = DrainReport::default();
    for end in ends {
        // An error would mean that the runtime stops, and with it every connection.
        if let Ok(report) = end.await {
            total.drained += report.drained;
            total.cut += report.cut;
            total.unsent_messages += report.unsent_messages;
        }
    }
    total
}

impl ProxyHandle {
    /// What happened so far, and what is going on.
    #[must_use]
    pub fn stats(&self) -> ProxyStats {
        let messages_in = self.0.publishers.counters().messages_in.get();
        self.0.hub().stats(messages_in, self.0.subscribers.queued_bytes())
    }

    /// The numbers of the publishers' side and of the subscribers' side.
    #[must_use]
    pub fn sockets(&self) -> [SocketStats; 2] {
        [self.0.publishers.stats(), self.0.subscribers.stats()]
    }

    /// Counters of the connections of the publishers' side.
    #[must_use]
    pub fn publisher_counters(&self) -> &Counters {
        self.0.publishers.counters()
    }

    /// Counters of the connections of the subscribers' side.
    #[must_use]
    pub fn subscriber_counters(&self) -> &Counters {
        self.0.subscribers.counters()
    }
}

impl Shared {
    /// Held for one batch at a time, never across an await.
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve_publisher(mut connection: Connection, shared: Arc<Shared>) {
    let peer = Arc::clone(connection.peer());
    let id = shared.hub().publisher_joined(connection.outbox().clone(), peer.speaks_3_1());
    let mut batch = Batch::new();
    let mut touched = Vec::new();
    let reason = loop {
        match connection.next_batch(&mut batch).await {
            Ok(()) => shared.hub().fan_out(&batch, shared.subscribers.queued_bytes(), &mut touched),
            Err(reason) => break reason,
        }
        flush_all(&mut touched);
    };
    shared.hub().publisher_left(id);
    debug!(address = peer.address, %reason, "publisher left");
}

async fn serve_subscriber(mut connection: Connection, shared: Arc<Shared>) {
    let peer = Arc::clone(connection.peer());
    let id = shared.hub().subscriber_joined(connection.outbox().clone());
    let mut batch = Batch::new();
    let mut lagging = Vec::new();
    let reason = loop {
        match connection.next_batch(&mut batch).await {
            Ok(()) => shared.hub().subscriber_says(id, &batch, &mut lagging),
            Err(reason) => break reason,
        }
        wait_for(&mut lagging).await;
    };
    shared.hub().subscriber_left(id);
    debug!(address = peer.address, %reason, "subscriber left");
}

/// Writes what was queued by one step. Beyond some peers it is left to their writers, so that this task does not keep
/// others waiting.
fn flush_all(touched: &mut Vec<Outbox>) {
    for (index, outbox) in touched.drain(..).enumerate() {
        if index < DIRECT_CAP { outbox.flush_now(DIRECT_BYTES) } else { outbox.flush() }
    }
}

/// Lets publishers catch up with the subscriptions sent to them. Whoever does not take them is not waited for long:
/// its queue overflows in the end, which disconnects it.
async fn wait_for(lagging: &mut Vec<Outbox>) {
    for outbox in lagging.drain(..) {
        let _ = timeout(UPSTREAM_PATIENCE, outbox.writable()).await;
    }
}
