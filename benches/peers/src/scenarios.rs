//! What is measured, of which systems, and in what order.

use std::path::PathBuf;
use std::time::Duration;

use crate::loads::{self, Sample};
use crate::systems::{self, Running, System};
use crate::table::{Figures, Row};
use crate::{Result, chart};

pub(crate) const BYTES: usize = 128;

#[derive(Clone, Copy, Debug)]
enum Load {
    Publish { connections: usize, in_flight: usize },
    FanOut { subscribers: usize, rate: Option<f64> },
    Request { outstanding: usize },
}

/// One load, the systems that can bear it, and the one that the others are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    load: Load,
    pub(crate) base: &'static str,
    systems: &'static [&'static str],
}

const KEEPERS: &[&str] = &[
    "dsv2",
    "dsv2-3",
    "redis",
    "jetstream",
    "rabbitmq-quorum",
    "rabbitmq-classic",
    "mosquitto",
    "postgresql",
    "seed-python",
];
const ANNOUNCERS: &[&str] = &["dsv2", "dsv2-3", "redis", "nats", "mosquitto"];
/// Those that store nothing, and acknowledge nothing.
const FORWARDERS: &[&str] = &["dsv2-proxy", "nats"];
const ANSWERERS: &[&str] = &["dsv2", "nats"];

const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "publish-1",
        what: "durable publications, 1 in flight",
        load: Load::Publish { connections: 1, in_flight: 1 },
        base: "redis",
        systems: KEEPERS,
    },
    Scenario {
        name: "publish-1000",
        what: "durable publications, 1,000 in flight on one connection",
        load: Load::Publish { connections: 1, in_flight: 1_000 },
        base: "redis",
        systems: KEEPERS,
    },
    Scenario {
        name: "publish-16",
        what: "durable publications, 64 in flight on each of 16 connections",
        load: Load::Publish { connections: 16, in_flight: 64 },
        base: "redis",
        systems: KEEPERS,
    },
    Scenario {
        name: "fan-out-1",
        what: "deliveries to 1 subscriber",
        load: Load::FanOut { subscribers: 1, rate: None },
        base: "nats",
        systems: ANNOUNCERS,
    },
    Scenario {
        name: "fan-out-50",
        what: "deliveries to 50 subscribers",
        load: Load::FanOut { subscribers: 50, rate: None },
        base: "nats",
        systems: ANNOUNCERS,
    },
    Scenario {
        name: "fan-out-50-paced",
        what: "deliveries to 50 subscribers, 1,000 messages a second",
        load: Load::FanOut { subscribers: 50, rate: Some(1_000.0) },
        base: "nats",
        systems: ANNOUNCERS,
    },
    Scenario {
        name: "proxy-1",
        what: "deliveries to 1 subscriber, nothing stored",
        load: Load::FanOut { subscribers: 1, rate: None },
        base: "nats",
        systems: FORWARDERS,
    },
    Scenario {
        name: "proxy-50",
        what: "deliveries to 50 subscribers, nothing stored",
        load: Load::FanOut { subscribers: 50, rate: None },
        base: "nats",
        systems: FORWARDERS,
    },
    Scenario {
        name: "request-1",
        what: "requests and replies, 1 outstanding",
        load: Load::Request { outstanding: 1 },
        base: "nats",
        systems: ANSWERERS,
    },
    Scenario {
        name: "request-100",
        what: "requests and replies, 100 outstanding",
        load: Load::Request { outstanding: 100 },
        base: "nats",
        systems: ANSWERERS,
    },
];

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) only: Option<String>,
    pub(crate) systems: Option<String>,
    pub(crate) charts: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
}

/// Names what there is.
pub(crate) fn list() {
    for scenario in &SCENARIOS {
        println!("{:<18} {}", scenario.name, scenario.what);
    }
    println!();
    for system in systems::ALL {
        println!("{:<18} {}", system.name(), system.durability());
    }
}

/// Measures every system in every scenario, round by round, and tells medians.
///
/// # Errors
/// A system cannot be started, refused a message, or lost one.
pub(crate) async fn compare(request: &Request) -> Result<()> {
    let chosen = chosen(&request.only, SCENARIOS.iter().map(|scenario| scenario.name))?;
    let wanted = chosen_systems(request)?;
    systems::build()?;
    let measure = Duration::from_secs_f64(request.seconds);
    let mut tables = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| chosen.contains(&scenario.name)) {
        let systems: Vec<&dyn System> =
            wanted.iter().copied().filter(|system| scenario.systems.contains(&system.name())).collect();
        let mut rows: Vec<Row> = systems.iter().map(|system| Row::new(system.name(), system.durability())).collect();
        for round in 0..request.rounds {
            for turn in 0..systems.len() {
                // Nobody is always first.
                let at = (round + turn) % systems.len();
                eprint!("\r\x1b[K{}, round {} of {}: {}", scenario.name, round + 1, request.rounds, systems[at].name());
                let sample = measured(systems[at], scenario, measure).await;
                rows[at].samples.push(sample.map_err(|e| format!("{} in {}: {e}", systems[at].name(), scenario.name))?);
            }
        }
        eprint!("\r\x1b[K");
        let figures = Figures::new(scenario, rows);
        println!("{figures}");
        tables.push(figures);
        // What is measured is kept, whatever comes next.
        if let Some(dir) = &request.charts {
            chart::write(dir, &tables)?;
        }
        if let Some(path) = &request.json {
            std::fs::write(path, serde_json::to_vec_pretty(&tables)?)?;
        }
    }
    Ok(())
}

async fn measured(system: &dyn System, scenario: &Scenario, measure: Duration) -> Result<Sample> {
    let running: Box<dyn Running> = system.start().await?;
    match scenario.load {
        Load::Publish { connections, in_flight } => {
            loads::publish(&*running, connections, in_flight, BYTES, measure).await
        }
        Load::FanOut { subscribers, rate } => loads::fan_out(&*running, subscribers, rate, BYTES, measure).await,
        Load::Request { outstanding } => loads::request(&*running, outstanding, measure).await,
    }
}

/// The names that were asked for, all if none was; they must exist.
pub(crate) fn chosen<'a>(asked: &'a Option<String>, there: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>> {
    let there: Vec<&str> = there.collect();
    let Some(asked) = asked else { return Ok(there) };
    asked
        .split(',')
        .map(|name| {
            there
                .contains(&name)
                .then_some(name)
                .ok_or_else(|| format!("{name:?} is none of {}", there.join(", ")).into())
        })
        .collect()
}

fn chosen_systems(request: &Request) -> Result<Vec<&'static dyn System>> {
    let names = chosen(&request.systems, systems::ALL.iter().map(|system| system.name()))?;
    Ok(systems::ALL.into_iter().filter(|system| names.contains(&system.name())).collect())
}
