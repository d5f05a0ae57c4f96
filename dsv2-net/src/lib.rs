//! The world of DS-v2: ZeroMQ transport, the roles as processes run them, and the client SDK.
//!
//! ```text
//!   client ──► broker ──► server ──► store          zmtp: the wire, sans I/O
//!     ▲                     │  ▲                    engine: listeners, connections, forwarding
//!     │                     │  └── links ── servers port: supervised connections
//!     └────── proxy ◄───────┘                       driver, server, reference: machines on sockets and disks
//! ```

#[cfg(feature = "client")]
pub mod client;
pub mod endpoint;
pub mod engine;
pub mod port;
pub mod zmtp;

#[cfg(feature = "cluster")]
pub mod cluster;
#[cfg(feature = "cluster")]
mod driver;
#[cfg(feature = "cluster")]
pub mod reference;
#[cfg(feature = "cluster")]
mod refuse;
#[cfg(feature = "cluster")]
pub mod server;
#[cfg(feature = "cluster")]
pub mod stats;
#[cfg(any(feature = "client", feature = "cluster"))]
mod time;

#[cfg(feature = "client")]
pub use client::Client;
#[cfg(feature = "cluster")]
pub use cluster::Cluster;
pub use endpoint::{BindError, Endpoint, EndpointError};
#[cfg(feature = "cluster")]
pub use refuse::EnvelopeRefuser;
