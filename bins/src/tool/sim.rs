//! `dsv2 sim`: whole clusters in virtual time, with everything going wrong that can.

use std::str::FromStr;

use clap::{Args, Subcommand};
use dsv2_sync::sim::{SimConfig, SimReport, run};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::error::Error;
use crate::output;

/// Simulates clusters of the real machines and stores, in virtual time, on faulty networks and disks.
///
/// Everything follows from the seed: a seed that finds a bug finds it again.
#[derive(Args, Debug)]
pub(super) struct SimArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Simulates one cluster for each seed, and tells whether a promise was broken.
    Run {
        /// The first and the last seed, as in 1..100, or a single one.
        #[arg(long, value_name = "A..B", default_value = "1..50")]
        seeds: Seeds,
        /// Says it as JSON, one object a seed and a line.
        #[arg(long)]
        json: bool,
    },
    /// Simulates one seed again, and tells everything about it.
    Replay {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// Says it as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A range of seeds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seeds {
    first: u64,
    last: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text:?} is no seed"));
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (number(first)?, number(last.trim_start_matches('='))?),
            None => (number(text)?, number(text)?),
        };
        if first > last { Err("ends before it begins".to_owned()) } else { Ok(Self { first, last }) }
    }
}

pub(super) fn sim(args: &SimArgs) -> Result<(), Error> {
    match &args.action {
        Action::Run { seeds, json } => campaign(*seeds, *json),
        Action::Replay { seed, json } => replay(*seed, *json),
    }
}

fn campaign(seeds: Seeds, json: bool) -> Result<(), Error> {
    // Drawn on stderr, and only where that is a terminal.
    let bar = ProgressBar::new((seeds.last - seeds.first).saturating_add(1));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left, {msg}") {
        bar.set_style(style);
    }
    let mut total = SimReport::default();
    let mut broken = Vec::new();
    for seed in seeds.first..=seeds.last {
        let report = run(&SimConfig::swarm(seed));
        if json {
            output::object(&object(&report))?;
        }
        add(&mut total, &report);
        if !report.violations.is_empty() {
            broken.push(seed);
            bar.println(format!("seed {seed}: {}", report.violations.join("; ")));
            tracing::error!(seed, violations = ?report.violations, "a promise was broken");
        }
        bar.set_message(format!("{} broken", broken.len()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !json {
        output::line(&table(&total, seeds, &broken))?;
    }
    match broken.first() {
        None => Ok(()),
        Some(seed) => {
            Err(Error::Check(format!("{} seeds broke a promise; see `dsv2 sim replay --seed {seed}`", broken.len())))
        }
    }
}

fn replay(seed: u64, json: bool) -> Result<(), Error> {
    let config = SimConfig::swarm(seed);
    let report = run(&config);
    if json {
        output::object(&object(&report))?;
    } else {
        output::line(&format!("{config:#?}\n\n{}", figures(&report)))?;
        report.violations.iter().try_for_each(|violation| output::line(&format!("BROKEN    {violation}")))?;
    }
    if report.violations.is_empty() {
        Ok(())
    } else {
        Err(Error::Check(format!("seed {seed} broke {} promises", report.violations.len())))
    }
}

fn add(total: &mut SimReport, one: &SimReport) {
    total.steps += one.steps;
    total.simulated_ms += one.simulated_ms;
    total.acknowledged += one.acknowledged;
    total.unknown += one.unknown;
    total.retries += one.retries;
    total.crashes += one.crashes;
    total.partitions += one.partitions;
    total.breaks += one.breaks;
    total.repairs += one.repairs;
    total.elections += one.elections;
}

/// The figures with their names, in the order in which they are shown.
fn rows(report: &SimReport) -> [(&'static str, u64); 10] {
    [
        ("steps", report.steps),
        ("simulated_ms", report.simulated_ms),
        ("acknowledged", report.acknowledged),
        ("unknown", report.unknown),
        ("retries", report.retries),
        ("crashes", report.crashes),
        ("partitions", report.partitions),
        ("breaks", report.breaks),
        ("repairs", report.repairs),
        ("elections", report.elections),
    ]
}

fn figures(report: &SimReport) -> String {
    let rows: Vec<Vec<String>> =
        rows(report).iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]).collect();
    output::table(&["seed", &report.seed.to_string()], &rows) + &format!("\ntrace         {:016x}", report.trace_hash)
}

fn table(total: &SimReport, seeds: Seeds, broken: &[u64]) -> String {
    let mut rows: Vec<Vec<String>> =
        rows(total).iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]).collect();
    let broken: Vec<String> = broken.iter().map(ToString::to_string).collect();
    rows.push(vec!["broken".to_owned(), if broken.is_empty() { "none".to_owned() } else { broken.join(", ") }]);
    output::table(&["seeds", &format!("{}..{}", seeds.first, seeds.last)], &rows)
}

fn object(report: &SimReport) -> Value {
    let mut object =
        json!({"seed": report.seed, "trace": format!("{:016x}", report.trace_hash), "violations": report.violations});
    if let Some(fields) = object.as_object_mut() {
        fields.extend(rows(report).iter().map(|&(name, value)| (name.to_owned(), value.into())));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_or_one() {
        assert_eq!("3..7".parse(), Ok(Seeds { first: 3, last: 7 }));
        assert_eq!("3..=7".parse(), Ok(Seeds { first: 3, last: 7 }));
        assert_eq!("5".parse(), Ok(Seeds { first: 5, last: 5 }));
        for wrong in ["7..3", "a", "1..", ".."] {
            assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
        }
    }
}
