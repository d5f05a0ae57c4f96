//! Elections: asking, answering, promising, and taking the lead.

use std::time::Duration;

use dsv2_core::{Mono, ServerName};

use super::{Bully, Phase, Reign, send};
use crate::election::{ChangeReason, Coordinator, ElectionEffect, ElectionMessage, Epoch};

impl Bully {
    /// Holds an election: asks everybody within reach. The better ones may object; the worse ones may still hear the
    /// coordinator that was lost here; and whoever answers counts as contact, on which the new claim's standing rests. A
    /// `challenge` is held against a coordinator that lives, so there it only matters whether a better server objects.
    pub(super) fn elect(&mut self, now: Mono, challenge: bool, out: &mut Vec<ElectionEffect>) {
        if self.draining {
            self.phase = Phase::Calm;
            return;
        }
        let mut asked = self.roster.reachable();
        if challenge {
            asked.retain(|name| self.roster.may_be_better(name));
        }
        let message = ElectionMessage::Election { epoch: Some(self.epoch), rank: self.roster.rank };
        out.extend(asked.iter().map(|to| send(to, message.clone())));
        if asked.is_empty() {
            self.lead(now, None, out);
        } else {
            let until = now + Duration::from_millis(self.config.answer_ms);
            self.phase = Phase::Asking { until, waiting: asked.into_iter().collect(), challenge };
        }
    }

    pub(super) fn on_election(
        &mut self,
        now: Mono,
        from: &ServerName,
        epoch: Option<Epoch>,
        rank: Option<u64>,
        out: &mut Vec<ElectionEffect>,
    ) {
        let ok = |this: &Self| ElectionMessage::Ok { epoch: Some(this.epoch), rank: this.roster.rank };
        let Some(epoch) = epoch else {
            // In the family everybody answers so, and the answer binds nobody.
            out.push(send(from, ok(self)));
            return;
        };
        self.learn(epoch, out);
        self.roster.claims_rank(from, rank);
        if self.leading.is_some() {
            out.push(send(from, ElectionMessage::Heartbeat(self.own_claim(now))));
            return;
        }
        let theirs = (rank.or_else(|| self.roster.rank_of(from)), from);
        let better = !self.draining && self.roster.prefers((self.roster.rank, &self.roster.me), theirs);
        if better {
            out.push(send(from, ok(self)));
        }
        let vouched = self.vouch(now).is_some();
        if vouched || !better {
            out.push(send(from, self.view(now)));
        }
        if better && !vouched && matches!(self.phase, Phase::Calm | Phase::Listening { .. }) {
            self.elect(now, false, out);
        }
    }

    pub(super) fn on_ok(
        &mut self,
        now: Mono,
        from: &ServerName,
        epoch: Option<Epoch>,
        rank: Option<u64>,
        out: &mut Vec<ElectionEffect>,
    ) {
        if let Some(epoch) = epoch {
            self.learn(epoch, out);
        }
        self.roster.claims_rank(from, rank);
        let Phase::Asking { challenge, .. } = self.phase else { return };
        let theirs = (rank.or_else(|| self.roster.rank_of(from)), from);
        // Servers of the family say Ok whatever their rank; and a promise that was broken once is not waited for again.
        if !self.roster.prefers(theirs, (self.roster.rank, &self.roster.me)) || self.reneged.contains(from) {
            self.answered(now, from, out);
        } else if challenge {
            self.phase = Phase::Calm;
            if let Some(reign) = &mut self.reign {
                reign.challenge_at = now + self.config.hold_down();
            }
        } else {
            let until = now + Duration::from_millis(self.config.takeover_ms);
            self.phase = Phase::Promised { until, by: from.clone() };
        }
    }

    /// One answer fewer to wait for; with the last one, nobody objected.
    pub(super) fn answered(&mut self, now: Mono, from: &ServerName, out: &mut Vec<ElectionEffect>) {
        if let Phase::Asking { waiting, .. } = &mut self.phase {
            waiting.remove(from);
            if waiting.is_empty() {
                self.lead(now, None, out);
            }
        }
    }

    /// Takes the lead, or a higher epoch for it: saves, and only then speaks.
    pub(super) fn lead(&mut self, now: Mono, why: Option<ChangeReason>, out: &mut Vec<ElectionEffect>) {
        let reason = why.unwrap_or(match &self.reign {
            None => ChangeReason::Chosen,
            Some(reign) if reign.who.name == self.roster.me => ChangeReason::Renewed,
            Some(_) if self.live(now).is_some() => ChangeReason::Outranked,
            Some(_) => ChangeReason::Lost,
        });
        self.epoch = Epoch { number: self.epoch.number.saturating_add(1), node: self.node };
        out.push(ElectionEffect::Save(self.epoch));
        let who = Coordinator { name: self.roster.me.clone(), epoch: self.epoch };
        self.leading = Some(now + self.config.heartbeat());
        // Whoever takes over from a living coordinator was in contact through it, and is heard by the others from now on.
        let grace = if reason == ChangeReason::Outranked { self.config.contact() } else { Duration::ZERO };
        self.judged_from = self.judged_from.max(now + grace);
        let old = self.enter(now, who.clone(), now + self.config.lost());
        self.judge_standing(now);
        out.push(ElectionEffect::Changed { old, new: Some(who.clone()), reason });
        out.push(ElectionEffect::Announce(who));
        self.broadcast(&ElectionMessage::Coordinator(self.own_claim(now)), out);
    }

    /// Begins to follow somebody, or itself; returns who it was before.
    pub(super) fn enter(&mut self, now: Mono, who: Coordinator, expires: Mono) -> Option<Coordinator> {
        self.phase = Phase::Calm;
        self.reneged.clear();
        let rank = self.roster.rank_of(&who.name);
        let challenge_at = now + self.config.hold_down();
        let standing = crate::election::Standing::Fresh;
        self.reign.replace(Reign { who, rank, standing, heard: now, expires, challenge_at }).map(|old| old.who)
    }

    /// Has no coordinator any more.
    pub(super) fn forget(&mut self, reason: ChangeReason, out: &mut Vec<ElectionEffect>) {
        self.leading = None;
        self.phase = Phase::Calm;
        if let Some(old) = self.reign.take() {
            out.push(ElectionEffect::Changed { old: Some(old.who), new: None, reason });
        }
    }
}
