//! Berkeley's algorithm, both sides of it.

use std::collections::BTreeSet;
use std::time::Duration;

use dsv2_core::{Machine, Mono, Now, ServerName, Wall};

use super::round::{Arrived, Round};
use super::slew::extra_us;
use super::{ClockEffect, ClockInput, ClockMessage, ClockStatus, ClockSync, Part, VirtualWall, WallInterval};
use crate::election::{Coordinator, Epoch};

/// The most links that are probed.
const LINKS_CAP: usize = 1_000;

/// The figures of [`Berkeley`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BerkeleyConfig {
    /// γ: how far two clocks may differ and still agree; 100,000 µs. Clocks that were never synchronized by anything may
    /// need more; whatever is within it pulls the average.
    pub gamma_us: u64,
    /// How fast an offset moves; 500 µs a second, as system clocks are slewed. Less than 1,000,000, or time could go back.
    pub slew_ppm: u32,
    /// ρ: how much a system clock drifts at most; 100 µs a second. Only bounds depend on it.
    pub drift_ppm: u32,
    /// A round after so many client requests; 10, the family's figure.
    pub requests: u64,
    /// And after so long without one; 30,000 ms.
    pub period_ms: u64,
    /// Two rounds begin at least so far apart; 1,000 ms.
    pub gap_ms: u64,
    /// How long a round may take; 900 ms.
    pub round_ms: u64,
    /// When an unanswered probe is repeated; 250 ms.
    pub probe_ms: u64,
    /// How many readings of each clock; 4.
    pub samples: u32,
    /// How far the system's wall clock must move against its monotonic clock to count as set; 100,000 µs.
    pub jump_us: u64,
    /// How often the system's clocks are looked at, at least; 10,000 ms.
    pub look_ms: u64,
}

impl Default for BerkeleyConfig {
    fn default() -> Self {
        Self {
            gamma_us: 100_000,
            slew_ppm: 500,
            drift_ppm: 100,
            requests: 10,
            period_ms: 30_000,
            gap_ms: 1_000,
            round_ms: 900,
            probe_ms: 250,
            samples: 4,
            jump_us: 100_000,
            look_ms: 10_000,
        }
    }
}

impl BerkeleyConfig {
    pub(super) const fn probe(&self) -> Duration {
        Duration::from_millis(self.probe_ms)
    }

    /// How much a clock may have drifted in that time.
    pub(super) fn drift_us(&self, elapsed: Duration) -> u64 {
        let drift = (elapsed.as_micros() * u128::from(self.drift_ppm)).div_ceil(1_000_000);
        u64::try_from(drift).unwrap_or(u64::MAX)
    }
}

/// The last agreement that this server took part in.
#[derive(Clone, Debug)]
struct Agreed {
    epoch: Epoch,
    round: u64,
    at: Mono,
    error_us: u64,
    /// When this server's clock was read for it, at the latest; the bound grows from there.
    measured: Mono,
    outliers: Vec<ServerName>,
}

/// What a coordinator needs to run rounds.
#[derive(Clone, Debug, Default)]
struct Duty {
    number: u64,
    round: Option<Round>,
    /// When the last round began.
    began: Option<Mono>,
    requests: u64,
    wanted: bool,
    step: bool,
}

/// A server's part in Berkeley's algorithm: the coordinator's, and everybody's.
///
/// ```
/// use dsv2_core::{Mono, Now, Wall};
/// use dsv2_sync::clock_sync::{Berkeley, BerkeleyConfig, ClockSync};
/// let now = Now { mono: Mono::from_ms(5), wall: Wall::from_ms(1_700_000_000_000) };
/// let clock = Berkeley::new("server1".parse()?, BerkeleyConfig::default(), now);
/// assert_eq!(clock.wall(now), now.wall);
/// assert_eq!(clock.status(now).error_bound_us, None, "nobody agreed on anything yet");
/// # Ok::<(), dsv2_core::NameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Berkeley {
    config: BerkeleyConfig,
    me: ServerName,
    wall: VirtualWall,
    coordinator: Option<Coordinator>,
    members: BTreeSet<ServerName>,
    links: BTreeSet<ServerName>,
    /// While this server coordinates.
    duty: Option<Duty>,
    /// The next adjustment may be a step: nothing was agreed since the start, or since the system clock was set.
    fresh: bool,
    agreed: Option<Agreed>,
    /// The last round in which this server's clock was read by another, and when it first was.
    probed: Option<(Epoch, u64, Now)>,
    looked: Mono,
    nonces: u64,
}

