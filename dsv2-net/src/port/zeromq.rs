//! The port over the `zeromq` crate.
//!
//! The crate is fast at the ends and leaves supervision to its user; this is that user. One task owns a socket, and
//! a socket serves one connection: when its monitor says `Disconnected`, when a receive fails (the crate cannot answer
//! a PING and reports it so), or when the peer answers nothing for too long, the socket is dropped and a fresh one
//! connects. A send is never cancelled. SUB ports use the crate's XSUB, whose topics are bytes.
//!
//! What the crate does not do, this cannot either: the peer's messages have no size limit, and writes are invisible.
//! So requests are bounded by what was answered (far below the crate's own queue of 100,000), and a DEALER port
//! expects an answer to each of its messages.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeromq::util::PeerIdentity;
use zeromq::{
    DealerSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend, XSubSocket, ZmqError, ZmqMessage,
};

use super::backoff::Attempts;
use super::interest::Interest;
use super::outstanding::{Outstanding, Patience};
use super::{DrainReport, Port, PortError, PortEvent, PortLimits, PortStats, SendError, SocketKind};
use crate::endpoint::Endpoint;
use crate::engine::Counter;
use crate::engine::inbox::{Inbox, InboxSender, inbox};
use crate::zmtp::Message;

/// However a port is configured: a tenth of the crate's own queue, which must never fill.
const OUTSTANDING_CAP: usize = 10_000;

/// Changes of subscriptions that may wait, beyond the subscriptions there are. With more, the connection is given up:
/// the next one starts from the subscriptions as they are.
const PENDING_CAP: usize = 1 << 16;

/// Messages that are collected before they are handed over.
const BATCH_CAP: usize = 256;

/// Events handed out by one `recv` at most, give or take one batch.
const EVENT_CAP: usize = 4096;

/// A port on the `zeromq` crate: DEALER or SUB over TCP or IPC.
#[derive(Debug)]
pub struct ZeroMqPort {
    kind: SocketKind,
    message_cap_bytes: usize,
    inbox: Inbox<Incoming>,
    link: Option<Link>,
    /// SUB: what the user wants.
    interest: Interest,
    starved: bool,
    stats: PortStats,
    failed_attempts: Arc<Counter>,
    task: AbortHandle,
}

#[derive(Debug, Clone)]
struct Link {
    /// Bounded by `outstanding`, into which everything is counted first.
    outgoing: UnboundedSender<ZmqMessage>,
    /// DEALER: requests without an answer. SUB: changes of subscriptions that the socket has not taken.
    outstanding: Arc<Outstanding>,
}

#[derive(Debug)]
enum Incoming {
    Up(Link),
    Messages(Vec<Message>),
    Down(String),
    Unreachable(u32, String),
}

impl ZeroMqPort {
    /// Opens the port; it connects in the background.
    ///
    /// # Errors
    /// PUB ports and `memory://` are not supported.
    pub fn connect(kind: SocketKind, endpoint: &Endpoint, limits: PortLimits) -> Result<Self, PortError> {
        if kind == SocketKind::Pub {
            return Err(PortError::Unsupported(
                "a PUB port over the zeromq crate would have no bounds: use the native one",
            ));
        }
        if matches!(endpoint, Endpoint::Memory { .. }) {
            return Err(PortError::Unsupported("the zeromq crate has no memory:// transport: use the native port"));
        }
        let (sender, inbox) = inbox(limits.inbox_cap_bytes);
        let failed_attempts = Arc::new(Counter::default());
        let message_cap_bytes = limits.connection.message_cap_bytes;
        let supervisor = Supervisor {
            kind,
            endpoint: endpoint.to_string(),
            limits,
            inbox: sender,
            failed_attempts: Arc::clone(&failed_attempts),
        };
        let task = tokio::spawn(supervisor.run()).abort_handle();
        Ok(Self {
            kind,
            message_cap_bytes,
            inbox,
            link: None,
            interest: Interest::default(),
            starved: false,
            stats: PortStats::default(),
            failed_attempts,
            task,
        })
    }

