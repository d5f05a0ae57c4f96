//! `dsv2-broker`.

use std::sync::Arc;

use clap::Parser;
use dsv2_net::Endpoint;
use dsv2_net::EnvelopeRefuser;
use dsv2_net::engine::{Broker, BrokerConfig, DispatchConfig};

use super::{list, ready};
use crate::admin::{Admin, AdminArgs, Watched};
use crate::args::{Common, Part, Place};
use crate::cli::HasCommon;
use crate::error::Error;
use crate::shutdown::Shutdown;

/// The broker between clients and servers: requests go to the least busy server, replies find their way back.
///
/// It keeps nothing: it may be stopped and started at any time; clients and servers come back by themselves, and clients
/// repeat what they do not know the end of.
#[derive(Debug, Parser)]
#[command(name = "dsv2-broker", version)]
pub struct BrokerArgs {
    /// Where clients connect to [default: tcp://127.0.0.1:5555]
    #[arg(long, value_name = "URL")]
    clients: Option<Endpoint>,
    /// Where servers connect to [default: tcp://127.0.0.1:5556]
    #[arg(long, value_name = "URL")]
    servers: Option<Endpoint>,
    /// How many requests a REP server is given at a time. More than one is faster, and leaves as many outcomes unknown
    /// when the server is lost.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rep_window: u16,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

impl HasCommon for BrokerArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Runs it until the process is asked to end.
///
/// # Errors
/// [`Error::Bind`], [`Error::Admin`], [`Error::Usage`].
pub async fn broker(args: BrokerArgs) -> Result<(), Error> {
    let clients = args.place.endpoint(args.clients.as_ref(), Part::Clients)?;
    let servers = args.place.endpoint(args.servers.as_ref(), Part::Servers)?;
    let mut shutdown = Shutdown::install()?;
    let admin = Admin::open(&args.admin, &shutdown).await?;
    let dispatch = DispatchConfig { lock_step_window: args.rep_window.into(), ..DispatchConfig::default() };
    let config = BrokerConfig { clients: vec![clients], servers: vec![servers], dispatch, ..BrokerConfig::default() };
    let broker = Broker::bind(config, Arc::new(EnvelopeRefuser::default())).await?;
    let endpoints = [("clients", list(broker.client_endpoints())), ("servers", list(broker.server_endpoints()))];
    ready("broker", &endpoints, admin.map(|admin| (admin, Watched::Broker(broker.handle()))))?;
    let report = broker.run(shutdown.wait()).await;
    tracing::info!(?report, "ended");
    Ok(())
}
