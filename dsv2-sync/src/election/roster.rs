//! Whom a server knows, whom it can reach, and whom it has heard of late.

use std::collections::BTreeMap;
use std::time::Duration;

use dsv2_core::{Mono, ServerName};

use super::{CoordinatorRank, Member, NodeId};

/// The most servers that are remembered; names beyond it are ignored.
pub(super) const PEERS_CAP: usize = 1_000;

/// Another server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Peer {
    rank: Option<u64>,
    node: Option<NodeId>,
    /// It stands in the last list.
    listed: bool,
    /// Its link is up.
    up: bool,
    /// Its link was up at some time, or it spoke over one: it is no server of the family.
    native: bool,
    /// Its last sign of life over the link.
    heard: Option<Mono>,
}

/// This server and the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Roster {
    pub(super) me: ServerName,
    pub(super) rank: Option<u64>,
    prefer: CoordinatorRank,
    peers: BTreeMap<ServerName, Peer>,
}

impl Roster {
    pub(super) fn new(me: ServerName, prefer: CoordinatorRank) -> Self {
        Self { me, rank: None, prefer, peers: BTreeMap::new() }
    }

    fn peer(&mut self, name: &ServerName) -> Option<&mut Peer> {
        if *name == self.me || (self.peers.len() >= PEERS_CAP && !self.peers.contains_key(name)) {
            return None;
        }
        Some(self.peers.entry(name.clone()).or_default())
    }

    /// Takes a new list. Servers with a link stay; this server keeps its rank if the list does not name it.
    pub(super) fn list(&mut self, members: Vec<Member>) {
        for peer in self.peers.values_mut() {
            peer.listed = false;
        }
        for member in members {
            if member.name == self.me {
                self.rank = member.rank.or(self.rank);
            } else if let Some(peer) = self.peer(&member.name) {
                peer.listed = true;
                peer.rank = member.rank.or(peer.rank);
                peer.node = member.node.or(peer.node);
            }
        }
        self.peers.retain(|_, peer| peer.listed || peer.up);
    }

    pub(super) fn link_up(&mut self, now: Mono, name: &ServerName) {
        if let Some(peer) = self.peer(name) {
            (peer.up, peer.native, peer.heard) = (true, true, Some(now));
        }
    }

    pub(super) fn link_down(&mut self, name: &ServerName) {
        if let Some(peer) = self.peers.get_mut(name) {
            (peer.up, peer.heard) = (false, None);
            if !peer.listed {
                self.peers.remove(name);
            }
        }
    }

    /// A sign of life.
    pub(super) fn heard(&mut self, now: Mono, name: &ServerName) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.heard = Some(now);
        }
    }

    /// Its rank, in its own words.
    pub(super) fn claims_rank(&mut self, name: &ServerName, rank: Option<u64>) {
        if let (Some(rank), Some(peer)) = (rank, self.peers.get_mut(name)) {
            (peer.rank, peer.native) = (Some(rank), true);
        }
    }

    pub(super) fn knows(&self, name: &ServerName) -> bool {
        *name == self.me || self.peers.contains_key(name)
    }

    pub(super) fn is_listed(&self, name: &ServerName) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.listed)
    }

    pub(super) fn is_up(&self, name: &ServerName) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.up)
    }

    pub(super) fn rank_of(&self, name: &ServerName) -> Option<u64> {
        if *name == self.me { self.rank } else { self.peers.get(name).and_then(|peer| peer.rank) }
    }

    /// Whether the first server, of that rank, is better than the second.
    pub(super) fn prefers(&self, a: (Option<u64>, &ServerName), b: (Option<u64>, &ServerName)) -> bool {
        self.prefer.prefers(a, b)
    }

    /// Whether that server is better than this one, as far as known.
    pub(super) fn is_better(&self, name: &ServerName) -> bool {
        self.prefers((self.rank_of(name), name), (self.rank, &self.me))
    }

    /// Whether it may be: it is, or its rank is not known yet.
    pub(super) fn may_be_better(&self, name: &ServerName) -> bool {
        self.rank_of(name).is_none() || self.is_better(name)
    }

    /// Whom a message can reach.
    pub(super) fn reachable(&self) -> Vec<ServerName> {
        self.peers.iter().filter(|(_, peer)| peer.up).map(|(name, _)| name.clone()).collect()
    }

    /// Whether at least half of the members, this server included, gave a sign of life within `window`. Servers of the
    /// family do not count: they have no links, so silence tells nothing about them.
    pub(super) fn in_contact(&self, now: Mono, window: Duration) -> bool {
        let natives = self.peers.values().filter(|peer| peer.native || peer.node.is_some());
        let (mut members, mut contacts) = (1, 1);
        for peer in natives {
            members += 1;
            contacts += usize::from(peer.heard.is_some_and(|at| now.since(at) < window));
        }
        2 * contacts >= members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().expect("a name")
    }

    fn member(text: &str, rank: u64) -> Member {
        Member { name: name(text), rank: Some(rank), node: Some(NodeId(u128::from(rank))) }
    }

    #[test]
    fn a_link_keeps_a_server_that_the_list_forgot() {
        let mut roster = Roster::new(name("a"), CoordinatorRank::Highest);
        roster.list(vec![member("a", 1), member("b", 2), member("c", 3)]);
        roster.link_up(Mono::ZERO, &name("b"));
        roster.list(Vec::new());
        assert!(roster.knows(&name("b")) && !roster.knows(&name("c")));
        assert_eq!((roster.rank, roster.rank_of(&name("b"))), (Some(1), Some(2)), "ranks outlive the list");
        roster.link_down(&name("b"));
        assert!(!roster.knows(&name("b")));
    }

    #[test]
    fn half_of_the_members_is_contact() {
        let window = Duration::from_secs(1);
        let mut roster = Roster::new(name("a"), CoordinatorRank::Highest);
        assert!(roster.in_contact(Mono::ZERO, window), "nobody else");
        roster.list(vec![member("b", 2), member("c", 3), member("d", 4)]);
        assert!(!roster.in_contact(Mono::ZERO, window), "1 of 4");
        roster.link_up(Mono::ZERO, &name("b"));
        assert!(roster.in_contact(Mono::from_ms(999), window), "2 of 4");
        assert!(!roster.in_contact(Mono::from_ms(1_000), window), "too long ago");
        roster.list(vec![member("b", 2), Member { name: name("family"), rank: Some(9), node: None }]);
        assert!(roster.in_contact(Mono::from_ms(1_000), window), "1 of 2, and a foreign one");
    }

    #[test]
    fn memory_is_bounded() {
        let mut roster = Roster::new(name("a"), CoordinatorRank::Highest);
        for number in 0..2 * PEERS_CAP {
            roster.link_up(Mono::ZERO, &name(&format!("s{number}")));
        }
        assert_eq!(roster.peers.len(), PEERS_CAP);
    }
}
