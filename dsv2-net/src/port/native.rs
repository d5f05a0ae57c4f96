//! The port over our own engine.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::backoff::Attempts;
use super::interest::Interest;
use super::{DrainReport, Port, PortError, PortEvent, PortLimits, PortStats, SendError, SocketKind};
use crate::endpoint::{self, Endpoint};
use crate::engine::inbox::{Inbox, InboxSender, inbox};
use crate::engine::{CloseReason, Connection, Counter, Counters, LocalSocket, Outbox, PeerInfo, PushError};
use crate::zmtp::{Batch, Command, Item, Message, SocketType};

/// Events handed out by one `recv` at most, give or take one read.
const EVENT_CAP: usize = 4096;

/// Changes of subscriptions that may wait for room in the queue. With more, the connection is given up: the next one
/// starts from the subscriptions as they are.
const PENDING_CAP: usize = 1 << 16;

/// A port on the ZMTP engine: DEALER, SUB or PUB over any endpoint.
#[derive(Debug)]
pub struct NativePort {
    kind: SocketKind,
    message_cap_bytes: usize,
    inbox: Inbox<Incoming>,
    link: Option<Link>,
    /// SUB: what the user wants.
    interest: Interest,
    /// SUB: subscriptions that found no room yet.
    pending: VecDeque<Bytes>,
    /// A send was refused with `Full`, and `Writable` is owed.
    starved: bool,
    stats: PortStats,
    failed_attempts: Arc<Counter>,
    counters: Arc<Counters>,
    task: AbortHandle,
}

/// The connection, as the handle sees it between `Up` and `Down`.
#[derive(Debug, Clone)]
struct Link {
    outbox: Outbox,
    subscribes_by_command: bool,
    /// PUB: what the peer wants.
    wanted: Arc<Mutex<Wanted>>,
}

#[derive(Debug, Default)]
struct Wanted {
    interest: Interest,
    /// There are too many to remember: everything is sent, and the peer sorts it out.
    everything: bool,
}

#[derive(Debug)]
enum Incoming {
    Up(Arc<PeerInfo>, Link),
    Batch(Batch),
    Down(CloseReason, usize),
    Unreachable(u32, String),
}

impl NativePort {
    /// Opens the port; it connects in the background.
    #[must_use]
    pub fn connect(kind: SocketKind, endpoint: Endpoint, limits: PortLimits) -> Self {
        let socket_type = match kind {
            SocketKind::Dealer => SocketType::Dealer,
            SocketKind::Sub => SocketType::Sub,
            SocketKind::Pub => SocketType::Pub,
        };
        let local = Arc::new(LocalSocket::new(socket_type, limits.engine()).with_identity(limits.identity.clone()));
        let (sender, inbox) = inbox(limits.inbox_cap_bytes);
        let failed_attempts = Arc::new(Counter::default());
        let counters = Arc::clone(local.counters());
        let message_cap_bytes = limits.connection.message_cap_bytes;
        let supervisor =
            Supervisor { endpoint, local, limits, inbox: sender, failed_attempts: Arc::clone(&failed_attempts) };
        let task = tokio::spawn(supervisor.run()).abort_handle();
        Self {
            kind,
            message_cap_bytes,
            inbox,
            link: None,
            interest: Interest::default(),
            pending: VecDeque::new(),
            starved: false,
            stats: PortStats::default(),
            failed_attempts,
            counters,
            task,
        }
    }

