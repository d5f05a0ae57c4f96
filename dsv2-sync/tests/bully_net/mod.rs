//! A cluster of `Bully` machines on a network that the test rules: delay, loss, cuts, crashes. Deterministic.
//!
//! After every step of every machine the laws of elections are asserted, so a test only has to make things happen.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Machine, Mono, Now, ServerName, Wall};
use dsv2_sync::election::{
    Bully, BullyConfig, ChangeReason, Coordinator, Election, ElectionEffect, ElectionInput, ElectionMessage, Epoch,
    Member, NodeId,
};

/// A small generator (SplitMix64): the tests need reproducible, not good, randomness.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

pub struct Node {
    pub rank: u64,
    pub machine: Option<Bully>,
    /// What survives a crash.
    pub saved: Epoch,
    pub node: NodeId,
    life: u64,
    /// Links that it was told are up.
    links: BTreeSet<ServerName>,
    /// As told by `Changed`.
    told: Option<Coordinator>,
    drained: bool,
}

enum Event {
    Deliver { to: ServerName, life: u64, input: ElectionInput },
}

pub struct Change {
    pub at: Mono,
    pub server: ServerName,
    pub old: Option<Coordinator>,
    pub new: Option<Coordinator>,
    pub reason: ChangeReason,
}

/// What the network does to messages.
pub struct Weather {
    pub delay_ms: (u64, u64),
    pub loss_permille: u64,
}

pub struct Net {
    pub now: Mono,
    pub config: BullyConfig,
    pub nodes: BTreeMap<ServerName, Node>,
    pub weather: Weather,
    pub rng: Rng,
    /// Pairs between which nothing arrives.
    pub cuts: BTreeSet<(ServerName, ServerName)>,
    /// Whether servers are told the ranks of the others, as by the reference.
    pub listing: bool,
    pub changes: Vec<Change>,
    pub effects: Vec<(Mono, ServerName, ElectionEffect)>,
    events: BTreeMap<(Mono, u64), Event>,
    count: u64,
    owners: BTreeMap<Epoch, ServerName>,
    /// The next step of any machine dies after so many of its effects.
    pub die_after: Option<(ServerName, usize)>,
}

pub fn name(text: &str) -> ServerName {
    text.parse().expect("a name")
}

