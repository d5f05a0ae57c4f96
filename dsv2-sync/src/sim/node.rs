//! One simulated server process: the real machine, the real store on a faulty disk, and the lanes between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dsv2_core::{Change, Clock, Event, Feed, Now, Position, Retention, Wall};
use dsv2_store::testing::FaultyDisk;
use dsv2_store::{Disk, EventStore, FeedCursor, JsonlConfig, JsonlStore, Limit};

use crate::election::NodeId;
use crate::lanes::Lanes;
use crate::planted::{Bug, Planted};
use crate::server::{Effect, Read, ReadResult, Replay, Saved, Server, ServerConfig};
use crate::stored;

/// When the simulation begins, on the wall clock of clients.
pub(super) const EPOCH_US: i64 = 1_795_000_000_000_000;

/// A server: its disk, and while it runs, its process.
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) disk: FaultyDisk,
    /// How far its wall clock is off.
    pub(super) skew_us: i64,
    /// Counts its processes.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    /// What is on its disk for certain.
    pub(super) durable: Position,
    /// Its rank, as its disk has it.
    pub(super) rank: Option<u64>,
    /// Its connections to the proxies, on which it publishes; they break without a trace and are there again.
    pub(super) published: Vec<u64>,
    /// The highest clock that it has shown to anybody, in all of its lives.
    pub(super) shown: Clock,
}

/// What dies in a crash.
pub(super) struct Process {
    pub(super) machine: Server,
    pub(super) store: JsonlStore,
    pub(super) lanes: Lanes<Effect>,
    /// Commits whose sync is under way or waits for it, and the metadata they carry.
    pub(super) uncommitted: Vec<(u64, Vec<Change>, Option<Saved>)>,
    pub(super) syncing: bool,
    /// What the sync that is under way will make durable.
    written: (u64, Option<Saved>),
    /// The last commit that was given out, and the last one that is durable.
    pub(super) issued: u64,
    committed: u64,
    /// Reads that wait for what was committed before them, as the driver's storage thread has it.
    reads: Vec<(u64, u64, Read)>,
    /// When it will be woken.
    pub(super) armed_us: u64,
    /// Up to here it said that nothing would be inserted.
    pub(super) promised: Clock,
}

impl Node {
    pub(super) fn new(index: usize, seed: u64, skew_us: i64) -> Self {
        Self {
            index,
            disk: FaultyDisk::new(seed),
            skew_us,
            life: 0,
            process: None,
            durable: Position::default(),
            rank: None,
            published: Vec::new(),
            shown: Clock::ZERO,
        }
    }

    pub(super) fn now(&self, us: u64) -> Now {
        let wall = Wall { us: EPOCH_US + self.skew_us }.offset(i64::try_from(us).unwrap_or(i64::MAX));
        Now { mono: dsv2_core::Mono { us }, wall }
    }

    /// Starts the process, as a driver does: recovers the store, replays it, begins a new life. Yields whether it started
    /// from a snapshot.
    pub(super) fn start(
        &mut self,
        us: u64,
        voters: &BTreeSet<dsv2_core::ServerName>,
        retention: Retention,
        random: u64,
        planted: Planted,
    ) -> Result<bool, String> {
        let node = 1 + self.index as u128;
        let config = JsonlConfig { node, segment_bytes: 4_096 };
        let mut store = JsonlStore::open(Arc::new(self.disk.clone()), config)
            .map_err(|e| format!("start of server {}: {e}", self.index))?;
        let from_snapshot = store.snapshot_position().is_some();
        let reused = planted.has(Bug::IdentityReused);
        let incarnation = if reused { 1 } else { random };
        let mut config = ServerConfig::new(name(self.index), NodeId(store.meta().node), incarnation);
        stored::configure(&mut config, &store);
        config.seed = random;
        config.voters.clone_from(voters);
        config.address = Some(format!("sim:{}", self.index));
        config.retention = retention;
        config.timing.retention = Duration::from_millis(300);
        let failed = |e| format!("replay of server {}: {e}", self.index);
        let mut replay = stored::replay(&config.name, &mut store).map_err(failed)?;
        if reused {
            replay = Replay::new(config.name.clone(), config.floors);
            store
                .replay(&mut |event| {
                    if event.id.origin.server != config.name {
                        replay.apply(&event);
                    }
                })
                .map_err(failed)?;
        }
        if planted.has(Bug::ClocksReused) || reused {
            config.clock_limit = Clock::ZERO;
        }
        self.life += 1;
        #[cfg_attr(not(feature = "planted"), allow(unused_mut, reason = "nothing is planted"))]
        let mut machine = Server::restore(config, self.now(us), replay);
        #[cfg(feature = "planted")]
        machine.plant(planted);
        self.durable.clone_from(store.vector());
        self.process = Some(Process {
            machine,
            store,
            lanes: Lanes::default(),
            uncommitted: Vec::new(),
            syncing: false,
            written: (0, None),
            issued: 0,
            committed: 0,
            reads: Vec::new(),
            armed_us: u64::MAX,
            promised: Clock::ZERO,
        });
        Ok(from_snapshot)
    }

