//! One round, on the coordinator's side.

use std::collections::BTreeMap;
use std::time::Duration;

use dsv2_core::{Mono, Now, ServerName, Wall};

use super::berkeley::BerkeleyConfig;
use super::{Agreement, ClockEffect, ClockMessage, ClockSample, Part, Reading, RoundReport, fault_tolerant_average};
use crate::election::Epoch;

/// The best reading of one server so far.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// How far its clock is ahead of the round's frame, in microseconds.
    ahead_us: i64,
    rtt_us: u64,
    error_us: u64,
    /// Its own offset then; `None` where none can be told: of servers of the family, and of this one.
    offset_us: Option<i64>,
    left_us: i64,
    at: Mono,
}

impl Sample {
    /// Where the clock counts: where it is going, unless that is so far that it is no good until it is there.
    fn reading(&self, gamma_us: u64) -> Reading {
        let left_us = if self.left_us.unsigned_abs() <= gamma_us { self.left_us } else { 0 };
        Reading { ahead_us: self.ahead_us.saturating_add(left_us), error_us: self.error_us }
    }
}

#[derive(Clone, Debug, Default)]
struct Asked {
    /// The open probe, and when it was sent.
    open: Option<(u64, Mono)>,
    samples: u32,
    best: Option<Sample>,
}

/// A reading as it arrived.
pub(super) struct Arrived {
    /// The probe it names, where it names one.
    pub(super) nonce: Option<u64>,
    pub(super) wall: Wall,
    pub(super) offset_us: Option<i64>,
    pub(super) left_us: i64,
    pub(super) resolution_us: u64,
}

/// A round under way: for every server asked, its open probe and its best sample.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
    pub(super) step: bool,
    pub(super) until: Mono,
    /// Both system clocks when the round began. Its frame is that wall clock, carried on by the monotonic clock: what
    /// becomes of the wall clock during the round does not matter.
    frame: Now,
    asked: BTreeMap<ServerName, Asked>,
}

/// What a round came to.
pub(super) struct Outcome {
    pub(super) report: RoundReport,
    /// How far the agreed time is ahead of this server's wall clock, if a majority agreed; in microseconds.
    pub(super) average_us: Option<i64>,
    pub(super) needed: usize,
    /// What to tell the others.
    pub(super) adjustments: Vec<ClockEffect>,
}

impl Round {
    pub(super) fn new(
        now: Now,
        epoch: Epoch,
        number: u64,
        step: bool,
        peers: &[ServerName],
        config: &BerkeleyConfig,
    ) -> Self {
        let asked = peers.iter().map(|name| (name.clone(), Asked::default())).collect();
        Self { epoch, number, step, until: now.mono + Duration::from_millis(config.round_ms), frame: now, asked }
    }

    /// A wall clock's reading at that moment, as a difference to the frame.
    fn ahead_us(&self, mono: Mono, wall: Wall) -> i64 {
        let carried = self.frame.wall.us.saturating_add_unsigned(mono.us.saturating_sub(self.frame.mono.us));
        wall.us.saturating_sub(carried)
    }

    /// When the next lost probe is repeated, or the round ends.
    pub(super) fn deadline(&self, config: &BerkeleyConfig) -> Mono {
        let opened = self.asked.values().filter_map(|asked| asked.open).map(|(_, sent)| sent).min();
        opened.map_or(self.until, |sent| self.until.min(sent + config.probe()))
    }

    /// Whether nobody is left to wait for.
    pub(super) fn is_complete(&self, config: &BerkeleyConfig) -> bool {
        self.asked.values().all(|asked| asked.samples >= config.samples)
    }

    /// A link broke: what it brought so far still counts, but nothing more will come.
    pub(super) fn give_up(&mut self, name: &ServerName, config: &BerkeleyConfig) {
        if let Some(asked) = self.asked.get_mut(name) {
            (asked.open, asked.samples) = (None, config.samples);
        }
    }

    /// Sends a probe to everybody who has none open, or whose last one is overdue.
    pub(super) fn probe(&mut self, now: Mono, nonces: &mut u64, config: &BerkeleyConfig, out: &mut Vec<ClockEffect>) {
        for (name, asked) in &mut self.asked {
            let waits = asked.open.is_some_and(|(_, sent)| now.since(sent) < config.probe());
            if asked.samples >= config.samples || waits {
                continue;
            }
            *nonces = nonces.wrapping_add(1);
            asked.open = Some((*nonces, now));
            let message = ClockMessage::Probe { epoch: self.epoch, round: self.number, nonce: *nonces };
            out.push(ClockEffect::Send { to: name.clone(), message });
        }
    }

