//! What is simulated, as numbers with names: drawn from a seed, set one by one, and made smaller where a run failed.

use std::fmt;
use std::time::Duration;

use dsv2_core::{Keep, Retention};

use crate::random::SplitMix;

/// What is simulated. [`SimConfig::swarm`] draws one from a seed, [`SimConfig::quiet`] has no faults.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many servers, 1 to 7.
    pub servers: u64,
    /// Whether they are configured as voters (1 or 0), so that writes are acknowledged by a majority.
    pub voters: u64,
    /// How many servers are there besides that are no voters, 0 to 3: they replicate, serve reads, and forward writes. None
    /// without voters, since then every server writes.
    pub learners: u64,
    /// How many brokers and how many proxies, at least one of each.
    pub brokers: u64,
    /// See `brokers`.
    pub proxies: u64,
    /// How many clients write.
    pub writers: u64,
    /// How many clients follow what is written.
    pub followers: u64,
    /// How many messages each writer publishes.
    pub writes: u64,
    /// How long faults are injected, in milliseconds.
    pub faults_ms: u64,
    /// How long the cluster has afterwards to become whole again, in milliseconds.
    pub drain_ms: u64,
    /// How many servers, always a minority, are lost for good when the faults end.
    pub lost_servers: u64,
    /// Whether an operator then declares them gone for good (1 or 0).
    pub retire_lost: u64,
    /// How many bytes of each kind of messages are kept; 0 for all. Needs voters.
    pub retention_bytes: u64,
    /// How long messages are kept, in milliseconds; 0 for ever. Needs voters.
    pub retention_ms: u64,
    /// Of a hundred syncs of a server, after how many it compacts its log a little or makes a snapshot.
    pub upkeep_percent: u64,
    /// What goes wrong, and how often.
    pub faults: Faults,
}

/// What goes wrong. Every fault is named; zero switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// The shortest way of a message, in microseconds.
    pub delay_low_us: u64,
    /// The longest.
    pub delay_high_us: u64,
    /// Of a million messages on a link between servers, how many break its connection.
    pub link_break_ppm: u64,
    /// Of a million messages between a client and a broker, or a broker and a server, how many break the connection.
    pub broker_break_ppm: u64,
    /// Of a million publications on one leg of their way, how many are lost.
    pub publication_loss_ppm: u64,
    /// The mean time between crashes of some server, in milliseconds.
    pub crash_every_ms: u64,
    /// The mean time that a crashed process stays down, in milliseconds.
    pub down_ms: u64,
    /// Of a hundred crashes of a server, how many take its disk: a minority of the voters at most lacks anything at a time
    /// that it had held before.
    pub server_wiped_percent: u64,
    /// The mean time between crashes of some broker, proxy or reference, in milliseconds.
    pub middle_crash_every_ms: u64,
    /// Of a hundred crashes of the reference, how many take its disk.
    pub reference_wiped_percent: u64,
    /// The mean time between crashes of some client, in milliseconds.
    pub client_crash_every_ms: u64,
    /// The mean time between partitions, in milliseconds.
    pub partition_every_ms: u64,
    /// The mean time a partition lasts, in milliseconds.
    pub partition_ms: u64,
    /// The shortest sync of a disk, in microseconds.
    pub sync_low_us: u64,
    /// The longest.
    pub sync_high_us: u64,
    /// The mean time between disks running full, in milliseconds.
    pub full_every_ms: u64,
    /// The mean time until there is room again, in milliseconds.
    pub full_ms: u64,
    /// The mean time between syncs that fail, in milliseconds: the server concerned writes nothing until it is restarted.
    pub sync_failure_every_ms: u64,
    /// How far a server's wall clock may be off at its start, in milliseconds.
    pub skew_ms: u64,
}

impl Faults {
    /// Nothing goes wrong: short ways, quick disks.
    pub const NONE: Self = Self {
        delay_low_us: 100,
        delay_high_us: 500,
        link_break_ppm: 0,
        broker_break_ppm: 0,
        publication_loss_ppm: 0,
        crash_every_ms: 0,
        down_ms: 100,
        server_wiped_percent: 0,
        middle_crash_every_ms: 0,
        reference_wiped_percent: 0,
        client_crash_every_ms: 0,
        partition_every_ms: 0,
        partition_ms: 100,
        sync_low_us: 200,
        sync_high_us: 1_000,
        full_every_ms: 0,
        full_ms: 100,
        sync_failure_every_ms: 0,
        skew_ms: 0,
    };