    fn expand(&mut self, incoming: Incoming, events: &mut Vec<PortEvent>) {
        match incoming {
            Incoming::Up(link) => {
                self.stats.connected += 1;
                self.starved = false;
                for prefix in self.interest.prefixes() {
                    link.send_subscription(prefix, true);
                }
                self.link = Some(link);
                events.push(PortEvent::Up { info: None });
            }
            Incoming::Messages(messages) => {
                self.stats.received += messages.len() as u64;
                events.extend(messages.into_iter().map(PortEvent::Message));
            }
            Incoming::Down(reason) => {
                // Exact: nobody but this handle adds, and the task has stopped.
                let link = self.link.take().filter(|_| self.kind == SocketKind::Dealer);
                let unsent_messages = link.map_or(0, |link| link.outstanding.len());
                self.stats.lost += unsent_messages as u64;
                self.starved = false;
                events.push(PortEvent::Down { reason, unsent_messages });
            }
            Incoming::Unreachable(attempts, reason) => events.push(PortEvent::Unreachable { attempts, reason }),
        }
    }

    fn change_subscription(&mut self, topic: &[u8], subscribe: bool) {
        let changed = if subscribe { self.interest.add(topic) } else { self.interest.remove(topic) };
        let Some(link) = self.link.as_ref().filter(|_| changed && self.kind == SocketKind::Sub) else { return };
        link.send_subscription(topic, subscribe);
        if link.outstanding.len() > PENDING_CAP + self.interest.len() {
            // The socket's task gives the connection up when it finds its queue abandoned.
            self.link = None;
        }
    }
}

impl Link {
    fn send_subscription(&self, topic: &[u8], subscribe: bool) {
        self.outstanding.try_add(0);
        // A failure means that the task has ended, and `Down` follows.
        let _ = self.outgoing.send(subscription(topic, subscribe));
    }
}

#[async_trait]
impl Port for ZeroMqPort {
    fn send(&mut self, message: Message) -> Result<(), SendError> {
        if self.kind == SocketKind::Sub {
            return Err(SendError::Unsupported(message));
        }
        let bytes: usize = message.slices().map(<[u8]>::len).sum();
        if bytes > self.message_cap_bytes {
            return Err(SendError::TooLarge(message));
        }
        let Some(link) = &self.link else { return Err(SendError::Down(message)) };
        if !link.outstanding.try_add(message.wire().len()) {
            self.starved = true;
            return Err(SendError::Full(message));
        }
        if link.outgoing.send(to_crate(&message)).is_err() {
            link.outstanding.undo();
            return Err(SendError::Down(message));
        }
        self.stats.sent += 1;
        Ok(())
    }

