//! One simulated server process: the real machine, the real store on a faulty disk, and the lanes between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dsv2_core::{Change, Clock, Event, EventId, Feed, Now, Position, Retention, Wall};
use dsv2_store::testing::FaultyDisk;
use dsv2_store::{Disk, EventStore, FeedCursor, JsonlConfig, JsonlStore, Limit, StoreError};

use super::storage::Health;
use crate::election::NodeId;
use crate::lanes::Lanes;
use crate::planted::{Bug, Planted};
use crate::server::{Effect, Read, Replay, Saved, Server, ServerConfig};
use crate::stored::{self, Group};

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
    /// What was on disks that it lost.
    pub(super) owed: Position,
    /// The lives that wrote to its present disk.
    pub(super) lives: Vec<u64>,
    /// How many disks it lost.
    pub(super) wipes: u64,
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
    /// What the sync that is under way, or a full disk, is to make durable.
    pub(super) group: Group,
    pub(super) health: Health,
    /// A planted bug takes what failed for durable.
    pub(super) lies: bool,
    /// The machine was told that the disk takes nothing.
    pub(super) stuck: bool,
    /// Until when answers may wait for a disk that takes nothing.
    pub(super) patience_us: Option<u64>,
    /// The last commit that was given out, and the last one that is durable.
    pub(super) issued: u64,
    pub(super) committed: u64,
    /// Reads that wait for what was committed before them, as the driver's storage thread has it.
    pub(super) reads: Vec<(u64, u64, Read)>,
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
            owed: Position::default(),
            lives: Vec::new(),
            wipes: 0,
            rank: None,
            published: Vec::new(),
            shown: Clock::ZERO,
        }
    }

    pub(super) fn now(&self, us: u64) -> Now {
        let wall = Wall { us: EPOCH_US + self.skew_us }.offset(i64::try_from(us).unwrap_or(i64::MAX));
        Now { mono: dsv2_core::Mono { us }, wall }
    }

    fn open(&self) -> Result<JsonlStore, StoreError> {
        // A new disk is a new node.
        let node = 1 + self.index as u128 + 100 * u128::from(self.wipes);
        JsonlStore::open(Arc::new(self.disk.clone()), JsonlConfig { node, segment_bytes: 4_096 })
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
    ) -> Result<bool, StoreError> {
        let mut store = self.open()?;
        let from_snapshot = store.snapshot_position().is_some();
        let reused = planted.has(Bug::IdentityReused);
        let incarnation = if reused { 1 } else { random };
        self.lives.push(incarnation);
        let mut config = ServerConfig::new(name(self.index), NodeId(store.meta().node), incarnation);
        stored::configure(&mut config, &store);
        config.seed = random;
        config.voters.clone_from(voters);
        config.address = Some(format!("sim:{}", self.index));
        config.retention = retention;
        config.timing.retention = Duration::from_millis(300);
        let mut replay = stored::replay(&config.name, &mut store)?;
        if reused {
            replay = Replay::new(config.name.clone(), config.floors);
            store.replay(&mut |event| {
                if event.id.origin.server != config.name {
                    replay.apply(&event);
                }
            })?;
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
            group: Group::default(),
            health: Health::Good,
            lies: false,
            stuck: false,
            patience_us: None,
            issued: 0,
            committed: 0,
            reads: Vec::new(),
            armed_us: u64::MAX,
            promised: Clock::ZERO,
        });
        Ok(from_snapshot)
    }

    /// An operator says, in its directory, who is gone for good. No process runs on it.
    pub(super) fn declare(&mut self, departed: &BTreeSet<dsv2_core::ServerName>) -> Result<(), String> {
        let failed = |e| format!("the directory of server {}: {e}", self.index);
        let mut store = self.open().map_err(failed)?;
        let meta = dsv2_store::Meta { departed: departed.clone(), ..store.meta().clone() };
        store.save_meta(&meta).map_err(failed)
    }

    /// What a server does beside its commits: a step of compaction and all compression, or a snapshot. Yields whether compaction changed a
    /// file.
    pub(super) fn keep_up(&mut self, compact: bool) -> Result<bool, String> {
        let Some(process) = &mut self.process else { return Ok(false) };
        if compact {
            let changed = process.store.compact().map_err(|e| format!("compaction at server {}: {e}", self.index))?;
            while process.store.pack().map_err(|e| format!("compression at server {}: {e}", self.index))? {}
            return Ok(changed);
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let made = stored::snapshot(&disk, &name(self.index), process.store.floors(), false);
        made.map(|_| false).map_err(|e| format!("a snapshot of server {}: {e}", self.index))
    }

    /// Its disk is lost with all that it holds; it comes back as a new server under its old name.
    pub(super) fn wipe(&mut self, seed: u64) {
        self.owed.merge(&self.durable);
        self.durable = Position::default();
        self.disk = FaultyDisk::new(seed);
        self.wipes += 1;
        self.lives.clear();
        (self.rank, self.shown) = (None, Clock::ZERO);
    }

    /// Whether an event is on its disk, or was on one that it lost.
    pub(super) fn has_held(&self, event: &EventId) -> bool {
        self.durable.contains(event) || self.owed.contains(event)
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
