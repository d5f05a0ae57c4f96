//! How a server is, in numbers: for whoever watches it.

use dsv2_core::{Clock, ClockReport, Mono, Now, PeerReport, ServerName};

use super::Server;
use crate::clock_sync::ClockSync;

/// A server's numbers at one moment. Cheap enough to be asked for every second, whatever the server holds, which a
/// [`StatusReport`](dsv2_core::StatusReport) with its lists is not.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Vitals {
    /// Whether it takes writes, as the broker was told.
    pub ready: bool,
    /// Why it takes no writes, or what limits them.
    pub trouble: Option<String>,
    /// Its rank, once the reference gave one, in this life or an earlier one.
    pub rank: Option<u64>,
    /// The coordinator that it follows.
    pub coordinator: Option<ServerName>,
    /// Whether it leads.
    pub leads: bool,
    /// The number of the election's epoch.
    pub epoch: u64,
    /// How many milliseconds of its lease are left, where it leads with one.
    pub lease_ms: Option<u64>,
    /// Its logical clock, as it may be shown.
    pub clock: Clock,
    /// Its agreed wall clock.
    pub wall: ClockReport,
    /// The other servers that it knows, without those that are declared gone for good.
    pub peers: Vec<PeerReport>,
    /// Users that it knows, those included that are not durable yet.
    pub users: usize,
    /// Channels that it knows, likewise.
    pub channels: usize,
    /// Events that it holds, durable.
    pub events: u64,
    /// Writes that wait for their level.
    pub waiting_writes: usize,
    /// Requests that wait for events which their client has seen elsewhere.
    pub parked_requests: usize,
}

impl Server {
    /// How it is now, in numbers.
    #[must_use]
    pub fn vitals(&self, now: Now) -> Vitals {
        Vitals {
            ready: self.is_ready(),
            trouble: self.trouble(now.mono),
            rank: self.registry.rank,
            coordinator: self.election.coordinator().map(|coordinator| coordinator.name.clone()),
            leads: self.election.is_coordinator(now.mono),
            epoch: self.election.epoch().number,
            lease_ms: self.lease_ms(now.mono),
            clock: self.shown_clock(),
            wall: self.wall_report(now),
            peers: self.present_peers(now.mono),
            users: self.state.users().len(),
            channels: self.state.channels().len(),
            events: self.visible().events(),
            waiting_writes: self.waiting.len(),
            parked_requests: self.parked.len(),
        }
    }

    /// Nobody misses those that are declared gone for good.
    fn present_peers(&self, now: Mono) -> Vec<PeerReport> {
        let mut peers = self.peer_reports(now);
        peers.retain(|peer| !self.asked.departed.contains(&peer.name));
        peers
    }

    /// Why it takes no writes, or what limits them.
    pub(super) fn trouble(&self, now: Mono) -> Option<String> {
        let stuck = self.stuck.as_ref().map(|stuck| stuck.why.to_string());
        stuck.or_else(|| (!self.has_majority(now)).then(|| "too few voters can be reached".into()))
    }

    pub(super) fn lease_ms(&self, now: Mono) -> Option<u64> {
        let left = |end: dsv2_core::Mono| u64::try_from(end.since(now).as_millis()).unwrap_or(u64::MAX);
        self.election.lease_until().map(left)
    }

    pub(super) fn wall_report(&self, now: Now) -> ClockReport {
        let wall = self.wall.status(now);
        ClockReport {
            offset_us: wall.offset_us,
            error_bound_us: wall.error_bound_us,
            slewing: wall.slewing,
            system_us: Some(now.wall.us),
        }
    }

    pub(super) fn peer_reports(&self, now: Mono) -> Vec<PeerReport> {
        let own = self.visible().get(&self.origin);
        let report = |(name, peer): (&ServerName, &super::peers::Peer)| PeerReport {
            name: name.clone(),
            address: peer.address.clone(),
            rank: peer.rank,
            connected: peer.is_alive(now, self.config.timing.silence),
            lag: own.saturating_sub(peer.acked),
        };
        self.peers.by_name.iter().map(report).collect()
    }
}
