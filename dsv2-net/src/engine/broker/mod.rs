//! The ROUTER/DEALER forwarder: clients connect on one side, servers on the other.
//!
//! ```text
//!   REQ, DEALER ──[frames…, "", body]──► Dispatch ──[id, frames…, "", body]──► REP, DEALER, ROUTER
//!        ▲                                  │                                      │
//!        └──[frames…, "", reply]────────────┴────────[id, frames…, "", reply]──────┘
//! ```
//!
//! What goes where, who waits, and what the broker answers itself is decided in [`dispatch`](super::dispatch); this
//! module connects it to sockets. Bodies are never looked at, except by the [`Refuser`] when the broker answers in a
//! server's place.
//!
//! # Servers
//! A server that announces `X-Dsv2` in its READY and is not a REP gets nothing until it sends the two frames `_dsv2`,
//! `ready`; with `_dsv2`, `draining` it gives its clients away and finishes what it has. Any other server is ready at
//! once. A REP socket has one request at a time.
//!
//! # Slow peers
//! A client is not read while its requests reach a bound. While more than half of its output queue waits for it to read
//! its replies, it is not read either, and nothing that waits of it is handed over. If the queue overflows with the
//! replies to what servers have already, the client is disconnected, which tells it that replies are missing. What a
//! server has is bounded by its window.
//!
//! Sources: RFC 28 (REQ, REP, DEALER, ROUTER).

mod hub;
mod link;
mod refuser;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

pub use self::hub::BrokerStats;
use self::hub::{Hub, Progress, Signals, Undeliverable, is_lagging};
pub use self::refuser::{EmptyRefuser, Refuser};
use super::dispatch::{ClientId, DispatchConfig, Pace};
use super::proxy::end;
use super::{Connection, Counters, DrainReport, Limits, Listener, LocalSocket, Outbox, PeerInfo, SocketStats};
use crate::endpoint::{BindError, Endpoint};
use crate::zmtp::{Batch, SocketType};

/// First frame of a server's control message.
pub const CONTROL_FRAME: &[u8] = b"_dsv2";

/// Second frame of a server's control message: it takes requests.
pub const CONTROL_READY: &[u8] = b"ready";

/// Second frame of a server's control message: it takes no further requests.
pub const CONTROL_DRAINING: &[u8] = b"draining";

/// With more peers to write to than this, all are left to their writers.
const DIRECT_CAP: usize = 8;

/// Configuration of a [`Broker`].
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where clients connect.
    pub clients: Vec<Endpoint>,
    /// Where servers connect.
    pub servers: Vec<Endpoint>,
    /// Bounds and deadlines of requests.
    pub dispatch: DispatchConfig,
    /// Limits of the clients' side; `outbox_cap_bytes` is what a client may lag behind with reading its replies.
    pub client_limits: Limits,
    /// Limits of the servers' side. The output queues are made large enough for a full window.
    pub server_limits: Limits,
    /// How long a graceful end may take.
    pub drain_timeout: Duration,
}

