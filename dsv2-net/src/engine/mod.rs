//! Sockets of our own: connections with limits, and the forwarders built on them.
//!
//! ```text
//!   Listener ──accept, handshake──► Connection ──next_batch──► Batch ──► handler
//!      ▲ caps, deadlines               │                                   │
//!                                      └── Outbox ◄── append, flush ───────┘
//!                                           bounded in bytes, one write for all that is queued
//! ```
//!
//! A handler runs in its connection's own task. It reads when it calls [`Connection::next_batch`], so a handler that
//! waits back-pressures its peer and nobody else; pushing into anybody's [`Outbox`] never waits.

pub mod broker;
pub mod connection;
mod counters;
pub mod dispatch;
pub(crate) mod inbox;
mod limits;
mod listener;
mod outbox;
pub mod proxy;
mod router;
pub mod subscriptions;

pub use broker::{Broker, BrokerConfig, BrokerHandle, BrokerStats, EmptyRefuser, Refuser};
pub use connection::{CloseReason, Connection, DSV2_PROPERTY, HandshakeError, LocalSocket, PeerInfo};
pub use counters::{Budget, Counter, Counters, SocketStats};
pub use dispatch::{DispatchConfig, Outcome, Quota, Refusal};
pub use limits::{Heartbeat, Limits};
pub use listener::{DrainReport, Listener};
pub use outbox::{Finished, Outbox, PushError};
pub use proxy::{Proxy, ProxyConfig, ProxyHandle, ProxyStats, SlowPolicy};
pub use router::{PeerId, RouteError, Router, RouterEvent};
pub use subscriptions::{MatchMode, SubscriptionLimits};
