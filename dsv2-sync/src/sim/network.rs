//! Connections between servers: in order while they last, and they do not last.

use std::collections::{BTreeMap, BTreeSet};

/// One direct connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who dialled, in which life, and by which number it calls the link.
    pub(super) from: (usize, u64),
    pub(super) link: u64,
    /// Who accepted, in which life. It calls the link by the connection's own number.
    pub(super) to: (usize, u64),
    /// When the last message of each direction arrives: the next one arrives later.
    last_us: [u64; 2],
}

/// All connections, and who cannot reach whom.
#[derive(Debug, Default)]
pub(super) struct Network {
    connections: BTreeMap<u64, Connection>,
    /// The connection of each link that a server dialled.
    dialled: BTreeMap<(usize, u64), u64>,
    next: u64,
    /// Pairs that are cut off from each other, the smaller number first.
    blocked: BTreeSet<(usize, usize)>,
}

impl Network {
    pub(super) fn connect(&mut self, from: (usize, u64), link: u64, to: (usize, u64), now_us: u64) -> u64 {
        self.next += 1;
        self.connections.insert(self.next, Connection { from, link, to, last_us: [now_us; 2] });
        self.dialled.insert((from.0, link), self.next);
        self.next
    }

    pub(super) fn get(&self, connection: u64) -> Option<&Connection> {
        self.connections.get(&connection)
    }

    pub(super) fn dialled(&self, server: usize, link: u64) -> Option<u64> {
        self.dialled.get(&(server, link)).copied()
    }

    /// When a message that takes `delay_us` arrives; messages of one direction do not overtake each other.
    pub(super) fn arrival(&mut self, connection: u64, forward: bool, now_us: u64, delay_us: u64) -> Option<u64> {
        let connection = self.connections.get_mut(&connection)?;
        let last_us = &mut connection.last_us[usize::from(forward)];
        *last_us = (*last_us + 1).max(now_us + delay_us);
        Some(*last_us)
    }

    pub(super) fn remove(&mut self, connection: u64) -> Option<Connection> {
        let removed = self.connections.remove(&connection)?;
        self.dialled.retain(|_, &mut number| number != connection);
        Some(removed)
    }

    /// The connections of a server.
    pub(super) fn of(&self, server: usize) -> Vec<u64> {
        let touches = |c: &Connection| c.from.0 == server || c.to.0 == server;
        self.connections.iter().filter(|(_, c)| touches(c)).map(|(&number, _)| number).collect()
    }

    /// The connections between servers that are cut off from each other.
    pub(super) fn cut(&self) -> Vec<u64> {
        let cut = |c: &Connection| self.is_blocked(c.from.0, c.to.0);
        self.connections.iter().filter(|(_, c)| cut(c)).map(|(&number, _)| number).collect()
    }

    pub(super) fn is_blocked(&self, a: usize, b: usize) -> bool {
        self.blocked.contains(&(a.min(b), a.max(b)))
    }

    /// Cuts the servers in `group` off from the others.
    pub(super) fn partition(&mut self, servers: usize, group: &BTreeSet<usize>) {
        for a in 0..servers {
            for b in a + 1..servers {
                if group.contains(&a) != group.contains(&b) {
                    self.blocked.insert((a, b));
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.blocked.clear();
    }
}
