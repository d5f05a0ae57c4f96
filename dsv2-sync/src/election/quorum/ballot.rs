//! Elections: asking for support, and then for votes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dsv2_core::{Mono, ServerName};

use super::{EPOCH_JUMP_CAP, Phase, QuorumBully, Reign, send};
use crate::election::{ChangeReason, Coordinator, ElectionEffect, ElectionMessage, Epoch, Seen};

impl QuorumBully {
    /// Asks all voters within reach whether they would support this server. Nobody is bound by it, and no number is used
    /// up. A `challenge` is held while a coordinator lives: then those count who follow it too.
    pub(super) fn elect(&mut self, now: Mono, challenge: bool, out: &mut Vec<ElectionEffect>) {
        if !self.may_lead() || (!challenge && now < self.bound_until) {
            self.phase = Phase::Calm;
            return;
        }
        if challenge && self.live(now).is_none() {
            // Bound by a vote, and the coordinator has fallen silent meanwhile: there is nobody to ask.
            return self.wait(now);
        }
        let asked = self.reachable_voters();
        let message = ElectionMessage::Election { epoch: Some(self.epoch), rank: self.roster.rank };
        self.tell_voters(&message, out);
        let nobody = asked.is_empty();
        let (waiting, support) = (asked.into_iter().collect(), BTreeSet::new());
        self.phase = Phase::Asking { until: now + self.config.answer(), waiting, support, challenge };
        if nobody {
            self.decide(now, out);
        }
    }