impl Berkeley {
    /// A server whose clock agrees with nobody's yet.
    #[must_use]
    pub fn new(me: ServerName, config: BerkeleyConfig, now: Now) -> Self {
        let mut wall = VirtualWall::new(config.slew_ppm, config.jump_us);
        wall.look(now);
        Self {
            wall,
            me,
            coordinator: None,
            members: BTreeSet::new(),
            links: BTreeSet::new(),
            duty: None,
            fresh: true,
            agreed: None,
            probed: None,
            looked: now.mono,
            // Answers to an earlier life of this process must not fit.
            nonces: now.wall.us.unsigned_abs(),
            config,
        }
    }

    fn epoch(&self) -> Epoch {
        self.coordinator.as_ref().map_or(Epoch::ZERO, |coordinator| coordinator.epoch)
    }

    /// How many clocks there should be: the listed ones and the linked ones, this one included.
    fn member_count(&self) -> usize {
        self.members.union(&self.links).filter(|name| **name != self.me).count() + 1
    }

    /// What is still to be slewed.
    fn left_us(&self, now: Mono) -> i64 {
        let slew = self.wall.slew();
        slew.target_us().saturating_sub(slew.offset_us(now))
    }

    /// Looks at the system's clocks; everything measured before one was set is void.
    fn look(&mut self, now: Now, out: &mut Vec<ClockEffect>) {
        self.looked = now.mono;
        let Some(by_us) = self.wall.look(now) else { return };
        out.push(ClockEffect::SystemClockSet { by_us });
        (self.fresh, self.agreed, self.probed) = (true, None, None);
        if let Some(duty) = &mut self.duty {
            (duty.round, duty.wanted) = (None, true);
        } else if let Some(coordinator) = &self.coordinator {
            out.push(ClockEffect::Send { to: coordinator.name.clone(), message: ClockMessage::Request });
        }
    }

    fn on_coordinator(&mut self, coordinator: Option<Coordinator>) {
        let leads = coordinator.as_ref().is_some_and(|who| who.name == self.me && who.epoch != Epoch::ZERO);
        let same = coordinator == self.coordinator;
        self.coordinator = coordinator;
        if !leads {
            self.duty = None;
        } else if !same || self.duty.is_none() {
            // A new reign begins with a round; numbers start over, and rounds of the old reign are void.
            let began = self.duty.take().and_then(|duty| duty.began);
            self.duty = Some(Duty { began, wanted: true, ..Duty::default() });
        }
    }

    fn want(&mut self, step: bool) {
        if let Some(duty) = &mut self.duty {
            duty.wanted = true;
            duty.step |= step;
        }
    }

    fn on_message(&mut self, now: Now, from: ServerName, message: &ClockMessage, out: &mut Vec<ClockEffect>) {
        match *message {
            ClockMessage::Probe { epoch, round, nonce } => self.on_probe(now, from, (epoch, round), nonce, out),
            ClockMessage::Reading { epoch, round, nonce, wall, offset_us, left_us } => {
                let current = self.duty.as_ref().and_then(|duty| duty.round.as_ref());
                if current.is_some_and(|current| (current.epoch, current.number) == (epoch, round)) {
                    let arrived =
                        Arrived { nonce: Some(nonce), wall, offset_us: Some(offset_us), left_us, resolution_us: 0 };
                    self.on_reading(now, &from, &arrived);
                }
            }
            ClockMessage::Adjust { epoch, round, offset_us, error_bound_us, outlier, step } => {
                let outliers = if outlier { vec![self.me.clone()] } else { Vec::new() };
                // The new coordinator's word may come before the election's, never after it.
                let entitled = epoch > self.epoch()
                    || self.coordinator.as_ref().is_some_and(|c| c.name == from && c.epoch == epoch);
                let newer = self.agreed.as_ref().is_none_or(|agreed| (epoch, round) > (agreed.epoch, agreed.round));
                // Only a round that read this clock can know its offset; and every round speaks once.
                let fits = |of: &(Epoch, u64, Now)| entitled && newer && (of.0, of.1) == (epoch, round);
                let probed = self.probed.take_if(|of| fits(of));
                if let Some((.., measured)) = probed {
                    // The offset is one to the system clock, which may have moved a little since it was read.
                    let error_us = error_bound_us.saturating_add(extra_us(measured, now).0.unsigned_abs());
                    let agreed = Agreed { epoch, round, at: now.mono, error_us, measured: measured.mono, outliers };
                    self.settle(now, offset_us, step, agreed, out);
                }
            }
            ClockMessage::Request => self.want(false),
        }
    }

