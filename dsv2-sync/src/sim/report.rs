//! What happened, in figures.

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
    /// Writes that ended as *unknown*.
    pub unknown: u64,
    /// Writes that ended as *rejected*.
    pub rejected: u64,
    /// Messages that subscriptions delivered.
    pub delivered: u64,
    /// Messages among them that were read back after a loss.
    pub recovered: u64,
    /// Gaps that subscriptions told of.
    pub gaps: u64,
    /// Pages of history that were judged.
    pub reads: u64,
    /// Messages that stand in more than one event.
    pub twins: u64,
    /// Crashes of servers.
    pub crashes: u64,
    /// Crashes of servers that took their disks.
    pub wipes: u64,
    /// Disks that ran full, as their servers noticed.
    pub full_disks: u64,
    /// Writes that servers refused because of that.
    pub refused_full: u64,
    /// Pages of history that servers answered although their disks took nothing.
    pub stuck_reads: u64,
    /// Disks that failed, as their servers noticed.
    pub failed_disks: u64,
    /// Events whose last copy went with a disk, acknowledged at `local` at most.
    pub gone: u64,
    /// Writes that learners handed to voters.
    pub forwards: u64,
    /// Crashes of brokers, proxies, the reference and clients.
    pub other_crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// Publications that were lost.
    pub lost_publications: u64,
    /// Pulls of missing events between servers.
    pub repairs: u64,
    /// Coordinators that were chosen.
    pub elections: u64,
    /// Times that a server retired messages.
    pub retirements: u64,
    /// Log files that compaction made smaller or removed.
    pub compactions: u64,
    /// Starts of servers from a snapshot.
    pub snapshot_starts: u64,
    /// Promises that were broken. Empty, or a bug was found.
    pub violations: Vec<String>,
}

impl SimReport {
    /// The figures with their names.
    #[must_use]
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("steps", self.steps),
            ("simulated_ms", self.simulated_ms),
            ("acknowledged", self.acknowledged),
            ("unknown", self.unknown),
            ("rejected", self.rejected),
            ("delivered", self.delivered),
            ("recovered", self.recovered),
            ("gaps", self.gaps),
            ("reads", self.reads),
            ("twins", self.twins),
            ("crashes", self.crashes),
            ("wipes", self.wipes),
            ("full_disks", self.full_disks),
            ("refused_full", self.refused_full),
            ("stuck_reads", self.stuck_reads),
            ("failed_disks", self.failed_disks),
            ("gone", self.gone),
            ("forwards", self.forwards),
            ("other_crashes", self.other_crashes),
            ("partitions", self.partitions),
            ("breaks", self.breaks),
            ("lost_publications", self.lost_publications),
            ("repairs", self.repairs),
            ("elections", self.elections),
            ("retirements", self.retirements),
            ("compactions", self.compactions),
            ("snapshot_starts", self.snapshot_starts),
        ]
    }

    /// Adds another run's figures.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.simulated_ms += other.simulated_ms;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.rejected += other.rejected;
        self.delivered += other.delivered;
        self.recovered += other.recovered;
        self.gaps += other.gaps;
        self.reads += other.reads;
        self.twins += other.twins;
        self.crashes += other.crashes;
        self.wipes += other.wipes;
        self.full_disks += other.full_disks;
        self.refused_full += other.refused_full;
        self.stuck_reads += other.stuck_reads;
        self.failed_disks += other.failed_disks;
        self.gone += other.gone;
        self.forwards += other.forwards;
        self.other_crashes += other.other_crashes;
        self.partitions += other.partitions;
        self.breaks += other.breaks;
        self.lost_publications += other.lost_publications;
        self.repairs += other.repairs;
        self.elections += other.elections;
        self.retirements += other.retirements;
        self.compactions += other.compactions;
        self.snapshot_starts += other.snapshot_starts;
        self.violations.extend(other.violations.iter().map(|violation| format!("seed {}: {violation}", other.seed)));
    }

    /// Where a campaign of `runs` swarm seeds saw too little to prove anything: a test of faults that do not happen is
    /// none. Empty where it saw enough.
    #[must_use]
    pub fn shortfalls(&self, runs: u64) -> Vec<String> {
        // Per hundred runs; far below what the swarm brings about, and far above nothing.
        let gates = [
            ("acknowledged writes", self.acknowledged, 2_000),
            ("deliveries", self.delivered, 2_000),
            ("crashes of servers", self.crashes, 50),
            ("disks lost by servers", self.wipes, 4),
            ("disks that ran full", self.full_disks, 10),
            ("writes refused by full disks", self.refused_full, 2),
            ("reads from disks that took nothing", self.stuck_reads, 5),
            ("disks that failed", self.failed_disks, 8),
            ("writes forwarded by learners", self.forwards, 200),
            ("crashes of other processes", self.other_crashes, 50),
            ("partitions", self.partitions, 25),
            ("repairs", self.repairs, 25),
            ("lost publications", self.lost_publications, 100),
            ("twins", self.twins, 1),
            ("retirements", self.retirements, 100),
            ("compactions", self.compactions, 20),
            ("starts from a snapshot", self.snapshot_starts, 20),
        ];
        // A handful of seeds may well miss some kind of trouble.
        let few = runs < 100;
        let short = gates.into_iter().filter(|(_, seen, per_hundred)| !few && *seen < per_hundred * runs / 100);
        short
            .map(|(name, seen, per_hundred)| format!("{name}: {seen}, and {} were due", per_hundred * runs / 100))
            .collect()
    }
}
