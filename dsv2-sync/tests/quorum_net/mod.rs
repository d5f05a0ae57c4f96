//! A cluster of `QuorumBully` machines on a network that the test rules: delay, loss, cuts, crashes, pauses, and clocks
//! that run at different rates. Deterministic.
//!
//! After every step of every machine the laws are checked; what breaks one is kept in `violations`.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Machine, Mono, Now, ServerName, Wall};
use dsv2_sync::election::{
    Coordinator, Election, ElectionEffect, ElectionInput, ElectionMessage, Epoch, Member, NodeId, Planted, QuorumBully,
    QuorumConfig,
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
    pub machine: Option<QuorumBully>,
    /// What survives a crash.
    pub epoch: Epoch,
    pub vote: Epoch,
    /// Its clock gains so many millionths on true time.
    pub drift_ppm: i64,
    pub paused: bool,
    life: u64,
    links: BTreeSet<ServerName>,
    told: Option<Coordinator>,
    drained: bool,
}

impl Node {
    /// Its clock, when true time is `us`.
    fn clock(&self, us: u64) -> Mono {
        let scaled = u128::from(us) * u128::try_from(1_000_000 + self.drift_ppm).unwrap_or(0) / 1_000_000;
        Mono { us: u64::try_from(scaled).unwrap_or(u64::MAX) }
    }

    /// The first true time at which its clock shows that.
    fn true_time(&self, mono: Mono) -> u64 {
        let rate = u128::try_from(1_000_000 + self.drift_ppm).unwrap_or(1);
        u64::try_from((u128::from(mono.us) * 1_000_000).div_ceil(rate)).unwrap_or(u64::MAX)
    }
}

struct Post {
    to: ServerName,
    life: u64,
    input: ElectionInput,
}

pub struct Net {
    /// True time, in microseconds.
    pub now: u64,
    pub config: QuorumConfig,
    pub nodes: BTreeMap<ServerName, Node>,
    pub delay_ms: (u64, u64),
    pub loss_permille: u64,
    pub rng: Rng,
    pub cuts: BTreeSet<(ServerName, ServerName)>,
    pub listing: bool,
    pub effects: Vec<(u64, ServerName, ElectionEffect)>,
    pub violations: Vec<String>,
    pub planted: Option<Planted>,
    /// The next step of any machine dies after so many of its effects.
    pub die_after: Option<(ServerName, usize)>,
    posts: BTreeMap<(u64, u64), Post>,
    /// What a paused server had sent, and what was sent to it.
    held: Vec<Post>,
    count: u64,
    owners: BTreeMap<u64, ServerName>,
}

pub fn name(text: &str) -> ServerName {
    text.parse().expect("a name")
}

