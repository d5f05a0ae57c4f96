//! A deterministic simulator: whole clusters of the real machines, the real codecs and the real JSON Lines store, in one
//! thread, in virtual time, on a faulty network and faulty disks.
//!
//! ```text
//!   seed ──► parameters (swarm) ──► World: one heap of events, ordered by time
//!                                     │  clients: a program of yours or ours over a real Session
//!                                     │  brokers, proxies: modelled; the reference: the real machine
//!                                     │  servers: machine + store on a FaultyDisk + lanes; voters, and learners
//!                                     │  network: delays, losses, broken connections, partitions
//!                                     ▼
//!            faults for a while ──► heal ──► drain ──► judged: the history that clients saw, and the servers' logs
//! ```
//!
//! Every process may die: a server with what its disk had not synced, a broker with all requests that it holds, a proxy
//! with its subscriptions, the reference with or without its disk, a client with its calls. Everything that happens
//! follows from the seed: one seed, one trace hash, always.
//!
//! ```
//! use dsv2_sync::sim::{SimConfig, run};
//! let report = run(&SimConfig::swarm(7));
//! assert!(report.violations.is_empty(), "{:?}", report.violations);
//! assert_eq!(report.trace_hash, run(&SimConfig::swarm(7)).trace_hash);
//! ```
//!
//! [`Program`] is for testing clients and bots of your own; [`crate::history`] is what judges them.

mod broker;
mod builtin;
mod client;
mod config;
mod disks;
mod faults;
mod judge;
mod middle;
mod network;
mod node;
mod program;
mod proxy;
mod report;
mod servers;
mod shrink;
mod storage;
mod trace;
mod world;

pub use config::{Faults, SimConfig};
pub use program::{Act, Happened, Program};
pub use report::SimReport;
pub use shrink::shrink;

#[cfg(feature = "planted")]
pub use crate::planted::Bug;

use crate::history::Record;
use crate::planted::Planted;
use crate::random::SplitMix;
use crate::session::Order;

/// One run that is to be: a configuration, and the programs of its clients.
pub struct Simulation {
    world: world::World,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("config", &self.world.config).finish_non_exhaustive()
    }
}

impl Simulation {
    /// A world without clients; `writers` and `followers` of the configuration play no part.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        Self { world: world::World::new(config, Planted::default()) }
    }

    /// A world with the writers and followers of the configuration.
    #[must_use]
    pub fn populated(config: SimConfig) -> Self {
        Self::populate(config, Planted::default())
    }

    /// The same with a bug in it, to see whether it is found.
    #[cfg(feature = "planted")]
    #[must_use]
    pub fn with_bug(config: SimConfig, bug: Bug) -> Self {
        Self::populate(config, Planted { bug: Some(bug) })
    }

    fn populate(config: SimConfig, planted: Planted) -> Self {
        let mut random = SplitMix::new(config.seed ^ 0x0070_7567);
        let count = |number: u64| usize::try_from(number).unwrap_or(0);
        let (writers, followers) = (count(config.writers), count(config.followers));
        let (writes, voters, keys) = (config.writes, config.voters > 0, config.retention().keeps_all());
        // What is final is known while all voters live, and not after one is lost.
        let may_wait = voters && config.servers > 1 && config.lost_servers == 0 && config.keeps_final();
        let mut world = world::World::new(config, planted);
        for index in 0..writers {
            world.add(Box::new(builtin::Writer::new(index, writes, (voters, keys), random.next_u64())));
        }
        for index in 0..followers {
            let beginning = index == 0 || random.chance(1, 2);
            let order = if may_wait && random.chance(1, 3) { Order::Stable } else { Order::Arrival };
            world.add(Box::new(builtin::Follower::new(writers, beginning, order)));
        }
        Self { world }
    }

    /// Adds a client that runs a program. The first is user `u0`, the second `u1`, and so on.
    pub fn add(&mut self, program: Box<dyn Program>) {
        self.world.add(program);
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(mut self) -> SimReport {
        self.world.run();
        self.world.report
    }

    /// Runs it, and yields what clients saw and a trace for people as well.
    #[must_use]
    pub fn run_told(mut self) -> Told {
        self.world.trace.start_telling();
        self.world.history = Some(Vec::new());
        self.world.run();
        let (trace, history) = (self.world.trace.take_lines(), self.world.history.take().unwrap_or_default());
        Told { report: self.world.report, trace, history }
    }
}

/// All that a run has to tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Told {
    /// The figures.
    pub report: SimReport,
    /// What happened, a line each: when, at which of the nine stops of a message, who, what.
    pub trace: Vec<String>,
    /// What clients saw, for [`crate::history::Checker`].
    pub history: Vec<Record>,
}

/// Runs one simulation of the built-in clients to its end.
#[must_use]
pub fn run(config: &SimConfig) -> SimReport {
    Simulation::populated(config.clone()).run()
}
