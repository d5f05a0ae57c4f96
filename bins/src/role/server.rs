//! `dsv2-server`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dsv2_core::{Format, Level, ServerName};
use dsv2_net::Endpoint;
use dsv2_net::server::{Server, ServerOptions};
use dsv2_sync::election::{CoordinatorRank, ElectionForm};

use super::{claim, ready};
use crate::admin::{Admin, AdminArgs, Watched};
use crate::args::{self, Common, Part, Place};
use crate::cli::HasCommon;
use crate::error::Error;
use crate::host;
use crate::keep::Keeping;
use crate::shutdown::Shutdown;

/// A server: takes requests, writes them to its log, publishes them, replicates them to the other servers, and takes
/// part in elections and clock rounds.
///
/// Killed and started again, it has lost nothing that was acknowledged. A data directory belongs to one server; the name
/// that it remembers wins over the one given here.
#[derive(Debug, Parser)]
#[command(name = "dsv2-server", version)]
pub struct ServerArgs {
    /// Its name, another one for every server [default: this host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<ServerName>,
    /// Its data directory.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Takes the first of DIR/server1, DIR/server2, … that no running server holds, and that name. --name then says what
    /// stands before the number [default: server], and --data becomes a symbolic link to what was taken. For servers that
    /// are started alike, as replicas of a container are.
    #[arg(long, value_name = "DIR")]
    claim: Option<PathBuf>,
    /// The servers whose majority holds a write before it is acknowledged at level quorum; the same list for every server.
    /// Without it every server writes on its own, and the only level is local.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    voters: Vec<ServerName>,
    /// How safe a write is before it is acknowledged, where the client does not say: local, quorum or all
    /// [default: quorum with --voters, else local]
    #[arg(long, value_name = "LEVEL", value_parser = args::level)]
    level: Option<Level>,
    /// Which rank leads: highest or lowest; the same for every server.
    #[arg(long, value_name = "RULE", value_parser = args::coordinator_rank, default_value = "highest")]
    coordinator_rank: CoordinatorRank,
    /// How a coordinator is chosen: auto (a majority of the voters, where there are voters) or bully (each side of a
    /// partition its own); the same for every server.
    #[arg(long, value_name = "FORM", value_parser = args::election, default_value = "auto")]
    election: ElectionForm,
    /// The serialization of what it publishes: json or msgpack. Every request is answered in its own.
    #[arg(long, value_name = "FORM", value_parser = args::serde, default_value = "json")]
    serde: Format,
    /// How many seconds it may take to finish what was begun when it is asked to end.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain: u64,
    /// The broker's side for servers; of every broker, where there are several [default: tcp://127.0.0.1:5556]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    broker: Vec<Endpoint>,
    /// The proxy's side for publishers; of every proxy, where there are several [default: tcp://127.0.0.1:5557]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    publish: Vec<Endpoint>,
    /// The proxy's side for subscribers; of every proxy, where there are several [default: tcp://127.0.0.1:5558]
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Place")]
    subscribe: Vec<Endpoint>,
    /// The reference [default: tcp://127.0.0.1:5559]
    #[arg(long, value_name = "URL", help_heading = "Place")]
    reference: Option<Endpoint>,
    /// Where it listens for other servers; a port of its own for each server of a machine, or 0 for any
    /// [default: tcp://127.0.0.1:5560]
    #[arg(long, value_name = "URL", help_heading = "Place")]
    link: Option<Endpoint>,
    /// The address of its link that other servers are told, where that differs from --link (containers, NAT).
    #[arg(long, value_name = "URL", help_heading = "Place")]
    advertise: Option<Endpoint>,
    #[command(flatten)]
    keeping: Keeping,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

impl HasCommon for ServerArgs {
    fn common(&self) -> &Common {
        &self.common
    }
}

impl ServerArgs {
    fn options(self) -> Result<ServerOptions, Error> {
        let name = match (self.name, &self.claim) {
            (Some(name), _) => name,
            (None, Some(_)) => ServerName::new("server")?,
            (None, None) => host_name()?,
        };
        let mut options = ServerOptions::new(name);
        options.data = Some(self.data);
        options.brokers = self.place.peers(&self.broker, Part::Servers)?;
        options.publish = self.place.peers(&self.publish, Part::Publishers)?;
        options.subscribe = self.place.peers(&self.subscribe, Part::Subscribers)?;
        options.reference = self.place.peer(self.reference.as_ref(), Part::Reference)?;
        options.link = self.place.endpoint(self.link.as_ref(), Part::Link)?;
        options.advertise = match self.advertise {
            None if options.link.is_wildcard() => Some(by_host_name(&options.link)?),
            given => given,
        };
        options.voters = self.voters.into_iter().collect();
        options.format = self.serde;
        options.level = self.level;
        options.coordinator_rank = self.coordinator_rank;
        options.election = self.election;
        options.retention = self.keeping.retention();
        if !options.retention.keeps_all() && options.voters.is_empty() {
            let text = "what may be retired is known with --voters only; for a server that works alone there is `dsv2 compact`";
            return Err(Error::Usage(text.to_owned()));
        }
        options.drain = Duration::from_secs(self.drain);
        Ok(options)
    }
}

/// A link that listens on every address is told to others by the name of this host: containers find each other so.
fn by_host_name(link: &Endpoint) -> Result<Endpoint, Error> {
    match (link, host::name()) {
        (Endpoint::Tcp { port, .. }, Some(host)) if *port > 0 => Ok(Endpoint::tcp(host, *port)),
        _ => Err(Error::Usage(format!(
            "others cannot be told to come to {link}: say with --advertise where they reach it"
        ))),
    }
}

fn host_name() -> Result<ServerName, Error> {
    let name = host::name()
        .ok_or_else(|| Error::Usage("this host has no name: give the server one with --name".to_owned()))?;
    ServerName::new(&name)
        .map_err(|why| Error::Usage(format!("this host's name {name:?} {why}: give the server one with --name")))
}

/// Runs it until the process is asked to end.
///
/// # Errors
/// [`Error::Bind`], [`Error::Admin`], [`Error::Usage`], [`Error::Store`], and [`Error::Failed`] where it must not run.
pub async fn server(args: ServerArgs) -> Result<(), Error> {
    let mut shutdown = Shutdown::install()?;
    let admin = Admin::open(&args.admin, &shutdown).await?;
    let claim = args.claim.clone();
    let options = args.options()?;
    let mut server = match claim {
        Some(root) => claim::start(options, &root).await?,
        None => Server::start(options).await?,
    };
    let watched = Watched::Server(server.name().clone(), server.handle());
    let endpoints = [("name", server.name().to_string()), ("link", server.link().to_string())];
    ready("server", &endpoints, admin.map(|admin| (admin, watched)))?;
    tokio::select! {
        () = shutdown.wait() => {}
        ended = server.ended() => return Ok(ended?),
    }
    Ok(server.stop().await?)
}
