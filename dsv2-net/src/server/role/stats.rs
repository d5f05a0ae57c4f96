//! A server's numbers, for metrics.

use dsv2_sync::server::{Note, Vitals};

use super::Life;
use crate::engine::SocketStats;
use crate::port::PortStats;
use crate::stats::{Answers, Asker};

/// How a server's disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    /// It takes what it is given.
    #[default]
    Good,
    /// There is no room: it is tried again every second.
    Full,
    /// It failed: it is not tried again in the life of this process.
    Failed,
}

/// What happened at a server since its start, as far as it is no socket's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Answers given.
    pub answers: Answers,
    /// Own events written, durable.
    pub written_events: u64,
    /// Events of other servers taken over, durable.
    pub replicated_events: u64,
    /// Events of foreign servers taken over.
    pub adopted_events: u64,
    /// Times that the coordinator became another one, or none.
    pub coordinator_changes: u64,
    /// Links established.
    pub links_up: u64,
    /// Links lost.
    pub links_down: u64,
    /// Links refused, by this side or the other.
    pub links_refused: u64,
    /// Messages on links, and control publications, that could not be read.
    pub unreadable: u64,
    /// Publications that did not leave because a proxy was away. Subscribers repair that from the history.
    pub unpublished: u64,
}

impl Tally {
    pub(super) fn note(&mut self, note: &Note) {
        let count = |(first, last): &(u64, u64)| (last + 1).saturating_sub(*first);
        match note {
            Note::Written { range, .. } => self.written_events += count(range),
            Note::Replicated { range, .. } => self.replicated_events += count(range),
            Note::Adopted(_) => self.adopted_events += 1,
            Note::Coordinator { .. } => self.coordinator_changes += 1,
            Note::Linked(_) => self.links_up += 1,
            Note::Unlinked(_) => self.links_down += 1,
            Note::LinkRefused(_) => self.links_refused += 1,
            _ => {}
        }
    }
}

/// A server's numbers at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStats {
    /// How the machine is.
    pub vitals: Vitals,
    /// How the disk is.
    pub disk: Disk,
    /// What happened.
    pub tally: Tally,
    /// Answers, publications and link messages that wait for the disk.
    pub waiting_for_disk: usize,
    /// The connection to each broker.
    pub brokers: Vec<PortStats>,
    /// The connection to each proxy's side for publishers.
    pub publishers: Vec<PortStats>,
    /// The connection to each proxy's side for subscribers.
    pub subscribers: Vec<PortStats>,
    /// Where other servers, and clients that come directly, connect.
    pub link: SocketStats,
    /// Messages for dialled links that found no room or no connection: their streams notice, and repair it.
    pub link_drops: u64,
}

/// Asks a running server for its numbers. Cheap to clone; stays valid after the server's end.
#[derive(Clone, Debug)]
pub struct ServerHandle(pub(in crate::server) Asker<ServerStats>);

impl ServerHandle {
    /// Its numbers. `None` where it has ended. The server's own loop answers, so give it a deadline: who does not answer in
    /// time does nothing else either. Cancel-safe.
    pub async fn stats(&self) -> Option<ServerStats> {
        self.0.ask().await
    }
}

impl Life {
    pub(super) fn stats(&self) -> ServerStats {
        ServerStats {
            vitals: self.machine.vitals(self.clocks.now()),
            disk: self.disk,
            tally: self.tally.clone(),
            waiting_for_disk: self.lanes.len(),
            brokers: self.brokers.stats(),
            publishers: self.publishers.stats(),
            subscribers: self.subscribers.stats(),
            link: self.router.stats(),
            link_drops: self.dialled.drops(),
        }
    }
}
