//! Servers and their event stores (feature `store`): starting from one, what is kept there beside events, and snapshots.
//!
//! The driver and the simulator both start servers by [`configure`] and [`replay`], and keep what a server must remember by
//! [`remember`].

use std::sync::Arc;

use dsv2_core::{Event, Floors, Position, ServerName};
use dsv2_store::{Disk, EventStore, Fold, Meta, Snapshotted, StoreError, Vote, make_snapshot};

use crate::election::{Epoch, NodeId};
use crate::server::{Replay, Saved, ServerConfig};

/// Tells a server what its store remembers.
pub fn configure(config: &mut ServerConfig, store: &dyn EventStore) {
    let meta = store.meta();
    config.clock_limit = meta.clock_limit;
    config.epoch = Epoch { number: meta.epoch, node: NodeId(meta.epoch_owner.unwrap_or(0)) };
    config.rank = meta.rank;
    let vote = |vote: &Vote| Epoch { number: vote.epoch, node: NodeId(vote.candidate) };
    config.vote = meta.vote.as_ref().map_or(Epoch::ZERO, vote);
    config.floors = store.floors();
    config.departed.clone_from(&meta.departed);
}

/// Keeps what a server must remember; durable once it has returned.
///
/// # Errors
/// As [`EventStore::save_meta`].
pub fn remember(store: &mut dyn EventStore, saved: &Saved) -> Result<(), StoreError> {
    let vote = (saved.vote.number > 0).then_some(Vote { epoch: saved.vote.number, candidate: saved.vote.node.0 });
    let meta = Meta {
        clock_limit: saved.clock_limit,
        epoch: saved.epoch,
        epoch_owner: Some(saved.epoch_owner),
        rank: saved.rank,
        vote,
        departed: saved.departed.clone(),
        ..store.meta().clone()
    };
    store.save_meta(&meta)
}

/// What the log of the server of that name adds up to: from its snapshot and what came after it, or from the beginning.
///
/// # Errors
/// As [`EventStore::replay_after`].
pub fn replay(name: &ServerName, store: &mut dyn EventStore) -> Result<Replay, StoreError> {
    let floors = store.floors();
    let loaded = store.take_snapshot().and_then(|(position, state)| {
        let replay = Replay::load(name.clone(), floors, &state)?;
        Some((replay, position))
    });
    let (mut replay, after) = loaded.unwrap_or_else(|| (Replay::new(name.clone(), floors), Position::default()));
    store.replay_after(&after, &mut |event| replay.apply(&event))?;
    replay.pass(store.vector());
    Ok(replay)
}

/// Makes a snapshot of the data directory of the server of that name, which may be at work meanwhile. With `whole`, all of
/// the log is read and checked; else what came since the snapshot before.
///
/// # Errors
/// As [`make_snapshot`].
pub fn snapshot(
    disk: &Arc<dyn Disk>,
    name: &ServerName,
    floors: Floors,
    whole: bool,
) -> Result<Snapshotted, StoreError> {
    make_snapshot(disk, || Folding(Replay::new(name.clone(), floors), floors), whole)
}

struct Folding(Replay, Floors);

impl Fold for Folding {
    fn restore(&mut self, state: &[u8]) -> bool {
        let loaded = Replay::load(self.0.name().clone(), self.1, state);
        loaded.map(|replay| self.0 = replay).is_some()
    }

    fn apply(&mut self, event: Event) {
        self.0.apply(&event);
    }

    fn save(&self) -> Vec<u8> {
        self.0.save()
    }
}
