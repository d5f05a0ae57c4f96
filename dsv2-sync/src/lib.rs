//! The decisions of DS-v2: election, clock agreement, replication, and the machines of the three roles.
//!
//! ```text
//!               ┌──────────── server ────────────┐
//!   requests ──►│ writes ─ replication ─ state   │──► events, replies, publications
//!   links    ◄─►│ election ─ clock_sync ─ links  │◄─► other servers
//!               └────────────────────────────────┘
//!   reference: ranks and who lives              session: the client's side
//!   lanes: the order in which effects leave     sim: whole clusters in virtual time
//!   stored: starting from an event store
//! ```
//!
//! Everything here is a [`dsv2_core::Machine`] or a part of one: no I/O, no clock, no source of randomness. The driver in
//! `dsv2-net` and the simulator in `sim` (feature `sim`) run the same machines.

#![warn(clippy::disallowed_methods)]

pub mod clock_sync;
pub mod election;
mod guard;
pub mod history;
pub mod lanes;
pub mod link;
#[cfg_attr(not(feature = "planted"), allow(unreachable_pub, dead_code, reason = "only tests plant bugs"))]
mod planted;
pub mod random;
pub mod reference;
pub mod replication;
pub mod server;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
pub mod state;
#[cfg(feature = "store")]
pub mod stored;