    /// Somebody reads this clock. A reign that is over may not.
    fn on_probe(&mut self, now: Now, from: ServerName, of: (Epoch, u64), nonce: u64, out: &mut Vec<ClockEffect>) {
        let (epoch, round) = of;
        if epoch < self.epoch() {
            return;
        }
        match &self.probed {
            Some((last, number, _)) if (*last, *number) > of => return,
            Some((last, number, _)) if (*last, *number) == of => {}
            _ => self.probed = Some((epoch, round, now)),
        }
        let wall = self.wall.read(now);
        let (offset_us, left_us) = (wall.us.saturating_sub(now.wall.us), self.left_us(now.mono));
        let message = ClockMessage::Reading { epoch, round, nonce, wall, offset_us, left_us };
        out.push(ClockEffect::Send { to: from, message });
    }

    fn on_reading(&mut self, now: Now, from: &ServerName, arrived: &Arrived) {
        if let Some(round) = self.duty.as_mut().and_then(|duty| duty.round.as_mut()) {
            round.take(now.mono, from, arrived);
        }
    }

    /// Takes a new offset.
    fn settle(&mut self, now: Now, offset_us: i64, step: bool, agreed: Agreed, out: &mut Vec<ClockEffect>) {
        let stepped = step || self.fresh;
        let by_us = offset_us.saturating_sub(self.wall.slew().offset_us(now.mono));
        self.wall.adjust(now.mono, offset_us, stepped);
        self.fresh = false;
        self.agreed = Some(agreed);
        if by_us != 0 {
            out.push(ClockEffect::Adjusted { offset_us, by_us, stepped });
        }
    }

    /// When the next round is due, if this server runs rounds and none is under way.
    fn round_due(&self) -> Option<Mono> {
        let duty = self.duty.as_ref().filter(|duty| duty.round.is_none())?;
        let Some(began) = duty.began else { return Some(Mono::ZERO) };
        let soon = duty.wanted || duty.requests >= self.config.requests;
        Some(began + Duration::from_millis(if soon { self.config.gap_ms } else { self.config.period_ms }))
    }

    fn run_timers(&mut self, now: Now, out: &mut Vec<ClockEffect>) {
        if self.round_due().is_some_and(|due| now.mono >= due) {
            self.begin(now);
        }
        let Some(duty) = &mut self.duty else { return };
        let Some(round) = &mut duty.round else { return };
        if now.mono >= round.until || round.is_complete(&self.config) {
            self.finish(now, out);
        } else {
            round.probe(now.mono, &mut self.nonces, &self.config, out);
        }
    }

    fn begin(&mut self, now: Now) {
        let Some(epoch) = self.coordinator.as_ref().map(|coordinator| coordinator.epoch) else { return };
        let peers: Vec<ServerName> = self.links.iter().filter(|name| **name != self.me).cloned().collect();
        if let Some(duty) = &mut self.duty {
            duty.number += 1;
            let step = std::mem::take(&mut duty.step);
            (duty.began, duty.wanted, duty.requests) = (Some(now.mono), false, 0);
            duty.round = Some(Round::new(now, epoch, duty.number, step, &peers, &self.config));
        }
    }