    /// Whether disks run full or fail, so that a server may have to be started twice.
    pub(super) fn spoils_disks(&self) -> bool {
        self.full_every_ms > 0 || self.sync_failure_every_ms > 0
    }
}

impl SimConfig {
    /// Three voters, a broker, a proxy, a writer and a follower, and no faults.
    #[must_use]
    pub fn quiet(seed: u64) -> Self {
        Self {
            seed,
            servers: 3,
            voters: 1,
            learners: 0,
            brokers: 1,
            proxies: 1,
            writers: 1,
            followers: 1,
            writes: 10,
            faults_ms: 3_000,
            drain_ms: 60_000,
            lost_servers: 0,
            retire_lost: 0,
            retention_bytes: 0,
            retention_ms: 0,
            upkeep_percent: 0,
            faults: Faults::NONE,
        }
    }

    /// Draws everything from the seed, so that a campaign of many seeds visits many kinds of trouble.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut random = SplitMix::new(seed ^ 0x5eed_5eed);
        let mut between = |low: u64, high: u64| low + random.below(high - low + 1);
        let sometimes = |value: u64, draw: u64| if draw == 0 { 0 } else { value };
        let faults = Faults {
            delay_low_us: between(50, 500),
            delay_high_us: between(600, 40_000),
            link_break_ppm: sometimes(between(100, 5_000), between(0, 2)),
            broker_break_ppm: sometimes(between(500, 20_000), between(0, 2)),
            publication_loss_ppm: sometimes(between(1_000, 300_000), between(0, 3)),
            crash_every_ms: sometimes(between(500, 5_000), between(0, 3)),
            down_ms: between(50, 3_000),
            server_wiped_percent: 0,
            middle_crash_every_ms: sometimes(between(1_000, 6_000), between(0, 2)),
            reference_wiped_percent: between(0, 50),
            client_crash_every_ms: sometimes(between(1_000, 6_000), between(0, 1)),
            partition_every_ms: sometimes(between(1_000, 6_000), between(0, 2)),
            partition_ms: between(200, 6_000),
            sync_low_us: between(50, 500),
            sync_high_us: between(600, 20_000),
            full_every_ms: 0,
            full_ms: 100,
            sync_failure_every_ms: 0,
            skew_ms: between(0, 5_000),
        };
        let servers = [1, 3, 3, 3, 5, 7][between(0, 5) as usize];
        let voters = u64::from(between(0, 3) > 0);
        let lost = between(1, 3).min((servers - 1) / 2);
        let mut config = Self {
            seed,
            servers,
            voters,
            learners: 0,
            brokers: between(1, 2),
            proxies: between(1, 2),
            writers: between(1, 3),
            followers: between(1, 2),
            writes: between(10, 60),
            faults_ms: between(2_000, 12_000),
            drain_ms: 90_000,
            lost_servers: if voters == 1 && between(0, 4) == 0 { lost } else { 0 },
            retire_lost: seed % 2,
            retention_bytes: sometimes(between(500, 6_000), between(0, 2)) * voters,
            retention_ms: sometimes(between(500, 8_000), between(0, 1)) * voters,
            upkeep_percent: between(0, 10),
            faults,
        };
        config.learners = if voters == 1 { [0, 0, 1, 2][between(0, 3) as usize] } else { 0 };
        // What only a learner holds of a voter that is declared gone stays with it alone: the two are never equal again.
        config.retire_lost *= u64::from(config.learners == 0);
        config.faults.full_every_ms = sometimes(between(1_000, 6_000), between(0, 1));
        config.faults.full_ms = between(100, 8_000);
        config.faults.sync_failure_every_ms = sometimes(between(1_500, 8_000), between(0, 1));
        config.faults.server_wiped_percent = sometimes(between(10, 80), between(0, 2) / 2);
        if between(0, 1) == 0 {
            (config.retention_bytes, config.retention_ms) = (0, 0);
        }
        config
    }

    /// Whether what was final stays final: a server that comes back without its disk has forgotten below which clock it
    /// had promised to write nothing.
    pub(super) fn keeps_final(&self) -> bool {
        self.faults.server_wiped_percent == 0
    }

    /// Whether events may be sought that nobody holds any more.
    pub(super) fn archives(&self) -> bool {
        !self.retention().keeps_all() || self.faults.server_wiped_percent > 0 || self.lost_servers > 0
    }

    /// How much the simulated servers keep.
    pub(super) fn retention(&self) -> Retention {
        let keep = Keep {
            age: (self.retention_ms > 0).then(|| Duration::from_millis(self.retention_ms)),
            bytes: (self.retention_bytes > 0).then_some(self.retention_bytes),
        };
        Retention { publish: keep, message: keep }
    }

    /// Sets one number by its name, as [`SimConfig::differences`] writes it.
    ///
    /// # Errors
    /// There is no such name, or its value is out of range. Nothing changed.
    ///
    /// ```
    /// use dsv2_sync::sim::SimConfig;
    /// let mut config = SimConfig::swarm(7);
    /// config.set("crash_every_ms", 0)?;
    /// assert_eq!(config.faults.crash_every_ms, 0);
    /// # Ok::<(), String>(())
    /// ```
    pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
        let (low, high) = match name {
            "servers" => (1, 7),
            "brokers" | "proxies" => (1, 4),
            "voters" | "retire_lost" => (0, 1),
            "learners" => (0, 3),
            "writers" | "followers" => (0, 64),
            "reference_wiped_percent" | "server_wiped_percent" | "upkeep_percent" => (0, 100),
            _ => (0, 1 << 40),
        };
        if !(low..=high).contains(&value) {
            return Err(format!("{name} goes from {low} to {high}"));
        }
        let mut fields = self.fields();
        let field = fields.iter_mut().find(|(field, _)| *field == name);
        let (_, field) = field.ok_or_else(|| format!("there is no parameter {name:?}"))?;
        **field = value;
        Ok(())
    }

    /// What differs from another configuration, by name.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<(&'static str, u64)> {
        let (mut ours, mut theirs) = (self.clone(), other.clone());
        let pairs = ours.fields().into_iter().zip(theirs.fields());
        pairs.filter(|(a, b)| a.1 != b.1).map(|((name, value), _)| (name, *value)).collect()
    }

    pub(super) fn fields(&mut self) -> Vec<(&'static str, &mut u64)> {
        let faults = &mut self.faults;
        vec![
            ("servers", &mut self.servers),
            ("voters", &mut self.voters),
            ("learners", &mut self.learners),
            ("brokers", &mut self.brokers),
            ("proxies", &mut self.proxies),
            ("writers", &mut self.writers),
            ("followers", &mut self.followers),
            ("writes", &mut self.writes),
            ("faults_ms", &mut self.faults_ms),
            ("drain_ms", &mut self.drain_ms),
            ("lost_servers", &mut self.lost_servers),
            ("retire_lost", &mut self.retire_lost),
            ("retention_bytes", &mut self.retention_bytes),
            ("retention_ms", &mut self.retention_ms),
            ("upkeep_percent", &mut self.upkeep_percent),
            ("delay_low_us", &mut faults.delay_low_us),
            ("delay_high_us", &mut faults.delay_high_us),
            ("link_break_ppm", &mut faults.link_break_ppm),
            ("broker_break_ppm", &mut faults.broker_break_ppm),
            ("publication_loss_ppm", &mut faults.publication_loss_ppm),
            ("crash_every_ms", &mut faults.crash_every_ms),
            ("down_ms", &mut faults.down_ms),
            ("server_wiped_percent", &mut faults.server_wiped_percent),
            ("middle_crash_every_ms", &mut faults.middle_crash_every_ms),
            ("reference_wiped_percent", &mut faults.reference_wiped_percent),
            ("client_crash_every_ms", &mut faults.client_crash_every_ms),
            ("partition_every_ms", &mut faults.partition_every_ms),
            ("partition_ms", &mut faults.partition_ms),
            ("sync_low_us", &mut faults.sync_low_us),
            ("sync_high_us", &mut faults.sync_high_us),
            ("full_every_ms", &mut faults.full_every_ms),
            ("full_ms", &mut faults.full_ms),
            ("sync_failure_every_ms", &mut faults.sync_failure_every_ms),
            ("skew_ms", &mut faults.skew_ms),
        ]
    }
}

impl fmt::Display for SimConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        self.clone().fields().into_iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