    /// What a server does beside its commits: a step of compaction, or a snapshot. Yields whether compaction changed a
    /// file.
    pub(super) fn keep_up(&mut self, compact: bool) -> Result<bool, String> {
        let Some(process) = &mut self.process else { return Ok(false) };
        if compact {
            return process.store.compact().map_err(|e| format!("compaction at server {}: {e}", self.index));
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let made = stored::snapshot(&disk, &name(self.index), process.store.floors(), false);
        made.map(|_| false).map_err(|e| format!("a snapshot of server {}: {e}", self.index))
    }

    /// The power fails: only what was synced, and perhaps more, is left.
    pub(super) fn crash(&mut self) {
        self.process = None;
        self.disk.crash();
    }
}

pub(super) fn name(index: usize) -> dsv2_core::ServerName {
    // A fixed letter and a number is always a name.
    format!("s{index}").parse().unwrap_or_else(|_| unreachable!("s{index} is a name"))
}

impl Process {
    /// Begins a sync: writes all commits so far, which a crash from now on may or may not take.
    pub(super) fn write(&mut self) -> Result<(), String> {
        self.syncing = true;
        for (commit, mut changes, save) in std::mem::take(&mut self.uncommitted) {
            self.store.change(&mut changes).map_err(|e| e.to_string())?;
            self.written = (commit, save.or(self.written.1.take()));
        }
        Ok(())
    }

    /// The sync ends: what was written when it began is durable.
    pub(super) fn sync(&mut self, planted: Planted) -> Result<Option<Saved>, String> {
        self.syncing = false;
        if !planted.has(Bug::SyncSkipped) {
            self.store.sync().map_err(|e| e.to_string())?;
        }
        let (commit, saved) = std::mem::take(&mut self.written);
        if let Some(saved) = &saved {
            stored::remember(&mut self.store, saved).map_err(|e| e.to_string())?;
        }
        self.lanes.committed(commit);
        self.committed = self.committed.max(commit);
        Ok(saved)
    }

    /// Takes a read; yields it where it need not wait.
    pub(super) fn queue_read(&mut self, token: u64, read: Read) -> Option<(u64, Read)> {
        if self.issued <= self.committed {
            return Some((token, read));
        }
        self.reads.push((self.issued, token, read));
        None
    }

    /// The reads that need not wait any longer.
    pub(super) fn due_reads(&mut self) -> Vec<(u64, Read)> {
        let committed = self.committed;
        if self.reads.is_empty() {
            return Vec::new();
        }
        let (due, waiting) = std::mem::take(&mut self.reads).into_iter().partition(|(commit, ..)| *commit <= committed);
        self.reads = waiting;
        let due: Vec<(u64, u64, Read)> = due;
        due.into_iter().map(|(_, token, read)| (token, read)).collect()
    }

    pub(super) fn read(&self, read: Read) -> Result<ReadResult, String> {
        let (feed, cursor, limit) = match read {
            Read::Range { origin, from, limit } => {
                let range = self.store.range(&origin, from, Limit::events(limit)).map_err(|e| e.to_string())?;
                return Ok(ReadResult::Range { events: range.events, upto: range.upto });
            }
            Read::Floors { retention, now } => {
                let floors = self.store.floors_for(&retention, now);
                return Ok(ReadResult::Floors(floors, self.store.vector().clone()));
            }
            Read::After { feed, position, limit } => (feed, FeedCursor::After(position), limit),
            Read::Before { feed, key, limit } => (feed, FeedCursor::Before(key), limit),
        };
        let page = self.store.read(&feed, cursor, Limit::events(limit)).map_err(|e| e.to_string())?;
        let dsv2_store::Page { events, next, heads, more, retired } = page;
        Ok(ReadResult::Page { events, next, heads, more, retired })
    }

    /// A whole feed as a client would see it: in the total order, twins left out.
    pub(super) fn history(&self, feed: &Feed) -> Result<Vec<Event>, String> {
        let mut events = self.history_after(feed, Position::default(), usize::MAX)?;
        events.retain(|event| !self.machine.state().is_twin(&event.id));
        Ok(events)
    }

    /// The events of a feed that a position does not mean, twins included.
    pub(super) fn history_after(&self, feed: &Feed, position: Position, limit: usize) -> Result<Vec<Event>, String> {
        let page = self.store.read(feed, FeedCursor::After(position), Limit::events(limit));
        Ok(page.map_err(|e| e.to_string())?.events)
    }
}