impl Default for BrokerConfig {
    /// The ports of the family, on the loopback interface: 5555 and 5556.
    fn default() -> Self {
        Self {
            clients: vec![Endpoint::tcp("127.0.0.1", 5555)],
            servers: vec![Endpoint::tcp("127.0.0.1", 5556)],
            dispatch: DispatchConfig::default(),
            client_limits: Limits { outbox_cap_bytes: 64 << 20, ..Limits::default() },
            server_limits: Limits { connection_cap: 256, ..Limits::default() },
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// A bound broker. It forwards as soon as it is bound; [`Broker::run`] ends it gracefully, dropping it at once.
#[derive(Debug)]
pub struct Broker {
    clients: Vec<Listener>,
    servers: Vec<Listener>,
    handle: BrokerHandle,
    timer: JoinHandle<()>,
    drain_timeout: Duration,
}

/// Reads the counters of a running broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BrokerHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hub: Mutex<Hub>,
    started: Instant,
    /// The deadline became earlier.
    rearm: Notify,
    refuser: Arc<dyn Refuser>,
    clients: Arc<LocalSocket>,
    servers: Arc<LocalSocket>,
}

impl Broker {
    /// Binds all endpoints of both sides. `refuser` writes what the broker answers in a server's place.
    ///
    /// # Errors
    /// See [`BindError`]; nothing stays bound.
    pub async fn bind(config: BrokerConfig, refuser: Arc<dyn Refuser>) -> Result<Self, BindError> {
        let shared = Arc::new(Shared {
            // Without randomness late replies to an earlier broker are told apart by the server's side only.
            hub: Mutex::new(Hub::new(config.dispatch.clone(), getrandom::u32().unwrap_or(0))),
            started: Instant::now(),
            rearm: Notify::new(),
            refuser,
            clients: Arc::new(LocalSocket::new(SocketType::Router, config.client_limits)),
            servers: Arc::new(LocalSocket::new(
                SocketType::Dealer,
                server_limits(&config.server_limits, &config.dispatch),
            )),
        });
        let mut clients = Vec::new();
        for endpoint in &config.clients {
            let (local, shared) = (Arc::clone(&shared.clients), Arc::clone(&shared));
            let handler = move |connection| serve_client(connection, Arc::clone(&shared));
            clients.push(Listener::bind(endpoint, local, handler).await?);
        }
        let mut servers = Vec::new();
        for endpoint in &config.servers {
            let (local, shared) = (Arc::clone(&shared.servers), Arc::clone(&shared));
            let handler = move |connection| serve_server(connection, Arc::clone(&shared));
            servers.push(Listener::bind(endpoint, local, handler).await?);
        }
        let timer = tokio::spawn(keep_deadlines(Arc::clone(&shared)));
        Ok(Self { clients, servers, handle: BrokerHandle(shared), timer, drain_timeout: config.drain_timeout })
    }

    /// Where clients connect, with actual ports.
    pub fn client_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.clients.iter().map(Listener::endpoint)
    }

    /// Where servers connect, with actual ports.
    pub fn server_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.servers.iter().map(Listener::endpoint)
    }

    /// A handle that stays valid after the broker's end.
    #[must_use]
    pub fn handle(&self) -> BrokerHandle {
        self.handle.clone()
    }

