//! One simulated server process: the real machine, the real store on a faulty disk, and the lanes between them.

use std::collections::BTreeSet;
use std::sync::Arc;

use dsv2_core::{Event, Feed, Now, Wall};
use dsv2_store::testing::FaultyDisk;
use dsv2_store::{EventStore, FeedCursor, JsonlConfig, JsonlStore, Limit};

use crate::election::{Epoch, NodeId};
use crate::lanes::Lanes;
use crate::server::{Effect, Read, ReadResult, Saved, Server, ServerConfig};

/// A server: its disk, and while it runs, its process.
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) disk: FaultyDisk,
    /// How far its wall clock is off.
    pub(super) skew_us: i64,
    /// Counts its processes.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
}

/// What dies in a crash.
pub(super) struct Process {
    pub(super) machine: Server,
    pub(super) store: JsonlStore,
    pub(super) lanes: Lanes<Effect>,
    /// Commits whose sync is under way or waits for it, and the metadata they carry.
    pub(super) uncommitted: Vec<(u64, Vec<Arc<Event>>, Option<Saved>)>,
    pub(super) syncing: bool,
}

impl Node {
    pub(super) fn new(index: usize, seed: u64, skew_us: i64) -> Self {
        Self { index, disk: FaultyDisk::new(seed), skew_us, life: 0, process: None }
    }

    pub(super) fn now(&self, us: u64) -> Now {
        let wall = Wall { us: 1_795_000_000_000_000 + self.skew_us }.offset(i64::try_from(us).unwrap_or(i64::MAX));
        Now { mono: dsv2_core::Mono { us }, wall }
    }

    /// Starts the process, as a driver does: recovers the store, replays it, begins a new life.
    pub(super) fn start(
        &mut self,
        us: u64,
        voters: &BTreeSet<dsv2_core::ServerName>,
        random: u64,
    ) -> Result<(), String> {
        let node = 1 + self.index as u128;
        let config = JsonlConfig { node, segment_bytes: 4_096 };
        let store = JsonlStore::open(Arc::new(self.disk.clone()), config)
            .map_err(|e| format!("start of server {}: {e}", self.index))?;
        let mut events = Vec::new();
        store.replay(&mut |event| events.push(event)).map_err(|e| format!("replay of server {}: {e}", self.index))?;
        let meta = store.meta().clone();
        let mut config = ServerConfig::new(name(self.index), NodeId(meta.node), random);
        config.voters.clone_from(voters);
        config.address = Some(format!("sim:{}", self.index));
        config.clock_limit = meta.clock_limit;
        config.epoch = Epoch { number: meta.epoch, node: NodeId(meta.epoch_owner.unwrap_or(0)) };
        self.life += 1;
        let machine = Server::start(config, self.now(us), events);
        self.process =
            Some(Process { machine, store, lanes: Lanes::default(), uncommitted: Vec::new(), syncing: false });
        Ok(())
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
    /// Writes and syncs all commits so far; yields the last of them.
    pub(super) fn sync(&mut self) -> Result<(u64, Option<Saved>), String> {
        self.syncing = false;
        let mut last = (0, None);
        for (commit, events, save) in std::mem::take(&mut self.uncommitted) {
            let events: Vec<Event> = events.into_iter().map(Arc::unwrap_or_clone).collect();
            self.store.append(&events).map_err(|e| e.to_string())?;
            last = (commit, save.or(last.1));
        }
        self.store.sync().map_err(|e| e.to_string())?;
        if let Some(saved) = &last.1 {
            let mut meta = self.store.meta().clone();
            meta.clock_limit = saved.clock_limit;
            meta.epoch = saved.epoch;
            meta.epoch_owner = Some(saved.epoch_owner);
            self.store.save_meta(&meta).map_err(|e| e.to_string())?;
        }
        self.lanes.committed(last.0);
        Ok(last)
    }

    pub(super) fn read(&self, read: Read) -> Result<ReadResult, String> {
        let (feed, cursor, limit) = match read {
            Read::Range { origin, from, limit } => {
                let range = self.store.range(&origin, from, Limit::events(limit));
                return range.map(ReadResult::Range).map_err(|e| e.to_string());
            }
            Read::After { feed, position, limit } => (feed, FeedCursor::After(position), limit),
            Read::Before { feed, key, limit } => (feed, FeedCursor::Before(key), limit),
        };
        let page = self.store.read(&feed, cursor, Limit::events(limit)).map_err(|e| e.to_string())?;
        Ok(ReadResult::Page { events: page.events, next: page.next, heads: page.heads, more: page.more })
    }

    /// A whole feed as a client would see it: in the total order, twins left out.
    pub(super) fn history(&self, feed: &Feed) -> Result<Vec<Event>, String> {
        let page = self.store.read(feed, FeedCursor::After(dsv2_core::Position::default()), Limit::events(usize::MAX));
        let mut events = page.map_err(|e| e.to_string())?.events;
        events.retain(|event| !self.machine.state().is_twin(&event.id));
        Ok(events)
    }
}