    /// Takes a reading, if it answers the open probe of that server. `false` where it does not, and nothing changed.
    pub(super) fn take(&mut self, now: Mono, from: &ServerName, arrived: &Arrived) -> bool {
        // Of an answer in whole seconds, the middle of the second is the best guess, and half of it the doubt.
        let wall = Wall { us: arrived.wall.us.saturating_add_unsigned(arrived.resolution_us / 2) };
        let ahead_now_us = self.ahead_us(now, wall);
        let Some(asked) = self.asked.get_mut(from) else { return false };
        let Some((_, sent)) = asked.open.take_if(|(open, _)| arrived.nonce.is_none_or(|nonce| nonce == *open)) else {
            return false;
        };
        let rtt_us = now.us.saturating_sub(sent.us);
        let sample = Sample {
            // It was read half a round trip ago, more or less.
            ahead_us: ahead_now_us.saturating_add_unsigned(rtt_us / 2),
            rtt_us,
            error_us: rtt_us.div_ceil(2).saturating_add(arrived.resolution_us.div_ceil(2)),
            offset_us: arrived.offset_us,
            left_us: arrived.left_us,
            at: now,
        };
        asked.samples += 1;
        if asked.best.is_none_or(|best| sample.error_us < best.error_us) {
            asked.best = Some(sample);
        }
        true
    }

    /// Averages. This server's own clock is one of those that count: its reading, and what it still has to slew.
    pub(super) fn conclude(
        &self,
        now: Mono,
        me: &ServerName,
        (wall, left_us): (Wall, i64),
        members: usize,
        config: &BerkeleyConfig,
    ) -> Outcome {
        let own_us = self.ahead_us(now, wall);
        let own = Sample { ahead_us: own_us, rtt_us: 0, error_us: 0, offset_us: None, left_us, at: now };
        let mut clocks: Vec<(&ServerName, Sample)> =
            self.asked.iter().filter_map(|(name, asked)| Some((name, asked.best?))).collect();
        let place = clocks.partition_point(|(name, _)| *name < me);
        clocks.insert(place, (me, own));
        let readings: Vec<Reading> = clocks.iter().map(|(_, sample)| sample.reading(config.gamma_us)).collect();
        let needed = members.max(clocks.len()) / 2 + 1;
        let found = fault_tolerant_average(&readings, config.gamma_us);
        let agreement = found.as_ref().filter(|agreement| agreement.count() >= needed);
        let report = self.report(&clocks, found.as_ref(), agreement, own_us, members);
        let adjustments = agreement.map(|agreement| self.adjustments(now, &clocks, agreement, config));
        Outcome { average_us: report.average_us, report, needed, adjustments: adjustments.unwrap_or_default() }
    }

    fn report(
        &self,
        clocks: &[(&ServerName, Sample)],
        found: Option<&Agreement>,
        agreement: Option<&Agreement>,
        own_us: i64,
        members: usize,
    ) -> RoundReport {
        let sample = |(index, (name, sample)): (usize, &(&ServerName, Sample))| ClockSample {
            name: (*name).clone(),
            ahead_us: sample.ahead_us.saturating_sub(own_us),
            rtt_us: sample.rtt_us,
            error_us: sample.error_us,
            part: found.and_then(|found| found.parts.get(index)).copied().unwrap_or(Part::Outlier),
        };
        RoundReport {
            epoch: self.epoch,
            round: self.number,
            members,
            average_us: agreement.map(|agreement| agreement.average_us.saturating_sub(own_us)),
            clocks: clocks.iter().enumerate().map(sample).collect(),
        }
    }

    /// The others' new offsets. A server's system clock is `ahead − offset` ahead of the frame, and has to come to the
    /// average by its new offset.
    fn adjustments(
        &self,
        now: Mono,
        clocks: &[(&ServerName, Sample)],
        agreement: &Agreement,
        config: &BerkeleyConfig,
    ) -> Vec<ClockEffect> {
        let adjustment = |((name, sample), part): (&(&ServerName, Sample), &Part)| {
            let system_us = sample.ahead_us.saturating_sub(sample.offset_us?);
            let message = ClockMessage::Adjust {
                epoch: self.epoch,
                round: self.number,
                offset_us: agreement.average_us.saturating_sub(system_us),
                error_bound_us: sample.error_us.saturating_add(config.drift_us(now.since(sample.at))),
                outlier: *part == Part::Outlier,
                step: self.step,
            };
            Some(ClockEffect::Send { to: (*name).clone(), message })
        };
        clocks.iter().zip(&agreement.parts).filter_map(adjustment).collect()
    }
}
