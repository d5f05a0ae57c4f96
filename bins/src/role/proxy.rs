//! `dsv2-proxy`.

use clap::Parser;
use dsv2_net::Endpoint;
use dsv2_net::engine::{Proxy, ProxyConfig};

use super::{list, ready};
use crate::args::{Common, Part, Place};
use crate::cli::HasCommon;
use crate::error::Error;
use crate::shutdown::Shutdown;

/// The proxy between publishers and subscribers: what a server publishes reaches everybody who subscribed to its topic.
///
/// It keeps nothing: it may be stopped and started at any time; subscribers of ours read back what they missed.
#[derive(Debug, Parser)]
#[command(name = "dsv2-proxy", version)]
pub struct ProxyArgs {
    /// Where publishers connect to [default: tcp://127.0.0.1:5557]
    #[arg(long, value_name = "URL")]
    publishers: Option<Endpoint>,
    /// Where subscribers connect to [default: tcp://127.0.0.1:5558]
    #[arg(long, value_name = "URL")]
    subscribers: Option<Endpoint>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

impl HasCommon for ProxyArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Runs it until the process is asked to end.
///
/// # Errors
/// [`Error::Bind`], [`Error::Usage`].
pub async fn proxy(args: ProxyArgs) -> Result<(), Error> {
    let publishers = args.place.endpoint(args.publishers.as_ref(), Part::Publishers)?;
    let subscribers = args.place.endpoint(args.subscribers.as_ref(), Part::Subscribers)?;
    let mut shutdown = Shutdown::install()?;
    let config = ProxyConfig { publishers: vec![publishers], subscribers: vec![subscribers], ..ProxyConfig::default() };
    let proxy = Proxy::bind(config).await?;
    ready(
        "proxy",
        &[("publishers", list(proxy.publisher_endpoints())), ("subscribers", list(proxy.subscriber_endpoints()))],
    )?;
    let report = proxy.run(shutdown.wait()).await;
    tracing::info!(?report, "ended");
    Ok(())
}
