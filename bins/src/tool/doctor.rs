//! `dsv2 doctor`: what is wrong with a setup, and what to do about it.

mod data;
mod disk;
mod finding;
mod parts;
mod probe;
mod servers;
mod setup;
mod system;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dsv2_net::Endpoint;
use serde_json::json;
use tokio::time::timeout;

use self::finding::{Finding, Found, State, people};
use crate::args::{Part, Place};
use crate::error::Error;
use crate::keep;
use crate::output;

/// How many ports for links are looked at where nobody says how many servers there are, as `dsv2 up` starts them.
const LINKS: u16 = 3;
/// More than a check itself needs: time to say that it was not finished.
const GRACE: Duration = Duration::from_millis(250);

/// Finds what is wrong with a setup, and says what to do; exit code 4 if something is.
///
/// Looks at ports, parts, servers and their clocks, at data directories and disks, at limits, configuration file and
/// environment. Changes nothing. A warning is no failure: it may be meant so.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// The data directories of servers on this machine, or directories that hold several [default: data, if it is there]
    #[arg(long, value_name = "DIR,…", value_delimiter = ',')]
    data: Vec<PathBuf>,
    /// How much room each data directory should have: a number of bytes, alone or with K, M or G.
    #[arg(long, value_name = "SIZE", value_parser = keep::size, default_value = "1G")]
    min_free: u64,
    /// How many servers there should be [default: those that are found]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    servers: Option<u16>,
    /// How many connections each part should be able to take.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    connections: u64,
    /// How many seconds each check may take; they run at the same time.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Says it as JSON, one object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Where the parts are looked for.
struct Places {
    base_port: u16,
    clients: Endpoint,
    servers: Endpoint,
    publishers: Endpoint,
    subscribers: Endpoint,
    reference: Endpoint,
    links: Vec<Endpoint>,
}

impl Places {
    fn of(args: &DoctorArgs) -> Result<Self, Error> {
        let at = |part| args.place.peer(None, part);
        let links = (0..args.servers.unwrap_or(LINKS)).map_while(|step| match at(Part::Link) {
            Ok(Endpoint::Tcp { host, port }) => Some(Endpoint::Tcp { host, port: port.checked_add(step)? }),
            _ => None,
        });
        Ok(Self {
            base_port: args.place.base_port,
            clients: at(Part::Clients)?,
            servers: at(Part::Servers)?,
            publishers: at(Part::Publishers)?,
            subscribers: at(Part::Subscribers)?,
            reference: at(Part::Reference)?,
            links: links.collect(),
        })
    }
}

pub(super) async fn doctor(args: DoctorArgs, config: Option<PathBuf>) -> Result<(), Error> {
    let places = Places::of(&args)?;
    let within = Duration::from_secs(args.timeout);
    let data = data::directories(&args.data);
    let (parts, servers, data, setup) = tokio::join!(
        parts::look(&places, within),
        bounded("servers", within, servers::look(&places, args.servers, within)),
        data::look(&data, args.min_free, within),
        bounded("setup", within, setup::look(config, args.connections)),
    );
    let servers = servers.unwrap_or_else(servers::Seen::unfinished);
    let mut findings = Vec::new();
    findings.extend(parts.findings(servers.answering()));
    findings.extend(servers.judged(&places, args.servers, parts.is_there()));
    findings.extend(data.judged(&servers));
    findings.extend(setup.unwrap_or_else(|late| vec![late]));
    tell(&findings, args.json)
}

/// A check that may not finish.
async fn bounded<T>(check: &'static str, within: Duration, looking: impl Future<Output = T>) -> Result<T, Finding> {
    timeout(within + GRACE, looking).await.map_err(|_| unfinished(check, "", within))
}

/// The check did not come to its end.
fn unfinished(check: &'static str, subject: &str, within: Duration) -> Finding {
    let what = format!("could not be finished within {} s", within.as_secs());
    Finding::new(check, subject, Found::warning(what, "give it more time with --timeout SECONDS"))
}

fn tell(findings: &[Finding], as_json: bool) -> Result<(), Error> {
    let count = |state| findings.iter().filter(|finding| finding.state() == state).count();
    let (problems, warnings) = (count(State::Problem), count(State::Warning));
    if as_json {
        output::object(&json!({"checks": findings, "problems": problems, "warnings": warnings}))?;
    } else {
        output::line(&people(findings, finding::colours()))?;
    }
    match problems {
        0 => Ok(()),
        1 => Err(Error::Check("1 problem was found".to_owned())),
        many => Err(Error::Check(format!("{many} problems were found"))),
    }
}
