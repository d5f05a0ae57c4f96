//! Forwarders side by side: libzmq's `zmq_proxy` and the engine, each in a process of its own, between the same ends.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- --rounds 7
//! ```
//!
//! Every round runs each scenario once with every forwarder, in turn, so that a machine that slows down slows all of
//! them. Reported are medians, the ratio to libzmq, and the forwarder's own CPU seconds per million messages.

mod ends;
mod forwarder;

use std::collections::BTreeMap;

use forwarder::{Child, Kind};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scenario {
    name: &'static str,
    kind: Pattern,
    /// Published messages, or round trips.
    messages: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    FanOut { subscribers: usize },
    Echo { window: usize, rep: bool },
    OwnFanOut { subscribers: usize },
}

const SCENARIOS: [Scenario; 8] = [
    Scenario { name: "pub-1", kind: Pattern::FanOut { subscribers: 1 }, messages: 1_000_000 },
    Scenario { name: "pub-50", kind: Pattern::FanOut { subscribers: 50 }, messages: 60_000 },
    Scenario { name: "echo-100", kind: Pattern::Echo { window: 100, rep: false }, messages: 200_000 },
    Scenario { name: "echo-1000", kind: Pattern::Echo { window: 1000, rep: false }, messages: 300_000 },
    Scenario { name: "echo-1", kind: Pattern::Echo { window: 1, rep: false }, messages: 10_000 },
    Scenario { name: "rep-100", kind: Pattern::Echo { window: 100, rep: true }, messages: 20_000 },
    Scenario { name: "own-pub-1", kind: Pattern::OwnFanOut { subscribers: 1 }, messages: 4_000_000 },
    Scenario { name: "own-pub-50", kind: Pattern::OwnFanOut { subscribers: 50 }, messages: 200_000 },
];

/// One measurement: messages a second, and CPU seconds of the forwarder per million messages.
type Figure = (f64, f64);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--forward") {
        forwarder::serve(&args[2]);
        return;
    }
    let rounds: usize = option(&args, "--rounds").map_or(5, |n| n.parse().expect("--rounds N"));
    let only = option(&args, "--only");
    let kinds: Vec<Kind> = match option(&args, "--kinds") {
        Some(names) => names.split(',').map(|name| Kind::parse(name).expect("unknown forwarder")).collect(),
        None => vec![Kind::Libzmq, Kind::Dsv2, Kind::Dsv2OneThread],
    };
    let chosen = SCENARIOS.iter().filter(|s| only.is_none_or(|names| names.split(',').any(|name| name == s.name)));
    println!("{:<12} {:<16} {:>12} {:>8} {:>14}", "scenario", "forwarder", "msg/s", "ratio", "cpu s/M msg");
    for scenario in chosen {
        report(scenario, &kinds, rounds);
    }
}

fn option<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1).map(String::as_str)
}

fn report(scenario: &Scenario, kinds: &[Kind], rounds: usize) {
    let mut figures: BTreeMap<Kind, Vec<Figure>> = BTreeMap::new();
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            // Nobody is always first.
            let kind = kinds[(round + turn) % kinds.len()];
            figures.entry(kind).or_default().push(measure(scenario, kind));
        }
    }
    let base = figures.get(&Kind::Libzmq).map(|all| median(all, |f| f.0));
    for (kind, all) in &figures {
        let rate = median(all, |f| f.0);
        let ratio = base.map_or(f64::NAN, |base| rate / base);
        let cpu = median(all, |f| f.1);
        println!("{:<12} {:<16} {rate:>12.0} {ratio:>8.2} {cpu:>14.2}", scenario.name, kind.name());
    }
}

fn median(all: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(scenario: &Scenario, kind: Kind) -> Figure {
    let is_proxy = !matches!(scenario.kind, Pattern::Echo { .. });
    let child = Child::start(kind, is_proxy);
    let (seconds, handled) = match scenario.kind {
        Pattern::FanOut { subscribers } => {
            let seconds = ends::fan_out(&child.input, &child.output, subscribers, scenario.messages, &child);
            (seconds, scenario.messages * subscribers)
        }
        Pattern::OwnFanOut { subscribers } => {
            let seconds = ends::own_fan_out(&child.input, &child.output, subscribers, scenario.messages, &child);
            (seconds, scenario.messages * subscribers)
        }
        Pattern::Echo { window, rep } => {
            let seconds = ends::echo(&child.input, &child.output, window, scenario.messages, rep, &child);
            (seconds, scenario.messages)
        }
    };
    (handled as f64 / seconds, child.cpu_seconds() * 1e6 / handled as f64)
}
