//! A bound ROUTER: requests in, replies out, by peer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connection::{CloseReason, Connection, LocalSocket, PeerInfo};
use super::counters::{Counters, SocketStats};
use super::inbox::{Inbox, InboxSender, inbox};
use super::limits::Limits;
use super::listener::{DrainReport, Listener};
use super::outbox::{Outbox, PushError};
use crate::endpoint::{BindError, Endpoint};
use crate::zmtp::{Batch, Message, SocketType};

/// Events handed out by one [`Router::recv`] at most, give or take one read.
const EVENT_CAP: usize = 4096;

/// A connection of a [`Router`]. Never used again after the peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer-{}", self.0)
    }
}

/// What a [`Router`] reports, in order for each peer: `PeerUp`, its messages, `PeerDown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterEvent {
    /// A peer shook hands.
    PeerUp {
        /// The new peer.
        peer: PeerId,
        /// What it told of itself.
        info: Arc<PeerInfo>,
    },
    /// A message of a peer, all its frames. A REQ's starts with an empty delimiter, which its reply must repeat.
    Message {
        /// The sender.
        peer: PeerId,
        /// The frames. They share the read buffer: see [`Message::detach`].
        message: Message,
    },
    /// A peer is gone.
    PeerDown {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
        /// Messages accepted by [`Router::send`] that were not handed to the system whole.
        unsent_messages: usize,
    },
}

/// Why a message was not queued for a peer. Nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The peer reads too slowly: its output queue is full.
    #[error("the peer's output queue is full")]
    Full,
    /// The peer is gone.
    #[error("the peer is gone")]
    Gone,
}

/// A listening ROUTER for REQ, DEALER and ROUTER peers.
///
/// Peers are addressed by connection, not by identity, so that two peers of one identity cannot take each other's
/// replies. A peer is not read while more than half of its output queue is in use: it is back-pressured by its own
/// replies. What was received and not yet taken by [`Router::recv`] is bounded by `Limits::inbox_cap_bytes`.
///
/// ```
/// # use dsv2_net::{Endpoint, engine::{Limits, Router, RouterEvent}};
/// # async fn echo() -> Result<(), Box<dyn std::error::Error>> {
/// let mut router = Router::bind(&Endpoint::loopback(), Limits::default()).await?;
/// let mut events = Vec::new();
/// while router.recv(&mut events).await {
///     for event in events.drain(..) {
///         if let RouterEvent::Message { peer, message } = event {
///             router.send(peer, &message).ok();
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Router {
    listener: Listener,
    inbox: Inbox<Queued>,
    /// Peers whose `PeerUp` was handed out, and whose `PeerDown` was not.
    peers: HashMap<PeerId, Outbox>,
}

#[derive(Debug)]
enum Queued {
    Up(PeerId, Arc<PeerInfo>, Outbox),
    Batch(PeerId, Batch),
    Down(PeerId, CloseReason, usize),
}

