//! The loop that runs a server's machine on real sockets and a real disk.
//!
//! ```text
//!   ports, links ──► inputs ──► Machine::step ──► effects ─┬─ durable ──► storage thread: append, one sync
//!                      ▲                                   │                   │ committed
//!                      └── reads, saved ───────────────────┼─ ordered ──► lanes: held until then ──► ports, links
//!                                                          └─ prompt ──────────────────────────────► ports, links
//! ```
//!
//! While the disk syncs one group of turns, the machine decides the next: the group grows with the load, and a quiet
//! server waits for nobody.

mod maintenance;
mod storage;

pub(crate) use storage::{Report, Storage};
