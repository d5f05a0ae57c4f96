//! Ports: supervised connections to one endpoint, the same for every transport.
//!
//! ```text
//!              ┌── native: our own codec and limits; tcp://, ipc://, memory:// ──┐
//!   Port ──────┤                                                                 ├──► the peer
//!   send, recv └── zeromq: the `zeromq` crate, rebuilt when it loses its peer ───┘
//! ```
//!
//! A port connects, never binds. It reconnects for ever, with capped exponential backoff and jitter, renews its
//! subscriptions, and says `Up` and `Down` as that happens. It holds no messages while it is down: what was accepted
//! and not written when the connection ended is reported with `Down`, and what is sent meanwhile is handed back.

mod backoff;
pub mod conformance;
mod interest;
mod native;
#[cfg(feature = "zeromq")]
mod outstanding;
#[cfg(feature = "cluster")]
mod ports;
#[cfg(feature = "zeromq")]
mod zeromq;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use backoff::Backoff;
pub use native::NativePort;
#[cfg(feature = "cluster")]
pub(crate) use ports::Ports;
#[cfg(feature = "zeromq")]
pub use zeromq::ZeroMqPort;

use crate::endpoint::Endpoint;
use crate::engine::{Limits, PeerInfo};
use crate::zmtp::Message;

/// A connection to one endpoint that is kept up.
///
/// A port sees its peer come and go only through [`Port::recv`]: it sends from the moment that `Up` was handed out
/// until its connection ends. Whoever uses a port therefore keeps a `recv` pending.
#[async_trait]
pub trait Port: Send {
    /// Queues one message, all its frames. Never blocks. `Ok` says that it is queued here, not that it is delivered.
    ///
    /// A PUB port sends what its peer subscribed to and counts the rest; it also counts what it drops when its queue
    /// is full: both are `Ok`, as PUB sockets do.
    ///
    /// # Errors
    /// The message comes back and nothing was queued: see [`SendError`].
    fn send(&mut self, message: Message) -> Result<(), SendError>;

    /// Waits for at least one event, then appends all that are there, within a bound. Cancel-safe.
    ///
    /// # Errors
    /// The port has ended for good.
    async fn recv(&mut self, events: &mut Vec<PortEvent>) -> Result<(), PortError>;

    /// Adds one subscription to a prefix (SUB only; counted, so that each needs its own `unsubscribe`).
    /// Takes effect with the next `recv` at latest, and again after every reconnection.
    fn subscribe(&mut self, topic: &[u8]);

    /// Removes one subscription (SUB only).
    fn unsubscribe(&mut self, topic: &[u8]);

    /// Waits until what was queued has been written, the connection ended, or the deadline passed.
    async fn drain(&mut self, deadline: Duration) -> DrainReport;

    /// What happened so far.
    fn stats(&self) -> PortStats;
}

/// What a port reports. After `Up` come messages, then `Down`, then `Up` again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortEvent {
    /// The peer is connected.
    Up {
        /// What it told of itself. `None` with `Transport::ZeroMq`, which keeps that to itself.
        info: Option<Arc<PeerInfo>>,
    },
    /// The peer is gone; the port tries again by itself.
    Down {
        /// Why, for people.
        reason: String,
        /// Messages that had been accepted and whose writing is not certain. Those were not sent, or not whole
        /// (native), or not answered (zeromq, whose writes cannot be seen).
        unsent_messages: usize,
    },
    /// An attempt to connect failed; the port tries again by itself. Left out while the user takes no events.
    Unreachable {
        /// Failed attempts since the start or the last `Up`.
        attempts: u32,
        /// Why, for people.
        reason: String,
    },
    /// A message, all its frames. They share the read buffer: see [`Message::detach`].
    Message(Message),
    /// There is room again after a send returned `Full`.
    Writable,
}

/// Why a message was not queued; the message comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full, in messages or in bytes. `Writable` tells when to try again.
    #[error("the port's queue is full")]
    Full(Message),
    /// The message can never be sent: it exceeds the port's limits by itself.
    #[error("the message exceeds the port's limits")]
    TooLarge(Message),
    /// No peer is connected. `Up` tells when to try again.
    #[error("the port is down")]
    Down(Message),
    /// A SUB port does not send.
    #[error("this kind of port does not send")]
    Unsupported(Message),
}