    async fn recv(&mut self, events: &mut Vec<PortEvent>) -> Result<(), PortError> {
        let start = events.len();
        while events.len() == start {
            let outstanding = self.link.as_ref().filter(|_| self.starved).map(|l| Arc::clone(&l.outstanding));
            tokio::select! {
                biased;
                incoming = self.inbox.recv() => {
                    self.expand(incoming.ok_or(PortError::Closed)?, events);
                    while events.len() - start < EVENT_CAP && let Some(more) = self.inbox.try_recv() {
                        self.expand(more, events);
                    }
                }
                () = wait_roomy(outstanding.as_deref()), if outstanding.is_some() => {
                    self.starved = false;
                    events.push(PortEvent::Writable);
                }
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
        let Some(link) = &self.link else { return DrainReport::default() };
        let ended = async {
            tokio::select! {
                () = link.outstanding.empty() => {}
                () = link.outgoing.closed() => {}
            }
        };
        // Only the number that remains is of interest, not what ended the wait.
        let _ = timeout(deadline, ended).await;
        DrainReport { unsent_messages: link.outstanding.len() }
    }

    fn stats(&self) -> PortStats {
        PortStats { failed_attempts: self.failed_attempts.get(), ..self.stats }
    }
}

impl Drop for ZeroMqPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn wait_roomy(outstanding: Option<&Outstanding>) {
    match outstanding {
        Some(outstanding) => outstanding.roomy().await,
        None => std::future::pending().await,
    }
}

fn subscription(topic: &[u8], subscribe: bool) -> ZmqMessage {
    let mut frame = Vec::with_capacity(1 + topic.len());
    frame.push(u8::from(subscribe));
    frame.extend_from_slice(topic);
    ZmqMessage::from(frame)
}

fn to_crate(message: &Message) -> ZmqMessage {
    let mut frames = message.frames();
    let mut out = ZmqMessage::from(frames.next().unwrap_or_default());
    frames.for_each(|frame| out.push_back(frame));
    out
}

/// Copies: the crate's frames share its read buffers, a message of ours has its own memory.
fn from_crate(message: &ZmqMessage) -> Message {
    Message::from_frames(message.iter())
}

type Monitor = Pin<Box<dyn Stream<Item = SocketEvent> + Send>>;

struct Supervisor {
    kind: SocketKind,
    endpoint: String,
    limits: PortLimits,
    inbox: InboxSender<Incoming>,
    failed_attempts: Arc<Counter>,
}

/// Why a connection ended; `None`: the handle is gone.
type Ended = Option<String>;

impl Supervisor {
    async fn run(self) {
        let mut attempts = Attempts::new(self.limits.backoff);
        loop {
            let since = Instant::now();
            let connected = match self.kind {
                SocketKind::Dealer => self.run_dealer().await,
                SocketKind::Sub | SocketKind::Pub => self.run_sub().await,
            };
            match connected {
                Ok(Some(())) => attempts.lasted(since.elapsed()),
                Ok(None) => return,
                Err(error) => {
                    attempts.failed = attempts.failed.saturating_add(1);
                    self.failed_attempts.add(1);
                    tracing::debug!(endpoint = %self.endpoint, attempts = attempts.failed, %error, "connection attempt failed");
                    self.inbox.offer(Incoming::Unreachable(attempts.failed, error.to_string()));
                }
            }
            sleep(attempts.pause()).await;
        }
    }

    fn options(&self) -> SocketOptions {
        let mut options = SocketOptions::default();
        options.connect_timeout(self.limits.connect_timeout);
        if let Ok(identity) = PeerIdentity::try_from(self.limits.identity.clone())
            && !self.limits.identity.is_empty()
        {
            options.peer_identity(identity);
        }
        options
    }

    /// One life of a DEALER. `Err`: it did not connect.
    async fn run_dealer(&self) -> Result<Option<()>, ZmqError> {
        let mut socket = DealerSocket::with_options(self.options());
        let monitor: Monitor = Box::pin(socket.monitor());
        socket.connect(&self.endpoint).await?;
        let (link, outgoing) = self.link();
        let outstanding = Arc::clone(&link.outstanding);
        if self.inbox.send(Incoming::Up(link), 0).await.is_err() {
            return Ok(None);
        }
        let ended = self.serve_dealer(socket, monitor, outgoing, &outstanding).await;
        Ok(self.report(ended).await)
    }

    async fn serve_dealer(
        &self,
        socket: DealerSocket,
        mut monitor: Monitor,
        mut outgoing: UnboundedReceiver<ZmqMessage>,
        outstanding: &Outstanding,
    ) -> Ended {
        let (mut sender, mut receiver) = socket.split();
        let mut judge_at = Instant::now() + self.limits.answer_timeout;
        loop {
            tokio::select! {
                received = receiver.recv() => match received {
                    Ok(first) => {
                        let (batch, failure) = collect(first, &mut receiver).await;
                        outstanding.answered(batch.len());
                        self.hand_over(batch).await?;
                        if failure.is_some() {
                            return failure;
                        }
                    }
                    Err(error) => return Some(error.to_string()),
                },
                message = outgoing.recv() => {
                    // To its end, whatever else happens: a cancelled send would lose the peer for good.
                    if let Err(error) = sender.send(message?).await {
                        return Some(error.to_string());
                    }
                }
                reason = disconnected(&mut monitor) => return Some(reason),
                () = sleep_until(judge_at) => match outstanding.patience(self.limits.answer_timeout) {
                    Patience::Until(next) => judge_at = next,
                    Patience::Lost => return Some("the peer answers nothing".to_owned()),
                },
            }
        }
    }

    /// One life of a SUB. `Err`: it did not connect.
    async fn run_sub(&self) -> Result<Option<()>, ZmqError> {
        let mut socket = XSubSocket::with_options(self.options());
        let mut monitor: Monitor = Box::pin(socket.monitor());
        socket.connect(&self.endpoint).await?;
        let (link, mut outgoing) = self.link();
        let outstanding = Arc::clone(&link.outstanding);
        if self.inbox.send(Incoming::Up(link), 0).await.is_err() {
            return Ok(None);
        }
        let ended = loop {
            tokio::select! {
                received = socket.recv() => match received {
                    Ok(first) => {
                        let (batch, failure) = collect(first, &mut socket).await;
                        if self.hand_over(batch).await.is_none() {
                            break None;
                        }
                        if failure.is_some() {
                            break failure;
                        }
                    }
                    Err(error) => break Some(error.to_string()),
                },
                change = outgoing.recv() => {
                    let Some(change) = change else { break Some("too many changes of subscriptions wait".to_owned()) };
                    match timeout(self.limits.connection.stall_timeout, socket.send(change)).await {
                        Ok(Ok(())) => outstanding.answered(1),
                        Ok(Err(error)) => break Some(error.to_string()),
                        // Cancelled, and the socket with it.
                        Err(_) => break Some("the peer takes no subscriptions".to_owned()),
                    }
                }
                reason = disconnected(&mut monitor) => break Some(reason),
            }
        };
        Ok(self.report(ended).await)
    }

    fn link(&self) -> (Link, UnboundedReceiver<ZmqMessage>) {
        let (sender, outgoing) = unbounded_channel();
        let cap_messages = match self.kind {
            SocketKind::Dealer => self.limits.queue_cap_messages.min(OUTSTANDING_CAP),
            SocketKind::Sub | SocketKind::Pub => usize::MAX,
        };
        let outstanding = Arc::new(Outstanding::new(cap_messages, self.limits.queue_cap_bytes));
        (Link { outgoing: sender, outstanding }, outgoing)
    }

    async fn hand_over(&self, batch: Vec<Message>) -> Option<()> {
        let weight = batch.iter().map(|m| m.wire().len()).sum();
        self.inbox.send(Incoming::Messages(batch), weight).await.ok()
    }

    async fn report(&self, ended: Ended) -> Option<()> {
        self.inbox.send(Incoming::Down(ended?), 0).await.ok()
    }
}

/// What is there already, after a first message, and the failure met on the way (the crate reports it only once).
/// Receiving is cancel-safe: the crate keeps what it has read.
async fn collect(first: ZmqMessage, receiver: &mut impl SocketRecv) -> (Vec<Message>, Option<String>) {
    let mut batch = vec![from_crate(&first)];
    while batch.len() < BATCH_CAP {
        let more = tokio::select! {
            biased;
            more = receiver.recv() => more,
            () = std::future::ready(()) => break,
        };
        match more {
            Ok(more) => batch.push(from_crate(&more)),
            Err(error) => return (batch, Some(error.to_string())),
        }
    }
    (batch, None)
}

/// Waits for the end of the connection.
async fn disconnected(monitor: &mut Monitor) -> String {
    loop {
        match poll_fn(|cx| monitor.as_mut().poll_next(cx)).await {
            Some(SocketEvent::Disconnected(_) | SocketEvent::Closed) => {
                return "the peer closed the connection".to_owned();
            }
            None => return "the socket ended".to_owned(),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn messages_cross_unchanged() {
        let message = Message::from_frames([&b"id"[..], b"", &[7; 300]]);
        assert_eq!(from_crate(&to_crate(&message)), message);
        assert_eq!(subscription(b"t", true).get(0), Some(&Bytes::from_static(b"\x01t")));
    }
}
