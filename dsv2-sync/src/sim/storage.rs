//! The storage thread of a simulated server, as `dsv2-net/src/driver/storage.rs` has it: commits in groups, a full disk
//! that is tried again, a failed one that is not, and reads that show neither what is not written nor what is not synced.

use dsv2_core::{Change, Position};
use dsv2_store::{EventStore, StoreError};

use super::node::Process;
use crate::planted::{Bug, Planted};
use crate::server::{Read, ReadResult, Saved};
use crate::stored;

/// How often a full disk is tried again.
pub(super) const PROBE_US: u64 = 1_000_000;

/// Commits that share one sync.
#[derive(Debug, Default)]
pub(super) struct Group {
    commit: u64,
    changes: Vec<Change>,
    save: Option<Saved>,
    dirty: bool,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        !self.dirty
    }
}

/// How the disk is.
#[derive(Debug)]
pub(super) enum Health {
    Good,
    /// There was no room; when to try again.
    Full(u64),
    /// It failed; what had been synced before.
    Failed(Position),
}

impl Process {
    /// Whether anything is to be written now.
    pub(super) fn is_due(&mut self, now_us: u64) -> bool {
        let due = match self.health {
            Health::Good => true,
            Health::Full(at_us) => at_us <= now_us,
            // What comes in after a failure is never written.
            Health::Failed(_) => {
                self.uncommitted.clear();
                false
            }
        };
        due && !self.syncing && !(self.uncommitted.is_empty() && self.group.is_empty())
    }

    /// Begins a sync: writes all commits so far, which a crash from now on may or may not take. What is to be remembered goes
    /// first: a change of the log may rest on it.
    pub(super) fn write(&mut self, planted: Planted) -> Result<(), StoreError> {
        for (commit, changes, save) in std::mem::take(&mut self.uncommitted) {
            self.group.commit = commit;
            self.group.changes.extend(changes);
            self.group.save = save.or(self.group.save.take());
            self.group.dirty = true;
        }
        if let Some(saved) = &self.group.save {
            match stored::remember(&mut self.store, saved) {
                Err(_) if planted.has(Bug::SyncFailureIgnored) => {}
                result => result?,
            }
        }
        if !self.group.changes.is_empty() {
            stored::write(&mut self.store, &mut self.group.changes)?;
        }
        self.syncing = true;
        Ok(())
    }

    /// The sync ends: what was written when it began is durable.
    pub(super) fn sync(&mut self, planted: Planted) -> Result<Option<Saved>, StoreError> {
        self.syncing = false;
        if !self.group.changes.is_empty() {
            if !planted.has(Bug::SyncSkipped) {
                match self.store.sync() {
                    Err(_) if planted.has(Bug::SyncFailureIgnored) => self.lies = true,
                    result => result?,
                }
            }
            self.group.changes.clear();
        }
        self.end_group();
        Ok(self.group.save.take())
    }

    /// What is in the group is done with.
    fn end_group(&mut self) {
        self.group.dirty = false;
        self.lanes.committed(self.group.commit);
        self.committed = self.committed.max(self.group.commit);
    }

    /// There was no room: the group is kept, and tried again. Yields whether that is new.
    pub(super) fn ran_full(&mut self, now_us: u64, planted: Planted) -> bool {
        self.syncing = false;
        let again = matches!(self.health, Health::Full(_));
        self.health = Health::Full(now_us + PROBE_US);
        if planted.has(Bug::FullForgotten) {
            self.group.changes.clear();
        }
        !again
    }

    /// The disk failed: what was not durable before never will be.
    pub(super) fn failed(&mut self, durable: &Position) {
        self.syncing = false;
        self.group = Group::default();
        self.uncommitted.clear();
        self.health = Health::Failed(durable.clone());
    }

    /// Takes a read; yields it where it need not wait.
    pub(super) fn queue_read(&mut self, token: u64, read: Read) -> Option<(u64, Read)> {
        let stands = !self.syncing && !matches!(self.health, Health::Good);
        if self.issued <= self.committed || stands {
            return Some((token, read));
        }
        self.reads.push((self.issued, token, read));
        None
    }

    /// The reads that need not wait any longer.
    pub(super) fn due_reads(&mut self) -> Vec<(u64, Read)> {
        if self.reads.is_empty() {
            return Vec::new();
        }
        let (committed, stands) = (self.committed, !matches!(self.health, Health::Good));
        let is_due = |(commit, ..): &(u64, u64, Read)| stands || *commit <= committed;
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.reads).into_iter().partition(is_due);
        self.reads = waiting;
        due.into_iter().map(|(_, token, read)| (token, read)).collect()
    }

    /// Reads what is durable.
    pub(super) fn read(&self, read: Read) -> Result<ReadResult, String> {
        let durable = match &self.health {
            Health::Failed(durable) => Some(durable),
            Health::Good | Health::Full(_) => None,
        };
        stored::answer(&self.store, read, usize::MAX, durable).map_err(|e| e.to_string())
    }
}