fn pair(a: &ServerName, b: &ServerName) -> (ServerName, ServerName) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl Net {
    pub fn new(config: BullyConfig, servers: &[(&str, u64)], seed: u64) -> Self {
        let node = |rank: u64| Node {
            rank,
            machine: None,
            saved: Epoch::ZERO,
            node: NodeId(u128::from(rank)),
            life: 0,
            links: BTreeSet::new(),
            told: None,
            drained: false,
        };
        Self {
            now: Mono::ZERO,
            config,
            nodes: servers.iter().map(|&(server, rank)| (name(server), node(rank))).collect(),
            weather: Weather { delay_ms: (1, 1), loss_permille: 0 },
            rng: Rng(seed),
            cuts: BTreeSet::new(),
            listing: true,
            changes: Vec::new(),
            effects: Vec::new(),
            events: BTreeMap::new(),
            count: 0,
            owners: BTreeMap::new(),
            die_after: None,
        }
    }

    pub fn members(&self, me: &ServerName) -> Vec<Member> {
        let listed = self.nodes.iter().filter(|(server, _)| self.listing || *server == me);
        listed.map(|(name, node)| Member { name: name.clone(), rank: Some(node.rank), node: Some(node.node) }).collect()
    }

    pub fn alive(&self) -> Vec<ServerName> {
        self.nodes.iter().filter(|(_, node)| node.machine.is_some()).map(|(name, _)| name.clone()).collect()
    }

    pub fn machine(&self, server: &ServerName) -> &Bully {
        self.nodes[server].machine.as_ref().expect("it is alive")
    }

    pub fn connected(&self, a: &ServerName, b: &ServerName) -> bool {
        !self.cuts.contains(&pair(a, b))
    }

    pub fn start(&mut self, server: &ServerName) {
        let (config, now) = (self.config.clone(), self.now);
        let node = self.nodes.get_mut(server).expect("known");
        assert!(node.machine.is_none(), "{server} is alive");
        node.machine = Some(Bully::new(server.clone(), node.node, node.saved, config, now));
        (node.told, node.drained) = (None, false);
        node.links.clear();
        let members = self.members(server);
        self.feed(server, ElectionInput::Members(members));
        for peer in self.alive() {
            if peer != *server && self.connected(&peer, server) {
                self.tell_link(server, &peer, true);
                self.tell_link(&peer, server, true);
            }
        }
    }

    /// Ends a server. Where it is `visible`, the others see their links break.
    pub fn crash(&mut self, server: &ServerName, visible: bool) {
        let node = self.nodes.get_mut(server).expect("known");
        node.machine = None;
        node.life += 1;
        for peer in self.alive() {
            if visible && self.connected(&peer, server) {
                self.tell_link(&peer, server, false);
            }
        }
    }

    pub fn cut(&mut self, a: &ServerName, b: &ServerName, visible: bool) {
        if self.cuts.insert(pair(a, b)) && visible {
            self.tell_link(a, b, false);
            self.tell_link(b, a, false);
        }
    }

    pub fn join(&mut self, a: &ServerName, b: &ServerName) {
        self.cuts.remove(&pair(a, b));
        self.tell_link(a, b, true);
        self.tell_link(b, a, true);
    }

    pub fn isolate(&mut self, server: &ServerName, visible: bool) {
        for peer in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if peer != *server {
                self.cut(&peer, server, visible);
            }
        }
    }

    pub fn join_all(&mut self) {
        let names: Vec<ServerName> = self.nodes.keys().cloned().collect();
        for (index, a) in names.iter().enumerate() {
            for b in &names[index + 1..] {
                self.join(a, b);
            }
        }
    }

    /// A server learns, a little later, what became of a link; only if that is news to it, and both ends live.
    fn tell_link(&mut self, server: &ServerName, peer: &ServerName, up: bool) {
        let peer_lives = self.nodes[peer].machine.is_some();
        let node = self.nodes.get_mut(server).expect("known");
        if node.machine.is_none() || (up && !peer_lives) {
            return;
        }
        let news = if up { node.links.insert(peer.clone()) } else { node.links.remove(peer) };
        if news {
            let input = if up { ElectionInput::LinkUp(peer.clone()) } else { ElectionInput::LinkDown(peer.clone()) };
            let life = node.life;
            self.post(1, server, life, input);
        }
    }

    fn post(&mut self, delay_ms: u64, to: &ServerName, life: u64, input: ElectionInput) {
        self.count += 1;
        let at = Mono { us: self.now.us + delay_ms * 1_000 };
        self.events.insert((at, self.count), Event::Deliver { to: to.clone(), life, input });
    }

    fn next_event(&self) -> Option<(Mono, Option<ServerName>)> {
        let wakes =
            self.nodes.iter().filter_map(|(server, node)| Some((node.machine.as_ref()?.deadline()?, Some(server))));
        let posts = self.events.keys().next().map(|&(at, _)| (at, None));
        wakes.chain(posts).min_by_key(|&(at, _)| at).map(|(at, server)| (at, server.cloned()))
    }

    pub fn run_ms(&mut self, ms: u64) {
        self.run_until(Mono { us: self.now.us + ms * 1_000 });
    }

    pub fn run_until(&mut self, until: Mono) {
        while let Some((at, server)) = self.next_event().filter(|&(at, _)| at <= until) {
            self.now = self.now.max(at);
            if let Some(server) = server {
                self.feed(&server, ElectionInput::Wake);
                continue;
            }
            let Some((_, Event::Deliver { to, life, input })) = self.events.pop_first() else { continue };
            let node = &self.nodes[&to];
            // A stream that broke delivers nothing more.
            let reaches = match &input {
                ElectionInput::Message { from, .. } => self.connected(from, &to) && node.links.contains(from),
                _ => true,
            };
            if reaches && node.life == life && node.machine.is_some() {
                self.feed(&to, input);
            }
        }
        self.now = until;
    }

    /// Runs until the condition holds, at most so long; returns how long it took, in milliseconds.
    pub fn run_until_holds(&mut self, at_most_ms: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now;
        while !holds(self) {
            if self.now.since(start).as_millis() >= u128::from(at_most_ms) {
                return None;
            }
            self.run_ms(1);
        }
        u64::try_from(self.now.since(start).as_millis()).ok()
    }

    pub fn feed(&mut self, server: &ServerName, input: ElectionInput) {
        let now = Now { mono: self.now, wall: Wall::default() };
        let node = self.nodes.get_mut(server).expect("known");
        let Some(machine) = node.machine.as_mut() else { return };
        node.drained |= input == ElectionInput::Stepdown;
        let before = machine.epoch();
        let mut effects = Vec::new();
        machine.step(now, input, &mut effects);
        assert!(machine.epoch() >= before, "{server}: the epoch went back");
        assert!(machine.deadline().is_none_or(|at| at > self.now), "{server}: its deadline is in the past");
        let leads = machine.coordinator().is_some_and(|who| who.name == *server);
        assert_eq!(machine.is_coordinator(self.now), leads, "{server}");
        assert!(!(leads && node.drained), "{server} leads although it is about to stop");
        let (knows, epoch) = (machine.coordinator().cloned(), machine.epoch());
        for who in knows.iter().filter(|who| who.epoch != Epoch::ZERO) {
            assert!(who.epoch <= epoch);
            let owner = self.owners.entry(who.epoch).or_insert_with(|| who.name.clone());
            assert_eq!(*owner, who.name, "two coordinators in epoch {}", who.epoch);
        }
        let dies = self.die_after.take_if(|(who, _)| who == server).map(|(_, after)| after);
        for effect in effects.into_iter().take(dies.unwrap_or(usize::MAX)) {
            self.carry_out(server, effect);
        }
        if dies.is_some() {
            self.crash(server, true);
        } else {
            assert_eq!(self.nodes[server].told, knows, "{server}: a change was not told");
        }
    }

    fn carry_out(&mut self, server: &ServerName, effect: ElectionEffect) {
        let node = self.nodes.get_mut(server).expect("known");
        match &effect {
            ElectionEffect::Save(epoch) => {
                assert!(*epoch > node.saved, "{server}: the saved epoch went back");
                node.saved = *epoch;
            }
            ElectionEffect::Changed { old, new, reason } => {
                assert_eq!(node.told, *old, "{server}: the old coordinator is another");
                node.told.clone_from(new);
                let (old, new) = (old.clone(), new.clone());
                self.changes.push(Change { at: self.now, server: server.clone(), old, new, reason: *reason });
            }
            ElectionEffect::Announce(who) => {
                assert_eq!(who.name, *server);
                assert!(who.epoch <= node.saved, "{server} announced before it saved");
            }
            ElectionEffect::Send { to, message } => {
                assert!(highest_epoch(message) <= node.saved, "{server} spoke of an epoch before it saved it");
                let message = ElectionInput::Message { from: server.clone(), message: message.clone() };
                self.transmit(server, &to.clone(), message);
            }
            _ => {}
        }
        self.effects.push((self.now, server.clone(), effect));
    }

    fn transmit(&mut self, from: &ServerName, to: &ServerName, message: ElectionInput) {
        let (low, high) = self.weather.delay_ms;
        let delay = low + self.rng.below(high - low + 1);
        let lost = self.rng.below(1_000) < self.weather.loss_permille;
        if let Some(node) = self.nodes.get(to).filter(|_| !lost && self.connected(from, to)) {
            self.post(delay, to, node.life, message);
        }
    }

    /// The one whom all of these follow, itself included, if there is one.
    pub fn agreed(&self, servers: &[ServerName]) -> Option<ServerName> {
        let mut views = servers.iter().map(|server| self.machine(server).coordinator());
        let first = views.next()??;
        let leads = servers.contains(&first.name) && self.machine(&first.name).is_coordinator(self.now);
        (leads && views.all(|view| view == Some(first))).then(|| first.name.clone())
    }

    /// Every change so far, a line each, for failures.
    pub fn story(&self) -> String {
        let show =
            |who: &Option<Coordinator>| who.as_ref().map_or("none".into(), |who| format!("{} {}", who.name, who.epoch));
        let line = |c: &Change| {
            format!("\n{:>9} {}: {} -> {} ({})", c.at.us / 1_000, c.server, show(&c.old), show(&c.new), c.reason)
        };
        self.changes.iter().map(line).collect()
    }

    /// The best of these that is not about to stop.
    pub fn best(&self, servers: &[ServerName]) -> Option<ServerName> {
        let able = servers.iter().filter(|server| !self.nodes[*server].drained).cloned();
        able.reduce(|a, b| {
            let (rank_a, rank_b) = (Some(self.nodes[&a].rank), Some(self.nodes[&b].rank));
            if self.config.rank.prefers((rank_a, &a), (rank_b, &b)) { a } else { b }
        })
    }
}

fn highest_epoch(message: &ElectionMessage) -> Epoch {
    match message {
        ElectionMessage::Election { epoch, .. } | ElectionMessage::Ok { epoch, .. } => epoch.unwrap_or(Epoch::ZERO),
        ElectionMessage::Coordinator(claim) | ElectionMessage::Heartbeat(claim) => claim.epoch,
        ElectionMessage::View { epoch, seen } => seen.as_ref().map_or(*epoch, |seen| seen.claim.epoch.max(*epoch)),
        ElectionMessage::Ack { epoch } | ElectionMessage::Resign { epoch } => *epoch,
        _ => Epoch::ZERO,
    }
}
