//! Servers whose clocks run as the test wants, on a network that the test rules. Deterministic.
//!
//! The net knows the true time; every server has a monotonic clock that drifts, and a wall clock that is off besides.
//! After every step the laws of clocks are asserted: the wall clock never goes back and keeps the slew rate, unless it
//! was stepped or the system clock was set.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Machine, Mono, Now, ServerName, Wall};
use dsv2_sync::clock_sync::{Berkeley, BerkeleyConfig, ClockEffect, ClockInput, ClockMessage, ClockSync, RoundReport};
use dsv2_sync::election::{Coordinator, Epoch, NodeId};

/// Noon of some day, when every test begins.
pub const NOON_US: i64 = 1_795_348_800_000_000;
pub const HOUR_US: i64 = 3_600_000_000;

pub fn name(text: &str) -> ServerName {
    text.parse().expect("a name")
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { number, node: NodeId(1) }
}

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

    pub fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

pub struct Clock {
    pub machine: Berkeley,
    pub drift_ppm: i64,
    /// How far its system's wall clock is off, in microseconds, drift not included.
    pub error_us: i64,
    /// It answers, whatever it is told, its system's time and so much more.
    pub lie_us: i64,
    last: Option<(Now, Wall)>,
    /// The wall clock may have been stepped since it was last looked at.
    stepped: bool,
}

impl Clock {
    fn now(&self, true_us: u64) -> Now {
        let shift = i64::try_from(true_us).expect("in range") * self.drift_ppm / 1_000_000;
        let mono_us = true_us.saturating_add_signed(shift);
        let wall_us = NOON_US + i64::try_from(mono_us).expect("in range") + self.error_us;
        Now { mono: Mono { us: mono_us }, wall: Wall { us: wall_us } }
    }

    /// The first true time at which its monotonic clock has reached that reading.
    fn true_us(&self, mono: Mono) -> u64 {
        let mut guess =
            u64::try_from(u128::from(mono.us) * 1_000_000 / (1_000_000 + self.drift_ppm) as u128).expect("in range");
        guess = guess.saturating_sub(3);
        while self.now(guess).mono < mono {
            guess += 1;
        }
        guess
    }
}

pub struct Net {
    pub true_us: u64,
    pub config: BerkeleyConfig,
    pub clocks: BTreeMap<ServerName, Clock>,
    pub delay_us: (u64, u64),
    pub loss_permille: u64,
    pub rng: Rng,
    pub cut: BTreeSet<ServerName>,
    pub effects: Vec<(u64, ServerName, ClockEffect)>,
    pub reports: Vec<RoundReport>,
    pub keeps_effects: bool,
    posts: BTreeMap<(u64, u64), (ServerName, ClockInput)>,
    count: u64,
}

impl Net {
    /// `clocks`: name, error in microseconds, drift in ppm. All are linked, all know all; nobody coordinates yet.
    pub fn new(config: BerkeleyConfig, clocks: &[(&str, i64, i64)], seed: u64) -> Self {
        let mut net = Self {
            true_us: 0,
            config,
            clocks: BTreeMap::new(),
            delay_us: (200, 200),
            loss_permille: 0,
            rng: Rng(seed),
            cut: BTreeSet::new(),
            effects: Vec::new(),
            reports: Vec::new(),
            keeps_effects: true,
            posts: BTreeMap::new(),
            count: 0,
        };
        for &(server, error_us, drift_ppm) in clocks {
            let machine = Berkeley::new(name(server), net.config.clone(), Now::default());
            let mut clock = Clock { machine, drift_ppm, error_us, lie_us: 0, last: None, stepped: true };
            clock.machine = Berkeley::new(name(server), net.config.clone(), clock.now(0));
            net.clocks.insert(name(server), clock);
        }
        let all: Vec<ServerName> = net.clocks.keys().cloned().collect();
        for server in &all {
            net.feed(server, ClockInput::Members(all.clone()));
            for peer in all.iter().filter(|peer| *peer != server) {
                net.feed(server, ClockInput::LinkUp(peer.clone()));
            }
        }
        net
    }

    pub fn lead(&mut self, leader: &str, number: u64) {
        let coordinator = Coordinator { name: name(leader), epoch: epoch(number) };
        for server in self.clocks.keys().cloned().collect::<Vec<_>>() {
            self.feed(&server, ClockInput::Coordinator(Some(coordinator.clone())));
        }
    }

    pub fn now(&self, server: &str) -> Now {
        self.clocks[&name(server)].now(self.true_us)
    }

