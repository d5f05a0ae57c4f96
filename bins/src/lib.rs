//! What the programs of DS-v2 share. Each program is a few lines in `src/bin` over a module here.
//!
//! ```text
//!   cli ── flags > environment > configuration file ──► role │ chat │ bot │ tool ──► output (stdout)
//!    │                                                    │                          logging (stderr)
//!    └── exit code ◄── error ◄────────────────────────────┴── shutdown (SIGINT, SIGTERM: drain, then end)
//! ```

pub mod admin;
pub mod args;
pub mod bench;
pub mod bot;
pub mod catalog;
pub mod chat;
pub mod cli;
pub mod config;
pub mod error;
pub mod host;
pub mod keep;
pub mod latency;
pub mod logging;
pub mod nearest;
pub mod output;
pub mod random;
pub mod role;
pub mod sdk;
pub mod shutdown;
pub mod tool;

pub use error::Error;

/// All programs here allocate by it: much is made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
