//! `dsv2 status`: how every server of a cluster is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use dsv2_core::{ServerName, StatusReport};
use dsv2_net::Endpoint;
use serde_json::json;
use tokio::task::JoinSet;

use crate::args::{Part, Place};
use crate::error::Error;
use crate::output;
use crate::sdk::{self, Options};

/// Tells how every server of a cluster is: ranks, coordinator, clocks and offsets, version vectors, lag.
///
/// One server is asked through the broker, and those that it knows of at their links.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The broker's side for clients [default: tcp://127.0.0.1:5555]
    #[arg(long, value_name = "URL", help_heading = "Place")]
    broker: Option<Endpoint>,
    /// Says it as JSON, one object.
    #[arg(long)]
    json: bool,
    /// How many seconds each answer may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    #[command(flatten)]
    place: Place,
}

/// What is known of a cluster's servers: a report, or why there is none.
pub(super) type Reports = BTreeMap<ServerName, Result<StatusReport, String>>;

pub(super) async fn status(args: StatusArgs) -> Result<(), Error> {
    let broker = args.place.peer(args.broker.as_ref(), Part::Clients)?;
    let reports = gather(&broker, Duration::from_secs(args.timeout)).await?;
    if args.json {
        let servers: Vec<_> = reports.values().filter_map(|report| report.as_ref().ok()).collect();
        let unreachable: BTreeMap<_, _> =
            reports.iter().filter_map(|(name, report)| Some((name, report.as_ref().err()?))).collect();
        output::object(&json!({"servers": servers, "unreachable": unreachable}))?;
    } else {
        output::line(&people(&reports))?;
    }
    Ok(())
}

/// Asks one server through the broker, and those that it knows of, and those that they know of, at their links.
///
/// # Errors
/// As the first answer has it; servers that cannot be reached are told of in the result.
pub(super) async fn gather(broker: &Endpoint, timeout: Duration) -> Result<Reports, Error> {
    let first = ask(broker.clone(), timeout).await?;
    let mut asked = BTreeSet::from([first.name.clone()]);
    let mut reports = Reports::new();
    let mut asking = JoinSet::new();
    let mut found = vec![first];
    loop {
        for report in found.drain(..) {
            for peer in &report.peers {
                let Some(address) = peer.address.as_ref().and_then(|address| address.parse().ok()) else { continue };
                if asked.insert(peer.name.clone()) {
                    let name = peer.name.clone();
                    asking.spawn(async move { (name, ask(address, timeout).await) });
                }
            }
            reports.insert(report.name.clone(), Ok(report));
        }
        match asking.join_next().await {
            None => return Ok(reports),
            Some(Ok((_, Ok(report)))) => found.push(report),
            Some(Ok((name, Err(error)))) => drop(reports.insert(name, Err(error.to_string()))),
            Some(Err(error)) => return Err(Error::Failed(error.to_string())),
        }
    }
}

/// Asks whoever answers there. Nothing is published to a client without a user, so where its proxy is does not matter.
pub(super) async fn ask(endpoint: Endpoint, timeout: Duration) -> Result<StatusReport, Error> {
    let mut options = Options::new(endpoint.clone(), endpoint);
    options.timeout = timeout;
    let client = sdk::connect(&options).await?;
    Ok(client.status().await?)
}

fn people(reports: &Reports) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut rows = Vec::new();
    let mut below = Vec::new();
    for (name, report) in reports {
        let report = match report {
            Ok(report) => report,
            Err(why) => {
                rows.push(vec![name.to_string(), "unreachable".to_owned()]);
                below.push(format!("{name}: {why}"));
                continue;
            }
        };
        let bound = report.wall.error_bound_us.map_or_else(String::new, |bound| format!(" ±{}", ms(bound as f64)));
        let lag = report.peers.iter().map(|peer| peer.lag).max();
        rows.push(vec![
            name.to_string(),
            if report.ready { "ready" } else { "not ready" }.to_owned(),
            number(report.rank),
            report.coordinator.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            report.epoch.to_string(),
            number(report.lease_ms),
            report.clock.to_string(),
            format!("{}{bound}", ms(report.wall.offset_us as f64)),
            report.events.to_string(),
            number(lag),
            report.peers.iter().filter(|peer| peer.connected).count().to_string(),
        ]);
        below.extend(report.trouble.iter().map(|trouble| format!("{name}: {trouble}")));
        below.extend(
            report.conflicts.iter().map(|conflict| format!("{name}: {conflict:?} is user and channel at once")),
        );
        let vector: Vec<String> = report.position.iter().map(|(origin, seq)| format!("{origin}#{seq}")).collect();
        below.push(format!("{name} holds {}", if vector.is_empty() { "nothing".to_owned() } else { vector.join(" ") }));
    }
    let head =
        ["server", "state", "rank", "coordinator", "epoch", "lease ms", "clock", "offset ms", "events", "lag", "links"];
    format!("{}\n\n{}", output::table(&head, &rows), below.join("\n"))
}

fn ms(us: f64) -> String {
    format!("{:.3}", us / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_who_is_there_and_who_is_not() -> Result<(), Box<dyn std::error::Error>> {
        let mut report = StatusReport::new("server1".parse()?, "00".into());
        report.ready = true;
        report.lease_ms = Some(1_234);
        report.position.advance(&"server1/00000000000000ff#7".parse()?);
        let reports =
            Reports::from([("server1".parse()?, Ok(report)), ("server2".parse()?, Err("nobody answered".to_owned()))]);
        let text = people(&reports);
        assert!(text.contains("server1 holds server1/00000000000000ff#7"), "{text}");
        assert!(text.contains("lease ms") && text.contains("1234"), "{text}");
        assert!(text.contains("server2: nobody answered") && text.contains("unreachable"), "{text}");
        Ok(())
    }
}