    /// The engine's counters of this port's connections.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    fn exceeds_cap(&self, message: &Message) -> bool {
        // The encoded form is an upper bound that costs nothing.
        message.wire().len() > self.message_cap_bytes
            && message.slices().map(<[u8]>::len).sum::<usize>() > self.message_cap_bytes
    }

    fn is_wanted(link: &Link, topic: &[u8]) -> bool {
        let wanted = link.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.everything || wanted.interest.matches(topic)
    }

    fn expand(&mut self, incoming: Incoming, events: &mut Vec<PortEvent>) {
        match incoming {
            Incoming::Up(info, link) => {
                self.stats.connected += 1;
                self.starved = false;
                let by_command = link.subscribes_by_command;
                self.pending = self.interest.prefixes().map(|p| Command::subscription(p, true, by_command)).collect();
                self.link = Some(link);
                events.push(PortEvent::Up { info: Some(info) });
            }
            Incoming::Batch(batch) => {
                self.stats.received += batch.len() as u64;
                events.extend(batch.messages().map(PortEvent::Message));
            }
            Incoming::Down(reason, unsent_messages) => {
                self.stats.lost += unsent_messages as u64;
                self.forget_link();
                events.push(PortEvent::Down { reason: reason.to_string(), unsent_messages });
            }
            Incoming::Unreachable(attempts, reason) => events.push(PortEvent::Unreachable { attempts, reason }),
        }
    }

    fn forget_link(&mut self) {
        self.link = None;
        self.pending.clear();
        self.starved = false;
    }

    fn change_subscription(&mut self, topic: &[u8], subscribe: bool) {
        let changed = if subscribe { self.interest.add(topic) } else { self.interest.remove(topic) };
        let Some(link) = self.link.as_ref().filter(|_| changed && self.kind == SocketKind::Sub) else { return };
        if self.pending.len() >= PENDING_CAP {
            link.outbox.close(CloseReason::Stalled);
            return;
        }
        self.pending.push_back(Command::subscription(topic, subscribe, link.subscribes_by_command));
        self.send_pending();
    }

    /// Queues the subscriptions that find room, in order.
    fn send_pending(&mut self) {
        let Some(link) = &self.link else { return };
        if self.pending.is_empty() {
            return;
        }
        while let Some(frame) = self.pending.front() {
            if link.outbox.append_wire(frame, 0).is_err() {
                break;
            }
            self.pending.pop_front();
        }
        link.outbox.flush();
    }
}

#[async_trait]
impl Port for NativePort {
    fn send(&mut self, message: Message) -> Result<(), SendError> {
        if self.kind == SocketKind::Sub {
            return Err(SendError::Unsupported(message));
        }
        if self.exceeds_cap(&message) {
            return Err(SendError::TooLarge(message));
        }
        let Some(link) = &self.link else { return Err(SendError::Down(message)) };
        if self.kind == SocketKind::Pub && !Self::is_wanted(link, message.first()) {
            self.stats.unwanted += 1;
            return Ok(());
        }
        match link.outbox.push(&message) {
            Ok(()) => {
                self.stats.sent += 1;
                Ok(())
            }
            Err(PushError::Full) if self.kind == SocketKind::Pub => {
                self.stats.dropped += 1;
                Ok(())
            }
            Err(PushError::Full) => {
                self.starved = true;
                Err(SendError::Full(message))
            }
            Err(PushError::Closed) => Err(SendError::Down(message)),
        }
    }