    /// Forwards until `shutdown` completes, then refuses new requests, waits until those accepted are answered, and
    /// answers the rest itself when `drain_timeout` ends. The report is about clients, each of whom is then given
    /// `drain_timeout` once more to read.
    pub async fn run(mut self, shutdown: impl Future) -> DrainReport {
        shutdown.await;
        let shared = Arc::clone(&self.handle.0);
        info!(stats = ?self.handle.stats(), "broker stops");
        shared.hub().stop_accepting();
        let _ = timeout(self.drain_timeout, idle(&shared)).await;
        shared.locked(Hub::stop);
        let report = end(std::mem::take(&mut self.clients), self.drain_timeout).await;
        end(std::mem::take(&mut self.servers), Duration::ZERO).await;
        report
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// The window bounds what is queued for a server, so an overflow of its queue would be a contradiction.
fn server_limits(limits: &Limits, dispatch: &DispatchConfig) -> Limits {
    let window_bytes = dispatch.server_window.bytes + dispatch.server_window.messages * link::ID_FRAME_BYTES;
    let needed = window_bytes.saturating_add(limits.message_cap_bytes).saturating_mul(2);
    let outbox_cap_bytes = limits.outbox_cap_bytes.max(needed);
    Limits {
        outbox_cap_bytes,
        outbox_total_cap_bytes: limits.outbox_total_cap_bytes.max(4 * outbox_cap_bytes),
        ..limits.clone()
    }
}

async fn idle(shared: &Shared) {
    // Looked at now and then: this is the end of a process, and nothing waits for its last milliseconds.
    while !shared.hub().is_idle() {
        sleep(Duration::from_millis(5)).await;
    }
}

impl BrokerHandle {
    /// What happened so far, and what is going on.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.0.hub().stats()
    }

    /// The numbers of the clients' side and of the servers' side.
    #[must_use]
    pub fn sockets(&self) -> [SocketStats; 2] {
        [self.0.clients.stats(), self.0.servers.stats()]
    }

    /// Counters of the connections of the clients' side.
    #[must_use]
    pub fn client_counters(&self) -> &Counters {
        self.0.clients.counters()
    }

    /// Counters of the connections of the servers' side.
    #[must_use]
    pub fn server_counters(&self) -> &Counters {
        self.0.servers.counters()
    }
}

impl Shared {
    /// Held for one batch at a time, never across an await.
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one step, then what must not be done under the lock: writing, and the broker's own answers.
    fn locked<T>(&self, step: impl FnOnce(&mut Hub, u64) -> T) -> T {
        let mut refusals: Vec<Undeliverable> = Vec::new();
        let mut touched: Vec<Outbox> = Vec::new();
        let (result, earlier) = {
            let mut hub = self.hub();
            let result = step(&mut hub, self.now_ms());
            (result, hub.carry_out(&mut refusals, &mut touched))
        };
        flush(&touched);
        for refusal in refusals {
            refusal.answer(&*self.refuser);
        }
        if earlier {
            self.rearm.notify_one();
        }
        result
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One queue is left to its writer, which runs next in this thread: requests that come close together leave in one
/// piece, which spares the other ends more than a task's turn costs here. A second one would wake another thread, and
/// that costs more than a write: a reply of a REP server, and its next request.
fn flush(touched: &[Outbox]) {
    let Some((last, others)) = touched.split_last() else { return };
    for outbox in others {
        if others.len() < DIRECT_CAP { outbox.flush_now(0) } else { outbox.flush() }
    }
    last.flush();
}

/// Answers what is overdue, at its time.
async fn keep_deadlines(shared: Arc<Shared>) {
    loop {
        let due = shared.hub().arm();
        let rearmed = shared.rearm.notified();
        match due {
            Some(due_ms) => tokio::select! {
                () = sleep_until(shared.started + Duration::from_millis(due_ms)) => {}
                () = rearmed => {}
            },
            None => rearmed.await,
        }
        shared.locked(Hub::tick);
    }
}

async fn serve_client(mut connection: Connection, shared: Arc<Shared>) {
    let peer = Arc::clone(connection.peer());
    let outbox = connection.outbox().clone();
    let signals = Arc::new(Signals::default());
    let id = shared.hub().client_joined(outbox.clone(), Arc::clone(&signals));
    let mut batch = Batch::new();
    let reason = loop {
        if is_lagging(&outbox) {
            catch_up(&shared, id, &outbox).await;
        }
        tokio::select! {
            biased;
            () = signals.lagging.notified() => {
                catch_up(&shared, id, &outbox).await;
                continue;
            }
            read = connection.next_batch(&mut batch) => if let Err(reason) = read { break reason },
        }
        let mut next = 0;
        while shared.locked(|hub, now_ms| hub.requests(now_ms, id, &batch, &mut next)) == Progress::Parked {
            tokio::select! {
                () = signals.resume.notified() => {}
                () = signals.lagging.notified() => catch_up(&shared, id, &outbox).await,
                _ = outbox.finished() => break,
            }
        }
    };
    shared.locked(|hub, _| hub.client_left(id));
    debug!(address = peer.address, %reason, "client left");
}

/// Lets a client read its replies before anything more is done for it.
async fn catch_up(shared: &Shared, id: ClientId, outbox: &Outbox) {
    // An error means that it is closed, which the next read reports.
    let _ = outbox.writable().await;
    shared.locked(|hub, now_ms| hub.caught_up(now_ms, id));
}

async fn serve_server(mut connection: Connection, shared: Arc<Shared>) {
    let peer = Arc::clone(connection.peer());
    let (pace, ready) = capability(&peer);
    let outbox = connection.outbox().clone();
    let id = shared.locked(|hub, now_ms| hub.server_joined(now_ms, outbox, pace, ready));
    debug!(address = peer.address, socket_type = %peer.socket_type, ready, "server joined");
    let mut batch = Batch::new();
    let reason = loop {
        if let Err(reason) = connection.next_batch(&mut batch).await {
            break reason;
        }
        shared.locked(|hub, now_ms| hub.replies(now_ms, id, &batch));
    };
    shared.locked(|hub, now_ms| hub.server_left(now_ms, id));
    debug!(address = peer.address, %reason, "server left");
}

/// How a server is used, and whether it is ready at once: read from its READY command.
fn capability(peer: &PeerInfo) -> (Pace, bool) {
    match peer.socket_type {
        SocketType::Rep => (Pace::LockStep, true),
        _ => (Pace::Window, !peer.is_dsv2()),
    }
}
