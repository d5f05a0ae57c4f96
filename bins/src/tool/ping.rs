//! `dsv2 ping`: whether one part of a cluster answers.

use std::time::Duration;

use clap::{Args, ValueEnum};
use dsv2_net::Endpoint;
use dsv2_net::port::{PortError, PortEvent, PortLimits, SocketKind, Transport, connect};
use tokio::time::timeout;

use super::status;
use crate::args::{self, Place};
use crate::error::Error;
use crate::output;

/// Tells whether one part of a cluster answers; exit code 3 if it does not. For health checks.
///
/// A server is asked for its status at its link, and nobody else is asked for it. Broker, proxy and reference must shake
/// hands as they do with those who connect. What stands behind the part is not looked at: `dsv2 status` does that.
#[derive(Args, Debug)]
pub(super) struct PingArgs {
    /// Which part.
    #[arg(long, value_name = "PART", value_enum, default_value_t)]
    part: Part,
    /// Where it listens: the broker for clients, the proxy for subscribers, a server at its link
    /// [default: its port at the place]
    #[arg(long, value_name = "URL", help_heading = "Place")]
    at: Option<Endpoint>,
    /// How many seconds the answer may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    #[command(flatten)]
    place: Place,
}

/// A part that can be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Part {
    #[default]
    Broker,
    Proxy,
    Reference,
    Server,
}

pub(super) async fn ping(args: PingArgs) -> Result<(), Error> {
    let (part, name) = match args.part {
        Part::Broker => (args::Part::Clients, "broker"),
        Part::Proxy => (args::Part::Subscribers, "proxy"),
        Part::Reference => (args::Part::Reference, "reference"),
        Part::Server => (args::Part::Link, "server"),
    };
    let endpoint = args.place.peer(args.at.as_ref(), part)?;
    let within = Duration::from_secs(args.timeout);
    match args.part {
        Part::Server => drop(status::ask(endpoint.clone(), within).await?),
        Part::Proxy => handshake(SocketKind::Sub, endpoint.clone(), within).await?,
        Part::Broker | Part::Reference => handshake(SocketKind::Dealer, endpoint.clone(), within).await?,
    }
    output::line(&format!("the {name} answers at {endpoint}"))
}

/// Connects as the parts do, up to the end of the handshake: a process that only stands still would be connected to as well.
///
/// # Errors
/// [`Error::NoAnswer`] where that takes too long, [`Error::Failed`] where it cannot be tried.
pub(super) async fn handshake(kind: SocketKind, endpoint: Endpoint, within: Duration) -> Result<(), Error> {
    let failed = |error: PortError| Error::Failed(format!("{endpoint}: {error}"));
    let mut port = connect(Transport::Native, kind, endpoint.clone(), PortLimits::default()).map_err(failed)?;
    let mut events = Vec::new();
    let up = async {
        while !events.iter().any(|event| matches!(event, PortEvent::Up { .. })) {
            port.recv(&mut events).await?;
        }
        Ok(())
    };
    let answer = timeout(within, up).await;
    answer.map_err(|_| Error::NoAnswer(format!("nobody answers at {endpoint}")))?.map_err(failed)
}
