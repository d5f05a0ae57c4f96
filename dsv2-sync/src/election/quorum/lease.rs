//! Leading with a lease, and following.

use std::time::Duration;

use dsv2_core::{Mono, ServerName};

use super::{Phase, QuorumBully, Reign, send};
use crate::election::{ChangeReason, Claim, Coordinator, ElectionEffect, ElectionMessage, Epoch};

impl QuorumBully {
    pub(super) fn lease_message(&self, now: Mono) -> ElectionMessage {
        ElectionMessage::Lease { claim: self.own_claim(), sent_us: now.us }
    }

    /// Speaks to everybody: voters renew the lease, learners follow.
    pub(super) fn beat(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        let message = self.lease_message(now);
        out.extend(self.roster.reachable().into_iter().map(|to| send(&to, message.clone())));
        let next = now + self.config.heartbeat();
        if let Phase::Leading { beat, .. } = &mut self.phase {
            *beat = next;
        }
    }

    pub(super) fn on_renewed(&mut self, now: Mono, from: &ServerName, epoch: Epoch, sent_us: u64) {
        let sent = Mono { us: sent_us };
        if self.reign.as_ref().is_none_or(|reign| reign.who.epoch != epoch) || sent > now {
            return;
        }
        if let Phase::Leading { answered, .. } = &mut self.phase
            && self.config.voters.contains(from)
        {
            let last = answered.entry(from.clone()).or_default();
            *last = sent.max(*last);
        }
    }

    pub(super) fn end_lease(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        if self.lease_end().is_some_and(|end| now >= end) {
            self.give_up(now, ChangeReason::LeaseEnded, out);
        }
    }

    /// Leads no longer, and only then says so: this frees whoever was bound.
    pub(super) fn give_up(&mut self, now: Mono, reason: ChangeReason, out: &mut Vec<ElectionEffect>) {
        let Some(reign) = self.reign.take_if(|reign| reign.who.name == self.roster.me) else { return };
        let epoch = reign.who.epoch;
        self.phase = Phase::Resting { until: now + 2 * self.config.answer(), lost: false };
        self.free(now, epoch);
        out.push(ElectionEffect::Changed { old: Some(reign.who), new: None, reason });
        let message = ElectionMessage::Resign { epoch };
        out.extend(self.roster.reachable().into_iter().map(|to| send(&to, message.clone())));
    }

    /// A number above one's own reign or ballot is known: that reign is over, that ballot is lost.
    pub(super) fn heed_number(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        match &self.phase {
            Phase::Leading { .. } => {
                let mine = self.reign.as_ref().map_or(0, |reign| reign.who.epoch.number);
                if self.epoch.number > mine {
                    self.give_up(now, ChangeReason::Outranked, out);
                }
            }
            Phase::Voting { ballot, .. } if self.epoch.number > ballot.number => self.withdraw(now, out),
            _ => {}
        }
    }

    /// A coordinator speaks for itself. To renew its lease is to vote for nobody else for a window.
    pub(super) fn on_lease(&mut self, now: Mono, claim: &Claim, sent_us: u64, out: &mut Vec<ElectionEffect>) {
        if !self.on_claim(now, claim, now, true, out) {
            out.push(send(&claim.name, self.view(now)));
            return;
        }
        if self.is_voter() {
            self.bound_until = now + self.config.window();
            self.bound_to = claim.epoch;
        }
        out.push(send(&claim.name, ElectionMessage::Renewed { epoch: claim.epoch, sent_us }));
        self.supported(now, &claim.name, out);
    }

    /// Follows that coordinator, unless its number is too low; yields whether it does.
    pub(super) fn on_claim(
        &mut self,
        now: Mono,
        claim: &Claim,
        heard: Mono,
        direct: bool,
        out: &mut Vec<ElectionEffect>,
    ) -> bool {
        let number = claim.epoch.number;
        let able = claim.name != self.roster.me && self.config.voters.contains(&claim.name);
        if !able || claim.epoch == self.resigned || number < self.epoch.number || !self.learn(claim.epoch, out) {
            return false;
        }
        self.roster.claims_rank(&claim.name, claim.rank);
        self.heed_number(now, out);
        if self.is_leading() {
            return false;
        }
        self.withdraw(now, out);
        self.follow(now, claim, heard, direct, out);
        true
    }

    fn follow(&mut self, now: Mono, claim: &Claim, heard: Mono, direct: bool, out: &mut Vec<ElectionEffect>) {
        let who = Coordinator { name: claim.name.clone(), epoch: claim.epoch };
        let unbroken = self.live(now).is_some_and(|reign| reign.who == who);
        let reason = match &self.reign {
            None => ChangeReason::Chosen,
            Some(reign) if reign.who.name == who.name => ChangeReason::Renewed,
            Some(_) if self.live(now).is_some() => ChangeReason::Outranked,
            Some(_) => ChangeReason::Lost,
        };
        let mut reign = Reign { who: who.clone(), rank: claim.rank, heard, direct: direct.then_some(heard) };
        if let Some(old) = self.reign.as_ref().filter(|old| old.who == who) {
            reign.heard = reign.heard.max(old.heard);
            reign.direct = reign.direct.max(old.direct);
        }
        let old = self.reign.replace(reign).map(|reign| reign.who);
        if !unbroken {
            self.challenge_at = now + self.config.hold_down();
        }
        let challenging = matches!(self.phase, Phase::Asking { challenge: true, .. });
        if !challenging || !unbroken {
            self.phase = Phase::Calm;
        }
        self.reneged.clear();
        if old.as_ref() != Some(&who) {
            out.push(ElectionEffect::Changed { old, new: Some(who), reason });
        }
    }

    /// A coordinator gives up its reign, or a candidate its ballot. There is nothing to wait for.
    pub(super) fn on_resign(&mut self, now: Mono, from: &ServerName, epoch: Epoch, out: &mut Vec<ElectionEffect>) {
        if !self.learn(epoch, out) {
            return;
        }
        self.heed_number(now, out);
        let theirs = self.reign.take_if(|reign| reign.who.name == *from && reign.who.epoch == epoch);
        self.free(now, epoch);
        if let Some(reign) = theirs {
            let reason = ChangeReason::Resigned;
            out.push(ElectionEffect::Changed { old: Some(reign.who), new: None, reason });
            if !matches!(self.phase, Phase::Voting { .. }) {
                self.phase = Phase::Calm;
            }
        }
    }

    /// A better server asks for the lead. It is left to that one: an election that a worse server holds meanwhile must not
    /// bring this one back.
    pub(super) fn on_handover(&mut self, now: Mono, from: &ServerName, epoch: Epoch, out: &mut Vec<ElectionEffect>) {
        let mine = self.reign.as_ref().is_some_and(|reign| reign.who.epoch == epoch);
        let voter = self.config.voters.contains(from);
        if self.is_leading() && mine && voter && self.roster.is_better(from) {
            self.give_up(now, ChangeReason::HandedOver, out);
            let until = now + Duration::from_millis(self.config.takeover_ms);
            self.phase = Phase::Promised { until, by: from.clone() };
        }
    }
}
