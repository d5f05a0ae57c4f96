//! A server's start from a snapshot, and the making of snapshots.

use std::sync::Arc;

use dsv2_core::{Event, Floors, Position, ServerName};
use dsv2_store::{Disk, EventStore, Fold, Snapshotted, StoreError, make_snapshot};
use dsv2_sync::server::Replay;

/// What the log of the server of that name adds up to.
pub(super) fn replay(name: &ServerName, store: &mut dyn EventStore) -> Result<Replay, StoreError> {
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
