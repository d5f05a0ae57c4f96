//! Forwarders side by side: libzmq's `zmq_proxy` and the engine, each in a process of its own, between the same ends;
//! or, in the scenarios `whole-*`, between ends of their own: libzmq everywhere beside the engine everywhere.
//!
//! Every round runs each scenario once with every forwarder, in another order each time, so that a machine that slows
//! down slows all of them. Each measurement starts with a tenth of its messages for warm-up, and has no figure unless
//! every message arrived: a loss ends the program. Reported are medians, the ratio to libzmq, and the forwarder's own
//! CPU seconds per million messages (deliveries, where there are several subscribers).
//!
//! Settings are equal: high-water marks that nobody reaches, no delay on sockets, loopback TCP, the same loads.
//! libzmq's forwarder has its proxy thread and one I/O thread; ours has as many threads as processors, or one.

pub(crate) mod child;
mod ends;

use std::collections::BTreeMap;

use child::{Child, Kind};
use ends::{Echo, Ends, FanOut, Libzmq, Own};

use crate::Result;

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    ends: Made,
    pattern: Pattern,
}

impl Scenario {
    fn is_rep(&self) -> bool {
        matches!(&self.pattern, Pattern::Echo(shape) if shape.rep)
    }
}

#[derive(Debug, Clone, Copy)]
enum Pattern {
    FanOut(FanOut),
    Echo(Echo),
}

/// What the ends are made of.
#[derive(Debug, Clone, Copy)]
enum Made {
    OfLibzmq,
    OfTheEngine,
    /// Of what the forwarder is made of.
    Alike,
}

impl Made {
    fn ends(self, kind: Kind) -> Box<dyn Ends> {
        match self {
            Self::OfLibzmq => Box::<Libzmq>::default(),
            Self::Alike if kind == Kind::Libzmq => Box::<Libzmq>::default(),
            Self::OfTheEngine | Self::Alike => Box::<Own>::default(),
        }
    }
}

const fn fan_out(subscribers: usize, payload_bytes: usize, messages: usize) -> Pattern {
    Pattern::FanOut(FanOut { subscribers, payload_bytes, messages })
}

const fn dealer(window: usize, payload_bytes: usize, messages: usize) -> Pattern {
    Pattern::Echo(Echo { rep: false, servers: 1, clients: 1, window, payload_bytes, messages })
}

const fn rep(servers: usize, window: usize, messages: usize) -> Pattern {
    Pattern::Echo(Echo { rep: true, servers, clients: servers, window, payload_bytes: 128, messages })
}

const fn foreign(name: &'static str, pattern: Pattern) -> Scenario {
    Scenario { name, ends: Made::OfLibzmq, pattern }
}

const fn own(name: &'static str, pattern: Pattern) -> Scenario {
    Scenario { name, ends: Made::OfTheEngine, pattern }
}

const fn whole(name: &'static str, pattern: Pattern) -> Scenario {
    Scenario { name, ends: Made::Alike, pattern }
}

const SCENARIOS: [Scenario; 19] = [
    foreign("pub-1", fan_out(1, 128, 500_000)),
    foreign("pub-1-4k", fan_out(1, 4096, 80_000)),
    foreign("pub-50", fan_out(50, 128, 30_000)),
    foreign("pub-50-4k", fan_out(50, 4096, 4_000)),
    foreign("dealer-1", dealer(1, 128, 5_000)),
    foreign("dealer-100", dealer(100, 128, 80_000)),
    foreign("dealer-100-4k", dealer(100, 4096, 40_000)),
    foreign("dealer-1000", dealer(1000, 128, 150_000)),
    foreign("rep-1", rep(1, 100, 5_000)),
    foreign("rep-8", rep(8, 16, 10_000)),
    foreign("rep-8-idle", rep(8, 1, 10_000)),
    own("own-pub-1", fan_out(1, 128, 2_000_000)),
    own("own-pub-50", fan_out(50, 128, 100_000)),
    whole("whole-pub-1", fan_out(1, 128, 2_000_000)),
    whole("whole-pub-1-4k", fan_out(1, 4096, 200_000)),
    whole("whole-pub-50", fan_out(50, 128, 100_000)),
    whole("whole-pub-50-4k", fan_out(50, 4096, 10_000)),
    whole("whole-dealer-100", dealer(100, 128, 200_000)),
    whole("whole-dealer-100-4k", dealer(100, 4096, 80_000)),
];

/// One measurement: messages a second, and CPU seconds of the forwarder per million messages.
type Figure = (f64, f64);

/// Measures the forwarders `kinds` in the scenarios `only`, or all.
///
/// # Errors
/// The name of a forwarder is unknown.
pub(crate) fn compare(rounds: usize, only: Option<&str>, kinds: Option<&str>) -> Result<()> {
    let kinds: Vec<Kind> = match kinds {
        Some(names) => names
            .split(',')
            .map(|name| Kind::parse(name).ok_or_else(|| format!("there is no forwarder {name:?}").into()))
            .collect::<Result<_>>()?,
        None => vec![Kind::Libzmq, Kind::Dsv2, Kind::Dsv2OneThread, Kind::Dsv2RepWindow],
    };
    let chosen = SCENARIOS.iter().filter(|s| only.is_none_or(|names| names.split(',').any(|name| name == s.name)));
    println!("{:<19} {:<16} {:>12} {:>8} {:>14}", "scenario", "forwarder", "msg/s", "ratio", "cpu s/M msg");
    for scenario in chosen {
        let applies = |kind: &Kind| *kind != Kind::Dsv2RepWindow || scenario.is_rep();
        let kinds: Vec<Kind> = kinds.iter().copied().filter(applies).collect();
        report(scenario, &kinds, rounds);
    }
    Ok(())
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
        println!("{:<19} {:<16} {rate:>12.0} {ratio:>8.2} {cpu:>14.2}", scenario.name, kind.name());
    }
}

fn median(all: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(scenario: &Scenario, kind: Kind) -> Figure {
    let child = Child::start(kind, !matches!(scenario.pattern, Pattern::Echo(_)));
    let ends = scenario.ends.ends(kind);
    let (seconds, handled) = match &scenario.pattern {
        Pattern::FanOut(shape) => (ends::fan_out(&*ends, shape, &child), shape.messages * shape.subscribers),
        Pattern::Echo(shape) => (ends::echo(&*ends, shape, &child), shape.messages),
    };
    (handled as f64 / seconds, child.cpu_seconds() * 1e6 / handled as f64)
}