    pub fn wall_us(&self, server: &str) -> i64 {
        self.clocks[&name(server)].machine.wall(self.now(server)).us
    }

    /// How far a wall clock is ahead of the true time.
    pub fn ahead_us(&self, server: &str) -> i64 {
        self.wall_us(server) - NOON_US - i64::try_from(self.true_us).expect("in range")
    }

    pub fn offset_us(&self, server: &str) -> i64 {
        self.clocks[&name(server)].machine.status(self.now(server)).offset_us
    }

    /// Sets a server's system clock.
    pub fn set_system(&mut self, server: &str, by_us: i64) {
        let clock = self.clocks.get_mut(&name(server)).expect("known");
        clock.error_us += by_us;
        clock.stepped = true;
    }

    pub fn run_ms(&mut self, ms: u64) {
        let until = self.true_us + ms * 1_000;
        loop {
            let wakes = self
                .clocks
                .iter()
                .filter_map(|(server, clock)| Some((clock.true_us(clock.machine.deadline()?), Some(server))));
            let posts = self.posts.keys().next().map(|&(at, _)| (at, None));
            let next = wakes.chain(posts).min_by_key(|&(at, _)| at).filter(|&(at, _)| at <= until);
            let Some((at, server)) = next.map(|(at, server)| (at, server.cloned())) else { break };
            self.true_us = self.true_us.max(at);
            if let Some(server) = server {
                self.feed(&server, ClockInput::Wake);
            } else if let Some((_, (to, input))) = self.posts.pop_first() {
                self.feed(&to, input);
            }
        }
        self.true_us = until;
    }

    pub fn feed(&mut self, server: &ServerName, input: ClockInput) {
        let clock = self.clocks.get_mut(server).expect("known");
        let now = clock.now(self.true_us);
        clock.check(server, now, &self.config);
        let mut effects = Vec::new();
        clock.machine.step(now, input, &mut effects);
        let due = clock.machine.deadline();
        assert!(due.is_none_or(|at| at > now.mono), "{server}: its deadline is in the past");
        clock.stepped |= effects.iter().any(|effect| matches!(effect, ClockEffect::Adjusted { stepped: true, .. }));
        clock.check(server, now, &self.config);
        let lie_us = clock.lie_us;
        for effect in effects {
            match &effect {
                ClockEffect::Send { to, message } => self.transmit(server, &to.clone(), message.clone(), lie_us),
                ClockEffect::RoundDone(report) | ClockEffect::RoundRefused { report, .. } => {
                    self.reports.push(report.clone());
                }
                _ => {}
            }
            if self.keeps_effects {
                self.effects.push((self.true_us, server.clone(), effect));
            }
        }
    }

    fn transmit(&mut self, from: &ServerName, to: &ServerName, mut message: ClockMessage, lie_us: i64) {
        let lost = self.rng.next() % 1_000 < self.loss_permille || self.cut.contains(from) || self.cut.contains(to);
        let delay_us = self.rng.between(self.delay_us);
        if lost || !self.clocks.contains_key(to) {
            return;
        }
        if let ClockMessage::Reading { wall, offset_us, left_us, .. } = &mut message
            && lie_us != 0
        {
            (*wall, *offset_us, *left_us) = (self.clocks[from].now(self.true_us).wall.offset(lie_us), 0, 0);
        }
        self.count += 1;
        let input = ClockInput::Message { from: from.clone(), message };
        self.posts.insert((self.true_us + delay_us, self.count), (to.clone(), input));
    }

    /// Takes the effects seen so far.
    pub fn take(&mut self) -> Vec<(u64, ServerName, ClockEffect)> {
        std::mem::take(&mut self.effects)
    }
}

impl Clock {
    /// The laws.
    fn check(&mut self, server: &ServerName, now: Now, config: &BerkeleyConfig) {
        let wall = self.machine.wall(now);
        if let Some((last, before)) = self.last.filter(|_| !self.stepped) {
            assert!(wall >= before, "{server}: the wall clock went back by {} us", before.us - wall.us);
            let elapsed_us = now.mono.us - last.mono.us;
            let gained_us = (wall.us - before.us).abs_diff(i64::try_from(elapsed_us).expect("in range"));
            assert!(
                gained_us <= elapsed_us * u64::from(config.slew_ppm) / 1_000_000 + 1,
                "{server} slews too fast: {gained_us} us"
            );
        }
        (self.last, self.stepped) = (Some((now, wall)), false);
    }
}
