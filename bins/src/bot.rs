//! `dsv2-bot`: a user that is a program. It publishes as the seed's bot does, and checks what it receives.

mod check;
mod publish;
mod summary;

use std::time::Duration;

use clap::Parser;
use dsv2_core::{ChannelName, Format, Level, UserName};
use dsv2_net::Endpoint;
use dsv2_net::client::Cursor;
use tokio::time::Instant;

use crate::args::{self, Common, Part, Place};
use crate::cli::HasCommon;
use crate::error::Error;
use crate::sdk::{self, Options};
use crate::shutdown::Shutdown;
use crate::{output, random};

pub use summary::Summary;

use check::Checker;
use publish::Run;

/// How long answers and deliveries may take after the last publication.
const SETTLE: Duration = Duration::from_secs(10);
/// Between two lines in the log.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// A bot: logs in under a random name, creates a random channel, and publishes there.
///
/// It follows its channels too, and checks that what it receives has no duplicate, no gap, and the order that the
/// servers gave it, and that nothing that was acknowledged is missing. Ends after --count messages, or on Ctrl-C, with a
/// summary; with exit code 4 if a check failed.
#[derive(Debug, Parser)]
#[command(name = "dsv2-bot", version)]
pub struct BotArgs {
    /// Its name [default: a random one]
    #[arg(long, value_name = "NAME")]
    name: Option<UserName>,
    /// How many messages a second it publishes; 0 for as many as it can.
    #[arg(long, value_name = "R", value_parser = args::rate, default_value_t = 10.0)]
    rate: f64,
    /// How many messages it publishes; 0 for no end.
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,
    /// Where it publishes, in turn at random; created if need be [default: a random one]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    channels: Vec<ChannelName>,
    /// How many bytes a text has at least.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    size: u32,
    /// How many messages may be on their way, unacknowledged.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// Says the summary as JSON, one object, and nothing else on stdout.
    #[arg(long)]
    json: bool,
    /// The serialization of requests: json or msgpack.
    #[arg(long, value_name = "FORM", value_parser = args::serde, default_value = "json")]
    serde: Format,
    /// How safe a write must be before it is acknowledged: local, quorum or all [default: as the server has it]
    #[arg(long, value_name = "LEVEL", value_parser = args::level)]
    level: Option<Level>,
    /// How many seconds a call may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// The broker's side for clients; several, separated by commas, are tried in turn [default: tcp://127.0.0.1:5555]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    broker: Vec<Endpoint>,
    /// The proxy's side for subscribers; several likewise [default: tcp://127.0.0.1:5558]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    proxy: Vec<Endpoint>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

impl HasCommon for BotArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// What a bot does.
#[derive(Clone, Debug)]
pub struct BotPlan {
    /// Messages a second; 0 for as many as it can.
    pub rate: f64,
    /// How many messages; 0 for no end.
    pub count: u64,
    /// Where; at least one.
    pub channels: Vec<ChannelName>,
    /// How many bytes a text has at least.
    pub size_bytes: usize,
    /// How many messages may be on their way, unacknowledged.
    pub in_flight: usize,
}

impl Default for BotPlan {
    /// 10 a second, without an end, 64 on their way; channels are to be added.
    fn default() -> Self {
        Self { rate: 10.0, count: 0, channels: Vec::new(), size_bytes: 0, in_flight: 64 }
    }
}

/// A name such as `bot-3fa9c1`.
///
/// # Errors
/// [`Error::Failed`] where the system gives no random numbers.
pub fn random_name(prefix: &str) -> Result<String, Error> {
    Ok(format!("{prefix}-{:06x}", random::bits()? & 0xff_ffff))
}

/// One of the channels in which bots meet: few enough that they do.
///
/// # Errors
/// None in fact: the names are valid.
pub fn random_channel(random: u64) -> Result<ChannelName, Error> {
    const CHANNELS: [&str; 8] = ["geral", "esportes", "filmes", "games", "livros", "musica", "noticias", "viagens"];
    Ok(CHANNELS[(random % CHANNELS.len() as u64) as usize].parse()?)
}

/// Runs the program.
///
/// # Errors
/// [`Error::Check`] where a check failed, and whatever keeps it from beginning.
pub async fn bot(args: BotArgs) -> Result<(), Error> {
    let shutdown = Shutdown::install()?;
    let user = match args.name.clone() {
        Some(name) => name,
        None => random_name("bot")?.parse()?,
    };
    let channels =
        if args.channels.is_empty() { vec![random_channel(random::bits()?)?] } else { args.channels.clone() };
    let options = Options {
        brokers: args.place.peers(&args.broker, Part::Clients)?,
        proxies: args.place.peers(&args.proxy, Part::Subscribers)?,
        user: Some(user),
        format: args.serde,
        level: args.level,
        timeout: Duration::from_secs(args.timeout),
        in_flight: None,
    };
    let plan = BotPlan {
        rate: args.rate,
        count: args.count,
        channels,
        size_bytes: args.size as usize,
        in_flight: args.in_flight as usize,
    };
    let summary = run(&options, &plan, shutdown).await?;
    if args.json {
        output::object(&summary)?;
    } else {
        output::line(&summary.people())?;
    }
    if summary.is_sound() { Ok(()) } else { Err(Error::Check(format!("the checks failed: {}", summary.complaints()))) }
}

/// Runs a bot until it has published all, or is asked to end.
///
/// # Errors
/// Whatever keeps it from beginning. What goes wrong later is in the summary.
pub async fn run(options: &Options, plan: &BotPlan, mut shutdown: Shutdown) -> Result<Summary, Error> {
    let name = options.user.as_ref().map_or_else(String::new, ToString::to_string);
    let run = Run { number: (random::bits()? & u64::from(u32::MAX)) as u32, started: Instant::now() };
    let mut checker = Checker::new(name.clone(), run)?;
    let client = tokio::select! {
        client = sdk::connect(options) => client?,
        () = shutdown.wait() => return Ok(checker.summary(plan, Duration::ZERO)),
    };
    for channel in &plan.channels {
        client.channel(channel).create().await?;
    }
    let mut subscription = client.subscribe(&plan.channels).from(Cursor::Last).await?;
    let channels: Vec<&str> = plan.channels.iter().map(ChannelName::as_str).collect();
    tracing::info!(bot = name, channels = channels.join(","), "publishes");
    let started = Instant::now();
    let (publisher, mut facts) = publish::start(client.clone(), run, plan.clone(), shutdown.clone());
    let mut progress = tokio::time::interval_at(started + PROGRESS_EVERY, PROGRESS_EVERY);
    let mut deadline: Option<Instant> = None;
    let mut publishing_for = Duration::ZERO;
    while !(deadline.is_some() && checker.is_complete()) {
        tokio::select! {
            fact = facts.recv(), if deadline.is_none() => match fact {
                Some(fact) => checker.fact(&fact),
                None => {
                    publishing_for = started.elapsed();
                    deadline = Some(Instant::now() + SETTLE);
                }
            },
            delivery = subscription.next() => match delivery {
                Some(delivery) => checker.delivery(&delivery),
                None => break,
            },
            _ = progress.tick() => tracing::info!(bot = name, "{}", checker.progress()),
            () = until(deadline) => break,
        }
    }
    publisher.abort();
    let summary = checker.summary(plan, publishing_for);
    client.drain(Duration::from_secs(1)).await;
    Ok(summary)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
