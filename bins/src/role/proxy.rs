//! `dsv2-proxy`.

use clap::{Parser, ValueEnum};
use dsv2_net::Endpoint;
use dsv2_net::engine::{MatchMode, Proxy, ProxyConfig, SlowPolicy};

use super::{list, ready};
use crate::admin::{Admin, AdminArgs, Watched};
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
    /// What a subscription matches: its own topic only, or every topic that begins with it, as libzmq has it
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    matching: Matching,
    /// What becomes of a message for a subscriber whose queue is full: it is left out, or the subscriber is disconnected
    /// too, and so learns that it missed something
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    slow: Slow,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

/// What a subscription matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Matching {
    #[default]
    Exact,
    Prefix,
}

/// What becomes of a message for a slow subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Slow {
    #[default]
    Drop,
    Disconnect,
}

impl HasCommon for ProxyArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Runs it until the process is asked to end.
///
/// # Errors
/// [`Error::Bind`], [`Error::Admin`], [`Error::Usage`].
pub async fn proxy(args: ProxyArgs) -> Result<(), Error> {
    let publishers = args.place.endpoint(args.publishers.as_ref(), Part::Publishers)?;
    let subscribers = args.place.endpoint(args.subscribers.as_ref(), Part::Subscribers)?;
    let mut shutdown = Shutdown::install()?;
    let admin = Admin::open(&args.admin, &shutdown).await?;
    let config = ProxyConfig {
        publishers: vec![publishers],
        subscribers: vec![subscribers],
        match_mode: if args.matching == Matching::Prefix { MatchMode::Prefix } else { MatchMode::Exact },
        slow_policy: if args.slow == Slow::Disconnect { SlowPolicy::Disconnect } else { SlowPolicy::Drop },
        ..ProxyConfig::default()
    };
    let proxy = Proxy::bind(config).await?;
    let endpoints =
        [("publishers", list(proxy.publisher_endpoints())), ("subscribers", list(proxy.subscriber_endpoints()))];
    ready("proxy", &endpoints, admin.map(|admin| (admin, Watched::Proxy(proxy.handle()))))?;
    let report = proxy.run(shutdown.wait()).await;
    tracing::info!(?report, "ended");
    Ok(())
}
