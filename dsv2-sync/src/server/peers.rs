//! The other servers: where they are, which links lead to them, and how much they have acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dsv2_core::{Mono, Origin, ServerName};

use super::io::LinkId;
use crate::election::NodeId;

/// Another server.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) address: Option<String>,
    pub(super) rank: Option<u64>,
    pub(super) node: Option<NodeId>,
    /// The number of its present life, whose events it streams.
    pub(super) incarnation: Option<u64>,
    /// The link we dialled.
    pub(super) dialled: Option<u64>,
    /// Whether it welcomed us there.
    pub(super) welcome: bool,
    /// The links it dialled, as far as they presented themselves.
    pub(super) accepted: BTreeSet<u64>,
    /// The last sign of life.
    pub(super) heard: Option<Mono>,
    /// The own events up to this number were sent on the present link.
    pub(super) sent: u64,
    /// The own events up to this number are durable there.
    pub(super) acked: u64,
    /// Whether a read of own events for it is under way.
    pub(super) reading: bool,
    /// From behind which number the stream is to begin again, once that read is done.
    rewound: Option<u64>,
    /// Whether the reference listed it last time.
    pub(super) listed: bool,
}

impl Peer {
    pub(super) fn is_alive(&self, now: Mono, silence: Duration) -> bool {
        let linked = self.welcome || !self.accepted.is_empty();
        linked && self.heard.is_some_and(|heard| now.since(heard) <= silence)
    }

    /// Whether an origin is its present life.
    pub(super) fn streams(&self, name: &ServerName, origin: &Origin) -> bool {
        origin.server == *name && self.incarnation == Some(origin.incarnation)
    }

    /// It lacks own events behind that number: they are to be sent again.
    pub(super) fn rewind(&mut self, to: u64) {
        if self.reading {
            self.rewound = Some(self.rewound.map_or(to, |before| before.min(to)));
        } else {
            self.sent = self.sent.min(to);
        }
    }

    /// It holds own events up to that number, whoever sent them.
    pub(super) fn skip_to(&mut self, held: u64) {
        self.sent = self.sent.max(held);
        self.rewound = self.rewound.map(|to| to.max(held));
    }

    /// A read of own events for it is done, up to that number.
    pub(super) fn read(&mut self, upto: u64) {
        self.reading = false;
        self.sent = self.rewound.take().unwrap_or(self.sent.max(upto));
    }

    /// The link it streams on is new, and it holds own events up to that number.
    pub(super) fn begin(&mut self, have: u64) {
        (self.sent, self.acked, self.reading, self.rewound) = (have, have, false, None);
    }

    /// A link on which it can be reached now: the dialled one first.
    pub(super) fn link(&self) -> Option<LinkId> {
        let dialled = self.dialled.filter(|_| self.welcome).map(LinkId::Dialled);
        dialled.or_else(|| self.accepted.first().copied().map(LinkId::Accepted))
    }
}

/// All other servers that are known.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) by_name: BTreeMap<ServerName, Peer>,
    links: BTreeMap<LinkId, ServerName>,
    next_link: u64,
}

impl Peers {
    /// The peer at the other end of a link.
    pub(super) fn at(&self, link: LinkId) -> Option<&ServerName> {
        self.links.get(&link)
    }

    pub(super) fn get_mut(&mut self, name: &ServerName) -> Option<&mut Peer> {
        self.by_name.get_mut(name)
    }

    /// A server that may be forgotten for a new one: nobody lists it, and no link leads to it.
    pub(super) fn forgettable(&self, may_be: impl Fn(&ServerName) -> bool) -> Option<&ServerName> {
        let absent = |name: &ServerName, peer: &Peer| !peer.listed && peer.link().is_none() && may_be(name);
        self.by_name.iter().find(|(name, peer)| absent(name, peer)).map(|(name, _)| name)
    }

    /// A number for a new dialled link to `name`.
    pub(super) fn dial(&mut self, name: &ServerName) -> u64 {
        let link = self.next_link;
        self.next_link += 1;
        self.links.insert(LinkId::Dialled(link), name.clone());
        if let Some(peer) = self.by_name.get_mut(name) {
            peer.dialled = Some(link);
            peer.welcome = false;
        }
        link
    }

    /// Forgets the dialled link to `name`; yields it.
    pub(super) fn undial(&mut self, name: &ServerName) -> Option<LinkId> {
        let peer = self.by_name.get_mut(name)?;
        peer.welcome = false;
        peer.reading = false;
        let link = LinkId::Dialled(peer.dialled.take()?);
        self.links.remove(&link);
        Some(link)
    }

    /// An accepted link presented itself as `name`'s.
    pub(super) fn accept(&mut self, link: u64, name: &ServerName) {
        self.links.insert(LinkId::Accepted(link), name.clone());
        if let Some(peer) = self.by_name.get_mut(name) {
            peer.accepted.insert(link);
        }
    }

    /// A link is gone; yields whose it was.
    pub(super) fn down(&mut self, link: LinkId) -> Option<ServerName> {
        let name = match link {
            LinkId::Dialled(_) => self.links.get(&link).cloned(),
            LinkId::Accepted(_) => self.links.remove(&link),
        }?;
        if let Some(peer) = self.by_name.get_mut(&name) {
            match link {
                LinkId::Dialled(_) => {
                    peer.welcome = false;
                    peer.reading = false;
                }
                LinkId::Accepted(number) => {
                    peer.accepted.remove(&number);
                }
            }
        }
        Some(name)
    }

    /// Every link on which a peer can be reached now, one a peer.
    pub(super) fn links(&self) -> Vec<LinkId> {
        self.by_name.values().filter_map(Peer::link).collect()
    }

    /// The names of those that are alive.
    pub(super) fn alive(&self, now: Mono, silence: Duration) -> impl Iterator<Item = &ServerName> {
        self.by_name.iter().filter(move |(_, peer)| peer.is_alive(now, silence)).map(|(name, _)| name)
    }
}
