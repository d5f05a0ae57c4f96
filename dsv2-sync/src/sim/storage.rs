//! The storage thread of a simulated server, as `dsv2-net/src/driver/storage.rs` has it: commits in groups, a full disk
//! that is tried again, a failed one that is not, and reads that show neither what is not written nor what is not synced.

use dsv2_core::Position;
use dsv2_store::{EventStore, StoreError};

use super::node::Process;
use crate::planted::{Bug, Planted};
use crate::server::{Read, ReadResult, Saved};
use crate::stored::{self, Group};

/// How often a full disk is tried again.
pub(super) const PROBE_US: u64 = 1_000_000;

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
            self.group.add(commit, changes, save);
        }
        match self.group.remember(&mut self.store) {
            Err(_) if planted.has(Bug::SyncFailureIgnored) => {}
            result => result?,
        }
        self.group.write(&mut self.store)?;
        self.syncing = true;
        Ok(())
    }

    /// The sync ends: what was written when it began is durable.
    pub(super) fn sync(&mut self, planted: Planted) -> Result<Option<Saved>, StoreError> {
        self.syncing = false;
        if self.group.changes() > 0 && !planted.has(Bug::SyncSkipped) {
            match self.store.sync() {
                Err(_) if planted.has(Bug::SyncFailureIgnored) => self.lies = true,
                result => result?,
            }
        }
        let (commit, saved) = self.group.done();
        self.lanes.committed(commit);
        self.committed = self.committed.max(commit);
        Ok(saved)
    }

    /// There was no room: the group is kept, and tried again. Yields whether that is new.
    pub(super) fn ran_full(&mut self, now_us: u64, planted: Planted) -> bool {
        self.syncing = false;
        let again = matches!(self.health, Health::Full(_));
        self.health = Health::Full(now_us + PROBE_US);
        if planted.has(Bug::FullForgotten) {
            self.group.forget_changes();
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