impl SendError {
    /// The message that was refused.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message) | Self::TooLarge(message) | Self::Down(message) | Self::Unsupported(message) => message,
        }
    }
}

/// Why a port has ended or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The port's task has ended, with its runtime.
    #[error("the port is closed")]
    Closed,
    /// The transport cannot do this.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// What a drain left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Messages that were accepted and whose writing is not certain.
    pub unsent_messages: usize,
}

/// Numbers of a port since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PortStats {
    /// Times it came up.
    pub connected: u64,
    /// Attempts to connect that failed.
    pub failed_attempts: u64,
    /// Messages accepted by `send` and queued.
    pub sent: u64,
    /// Messages received.
    pub received: u64,
    /// PUB: messages that nobody on the other side wants.
    pub unwanted: u64,
    /// PUB: messages dropped because the queue was full.
    pub dropped: u64,
    /// Messages reported lost with `Down`.
    pub lost: u64,
    /// Whether it is up now.
    pub up: bool,
    /// Bytes queued now; always 0 with `Transport::ZeroMq`, whose queue counts messages.
    pub queued_bytes: usize,
}

/// What the port is to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// Asynchronous requests and replies. To a REP, or through a broker, the frames are `[id, "", body]`.
    Dealer,
    /// Receives what it subscribed to.
    Sub,
    /// Sends what its peer subscribed to.
    Pub,
}

/// Which implementation carries a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Transport {
    /// Our own ZMTP engine.
    #[default]
    Native,
    /// The `zeromq` crate. DEALER and SUB, over `tcp://` and `ipc://`; messages of the peer are not limited in size.
    #[cfg(feature = "zeromq")]
    ZeroMq,
}

/// What a port is bounded by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortLimits {
    /// Messages queued and not yet written; for `Transport::ZeroMq`, not yet answered.
    pub queue_cap_messages: usize,
    /// Bytes of those.
    pub queue_cap_bytes: usize,
    /// Bytes received that wait for [`Port::recv`]. Reading stops there.
    pub inbox_cap_bytes: usize,
    /// Deadline of an attempt to connect, name resolution included and handshake not.
    pub connect_timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// `Transport::ZeroMq`: a DEALER's peer that answers nothing for so long, while requests wait, is given up and
    /// connected anew. The crate has no heartbeats to tell by.
    pub answer_timeout: Duration,
    /// DEALER: the identity to announce, none if empty.
    pub identity: Bytes,
    /// Limits of the connection: message sizes, heartbeats, stalls. Its queue bounds are replaced by those above.
    pub connection: Limits,
}

impl Default for PortLimits {
    fn default() -> Self {
        Self {
            queue_cap_messages: 10_000,
            queue_cap_bytes: 16 << 20,
            inbox_cap_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(5),
            backoff: Backoff::default(),
            answer_timeout: Duration::from_secs(60),
            identity: Bytes::new(),
            connection: Limits::default(),
        }
    }
}

impl PortLimits {
    /// The connection's limits with the port's own bounds in place.
    pub(crate) fn engine(&self) -> Limits {
        Limits {
            outbox_cap_bytes: self.queue_cap_bytes,
            outbox_cap_messages: self.queue_cap_messages,
            outbox_total_cap_bytes: self.queue_cap_bytes.saturating_add(self.connection.message_cap_bytes),
            inbox_cap_bytes: self.inbox_cap_bytes,
            ..self.connection.clone()
        }
    }
}

/// Opens a port. It connects in the background: `Up` is the first sign of success. Dropping it closes it at once;
/// [`Port::drain`] comes first where that matters. Needs a running tokio runtime.
///
/// # Errors
/// The transport does not support the kind or the endpoint.
pub fn connect(
    transport: Transport,
    kind: SocketKind,
    endpoint: Endpoint,
    limits: PortLimits,
) -> Result<Box<dyn Port>, PortError> {
    match transport {
        Transport::Native => Ok(Box::new(NativePort::connect(kind, endpoint, limits))),
        #[cfg(feature = "zeromq")]
        Transport::ZeroMq => Ok(Box::new(ZeroMqPort::connect(kind, &endpoint, limits)?)),
    }
}
