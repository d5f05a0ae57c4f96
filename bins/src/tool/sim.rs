//! `dsv2 sim`: whole clusters in virtual time, with everything going wrong that can.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use dsv2_sync::sim::{SimConfig, SimReport, Simulation, run, shrink};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::error::Error;
use crate::output;

/// How many runs are spent on making a failing schedule smaller.
const SHRINK_RUNS: usize = 200;

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
    Run(RunArgs),
    /// Simulates one seed again, and tells everything about it.
    Replay(ReplayArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The first and the last seed, as in 1..100, or a single one.
    #[arg(long, value_name = "A..B", default_value = "1..200")]
    seeds: Seeds,
    /// Goes on for so long instead, from the first seed.
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    #[command(flatten)]
    changes: Changes,
    /// Says it as JSON, one object a seed and a line.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ReplayArgs {
    /// Which.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    changes: Changes,
    /// Prints what happened, a line each.
    #[arg(long)]
    trace: bool,
    /// Writes what the clients saw to this file, for `dsv2 check`.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Says it as JSON.
    #[arg(long)]
    json: bool,
}

/// What differs from what the seed draws.
#[derive(Args, Debug)]
struct Changes {
    /// How many servers, where the seed is not to say.
    #[arg(long, value_name = "N")]
    servers: Option<u64>,
    /// Sets a parameter that the seed would draw, as in crash_every_ms=0. May stand more than once.
    #[arg(long = "with", value_name = "NAME=VALUE")]
    with: Vec<String>,
}

impl Changes {
    fn config(&self, seed: u64) -> Result<SimConfig, Error> {
        let mut config = SimConfig::swarm(seed);
        if let Some(servers) = self.servers {
            config.set("servers", servers).map_err(Error::Usage)?;
        }
        for change in &self.with {
            let (name, value) = change.split_once('=').unwrap_or((change.as_str(), ""));
            let value: u64 = value.parse().map_err(|_| Error::Usage(format!("{change:?} is no NAME=VALUE")))?;
            config.set(name, value).map_err(Error::Usage)?;
        }
        Ok(config)
    }
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
        Action::Run(args) => campaign(args),
        Action::Replay(args) => replay(args),
    }
}

/// What the threads of a campaign share.
#[derive(Default)]
struct Shared {
    total: SimReport,
    runs: u64,
    broken: Vec<(u64, Vec<String>)>,
    /// What is to be said as JSON, in the order of the seeds.
    objects: BTreeMap<u64, Value>,
    said: u64,
    failed: Option<Error>,
}

impl Shared {
    /// Says it as soon as all seeds before it were said.
    fn say(&mut self, first: u64, report: &SimReport) -> Result<(), Error> {
        self.objects.insert(report.seed, object(report));
        while let Some(object) = self.objects.remove(&(first + self.said)) {
            self.said += 1;
            output::object(&object)?;
        }
        Ok(())
    }
}

