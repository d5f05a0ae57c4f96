//! `dsv2 up`: a whole cluster in one process.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dsv2_core::Format;
use dsv2_net::Endpoint;
use dsv2_net::cluster::{Cluster, ClusterOptions, Endpoints, Place as ClusterPlace};
use dsv2_net::port::SocketKind;
use dsv2_sync::election::CoordinatorRank;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::{ping, status};
use crate::admin::{Admin, AdminArgs, Watched};
use crate::args::{self, Place};
use crate::bot::{self, BotPlan, Summary};
use crate::error::Error;
use crate::keep::Keeping;
use crate::sdk::Options;
use crate::shutdown::Shutdown;
use crate::{output, random};

/// How long all parts may take to answer, after the time that replaying the logs takes.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at whether they do.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Starts a whole cluster in one process: reference, broker, proxy, servers, and bots that show that it works.
///
/// Says one line that starts with `ready`, with the endpoints, once every part answers. Ends cleanly on Ctrl-C; started
/// again with the same --data, it goes on where it was.
#[derive(Args, Debug)]
pub(super) struct UpArgs {
    /// How many servers; each is a voter, so a write is acknowledged once a majority holds it.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    servers: u8,
    /// How many bots that publish in random channels.
    #[arg(long, value_name = "N", default_value_t = 0)]
    bots: u16,
    /// How many messages a second each bot publishes; 0 for as many as it can.
    #[arg(long, value_name = "R", value_parser = args::rate, default_value_t = 2.0)]
    rate: f64,
    /// Where it keeps its data: DIR/server1/users.json and so on.
    #[arg(long, value_name = "DIR", default_value = "dsv2-data")]
    data: PathBuf,
    /// Keeps nothing on disk; what was written is gone at the end.
    #[arg(long)]
    in_memory: bool,
    /// The serialization of what the servers publish, and of the bots' requests: json or msgpack.
    #[arg(long, value_name = "FORM", value_parser = args::serde, default_value = "json")]
    serde: Format,
    /// Which rank leads: highest or lowest.
    #[arg(long, value_name = "RULE", value_parser = args::coordinator_rank, default_value = "highest")]
    coordinator_rank: CoordinatorRank,
    #[command(flatten)]
    keeping: Keeping,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn up(args: UpArgs) -> Result<(), Error> {
    let mut shutdown = Shutdown::install()?;
    let admin = Admin::open(&args.admin, &shutdown).await?;
    let mut options = ClusterOptions::memory(usize::from(args.servers));
    options.place = ClusterPlace::Tcp { host: args.place.host.clone(), base_port: args.place.base_port };
    options.data = (!args.in_memory).then(|| args.data.clone());
    options.format = args.serde;
    options.coordinator_rank = args.coordinator_rank;
    options.retention = args.keeping.retention();
    let cluster = Cluster::start(options).await?;
    if let Some(admin) = &admin {
        admin.watch(watched(&cluster));
    }
    let told = admin.map_or_else(String::new, |admin| format!(" admin={}", admin.at()));
    let result = tokio::select! {
        result = serve(&args, cluster.endpoints(), &told, shutdown.clone()) => result,
        () = asked_before_ready(&mut shutdown) => Ok(()),
    };
    let stopped = cluster.stop().await;
    result?;
    Ok(stopped?)
}

fn watched(cluster: &Cluster) -> Vec<Watched> {
    let reference = cluster.reference().map(Watched::Reference);
    let servers = cluster.servers().into_iter().map(|(name, handle)| Watched::Server(name, handle));
    [Watched::Broker(cluster.broker()), Watched::Proxy(cluster.proxy())]
        .into_iter()
        .chain(reference)
        .chain(servers)
        .collect()
}

/// A cluster that is asked to end gives its bots time to end by themselves.
async fn asked_before_ready(shutdown: &mut Shutdown) {
    shutdown.wait().await;
    sleep(READY_WITHIN).await;
}

async fn serve(args: &UpArgs, endpoints: &Endpoints, told: &str, mut shutdown: Shutdown) -> Result<(), Error> {
    let clients = local(&endpoints.clients);
    let subscribers = local(&endpoints.subscribers);
    tokio::select! {
        ready = wait_until_ready(&clients, usize::from(args.servers)) => ready?,
        () = shutdown.wait() => return Ok(()),
    }
    tokio::select! {
        answer = wait_until_all_answer(endpoints) => answer?,
        () = shutdown.wait() => return Ok(()),
    }
    output::line(&(ready_line(endpoints) + told))?;
    let mut bots = JoinSet::new();
    for _ in 0..args.bots {
        let mut options = Options::new(clients.clone(), subscribers.clone());
        options.format = args.serde;
        let name = bot::random_name("bot")?;
        options.user = Some(name.parse()?);
        let plan =
            BotPlan { rate: args.rate, channels: vec![bot::random_channel(random::bits()?)?], ..BotPlan::default() };
        let shutdown = shutdown.clone();
        bots.spawn(async move { bot::run(&options, &plan, shutdown).await });
    }
    shutdown.wait().await;
    summaries(bots).await
}

async fn summaries(mut bots: JoinSet<Result<Summary, Error>>) -> Result<(), Error> {
    let mut failed = 0;
    while let Some(summary) = bots.join_next().await {
        let summary = summary.map_err(|error| Error::Failed(error.to_string()))??;
        output::line(&summary.people())?;
        failed += u64::from(!summary.is_sound());
    }
    if failed == 0 { Ok(()) } else { Err(Error::Check(format!("the checks of {failed} bots failed"))) }
}

/// Waits until proxy and reference answer too: each takes a connection as the parts make them.
async fn wait_until_all_answer(endpoints: &Endpoints) -> Result<(), Error> {
    let parts = [
        (SocketKind::Pub, &endpoints.publishers),
        (SocketKind::Sub, &endpoints.subscribers),
        (SocketKind::Dealer, &endpoints.reference),
    ];
    for (kind, endpoint) in parts {
        ping::handshake(kind, local(endpoint), READY_WITHIN).await?;
    }
    Ok(())
}

/// Waits until every server answers, is ready, and follows a coordinator.
async fn wait_until_ready(clients: &Endpoint, servers: usize) -> Result<(), Error> {
    let deadline = Instant::now() + READY_WITHIN;
    let late =
        || Error::NoAnswer(format!("not all parts answered within {} s; the log says more", READY_WITHIN.as_secs()));
    loop {
        let reports = timeout_at(deadline, status::gather(clients, READY_WITHIN)).await.map_err(|_| late())?;
        if let Ok(reports) = &reports {
            let is_ready = |report: &Result<_, String>| {
                report
                    .as_ref()
                    .is_ok_and(|report: &dsv2_core::StatusReport| report.ready && report.coordinator.is_some())
            };
            if reports.len() >= servers && reports.values().all(is_ready) {
                return Ok(());
            }
        }
        timeout_at(deadline, sleep(LOOK_EVERY)).await.map_err(|_| late())?;
    }
}

fn ready_line(endpoints: &Endpoints) -> String {
    let links: Vec<String> = endpoints.links.iter().map(ToString::to_string).collect();
    format!(
        "ready clients={} servers={} publishers={} subscribers={} reference={} links={}",
        endpoints.clients,
        endpoints.servers,
        endpoints.publishers,
        endpoints.subscribers,
        endpoints.reference,
        links.join(",")
    )
}

/// Where this process itself reaches what listens on all interfaces.
fn local(endpoint: &Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp { host, port } if matches!(host.as_str(), "*" | "0.0.0.0" | "::") => {
            Endpoint::tcp("127.0.0.1", *port)
        }
        other => other.clone(),
    }
}
