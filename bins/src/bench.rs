//! `dsv2 bench`: load on a running cluster, through the SDK as a user's program would use it.
//!
//! ```text
//!   pace ── turns, each with the time at which it is due ──► load: clients × in flight ──► work (publish, …)
//!                                                             │
//!                                                             └── latency from the due time ──► report
//! ```

mod delivery;
mod load;
mod pace;
mod report;
mod work;

use std::time::Duration;

use clap::{Args, Subcommand};
use dsv2_core::{ChannelName, Format, Level};
use dsv2_net::Endpoint;

use crate::args::{self, Part, Place};
use crate::error::Error;
use crate::output;
use crate::sdk::Options;
use crate::shutdown::Shutdown;

pub use report::{Deliveries, Report};

/// More tasks than that would measure themselves.
const TURNS_AT_ONCE_CAP: u64 = 1_000_000;
/// With a rate, turns must not wait for each other.
const IN_FLIGHT_AT_A_RATE: u32 = 1_000;
const RATE_CAP: f64 = 10_000_000.0;
/// What a request takes beside its text, at most.
const CALL_BYTES: usize = 1 << 10;

/// Puts load on a cluster that runs, and tells how fast it is.
///
/// With --rate, turns come due at that pace whatever the cluster does, and a latency counts from when its turn was due: if
/// the cluster stands still for a second, all turns of that second show it. What came due is done, even if that takes longer
/// than --seconds. Without --rate, each of the --in-flight waits for its answer and begins again, so that latencies tell of
/// the queue as much as of the cluster. Users named bench-… stay behind, and the channel.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    work: WorkArgs,
}

#[derive(Debug, Subcommand)]
enum WorkArgs {
    /// Durable writes: publishes in a channel, up to the acknowledgement.
    Publish(PublishArgs),
    /// Deliveries: one channel, and subscribers that each receive everything.
    Fanout(FanoutArgs),
    /// Requests that change nothing: the list of users.
    Request(RequestArgs),
    /// Reading back: each client reads the channel from its beginning, page by page.
    Replay(ReplayArgs),
}

/// What every work takes.
#[derive(Args, Clone, Debug)]
struct Load {
    /// How many connections, each of a user of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    clients: u32,
    /// How many turns a second, of all clients together; 0 for as many as they can.
    #[arg(long, value_name = "R", value_parser = args::rate, default_value_t = 0.0)]
    rate: f64,
    /// How long it measures.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    seconds: Duration,
    /// How long it works before it measures.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    warm_up: Duration,
    /// Says it as JSON, one object, and nothing else on stdout.
    #[arg(long)]
    json: bool,
    /// The serialization of requests: json or msgpack.
    #[arg(long, value_name = "FORM", value_parser = args::serde, default_value = "json")]
    serde: Format,
    /// How many seconds a call may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// The broker's side for clients [default: tcp://127.0.0.1:5555]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    broker: Vec<Endpoint>,
    /// The proxy's side for subscribers [default: tcp://127.0.0.1:5558]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    proxy: Vec<Endpoint>,
    #[command(flatten)]
    place: Place,
}

/// What is written.
#[derive(Args, Clone, Debug)]
struct Writing {
    /// How many bytes a text has.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(33..=262_144))]
    size: u32,
    /// How safe a write must be before it is acknowledged: local, quorum or all [default: as the server has it]
    #[arg(long, value_name = "LEVEL", value_parser = args::level)]
    level: Option<Level>,
    /// Where; created if need be [default: bench]
    #[arg(long, value_name = "NAME", default_value = "bench", hide_default_value = true)]
    channel: ChannelName,
}

#[derive(Args, Debug)]
struct PublishArgs {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    writing: Writing,
    /// How many turns each client has under way, at most [default: 1; with --rate, 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Option<u32>,
}

#[derive(Args, Debug)]
struct FanoutArgs {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    writing: Writing,
    /// How many turns each client has under way, at most [default: 100; with --rate, 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Option<u32>,
    /// How many subscribers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    subscribers: u32,
}

#[derive(Args, Debug)]
struct RequestArgs {
    #[command(flatten)]
    load: Load,
    /// How many turns each client has under way, at most [default: 1; with --rate, 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: Option<u32>,
}

#[derive(Args, Debug)]
struct ReplayArgs {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    writing: Writing,
    /// How many messages the channel must have; what is missing is published before.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    messages: u64,
    /// How many messages a page has.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    page: u64,
}

/// A time in seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be between 0 and 86400".to_owned())
    }
}

impl Load {
    /// So many turns at most for each client.
    fn in_flight(&self, asked: Option<u32>, default: u32) -> u32 {
        asked.unwrap_or(if self.rate > 0.0 { default.max(IN_FLIGHT_AT_A_RATE) } else { default })
    }

    fn options(&self, writing: Option<&Writing>, in_flight: u32) -> Result<Options, Error> {
        let (calls, text_bytes) = (in_flight as usize, writing.map_or(0, |writing| writing.size as usize));
        Ok(Options {
            in_flight: Some((calls, calls * (text_bytes + CALL_BYTES))),
            brokers: self.place.peers(&self.broker, Part::Clients)?,
            proxies: self.place.peers(&self.proxy, Part::Subscribers)?,
            user: None,
            format: self.serde,
            level: writing.and_then(|writing| writing.level),
            timeout: Duration::from_secs(self.timeout),
        })
    }

    fn plan(&self, in_flight: u32) -> Result<load::Plan, Error> {
        let at_once = u64::from(self.clients) * u64::from(in_flight);
        if at_once > TURNS_AT_ONCE_CAP {
            return Err(Error::Usage(format!(
                "--clients {} with --in-flight {in_flight} is {at_once} turns at once; {TURNS_AT_ONCE_CAP} is the most",
                self.clients
            )));
        }
        if self.rate > RATE_CAP {
            return Err(Error::Usage(format!("--rate {} is more than {RATE_CAP}", self.rate)));
        }
        if self.seconds.is_zero() {
            return Err(Error::Usage("--seconds 0 measures nothing".to_owned()));
        }
        Ok(load::Plan { in_flight, rate: self.rate, warm_up: self.warm_up, measure: self.seconds })
    }
}

/// Runs it.
///
/// # Errors
/// [`Error::Check`] where calls failed or deliveries are missing, and whatever keeps it from beginning.
pub async fn bench(args: BenchArgs) -> Result<(), Error> {
    let shutdown = Shutdown::install()?;
    let (report, as_json) = match args.work {
        WorkArgs::Publish(args) => (work::publish(&args, shutdown).await?, args.load.json),
        WorkArgs::Fanout(args) => (work::fanout(&args, shutdown).await?, args.load.json),
        WorkArgs::Request(args) => (work::request(&args, shutdown).await?, args.load.json),
        WorkArgs::Replay(args) => (work::replay(&args, shutdown).await?, args.load.json),
    };
    if as_json {
        output::object(&report)?;
    } else {
        output::line(&report.people())?;
    }
    match report.complaint() {
        None => Ok(()),
        Some(complaint) => Err(Error::Check(complaint)),
    }
}
