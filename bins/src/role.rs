//! The four parts of a cluster, each as a process of its own.
//!
//! Each says one line on stdout that starts with `ready` once it listens, logs to stderr, and ends cleanly on SIGINT
//! and SIGTERM.

mod broker;
mod claim;
mod proxy;
mod reference;
mod server;

pub use broker::{BrokerArgs, broker};
pub use proxy::{ProxyArgs, proxy};
pub use reference::{ReferenceArgs, reference};
pub use server::{ServerArgs, server};

use dsv2_net::Endpoint;

use crate::admin::{Admin, Watched};
use crate::error::Error;
use crate::output;

/// Tells scripts that a part is there; its log has more. Nobody needs to listen.
fn ready(part: &str, endpoints: &[(&str, String)], admin: Option<(Admin, Watched)>) -> Result<(), Error> {
    let mut listed: Vec<String> = endpoints.iter().map(|(name, endpoint)| format!("{name}={endpoint}")).collect();
    if let Some((admin, watched)) = admin {
        admin.watch(vec![watched]);
        listed.push(format!("admin={}", admin.at()));
    }
    tracing::info!(part, endpoints = %listed.join(" "), "ready");
    match output::line(&format!("ready {part} {}", listed.join(" "))) {
        Err(Error::OutputClosed) => Ok(()),
        other => other,
    }
}

fn list<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> String {
    endpoints.map(ToString::to_string).collect::<Vec<_>>().join(",")
}
