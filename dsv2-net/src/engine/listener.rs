//! Accepting connections: caps before and after the handshake, patience with a system out of descriptors.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::connection::{CloseReason, Connection, LocalSocket, OpenGuard};
use super::outbox::Outbox;
use crate::endpoint::{BindError, BoundListener, Endpoint, Stream};

/// Pause after an accept that failed for want of resources: doubled up to the cap while it goes on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_CAP: Duration = Duration::from_secs(1);

/// A bound endpoint whose connections are handed to a handler, each in a task of its own.
///
/// Dropping it stops accepting and closes every connection at once. [`Listener::shutdown`] is the graceful way.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What a graceful end left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Connections whose whole output was handed to the system.
    pub drained: usize,
    /// Connections that were closed at the deadline, or failed before it.
    pub cut: usize,
    /// Messages of those that were not handed to the system whole.
    pub unsent_messages: usize,
}

#[derive(Debug)]
struct Shared {
    local: Arc<LocalSocket>,
    next_id: AtomicU64,
    /// Connections in handshake, by age; each can be evicted.
    pending: Mutex<BTreeMap<u64, Arc<Notify>>>,
    live: Mutex<HashMap<u64, Outbox>>,
    /// Tasks of connections, handshakes included.
    tasks: watch::Sender<usize>,
}

impl Listener {
    /// Binds `endpoint` and serves it: `handler` runs for each connection that has shaken hands, and the connection
    /// ends when its future does. Several listeners may share one [`LocalSocket`], and thereby its limits.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind<H, F>(endpoint: &Endpoint, local: Arc<LocalSocket>, handler: H) -> Result<Self, BindError>
    where
        H: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let bound = BoundListener::bind(endpoint, local.limits().keepalive).await?;
        let endpoint = bound.endpoint().clone();
        let shared = Arc::new(Shared {
            local,
            next_id: AtomicU64::new(0),
            pending: Mutex::default(),
            live: Mutex::default(),
            tasks: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept_loop(bound, Arc::clone(&shared), Arc::new(handler)));
        Ok(Self { endpoint, shared, accepting })
    }

    /// What is bound, with the actual port.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The socket's limits and counters.
    #[must_use]
    pub fn local(&self) -> &Arc<LocalSocket> {
        &self.shared.local
    }

    /// Stops accepting, lets every connection write what is queued for it, and closes all at the deadline at latest.
    /// When it returns, all handlers have ended, provided they do so when their connection is closed (those that have
    /// not within the deadline and a second more are left to themselves). If this future is dropped half way, the
    /// connections are closed at once.
    pub async fn shutdown(mut self, deadline: Duration) -> DrainReport {
        let until = Instant::now() + deadline;
        let outboxes = self.begin_shutdown().await;
        self.finish_shutdown(outboxes, until).await
    }

    /// Stops accepting, and lets no connection take more output. Returns the connections that there are.
    pub(crate) async fn begin_shutdown(&mut self) -> Vec<Outbox> {
        self.accepting.abort();
        // Waited for, so that the endpoint is free. The error only says that it was aborted.
        let _ = (&mut self.accepting).await;
        self.shared.evict_all();
        let outboxes: Vec<Outbox> = lock(&self.shared.live).values().cloned().collect();
        outboxes.iter().for_each(Outbox::drain);
        outboxes
    }

    /// Waits for those connections, then for all handlers.
    pub(crate) async fn finish_shutdown(self, outboxes: Vec<Outbox>, until: Instant) -> DrainReport {
        let mut report = DrainReport::default();
        for outbox in outboxes {
            let finished = match timeout_at(until, outbox.finished()).await {
                Ok(finished) => finished,
                Err(_) => {
                    outbox.close(CloseReason::Local);
                    outbox.finished().await
                }
            };
            match finished.unsent_messages {
                0 => report.drained += 1,
                unsent => {
                    report.cut += 1;
                    report.unsent_messages += unsent;
                }
            }
        }
        let mut tasks = self.shared.tasks.subscribe();
        if timeout_at(until + Duration::from_secs(1), tasks.wait_for(|&n| n == 0)).await.is_err() {
            warn!(endpoint = %self.endpoint, "connection handlers are still running after the shutdown deadline");
        }
        report
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.evict_all();
        for outbox in lock(&self.shared.live).values() {
            outbox.close(CloseReason::Local);
        }
    }
}

impl Shared {
    /// Registers a connection in handshake; the oldest makes room if there are too many.
    fn enter_pending(&self, id: u64) -> Arc<Notify> {
        let evicted = Arc::new(Notify::new());
        let mut pending = lock(&self.pending);
        if pending.len() >= self.local.limits().pending_cap
            && let Some((_, oldest)) = pending.pop_first()
        {
            oldest.notify_one();
            self.local.counters().refused_pending.add(1);
        }
        pending.insert(id, Arc::clone(&evicted));
        evicted
    }

    /// Moves a connection from the pending to the live ones; `false` if it was evicted. Under one lock, so that a
    /// shutdown finds it in one of the two places.
    fn promote(&self, id: u64, outbox: &Outbox) -> bool {
        let mut pending = lock(&self.pending);
        let stays = pending.remove(&id).is_some();
        if stays {
            lock(&self.live).insert(id, outbox.clone());
        }
        stays
    }

    fn evict_all(&self) {
        for (_, evicted) in std::mem::take(&mut *lock(&self.pending)) {
            evicted.notify_one();
        }
    }
}

/// Counts a task while it lives, however it ends.
struct TaskGuard(Arc<Shared>, u64);

impl TaskGuard {
    fn new(shared: &Arc<Shared>, id: u64) -> Self {
        shared.tasks.send_modify(|n| *n += 1);
        Self(Arc::clone(shared), id)
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        lock(&self.0.pending).remove(&self.1);
        lock(&self.0.live).remove(&self.1);
        self.0.tasks.send_modify(|n| *n -= 1);
    }
}

async fn accept_loop<H, F>(mut bound: BoundListener, shared: Arc<Shared>, handler: Arc<H>)
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut pause = ACCEPT_PAUSE;
    loop {
        match bound.accept().await {
            Ok((stream, address)) => {
                pause = ACCEPT_PAUSE;
                admit(stream, address, &shared, &handler);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                shared.local.counters().accept_errors.add(1);
                warn!(endpoint = %bound.endpoint(), %error, "accept failed; pausing");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_CAP);
            }
        }
    }
}

fn admit<H, F>(stream: Stream, address: String, shared: &Arc<Shared>, handler: &Arc<H>)
where
    H: Fn(Connection) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let Some(open) = OpenGuard::try_new(&shared.local) else {
        shared.local.counters().refused_capacity.add(1);
        return;
    };
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let evicted = shared.enter_pending(id);
    let (task, handler) = (TaskGuard::new(shared, id), Arc::clone(handler));
    tokio::spawn(async move {
        let shaken = tokio::select! {
            shaken = Connection::establish_guarded(stream, address, open) => shaken,
            () = evicted.notified() => return,
        };
        match shaken {
            Ok(connection) => {
                if task.0.promote(id, connection.outbox()) {
                    handler(connection).await;
                }
            }
            Err(error) => debug!(%error, "handshake failed"),
        }
    });
}

/// Errors of `accept` that say something about the connection that was coming, not about the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
