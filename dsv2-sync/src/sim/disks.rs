//! Disks that are lost, and what may be lost with them.
//!
//! What was acknowledged at `quorum` was once on the disks of a majority. It is there as long as one of those disks is, so
//! it survives whatever is lost in such a way that at any time a minority of the voters lacks something which it had held,
//! and which is still there. That is all that these faults keep to: see [`World::may_lose`]. What goes with the last disk
//! that held it is written into the history, event by event; whatever else is missing at the end is a violation.

use dsv2_core::{Code, EventBody, EventId, Position, ReplyBody};
use dsv2_store::testing::{Call, Fault};
use dsv2_store::{EventStore, StoreError};

use super::client::topic;
use super::node::Process;
use super::servers::READ_US;
use super::storage::PROBE_US;
use super::world::{Happening, World, between};
use crate::history::Record;
use crate::server::{Effect, Input, Stuck};

impl World {
    /// How many servers count: the voters, or all where there are none. They come first.
    pub(super) fn members(&self) -> usize {
        usize::try_from(self.config.servers).unwrap_or(usize::MAX).min(self.nodes.len())
    }

    /// What is on the disks of all servers but one.
    fn on_disks_without(&self, server: usize) -> Position {
        let mut there = Position::default();
        let others = self.nodes.iter().filter(|node| node.index != server && !self.lost.contains(&node.index));
        others.for_each(|node| there.merge(&node.durable));
        there
    }

    /// Whether a server's disk may be lost now: with it, a minority is lost, or lacks anything that it had held before and
    /// that is still on some disk.
    ///
    /// An event that was acknowledged by a majority is held by a member of it that lacks nothing, or by nobody; so its last
    /// copy is never lost here. Servers that recovered count again, as soon as they hold it again.
    pub(super) fn may_lose(&self, server: usize) -> bool {
        let members = self.members();
        if server >= members {
            return true;
        }
        let mut there = self.on_disks_without(server);
        there.merge(&self.nodes[server].durable);
        let lacks = |index: &usize| {
            let node = &self.nodes[*index];
            *index == server || self.lost.contains(index) || !node.durable.covers(&node.owed.meet(&there))
        };
        !self.lost.contains(&server) && (0..members).filter(lacks).count() <= (members - 1) / 2
    }

    /// A server that has just crashed loses its disk, if it may.
    pub(super) fn wipe(&mut self, server: usize) {
        if !self.may_lose(server) {
            return;
        }
        self.report.wipes += 1;
        self.tell(0, || format!("s{server}"), || "loses its disk".to_owned());
        self.record_gone(server);
        let seed = self.fault_random.next_u64();
        self.nodes[server].wipe(seed);
    }

    /// Writes down which events are on the disk of that server only, before it is lost.
    pub(super) fn record_gone(&mut self, server: usize) {
        let there = self.on_disks_without(server);
        let only = |(origin, to): (&dsv2_core::Origin, u64)| {
            let from = there.get(origin) + 1;
            (from <= to).then(|| (origin.clone(), from, to))
        };
        let gone: Vec<_> = self.nodes[server].durable.iter().filter_map(only).collect();
        for (origin, from, to) in gone {
            self.report.gone += to - from + 1;
            self.bereft.insert(origin.server.clone());
            let events = (from..=to).filter_map(|seq| self.archive.get(&EventId { origin: origin.clone(), seq }));
            let messages = events.filter_map(|event| message(&event.body)).collect();
            self.record(Record::Gone { origin, from, to, messages });
        }
    }
}

/// The topic and the text of a message.
fn message(body: &EventBody) -> Option<(String, String)> {
    let [feed, _] = body.feeds();
    match body {
        EventBody::Publish { message, .. } | EventBody::Message { message, .. } => {
            Some((topic(&feed?), message.to_string()))
        }
        EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => None,
    }
}

/// How long answers wait for a full disk, as in `dsv2-net/src/server/role.rs`.
const PATIENCE_US: u64 = 5_000_000;

impl World {
    /// Some disk has no more room than for a few lines, for a while.
    pub(super) fn fill_disk(&mut self) {
        if self.faults_on {
            let server = self.fault_random.below(self.nodes.len() as u64) as usize;
            let room_bytes = self.fault_random.below(2_000);
            let disk = &self.nodes[server].disk;
            disk.set_capacity(Some(disk.used_bytes() + room_bytes));
            let last_us = between(&mut self.fault_random, (1_000, (self.config.faults.full_ms * 2_000).max(1_000)));
            self.later(self.now_us + last_us, Happening::Room { server });
        }
        self.plan_fault(self.config.faults.full_every_ms, Happening::DiskFull);
    }

