//! Servers and their event stores (feature `store`): starting from one, what is kept there beside events, and snapshots.
//!
//! The driver and the simulator both start servers by [`configure`] and [`replay`], write by [`Group`], and read by [`answer`].

use std::sync::Arc;

use dsv2_core::{Change, Event, Floors, OrderKey, Origin, Position, Retirement, ServerName};
use dsv2_store::{Disk, EventStore, FeedCursor, Fold, Limit, Meta, Page, Snapshotted, StoreError, Vote, make_snapshot};

use crate::election::{Epoch, NodeId};
use crate::server::{Read, ReadResult, Replay, Saved, ServerConfig};

/// Tells a server what its store remembers.
pub fn configure(config: &mut ServerConfig, store: &dyn EventStore) {
    let meta = store.meta();
    config.clock_limit = meta.clock_limit;
    config.epoch = Epoch { number: meta.epoch, node: NodeId(meta.epoch_owner.unwrap_or(0)) };
    config.rank = meta.rank;
    let vote = |vote: &Vote| Epoch { number: vote.epoch, node: NodeId(vote.candidate) };
    config.vote = meta.vote.as_ref().map_or(Epoch::ZERO, vote);
    config.floors = store.floors();
    let raised = Retirement { floors: config.floors, at: store.position_at(config.floors.highest()) };
    config.retirement = meta.retirement.clone();
    config.retirement.merge(&raised);
    config.departed.clone_from(&meta.departed);
}

fn remember(store: &mut dyn EventStore, saved: &Saved) -> Result<(), StoreError> {
    let vote = (saved.vote.number > 0).then_some(Vote { epoch: saved.vote.number, candidate: saved.vote.node.0 });
    let meta = Meta {
        clock_limit: saved.clock_limit,
        epoch: saved.epoch,
        epoch_owner: Some(saved.epoch_owner),
        rank: saved.rank,
        vote,
        departed: saved.departed.clone(),
        retirement: saved.retirement.clone(),
        ..store.meta().clone()
    };
    store.save_meta(&meta)
}

/// Commits that share one sync.
#[derive(Debug, Default)]
pub struct Group {
    commit: u64,
    changes: Vec<Change>,
    save: Option<Saved>,
    dirty: bool,
}

/// So many changes of room are kept from one group to the next.
const KEEP: usize = 4_096;

impl Group {
    /// Takes one more commit in: what it changes, and what it remembers.
    pub fn add(&mut self, commit: u64, changes: Vec<Change>, save: Option<Saved>) {
        self.commit = commit;
        self.changes.extend(changes);
        self.save = save.or(self.save.take());
        self.dirty = true;
    }

    /// Whether nothing is to be written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.dirty
    }

    /// How many changes are to be written.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// Keeps what is to be remembered; durable once it has returned. This comes first: a change of the log may rest on it.
    ///
    /// # Errors
    /// As [`EventStore::save_meta`].
    pub fn remember(&self, store: &mut dyn EventStore) -> Result<(), StoreError> {
        self.save.as_ref().map_or(Ok(()), |saved| remember(store, saved))
    }

    /// Makes the changes visible, not yet durable. Where there is no room, what was made is durable and no longer in the group:
    /// the rest is to be tried again. After another failure the group is as it was, see [`Group::before`].
    ///
    /// # Errors
    /// As [`EventStore::change`].
    pub fn write(&mut self, store: &mut dyn EventStore) -> Result<(), StoreError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let mut left = self.changes.clone();
        let written = store.change(&mut left);
        if matches!(written, Err(StoreError::Full { .. })) {
            self.changes = left;
        }
        written
    }

    /// All of it is durable. Yields the last commit, and what is remembered.
    pub fn done(&mut self) -> (u64, Option<Saved>) {
        self.changes.clear();
        self.changes.shrink_to(KEEP);
        self.dirty = false;
        (self.commit, self.save.take())
    }

    /// What of `held` is there without the events of this group.
    #[must_use]
    pub fn before(&self, held: &Position) -> Position {
        let mut first = Position::default();
        let events = self.changes.iter().filter_map(|change| match change {
            Change::Append(event) => Some(event),
            Change::Skip { .. } | Change::Retire { .. } => None,
        });
        for event in events {
            // The first one of each origin: numbers only grow.
            if first.get(&event.id.origin) == 0 {
                first.advance(&event.id);
            }
        }
        let durable = |(origin, seq): (&Origin, u64)| match first.get(origin) {
            0 => (origin.clone(), seq),
            first => (origin.clone(), seq.min(first - 1)),
        };
        held.iter().map(durable).collect()
    }

    #[cfg(feature = "sim")]
    pub(crate) fn forget_changes(&mut self) {
        self.changes.clear();
    }
}

/// Answers a read, of at most `bytes` where it is one of events. Of a store that failed, only what had been synced before,
/// `durable`, is shown.
///
/// # Errors
/// As [`EventStore::range`] and [`EventStore::read`].
pub fn answer(
    store: &dyn EventStore,
    read: Read,
    bytes: usize,
    durable: Option<&Position>,
) -> Result<ReadResult, StoreError> {
    let Some(durable) = durable else { return read_all(store, read, bytes) };
    let before = match &read {
        Read::Before { feed, limit, .. } => Some((feed.clone(), *limit)),
        _ => None,
    };
    let mut result = read_all(store, read, bytes)?;
    while let Some(first) = hide(&mut result, durable) {
        // Nothing durable was among the last ones: who pages backward could not go on from an empty page.
        let Some((feed, limit)) = before.clone() else { break };
        result = read_all(store, Read::Before { feed, key: Some(first), limit }, bytes)?;
    }
    Ok(result)
}

/// Leaves what is durable. Where that is nothing of a page, and there is more, yields what it began with.
fn hide(result: &mut ReadResult, durable: &Position) -> Option<OrderKey> {
    match result {
        ReadResult::Floors(..) => None,
        ReadResult::Range { events, upto } => {
            let first_lost = events.iter().find(|event| !durable.contains(&event.id));
            *upto = first_lost.map_or(*upto, |event| event.id.seq - 1);
            events.retain(|event| durable.contains(&event.id));
            None
        }
        ReadResult::Page { events, next, heads, more, .. } => {
            let first = events.first().map(Event::key);
            events.retain(|event| durable.contains(&event.id));
            (*next, *heads) = (next.meet(durable), heads.meet(durable));
            first.filter(|_| events.is_empty() && *more)
        }
    }
}

fn read_all(store: &dyn EventStore, read: Read, bytes: usize) -> Result<ReadResult, StoreError> {
    let limit = |events| Limit { events, bytes };
    let (feed, cursor, events) = match read {
        Read::Range { origin, from, limit: events } => {
            let range = store.range(&origin, from, limit(events))?;
            return Ok(ReadResult::Range { events: range.events, upto: range.upto });
        }
        Read::Floors { retention, now, bound } => {
            let floors = store.floors_for(&retention, now).up_to(bound);
            return Ok(ReadResult::Floors(Retirement { floors, at: store.position_at(floors.highest()) }));
        }
        Read::After { feed, position, limit } => (feed, FeedCursor::After(position), limit),
        Read::Before { feed, key, limit } => (feed, FeedCursor::Before(key), limit),
    };
    let Page { events, next, heads, more, retired } = store.read(&feed, cursor, limit(events))?;
    Ok(ReadResult::Page { events, next, heads, more, retired })
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
