//! A deterministic simulator: whole clusters of the real machines, the real codecs and the real JSON Lines store, in one
//! thread, in virtual time, on a faulty network and faulty disks.
//!
//! ```text
//!   seed ──► parameters (swarm) ──► World: one heap of events, ordered by time
//!                                     │  servers: machine + store on a FaultyDisk + lanes
//!                                     │  reference, clients that retry until they know
//!                                     │  network: delays, broken connections, partitions
//!                                     ▼
//!            faults for a while ──► heal ──► drain ──► checks: nothing lost, nothing twice, all equal
//! ```
//!
//! Everything that happens follows from the seed: one seed, one trace hash, always.
//!
//! ```
//! use dsv2_sync::sim::{SimConfig, run};
//! let report = run(&SimConfig::swarm(7));
//! assert!(report.violations.is_empty(), "{:?}", report.violations);
//! assert_eq!(report.trace_hash, run(&SimConfig::swarm(7)).trace_hash);
//! ```

mod check;
mod client;
mod network;
mod node;
mod world;

use std::time::Duration;

use crate::random::SplitMix;

/// What is simulated. [`SimConfig::swarm`] draws one from a seed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SimConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many servers, 1 to 7.
    pub servers: usize,
    /// Whether they are configured as voters, so that writes are acknowledged by a majority.
    pub voters: bool,
    /// How many clients write.
    pub clients: usize,
    /// How many messages each of them publishes.
    pub writes: u64,
    /// How long faults are injected.
    pub faults_for: Duration,
    /// How long the cluster has afterwards to become whole again.
    pub drain_for: Duration,
    /// What goes wrong, and how often.
    pub faults: Faults,
}

/// What goes wrong. Every fault is named; zero switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// The shortest and the longest way of a message, in microseconds.
    pub delay_us: (u64, u64),
    /// Of a million messages on a direct link, how many break its connection.
    pub break_ppm: u64,
    /// Of a million requests and replies of clients, how many are lost.
    pub loss_ppm: u64,
    /// The mean time between crashes of some server, in milliseconds.
    pub crash_every_ms: u64,
    /// The mean time a crashed server stays down, in milliseconds.
    pub down_ms: u64,
    /// The mean time between partitions, in milliseconds.
    pub partition_every_ms: u64,
    /// The mean time a partition lasts, in milliseconds.
    pub partition_ms: u64,
    /// The shortest and the longest sync of a disk, in microseconds.
    pub sync_us: (u64, u64),
    /// How far a server's wall clock may be off at its start, in milliseconds.
    pub skew_ms: u64,
}

impl SimConfig {
    /// Draws everything from the seed, so that a campaign of many seeds visits many kinds of trouble.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut random = SplitMix::new(seed ^ 0x5eed_5eed);
        let mut between = |low: u64, high: u64| low + random.below(high - low + 1);
        let sometimes = |value: u64, draw: u64| if draw == 0 { 0 } else { value };
        let faults = Faults {
            delay_us: (between(50, 500), between(600, 40_000)),
            break_ppm: sometimes(between(100, 5_000), between(0, 2)),
            loss_ppm: sometimes(between(1_000, 100_000), between(0, 2)),
            crash_every_ms: sometimes(between(500, 5_000), between(0, 3)),
            down_ms: between(50, 3_000),
            partition_every_ms: sometimes(between(1_000, 6_000), between(0, 2)),
            partition_ms: between(200, 6_000),
            sync_us: (between(50, 500), between(600, 20_000)),
            skew_ms: between(0, 5_000),
        };
        Self {
            seed,
            servers: [1, 3, 3, 3, 5, 7][between(0, 5) as usize],
            voters: between(0, 3) > 0,
            clients: between(1, 4) as usize,
            writes: between(10, 60),
            faults_for: Duration::from_millis(between(2_000, 12_000)),
            drain_for: Duration::from_secs(60),
            faults,
        }
    }
}

/// What happened, in figures, and what should not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimReport {
    /// The seed.
    pub seed: u64,
    /// A digest of all that happened.
    pub trace_hash: u64,
    /// Events of the simulation.
    pub steps: u64,
    /// How much time passed in it, in milliseconds.
    pub simulated_ms: u64,
    /// Writes that clients saw acknowledged.
    pub acknowledged: u64,
    /// Answers *unknown* that they saw.
    pub unknown: u64,
    /// Retries that they sent.
    pub retries: u64,
    /// Crashes of servers.
    pub crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// Pulls of missing events.
    pub repairs: u64,
    /// Coordinators that were chosen.
    pub elections: u64,
    /// Promises that were broken. Empty, or a bug was found.
    pub violations: Vec<String>,
}

/// Runs one simulation to its end.
#[must_use]
pub fn run(config: &SimConfig) -> SimReport {
    world::World::new(config.clone()).run()
}