fn campaign(args: &RunArgs) -> Result<(), Error> {
    // Before anything runs: the parameters must be right.
    args.changes.config(args.seeds.first)?;
    let last = if args.minutes.is_some() { u64::MAX } else { args.seeds.last };
    let until = args.minutes.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let bar = bar(args);
    let (next, shared, started) = (AtomicU64::new(args.seeds.first), Mutex::new(Shared::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while until.is_none_or(|until| Instant::now() < until) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last || !one(args, seed, &shared, &bar) {
                        return;
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = shared.failed {
        return Err(error);
    }
    shared.broken.sort();
    if !args.json {
        output::line(&table(&shared.total, shared.runs, &shared.broken, started.elapsed()))?;
    }
    conclude(args, &shared.total, shared.runs, &shared.broken)
}

fn bar(args: &RunArgs) -> ProgressBar {
    // Drawn on stderr, and only where that is a terminal.
    let bar = match args.minutes {
        None => ProgressBar::new((args.seeds.last - args.seeds.first).saturating_add(1)),
        Some(_) => ProgressBar::no_length(),
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {elapsed}, {eta} left, {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Simulates one seed; false where the campaign is to end.
fn one(args: &RunArgs, seed: u64, shared: &Mutex<Shared>, bar: &ProgressBar) -> bool {
    let report = args.changes.config(seed).map(|config| run(&config));
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let written = report.and_then(|report| {
        shared.total.add(&report);
        shared.runs += 1;
        let written = if args.json { shared.say(args.seeds.first, &report) } else { Ok(()) };
        if !report.violations.is_empty() {
            bar.println(format!("seed {seed}: {}", report.violations.join("; ")));
            tracing::error!(seed, violations = ?report.violations, "a promise was broken");
            shared.broken.push((seed, report.violations));
        }
        written
    });
    bar.set_message(format!("{} broken", shared.broken.len()));
    bar.inc(1);
    match written {
        Ok(()) => true,
        Err(error) => {
            shared.failed = Some(error);
            false
        }
    }
}

fn conclude(args: &RunArgs, total: &SimReport, runs: u64, broken: &[(u64, Vec<String>)]) -> Result<(), Error> {
    if let Some((seed, _)) = broken.first() {
        if !args.json {
            output::line(&explain(&args.changes.config(*seed)?))?;
        }
        return Err(Error::Check(format!("{} of {runs} schedules broke a promise", broken.len())));
    }
    let shortfalls = total.shortfalls(runs);
    if !shortfalls.is_empty() && args.changes.with.is_empty() && args.changes.servers.is_none() {
        return Err(Error::Check(format!("the campaign proves nothing: {}", shortfalls.join("; "))));
    }
    Ok(())
}

/// A failing schedule, its replay, and a smaller one.
fn explain(config: &SimConfig) -> String {
    let small = shrink(config, SHRINK_RUNS, |config| !run(config).violations.is_empty());
    let why = run(&small).violations;
    format!(
        "\nfirst failure: {config}\nreplay: {}\n\nshrunk: {small}\nreplay: {}\nBROKEN: {}",
        command(config),
        command(&small),
        why.join("\nBROKEN: ")
    )
}

/// The command that replays a run.
fn command(config: &SimConfig) -> String {
    let with: Vec<String> = config
        .differences(&SimConfig::swarm(config.seed))
        .iter()
        .map(|(name, value)| format!(" --with {name}={value}"))
        .collect();
    format!("dsv2 sim replay --seed {} --trace{}", config.seed, with.concat())
}

fn replay(args: &ReplayArgs) -> Result<(), Error> {
    let config = args.changes.config(args.seed)?;
    let (report, lines, history) = if args.trace || args.history.is_some() {
        let told = Simulation::populated(config.clone()).run_told();
        (told.report, told.trace, told.history)
    } else {
        (run(&config), Vec::new(), Vec::new())
    };
    if let Some(path) = &args.history {
        let failed = |why: std::io::Error| Error::Failed(format!("{} cannot be written: {why}", path.display()));
        let mut out = std::io::BufWriter::new(std::fs::File::create(path).map_err(failed)?);
        for record in &history {
            writeln!(out, "{}", output::json(record)?).map_err(failed)?;
        }
        out.flush().map_err(failed)?;
    }
    if args.json {
        output::object(&object(&report))?;
    } else {
        if args.trace {
            lines.iter().try_for_each(|line| output::line(line))?;
        }
        output::line(&format!("{config}\n\n{}", figures(&report)))?;
        report.violations.iter().try_for_each(|violation| output::line(&format!("BROKEN    {violation}")))?;
    }
    if report.violations.is_empty() {
        Ok(())
    } else {
        Err(Error::Check(format!("seed {} broke {} promises", args.seed, report.violations.len())))
    }
}

fn rows(report: &SimReport) -> Vec<Vec<String>> {
    report.figures().iter().map(|(name, value)| vec![(*name).to_owned(), value.to_string()]).collect()
}

fn figures(report: &SimReport) -> String {
    let table = output::table(&["seed", &report.seed.to_string()], &rows(report));
    table + &format!("\ntrace         {:016x}", report.trace_hash)
}

fn table(total: &SimReport, runs: u64, broken: &[(u64, Vec<String>)], took: Duration) -> String {
    let mut rows = rows(total);
    let hours = total.simulated_ms as f64 / 3_600_000.0;
    rows.push(vec!["simulated hours".to_owned(), format!("{hours:.2}")]);
    let rate = total.steps as f64 / took.as_secs_f64().max(0.001);
    rows.push(vec!["events/s".to_owned(), format!("{rate:.0}")]);
    let broken: Vec<String> = broken.iter().map(|(seed, _)| seed.to_string()).collect();
    rows.push(vec!["failures".to_owned(), if broken.is_empty() { "none".to_owned() } else { broken.join(", ") }]);
    output::table(&["schedules", &runs.to_string()], &rows)
}

fn object(report: &SimReport) -> Value {
    let mut object =
        json!({"seed": report.seed, "trace": format!("{:016x}", report.trace_hash), "violations": report.violations});
    if let Some(fields) = object.as_object_mut() {
        fields.extend(report.figures().into_iter().map(|(name, value)| (name.to_owned(), value.into())));
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