    /// Another server asks for support.
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
        self.heed_number(now, out);
        if self.is_leading() {
            out.push(send(from, self.lease_message(now)));
            return;
        }
        let theirs = (rank.or_else(|| self.roster.rank_of(from)), from);
        let better = self.may_lead() && self.roster.prefers((self.roster.rank, &self.roster.me), theirs);
        let follows = self.vouch(now).is_some();
        let free = self.is_voter() && !follows && now >= self.bound_until;
        if !free || !self.config.voters.contains(from) {
            // Whoever wants a hand-over leaves that to a better one that follows the same coordinator.
            out.extend((better && follows).then(|| send(from, ok(self))));
            out.push(send(from, self.view(now)));
            return;
        }
        if better {
            out.push(send(from, ok(self)));
            // Who lost a ballot goes on resting: otherwise a third one's question brings candidates together again that had
            // taken each other's votes.
            if matches!(self.phase, Phase::Calm | Phase::Resting { lost: false, .. }) {
                self.elect(now, false, out);
            }
        } else {
            out.push(send(from, ElectionMessage::Support { epoch: self.epoch }));
        }
    }

    /// A better server wants it left to itself. A promise that was broken once is taken for support only.
    pub(super) fn on_ok(
        &mut self,
        now: Mono,
        from: &ServerName,
        epoch: Option<Epoch>,
        rank: Option<u64>,
        out: &mut Vec<ElectionEffect>,
    ) {
        let Some(epoch) = epoch else { return };
        self.learn(epoch, out);
        self.roster.claims_rank(from, rank);
        let better = self.roster.is_better(from) && !self.reneged.contains(from);
        match self.phase {
            Phase::Asking { challenge: false, .. } if better && self.config.voters.contains(from) => {
                let until = now + Duration::from_millis(self.config.takeover_ms);
                self.phase = Phase::Promised { until, by: from.clone() };
            }
            Phase::Asking { challenge: true, .. } if better => self.wait(now),
            _ => self.supported(now, from, out),
        }
    }

    pub(super) fn on_support(&mut self, now: Mono, from: &ServerName, epoch: Epoch, out: &mut Vec<ElectionEffect>) {
        self.learn(epoch, out);
        self.heed_number(now, out);
        self.supported(now, from, out);
    }

    /// Another server tells whom it hears, and which number it knows.
    pub(super) fn on_view(
        &mut self,
        now: Mono,
        from: &ServerName,
        epoch: Epoch,
        seen: Option<Seen>,
        out: &mut Vec<ElectionEffect>,
    ) {
        self.learn(epoch, out);
        if let Some(Seen { claim, age_ms }) = &seen {
            let age = Duration::from_millis(*age_ms);
            if age < self.config.window() {
                self.on_claim(now, claim, now - age, false, out);
            }
        }
        self.heed_number(now, out);
        let same = |reign: &Reign| seen.is_some_and(|seen| seen.claim.epoch == reign.who.epoch);
        let follows_too = self.reign.as_ref().is_some_and(same);
        match self.phase {
            Phase::Asking { challenge: true, .. } if follows_too => self.supported(now, from, out),
            _ => self.answered(now, from, out),
        }
    }

    pub(super) fn supported(&mut self, now: Mono, from: &ServerName, out: &mut Vec<ElectionEffect>) {
        if let Phase::Asking { support, .. } = &mut self.phase
            && self.config.voters.contains(from)
        {
            support.insert(from.clone());
        }
        self.answered(now, from, out);
    }

    /// One answer fewer to wait for. With a majority, only those matter that may be better.
    pub(super) fn answered(&mut self, now: Mono, from: &ServerName, out: &mut Vec<ElectionEffect>) {
        let Phase::Asking { waiting, support, .. } = &mut self.phase else { return };
        waiting.remove(from);
        let enough = support.len() + 1 >= self.config.majority();
        let open = |name: &ServerName| self.roster.may_be_better(name) && !self.reneged.contains(name);
        if waiting.is_empty() || (enough && !waiting.iter().any(open)) {
            self.decide(now, out);
        }
    }

    /// All have answered, or had the time to.
    pub(super) fn decide(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        let Phase::Asking { support, challenge, .. } = &self.phase else { return };
        let enough = support.len() + 1 >= self.config.majority();
        if !*challenge {
            if enough {
                self.campaign(now, out);
            } else {
                self.phase = Phase::Resting { until: now + self.config.answer(), lost: false };
            }
            return;
        }
        let Some(reign) = self.live(now) else {
            self.wait(now);
            return self.elect(now, false, out);
        };
        if enough {
            out.push(send(&reign.who.name, ElectionMessage::Handover { epoch: reign.who.epoch }));
        }
        self.wait(now);
    }

    /// Asks for a hand-over after another hold-down only.
    fn wait(&mut self, now: Mono) {
        self.phase = Phase::Calm;
        self.challenge_at = now + self.config.hold_down();
    }

    /// Votes for itself, and asks the others to. The lease, if there will be one, counts from now.
    fn campaign(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        let number = self.epoch.number.max(self.vote.number).saturating_add(1);
        let ballot = Epoch { number, node: self.node };
        self.give_vote(now, ballot, out);
        let message = ElectionMessage::Request { ballot, rank: self.roster.rank };
        self.tell_voters(&message, out);
        self.phase = Phase::Voting { until: now + self.config.answer(), ballot, sent: now, grants: BTreeSet::new() };
        if self.config.majority() == 1 {
            self.lead(now, out);
        }
    }

    /// One vote for each number, saved before it is spoken. It binds for a window, as if a coordinator had spoken: the
    /// lease that it may begin counts from a time before now.
    fn give_vote(&mut self, now: Mono, ballot: Epoch, out: &mut Vec<ElectionEffect>) {
        self.vote = ballot;
        let higher = ballot > self.epoch;
        self.epoch = self.epoch.max(ballot);
        if self.grant_is_saved() {
            out.extend(higher.then_some(ElectionEffect::Save(ballot)));
            out.push(ElectionEffect::SaveVote(ballot));
        }
        if self.grant_restarts_timer() {
            self.bound_until = now + self.config.window();
        }
        self.bound_to = ballot;
    }

    /// Another server asks for a vote. A refusal teaches this server nothing, so that whoever asks in vain, since a
    /// coordinator lives, does not depose it.
    pub(super) fn on_request(
        &mut self,
        now: Mono,
        from: &ServerName,
        ballot: Epoch,
        rank: Option<u64>,
        out: &mut Vec<ElectionEffect>,
    ) {
        if !self.is_voter() || !self.config.voters.contains(from) {
            return;
        }
        self.roster.claims_rank(from, rank);
        let taken = ballot.number == self.epoch.number && ballot != self.epoch;
        let stale = ballot.number < self.epoch.number || ballot.number <= self.vote.number || taken;
        let implausible = ballot.number > self.epoch.number.saturating_add(EPOCH_JUMP_CAP);
        let bound = self.is_leading() || now < self.bound_until;
        if stale || implausible || bound {
            out.push(send(from, self.view(now)));
            return;
        }
        self.phase = Phase::Calm;
        self.give_vote(now, ballot, out);
        out.push(send(from, ElectionMessage::Grant { ballot }));
    }

    pub(super) fn on_grant(&mut self, now: Mono, from: &ServerName, ballot: Epoch, out: &mut Vec<ElectionEffect>) {
        let Phase::Voting { ballot: mine, grants, sent, .. } = &mut self.phase else { return };
        if *mine != ballot || !self.config.voters.contains(from) {
            return;
        }
        grants.insert(from.clone());
        if grants.len() + 1 < self.config.majority() {
            return;
        }
        if now < *sent + self.config.lease() {
            self.lead(now, out);
        } else {
            self.withdraw(now, out);
        }
    }

    fn lead(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        let Phase::Voting { ballot, sent, grants, .. } = &self.phase else { return };
        let answered: BTreeMap<ServerName, Mono> = grants.iter().map(|name| (name.clone(), *sent)).collect();
        let who = Coordinator { name: self.roster.me.clone(), epoch: *ballot };
        self.phase = Phase::Leading { beat: now, answered };
        self.reneged.clear();
        let reign = Reign { who: who.clone(), rank: self.roster.rank, heard: now, direct: Some(now) };
        let old = self.reign.replace(reign).map(|reign| reign.who);
        let reason = if old.is_none() { ChangeReason::Chosen } else { ChangeReason::Lost };
        out.push(ElectionEffect::Changed { old, new: Some(who.clone()), reason });
        out.push(ElectionEffect::Announce(who));
        self.beat(now, out);
    }

    /// Wants no votes any more, and says so, since whoever gave one is bound by it.
    ///
    /// Candidates that took each other's votes all come here at about the same time. The worse rest longer, by the time
    /// that a better one needs to ask and be voted for; if all rested equally, they could meet for ever.
    pub(super) fn withdraw(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        let Phase::Voting { ballot, .. } = self.phase else { return };
        let better = self.reachable_voters().iter().filter(|name| self.roster.is_better(name)).count();
        let rests = 1 + 2 * u32::try_from(better).unwrap_or(u32::MAX / 4);
        self.phase = Phase::Resting { until: now + self.config.answer() * rests, lost: true };
        self.free(now, ballot);
        self.tell_voters(&ElectionMessage::Resign { epoch: ballot }, out);
    }

    /// That reign or ballot is given up: it binds nobody any longer.
    pub(super) fn free(&mut self, now: Mono, epoch: Epoch) {
        self.resigned = epoch;
        if self.bound_to == epoch && epoch != Epoch::ZERO {
            self.bound_until = self.bound_until.min(now);
        }
    }
}