fn pair(a: &ServerName, b: &ServerName) -> (ServerName, ServerName) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl Net {
    /// The first `voters` of the servers vote; the others are learners.
    pub fn new(servers: &[(&str, u64)], voters: usize, seed: u64) -> Self {
        let node = |rank: u64| Node {
            rank,
            machine: None,
            epoch: Epoch::ZERO,
            vote: Epoch::ZERO,
            drift_ppm: 0,
            paused: false,
            life: 0,
            links: BTreeSet::new(),
            told: None,
            drained: false,
        };
        Self {
            now: 0,
            config: QuorumConfig::new(servers.iter().take(voters).map(|&(server, _)| name(server)).collect()),
            nodes: servers.iter().map(|&(server, rank)| (name(server), node(rank))).collect(),
            delay_ms: (1, 1),
            loss_permille: 0,
            rng: Rng(seed),
            cuts: BTreeSet::new(),
            listing: true,
            effects: Vec::new(),
            violations: Vec::new(),
            planted: None,
            die_after: None,
            posts: BTreeMap::new(),
            held: Vec::new(),
            count: 0,
            owners: BTreeMap::new(),
        }
    }

    /// Lets every clock run at a rate of its own, up to the margin.
    pub fn drift(&mut self) {
        let most = self.config.drift_permille * 1_000;
        for node in self.nodes.values_mut() {
            let draw = match self.rng.below(4) {
                0 => 0,
                1 => 2 * most,
                _ => self.rng.below(2 * most + 1),
            };
            node.drift_ppm = i64::try_from(draw).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
        }
    }

    fn members(&self, me: &ServerName) -> Vec<Member> {
        let listed = self.nodes.iter().filter(|(server, _)| self.listing || *server == me);
        listed
            .map(|(name, node)| Member {
                name: name.clone(),
                rank: Some(node.rank),
                node: Some(NodeId(u128::from(node.rank))),
            })
            .collect()
    }

    pub fn alive(&self) -> Vec<ServerName> {
        self.nodes.iter().filter(|(_, node)| node.machine.is_some()).map(|(name, _)| name.clone()).collect()
    }

    pub fn machine(&self, server: &ServerName) -> &QuorumBully {
        self.nodes[server].machine.as_ref().expect("it is alive")
    }

    /// Whether a server would say, if asked now, that it leads.
    pub fn leads(&self, server: &ServerName) -> bool {
        let node = &self.nodes[server];
        node.machine.as_ref().is_some_and(|machine| machine.is_coordinator(node.clock(self.now)))
    }

    fn connected(&self, a: &ServerName, b: &ServerName) -> bool {
        !self.cuts.contains(&pair(a, b))
    }

    pub fn start(&mut self, server: &ServerName) {
        let (config, now, planted) = (self.config.clone(), self.now, self.planted);
        let node = self.nodes.get_mut(server).expect("known");
        assert!(node.machine.is_none(), "{server} is alive");
        let id = NodeId(u128::from(node.rank));
        let mut machine = QuorumBully::new(server.clone(), id, node.epoch, node.vote, config, node.clock(now));
        planted.into_iter().for_each(|bug| machine.plant(bug));
        node.machine = Some(machine);
        (node.told, node.drained, node.paused) = (None, false, false);
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
        (node.machine, node.paused) = (None, false);
        node.life += 1;
        for peer in self.alive() {
            if visible && self.connected(&peer, server) {
                self.tell_link(&peer, server, false);
            }
        }
    }

    /// Stops a process (SIGSTOP): it does nothing, and what it had sent has not left its machine.
    pub fn pause(&mut self, server: &ServerName) {
        self.nodes.get_mut(server).expect("known").paused = true;
        let sent = |post: &Post| matches!(&post.input, ElectionInput::Message { from, .. } if from == server);
        let keys: Vec<_> = self.posts.iter().filter(|(_, post)| sent(post)).map(|(key, _)| *key).collect();
        let held: Vec<Post> = keys.iter().filter_map(|key| self.posts.remove(key)).collect();
        self.held.extend(held);
    }

    /// Lets it go on (SIGCONT): all that was held arrives, before anything that is still on its way.
    pub fn resume(&mut self, server: &ServerName) {
        self.nodes.get_mut(server).expect("known").paused = false;
        let concerns = |post: &Post| {
            post.to == *server || matches!(&post.input, ElectionInput::Message { from, .. } if from == server)
        };
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(concerns);
        self.held = held;
        let free: Vec<Post> = free;
        free.into_iter().for_each(|post| self.post(0, &post.to, post.life, post.input));
    }

    pub fn cut(&mut self, a: &ServerName, b: &ServerName, visible: bool) {
        if self.cuts.insert(pair(a, b)) && visible {
            self.tell_link(a, b, false);
            self.tell_link(b, a, false);
        }
    }

    pub fn isolate(&mut self, server: &ServerName, visible: bool) {
        for peer in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if peer != *server {
                self.cut(&peer, server, visible);
            }
        }
    }

    pub fn join_all(&mut self) {
        self.cuts.clear();
        let names: Vec<ServerName> = self.nodes.keys().cloned().collect();
        for a in &names {
            for b in names.iter().filter(|b| *b != a) {
                self.tell_link(a, b, true);
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
        if if up { node.links.insert(peer.clone()) } else { node.links.remove(peer) } {
            let input = if up { ElectionInput::LinkUp(peer.clone()) } else { ElectionInput::LinkDown(peer.clone()) };
            let life = node.life;
            self.post(1, server, life, input);
        }
    }

    fn post(&mut self, delay_ms: u64, to: &ServerName, life: u64, input: ElectionInput) {
        self.count += 1;
        self.posts.insert((self.now + delay_ms * 1_000, self.count), Post { to: to.clone(), life, input });
    }

    fn next_event(&self) -> Option<(u64, Option<ServerName>)> {
        let wakes = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.paused)
            .filter_map(|(server, node)| Some((node.true_time(node.machine.as_ref()?.deadline()?), Some(server))));
        let posts = self.posts.keys().next().map(|&(at, _)| (at, None));
        wakes.chain(posts).min_by_key(|&(at, _)| at).map(|(at, server)| (at, server.cloned()))
    }

    pub fn run_ms(&mut self, ms: u64) {
        let until = self.now + ms * 1_000;
        while let Some((at, server)) = self.next_event().filter(|&(at, _)| at <= until) {
            self.now = self.now.max(at);
            if let Some(server) = server {
                self.feed(&server, ElectionInput::Wake);
                continue;
            }
            let Some((_, post)) = self.posts.pop_first() else { continue };
            if self.nodes[&post.to].paused {
                self.held.push(post);
                continue;
            }
            let node = &self.nodes[&post.to];
            // A stream that broke delivers nothing more.
            let reaches = match &post.input {
                ElectionInput::Message { from, .. } => self.connected(from, &post.to) && node.links.contains(from),
                _ => true,
            };
            if reaches && node.life == post.life && node.machine.is_some() {
                self.feed(&post.to, post.input);
            }
        }
        self.now = until;
    }

    /// Runs until the condition holds, at most so long; returns how long it took, in milliseconds.
    pub fn run_until_holds(&mut self, at_most_ms: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now;
        while !holds(self) {
            if self.now - start >= at_most_ms * 1_000 {
                return None;
            }
            self.run_ms(1);
        }
        Some((self.now - start) / 1_000)
    }

    pub fn feed(&mut self, server: &ServerName, input: ElectionInput) {
        let node = self.nodes.get_mut(server).expect("known");
        let mono = node.clock(self.now);
        let Some(machine) = node.machine.as_mut() else { return };
        node.drained |= input == ElectionInput::Stepdown;
        let before = machine.epoch();
        let mut effects = Vec::new();
        machine.step(Now { mono, wall: Wall::default() }, input, &mut effects);
        let (after, deadline, knows) = (machine.epoch(), machine.deadline(), machine.coordinator().cloned());
        let drained = node.drained;
        self.require(after >= before, || format!("{server}: the epoch went back"));
        self.require(deadline.is_none_or(|at| at > mono), || format!("{server}: its deadline is in the past"));
        let dies = self.die_after.take_if(|(who, _)| who == server).map(|(_, after)| after);
        for effect in effects.into_iter().take(dies.unwrap_or(usize::MAX)) {
            self.carry_out(server, effect);
        }
        if dies.is_some() {
            return self.crash(server, true);
        }
        self.require(self.nodes[server].told == knows, || format!("{server}: a change was not told"));
        if self.leads(server) {
            self.require(!drained, || format!("{server} leads although it is about to stop"));
            self.check_leader(server, knows);
        }
    }

    /// At most one coordinator for each number, and at most one lease at any time.
    fn check_leader(&mut self, server: &ServerName, knows: Option<Coordinator>) {
        let Some(who) = knows else { return self.violations.push(format!("{server} leads no epoch")) };
        let owner = self.owners.entry(who.epoch.number).or_insert_with(|| who.name.clone()).clone();
        self.require(owner == *server, || format!("{owner} and {server} both led in epoch {}", who.epoch.number));
        self.require(who.name == *server, || format!("{server} leads, and names {}", who.name));
        let leaders: Vec<ServerName> = self.nodes.keys().filter(|other| self.leads(other)).cloned().collect();
        self.require(leaders.len() < 2, || format!("two leases: {leaders:?}"));
    }

    fn require(&mut self, holds: bool, what: impl Fn() -> String) {
        if !holds {
            self.violations.push(format!("{} ms: {}", self.now / 1_000, what()));
        }
    }

    fn carry_out(&mut self, server: &ServerName, effect: ElectionEffect) {
        let (epoch, vote, told) = {
            let node = &self.nodes[server];
            (node.epoch, node.vote, node.told.clone())
        };
        let sound = self.planted.is_none();
        match &effect {
            ElectionEffect::Save(of) => {
                self.require(*of > epoch, || format!("{server}: the saved epoch went back"));
                self.nodes.get_mut(server).expect("known").epoch = *of;
            }
            ElectionEffect::SaveVote(of) => {
                self.require(of.number > vote.number, || format!("{server}: two votes for one number"));
                self.nodes.get_mut(server).expect("known").vote = *of;
            }
            ElectionEffect::Changed { old, new, .. } => {
                self.require(told == *old, || format!("{server}: the old coordinator is another"));
                self.nodes.get_mut(server).expect("known").told.clone_from(new);
            }
            ElectionEffect::Announce(who) => {
                self.require(!sound || who.epoch <= epoch, || format!("{server} announced before it saved"));
            }
            ElectionEffect::Send { to, message } => {
                let unsaved = sound && highest_epoch(message) > epoch;
                self.require(!unsaved, || format!("{server} spoke of an epoch before it saved it"));
                if let ElectionMessage::Grant { ballot } = message {
                    self.require(!sound || *ballot == vote, || format!("{server} granted before it saved"));
                }
                let input = ElectionInput::Message { from: server.clone(), message: message.clone() };
                self.transmit(server, &to.clone(), input);
            }
            _ => {}
        }
        self.effects.push((self.now, server.clone(), effect));
    }

    fn transmit(&mut self, from: &ServerName, to: &ServerName, message: ElectionInput) {
        let (low, high) = self.delay_ms;
        let delay = low + self.rng.below(high - low + 1);
        let lost = self.rng.below(1_000) < self.loss_permille;
        if let Some(node) = self.nodes.get(to).filter(|_| !lost && self.connected(from, to)) {
            self.post(delay, to, node.life, message);
        }
    }

    /// The one whom all of these follow, itself included, if there is one.
    pub fn agreed(&self, servers: &[ServerName]) -> Option<ServerName> {
        let mut views = servers.iter().map(|server| self.machine(server).coordinator());
        let first = views.next()??;
        (servers.contains(&first.name) && self.leads(&first.name) && views.all(|view| view == Some(first)))
            .then(|| first.name.clone())
    }

    /// The best of these that votes and is not about to stop.
    pub fn best(&self, servers: &[ServerName]) -> Option<ServerName> {
        let able = |server: &&ServerName| self.config.voters.contains(*server) && !self.nodes[*server].drained;
        servers.iter().filter(able).cloned().reduce(|a, b| {
            let (rank_a, rank_b) = (Some(self.nodes[&a].rank), Some(self.nodes[&b].rank));
            if self.config.rank.prefers((rank_a, &a), (rank_b, &b)) { a } else { b }
        })
    }

    /// Every change so far, a line each, for failures.
    pub fn story(&self) -> String {
        let show =
            |who: &Option<Coordinator>| who.as_ref().map_or("none".into(), |who| format!("{} {}", who.name, who.epoch));
        let line = |(at, server, effect): &(u64, ServerName, ElectionEffect)| match effect {
            ElectionEffect::Changed { old, new, reason } => {
                Some(format!("\n{:>9} {server}: {} -> {} ({reason})", at / 1_000, show(old), show(new)))
            }
            _ => None,
        };
        self.effects.iter().filter_map(line).collect()
    }
}

fn highest_epoch(message: &ElectionMessage) -> Epoch {
    match message {
        ElectionMessage::Election { epoch, .. } | ElectionMessage::Ok { epoch, .. } => epoch.unwrap_or(Epoch::ZERO),
        ElectionMessage::Lease { claim, .. } => claim.epoch,
        ElectionMessage::View { epoch, seen } => seen.as_ref().map_or(*epoch, |seen| seen.claim.epoch.max(*epoch)),
        ElectionMessage::Request { ballot, .. } | ElectionMessage::Grant { ballot } => *ballot,
        ElectionMessage::Support { epoch }
        | ElectionMessage::Renewed { epoch, .. }
        | ElectionMessage::Handover { epoch }
        | ElectionMessage::Resign { epoch } => *epoch,
        _ => Epoch::ZERO,
    }
}