    async fn recv(&mut self, events: &mut Vec<PortEvent>) -> Result<(), PortError> {
        let start = events.len();
        while events.len() == start {
            self.send_pending();
            let outbox =
                self.link.as_ref().filter(|_| self.starved || !self.pending.is_empty()).map(|l| l.outbox.clone());
            tokio::select! {
                biased;
                incoming = self.inbox.recv() => {
                    self.expand(incoming.ok_or(PortError::Closed)?, events);
                    while events.len() - start < EVENT_CAP && let Some(more) = self.inbox.try_recv() {
                        self.expand(more, events);
                    }
                    self.send_pending();
                }
                writable = wait_writable(outbox.as_ref()), if outbox.is_some() => match writable {
                    Ok(()) if self.starved => {
                        self.starved = false;
                        events.push(PortEvent::Writable);
                    }
                    Ok(()) => {}
                    // `Down` is on its way.
                    Err(_) => self.forget_link(),
                },
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, topic: &[u8]) {
        self.change_subscription(topic, true);
    }

    fn unsubscribe(&mut self, topic: &[u8]) {
        self.change_subscription(topic, false);
    }

    async fn drain(&mut self, deadline: Duration) -> DrainReport {
        self.send_pending();
        let Some(link) = &self.link else { return DrainReport::default() };
        let until = Instant::now() + deadline;
        if let Ok(Err(_)) = timeout_at(until, link.outbox.flushed()).await {
            // Closed: the count is exact once the writer has stopped, which it does at once.
            let _ = timeout_at(until, link.outbox.finished()).await;
        }
        DrainReport { unsent_messages: link.outbox.queued_messages() }
    }

    fn stats(&self) -> PortStats {
        PortStats {
            failed_attempts: self.failed_attempts.get(),
            up: self.link.is_some(),
            queued_bytes: self.link.as_ref().map_or(0, |link| link.outbox.queued_bytes()),
            ..self.stats
        }
    }
}

impl Drop for NativePort {
    fn drop(&mut self) {
        match &self.link {
            // All is written: the supervisor hangs up in a way that lets it arrive, then finds the handle gone.
            Some(link) if link.outbox.queued_bytes() == 0 => link.outbox.drain(),
            _ => self.task.abort(),
        }
    }
}

async fn wait_writable(outbox: Option<&Outbox>) -> Result<(), PushError> {
    match outbox {
        Some(outbox) => outbox.writable().await,
        None => std::future::pending().await,
    }
}

/// Connects, serves the connection, pauses, and again.
struct Supervisor {
    endpoint: Endpoint,
    local: Arc<LocalSocket>,
    limits: PortLimits,
    inbox: InboxSender<Incoming>,
    failed_attempts: Arc<Counter>,
}

impl Supervisor {
    async fn run(self) {
        let mut attempts = Attempts::new(self.limits.backoff);
        loop {
            match self.open().await {
                Ok(connection) => {
                    let since = Instant::now();
                    if self.serve(connection).await.is_none() {
                        return;
                    }
                    attempts.lasted(since.elapsed());
                }
                Err(reason) => {
                    attempts.failed = attempts.failed.saturating_add(1);
                    self.failed_attempts.add(1);
                    tracing::debug!(endpoint = %self.endpoint, attempts = attempts.failed, %reason, "connection attempt failed");
                    self.inbox.offer(Incoming::Unreachable(attempts.failed, reason));
                }
            }
            sleep(attempts.pause()).await;
        }
    }

    async fn open(&self) -> Result<Connection, String> {
        let connecting = endpoint::connect(&self.endpoint, self.local.limits().keepalive);
        let stream = match timeout(self.limits.connect_timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("connecting took too long".to_owned()),
        };
        Connection::establish(stream, self.endpoint.to_string(), &self.local).await.map_err(|e| e.to_string())
    }

    /// `None`: the handle is gone.
    async fn serve(&self, mut connection: Connection) -> Option<()> {
        let link = Link {
            outbox: connection.outbox().clone(),
            subscribes_by_command: connection.peer().speaks_3_1(),
            wanted: Arc::default(),
        };
        self.inbox.send(Incoming::Up(Arc::clone(connection.peer()), link.clone()), 0).await.ok()?;
        loop {
            let mut batch = Batch::new();
            if connection.next_batch(&mut batch).await.is_err() {
                break;
            }
            if !batch.has_messages() {
                note_wanted(&link.wanted, &batch);
            } else if self.local.socket_type() != SocketType::Pub {
                let weight = batch.wire_len();
                if self.inbox.send(Incoming::Batch(batch), weight).await.is_err() {
                    connection.linger().await;
                    return None;
                }
            }
        }
        drop(connection);
        let finished = link.outbox.finished().await;
        self.inbox.send(Incoming::Down(finished.reason, finished.unsent_messages), 0).await.ok()
    }
}

fn note_wanted(wanted: &Mutex<Wanted>, batch: &Batch) {
    let mut wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
    for item in batch.items() {
        match item {
            _ if wanted.everything => break,
            Item::Subscribe(prefix) => {
                wanted.interest.add(prefix);
                if wanted.interest.is_overfull() {
                    *wanted = Wanted { interest: Interest::default(), everything: true };
                }
            }
            Item::Cancel(prefix) => {
                wanted.interest.remove(prefix);
            }
            Item::Message { .. } => {}
        }
    }
}