    fn finish(&mut self, now: Now, out: &mut Vec<ClockEffect>) {
        let Some(round) = self.duty.as_mut().and_then(|duty| duty.round.take()) else { return };
        let members = self.member_count();
        let own = (self.wall.read(now), self.left_us(now.mono));
        let outcome = round.conclude(now.mono, &self.me, own, members, &self.config);
        let Some(by_us) = outcome.average_us else {
            out.push(ClockEffect::RoundRefused { report: outcome.report, needed: outcome.needed });
            return;
        };
        out.extend(outcome.adjustments);
        let outliers = outcome.report.clocks.iter().filter(|clock| clock.part == Part::Outlier);
        let outliers = outliers.map(|clock| clock.name.clone()).collect();
        let alone = outcome.report.clocks.len() == 1;
        let agreed =
            Agreed { epoch: round.epoch, round: round.number, at: now.mono, error_us: 0, measured: now.mono, outliers };
        out.push(ClockEffect::RoundDone(outcome.report));
        if alone {
            // Who has nobody to agree with follows its system clock; and whoever comes later may still be right.
            let fresh = self.fresh;
            self.settle(now, 0, round.step, agreed, out);
            self.fresh = fresh;
        } else {
            let offset_us = self.wall.slew().offset_us(now.mono).saturating_add(by_us);
            self.settle(now, offset_us, round.step, agreed, out);
        }
    }
}

impl Machine for Berkeley {
    type Input = ClockInput;
    type Effect = ClockEffect;

    fn step(&mut self, now: Now, input: ClockInput, out: &mut Vec<ClockEffect>) {
        self.look(now, out);
        match input {
            ClockInput::Coordinator(coordinator) => self.on_coordinator(coordinator),
            ClockInput::Members(members) => self.members = members.into_iter().collect(),
            ClockInput::LinkUp(name) => {
                if self.links.len() < LINKS_CAP && name != self.me {
                    self.links.insert(name);
                }
            }
            ClockInput::LinkDown(name) => {
                self.links.remove(&name);
                if let Some(round) = self.duty.as_mut().and_then(|duty| duty.round.as_mut()) {
                    round.give_up(&name, &self.config);
                }
            }
            ClockInput::ClientRequest => {
                if let Some(duty) = &mut self.duty {
                    duty.requests += 1;
                }
            }
            ClockInput::RoundRequested { step } => self.want(step),
            ClockInput::Message { from, message } => self.on_message(now, from, &message, out),
            ClockInput::Reading { from, nonce, wall, resolution_us } => {
                let arrived = Arrived { nonce, wall, offset_us: None, left_us: 0, resolution_us };
                self.on_reading(now, &from, &arrived);
            }
            ClockInput::Wake => {}
        }
        self.run_timers(now, out);
    }

    fn deadline(&self) -> Option<Mono> {
        let look = self.looked + Duration::from_millis(self.config.look_ms);
        let round = self.duty.as_ref().and_then(|duty| duty.round.as_ref());
        let next = round.map(|round| round.deadline(&self.config)).or_else(|| self.round_due());
        Some(next.map_or(look, |next| next.min(look)))
    }
}

impl ClockSync for Berkeley {
    fn status(&self, now: Now) -> ClockStatus {
        let offset_us = self.wall.read(now).us.saturating_sub(now.wall.us);
        let bound = |agreed: &Agreed| {
            let drift_us = self.config.drift_us(now.mono.since(agreed.measured));
            agreed.error_us.saturating_add(drift_us).saturating_add(self.left_us(now.mono).unsigned_abs())
        };
        ClockStatus {
            offset_us,
            error_bound_us: self.agreed.as_ref().map(bound),
            epoch: self.agreed.as_ref().map_or(Epoch::ZERO, |agreed| agreed.epoch),
            last_round: self.agreed.as_ref().map(|agreed| (agreed.round, agreed.at)),
            slewing: self.wall.slew().is_slewing(now.mono),
            outliers: self.agreed.as_ref().map_or_else(Vec::new, |agreed| agreed.outliers.clone()),
        }
    }

    fn now(&self, now: Now) -> WallInterval {
        let wall = self.wall(now);
        match self.status(now).error_bound_us {
            None => WallInterval { earliest: Wall { us: i64::MIN }, latest: Wall { us: i64::MAX } },
            Some(bound_us) => WallInterval {
                earliest: Wall { us: wall.us.saturating_sub_unsigned(bound_us) },
                latest: Wall { us: wall.us.saturating_add_unsigned(bound_us) },
            },
        }
    }

    fn wall(&self, now: Now) -> Wall {
        self.wall.read(now)
    }
}