    /// The next sync of some server fails.
    pub(super) fn fail_sync(&mut self) {
        if self.faults_on {
            let server = self.fault_random.below(self.nodes.len() as u64) as usize;
            if self.nodes[server].process.is_some() {
                self.nodes[server].disk.fail_nth(Call::Sync, 1, Fault::Broken);
            }
        }
        self.plan_fault(self.config.faults.sync_failure_every_ms, Happening::SyncFailure);
    }

    /// A disk did not take what was to be written, or did not keep it: what the storage thread does, and the driver.
    pub(super) fn disk_refused(&mut self, server: usize, life: u64, error: &StoreError) {
        let planted = self.planted;
        let now_us = self.now_us;
        let node = &mut self.nodes[server];
        let Some(process) = &mut node.process else { return };
        let why = if matches!(error, StoreError::Full { .. }) {
            node.durable.merge(process.store.vector());
            let new = process.ran_full(now_us, planted);
            self.later(now_us + PROBE_US, Happening::Probe { server, life });
            new.then_some((Stuck::Full, PATIENCE_US))
        } else {
            process.failed(&node.durable);
            Some((Stuck::Failed(error.to_string()), 0))
        };
        if let Some((why, patience_us)) = why {
            self.tell_stuck(server, life, why, patience_us, error);
        }
        // Reads that waited for the sync are answered behind that.
        let process = self.nodes[server].process.as_mut();
        let reads = process.map(Process::due_reads).unwrap_or_default();
        reads.into_iter().for_each(|(token, read)| self.read(server, life, token, read));
    }

    /// The machine is told that its disk takes nothing.
    fn tell_stuck(&mut self, server: usize, life: u64, why: Stuck, patience_us: u64, error: &StoreError) {
        let now_us = self.now_us;
        self.tell(0, || format!("s{server}"), || format!("its disk takes nothing: {error}"));
        match why {
            Stuck::Full => self.report.full_disks += 1,
            Stuck::Failed(_) => {
                self.report.failed_disks += 1;
                // Whoever looks after it restarts it.
                let wait_us = between(&mut self.fault_random, (100_000, 5_000_000));
                self.later(now_us + wait_us, Happening::GaveUp { server, life });
            }
        }
        if let Some(process) = &mut self.nodes[server].process {
            process.patience_us = Some(now_us + patience_us);
        }
        let durable = self.nodes[server].durable.clone();
        let input = Box::new(Input::Stuck { durable, why });
        self.later(now_us + READ_US, Happening::Input { server, life, input });
        self.later(now_us + patience_us, Happening::LosePatience { server, life });
    }

    /// A full disk is tried again.
    pub(super) fn probe(&mut self, server: usize, life: u64) {
        if self.nodes[server].life == life {
            self.start_sync(server, life);
        }
    }

    /// Answers *unknown* to those whose answers wait for a disk that takes nothing: it may be written yet.
    pub(super) fn lose_patience(&mut self, server: usize, life: u64) {
        let (now_us, node) = (self.now_us, &mut self.nodes[server]);
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else { return };
        if process.patience_us.take_if(|until_us| *until_us <= now_us).is_none() {
            return;
        }
        for effect in process.lanes.pick(|effect| matches!(effect, Effect::Reply { .. })) {
            let Effect::Reply { to, mut reply, prompt } = effect else { continue };
            if let Some(process) = &self.nodes[server].process {
                process.machine.stop_waiting(&mut reply);
            }
            self.carry_out(server, life, Effect::Reply { to, reply, prompt });
        }
    }

    /// Counts what a server answers while its disk takes nothing.
    pub(super) fn count_stuck(&mut self, server: usize, reply: &ReplyBody) {
        if self.nodes[server].process.as_ref().is_none_or(|process| !process.stuck) {
            return;
        }
        match reply {
            ReplyBody::History(_) => self.report.stuck_reads += 1,
            ReplyBody::Failed(failure) if failure.code == Code::Full => self.report.refused_full += 1,
            _ => {}
        }
    }
}