impl Router {
    /// Binds and listens.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(endpoint: &Endpoint, limits: Limits) -> Result<Self, BindError> {
        Self::bind_as(endpoint, LocalSocket::new(SocketType::Router, limits)).await
    }

    /// Like [`Router::bind`], with an identity, properties or counters of the caller's choice. The socket's type
    /// should be ROUTER (or DEALER or REP, whose peers are then treated the same way).
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind_as(endpoint: &Endpoint, local: LocalSocket) -> Result<Self, BindError> {
        let (sender, inbox) = inbox(local.limits().inbox_cap_bytes);
        let next_peer = AtomicU64::new(1);
        let listener = Listener::bind(endpoint, Arc::new(local), move |connection| {
            serve(connection, PeerId(next_peer.fetch_add(1, Ordering::Relaxed)), sender.clone())
        });
        Ok(Self { listener: listener.await?, inbox, peers: HashMap::new() })
    }

    /// What is bound, with the actual port.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        self.listener.local().counters()
    }

    /// The numbers of its socket now.
    #[must_use]
    pub fn stats(&self) -> SocketStats {
        self.listener.local().stats()
    }

    /// Waits for at least one event, then appends all that are there, within a bound. `false`: the router has ended.
    /// Cancel-safe.
    pub async fn recv(&mut self, events: &mut Vec<RouterEvent>) -> bool {
        let Some(first) = self.inbox.recv().await else { return false };
        let start = events.len();
        let mut next = Some(first);
        while let Some(queued) = next {
            self.expand(queued, events);
            next = if events.len() - start < EVENT_CAP { self.inbox.try_recv() } else { None };
        }
        true
    }

    fn expand(&mut self, queued: Queued, events: &mut Vec<RouterEvent>) {
        match queued {
            Queued::Up(peer, info, outbox) => {
                self.peers.insert(peer, outbox);
                events.push(RouterEvent::PeerUp { peer, info });
            }
            Queued::Batch(peer, batch) => {
                events.extend(batch.messages().map(|message| RouterEvent::Message { peer, message }));
            }
            Queued::Down(peer, reason, unsent_messages) => {
                self.peers.remove(&peer);
                events.push(RouterEvent::PeerDown { peer, reason, unsent_messages });
            }
        }
    }

    /// Queues a message for a peer. Never waits.
    ///
    /// # Errors
    /// `Full` or `Gone`; nothing was queued.
    pub fn send(&self, peer: PeerId, message: &Message) -> Result<(), RouteError> {
        let outbox = self.peers.get(&peer).ok_or(RouteError::Gone)?;
        outbox.push(message).map_err(RouteError::from)
    }

    /// Like [`Router::send`], encoding the frames first.
    ///
    /// # Errors
    /// `Full` or `Gone`; nothing was queued.
    pub fn send_frames(&self, peer: PeerId, frames: &[Bytes]) -> Result<(), RouteError> {
        self.send(peer, &Message::from_frames(frames))
    }

    /// The output queue of a peer, for those who want to wait for room in it.
    #[must_use]
    pub fn outbox(&self, peer: PeerId) -> Option<&Outbox> {
        self.peers.get(&peer)
    }

    /// Closes a peer's connection at once. Its `PeerDown` follows.
    pub fn disconnect(&self, peer: PeerId) {
        if let Some(outbox) = self.peers.get(&peer) {
            outbox.close(CloseReason::Local);
        }
    }

    /// Stops listening, writes what is queued, and closes every connection at the deadline at latest. What was
    /// received and not taken is dropped. If this future is dropped half way, all is closed at once.
    pub async fn shutdown(mut self, deadline: Duration) -> DrainReport {
        let until = Instant::now() + deadline;
        let outboxes = self.listener.begin_shutdown().await;
        // Handlers that wait for the inbox end with it.
        drop(self.inbox);
        self.listener.finish_shutdown(outboxes, until).await
    }
}

impl From<PushError> for RouteError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Full => Self::Full,
            PushError::Closed => Self::Gone,
        }
    }
}

/// The life of one connection.
async fn serve(mut connection: Connection, peer: PeerId, inbox: InboxSender<Queued>) {
    let outbox = connection.outbox().clone();
    if inbox.send(Queued::Up(peer, Arc::clone(connection.peer()), outbox.clone()), 0).await.is_err() {
        drain_out(&outbox, &mut connection).await;
        return;
    }
    loop {
        if outbox.queued_bytes() > outbox.cap_bytes() / 2 {
            // An error means that it is closed, which the next read reports.
            let _ = outbox.writable().await;
        }
        let mut batch = Batch::new();
        if connection.next_batch(&mut batch).await.is_err() {
            break;
        }
        let weight = batch.wire_len();
        if inbox.send(Queued::Batch(peer, batch), weight).await.is_err() {
            drain_out(&outbox, &mut connection).await;
            return;
        }
    }
    drop(connection);
    let finished = outbox.finished().await;
    // The router may be gone, and then nobody wants to know.
    let _ = inbox.send(Queued::Down(peer, finished.reason, finished.unsent_messages), 0).await;
}

/// The router is shutting down: the connection stays until its output is written, or the deadline closes it.
async fn drain_out(outbox: &Outbox, connection: &mut Connection) {
    outbox.drain();
    outbox.finished().await;
    connection.linger().await;
}
