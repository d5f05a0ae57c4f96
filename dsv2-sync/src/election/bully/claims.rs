//! Claims of others: to follow, to refuse, or to precede.

use std::time::Duration;

use dsv2_core::{Mono, ServerName};

use super::{Bully, Phase, send};
use crate::election::{ChangeReason, Claim, Coordinator, ElectionEffect, ElectionMessage, Epoch, Seen, Standing};

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is followed.
    Followed,
    /// It is not, and its maker should learn why.
    Refused,
    /// Nothing follows from it.
    Passed,
}

impl Bully {
    /// A coordinator speaks for itself. It hears back whether it is followed, and which epoch it is below.
    pub(super) fn on_heartbeat(&mut self, now: Mono, claim: &Claim, out: &mut Vec<ElectionEffect>) {
        let verdict = self.on_claim(now, claim, now, out);
        if verdict == Verdict::Followed {
            out.push(send(&claim.name, ElectionMessage::Ack { epoch: self.epoch }));
        }
        if verdict != Verdict::Refused {
            self.answered(now, &claim.name, out);
        }
        if verdict == Verdict::Refused || (verdict == Verdict::Followed && claim.epoch < self.epoch) {
            out.push(send(&claim.name, self.view(now)));
        }
    }

    /// Another server tells whom it hears. Never answered, or two servers could answer each other for ever.
    pub(super) fn on_view(
        &mut self,
        now: Mono,
        from: &ServerName,
        epoch: Epoch,
        seen: Option<Seen>,
        out: &mut Vec<ElectionEffect>,
    ) {
        let plausible = self.learn(epoch, out);
        let mut preceded = false;
        if let Some(Seen { claim, age_ms }) = seen {
            let age = Duration::from_millis(age_ms);
            if claim.epoch == Epoch::ZERO {
                self.on_foreign(now, claim.name, out);
            } else if age < self.config.lost() {
                preceded = claim.name != self.roster.me && self.precedes(&claim, &self.own_claim(now));
                self.on_claim(now, &claim, now - age, out);
            }
        }
        // From a better server that would object, `Ok` is on its way, even where this overtook it.
        if self.reneged.contains(from) || !self.roster.is_better(from) {
            self.answered(now, from, out);
        }
        let reign = self.reign.as_ref().filter(|_| self.leading.is_some() && plausible && !preceded);
        if reign.is_some_and(|reign| reign.who.epoch < epoch) {
            self.lead(now, None, out);
        }
    }

    fn on_claim(&mut self, now: Mono, claim: &Claim, heard: Mono, out: &mut Vec<ElectionEffect>) -> Verdict {
        let known = self.epoch;
        if claim.name == self.roster.me || claim.epoch == Epoch::ZERO || !self.learn(claim.epoch, out) {
            return Verdict::Passed;
        }
        self.roster.claims_rank(&claim.name, claim.rank);
        if claim.epoch == self.resigned {
            return Verdict::Passed;
        }
        if self.leading.is_some() {
            return self.meet(now, claim, heard, known, out);
        }
        match &self.reign {
            Some(reign) if reign.who.name == claim.name => self.refresh(now, claim, heard, out),
            Some(reign) if now < reign.expires => {
                // Whom the family named was obeyed at `known`; what native servers decided before that is over.
                let newer = if reign.is_foreign() { claim.epoch > known } else { claim.epoch >= known };
                let precedes = reign.is_foreign() || self.precedes(claim, &reign.claim());
                if newer && precedes && claim.epoch > reign.who.epoch {
                    self.follow(now, claim, heard, ChangeReason::Outranked, out)
                } else {
                    Verdict::Refused
                }
            }
            _ if claim.epoch < known => Verdict::Refused,
            _ if self.would_precede(now, claim) => Verdict::Passed,
            Some(_) => self.follow(now, claim, heard, ChangeReason::Lost, out),
            None => self.follow(now, claim, heard, ChangeReason::Chosen, out),
        }
    }

    /// Whether this server is in the middle of an election that would end with its taking over from that claim: then it
    /// may as well go on.
    fn would_precede(&self, now: Mono, claim: &Claim) -> bool {
        let electing = match &self.phase {
            Phase::Asking { .. } => true,
            Phase::Promised { by, .. } => *by != claim.name,
            Phase::Listening { .. } | Phase::Calm => false,
        };
        let mut mine = self.own_claim(now);
        if !self.roster.in_contact(now, self.config.contact()) {
            mine.standing = Standing::Alone;
        }
        electing && self.precedes(&mine, claim)
    }

    /// Two coordinators meet. The one that precedes takes an epoch above both; the other follows the higher epoch.
    fn meet(&mut self, now: Mono, claim: &Claim, heard: Mono, known: Epoch, out: &mut Vec<ElectionEffect>) -> Verdict {
        let mine = self.own_claim(now);
        let above = claim.epoch > mine.epoch;
        if self.precedes(claim, &mine) {
            if above && claim.epoch >= known {
                return self.follow(now, claim, heard, ChangeReason::Outranked, out);
            }
        } else if above {
            self.lead(now, None, out);
        }
        Verdict::Refused
    }

    /// The coordinator that is followed spoke again.
    fn refresh(&mut self, now: Mono, claim: &Claim, heard: Mono, out: &mut Vec<ElectionEffect>) -> Verdict {
        let expires = heard + self.config.lost();
        let Some(reign) = &mut self.reign else { return Verdict::Passed };
        if claim.epoch < reign.who.epoch {
            return Verdict::Refused;
        }
        let who = Coordinator { name: claim.name.clone(), epoch: claim.epoch };
        if reign.is_foreign() || heard >= reign.heard {
            (reign.rank, reign.standing) = (claim.rank, claim.standing);
            (reign.heard, reign.expires) = (heard, expires);
        }
        if who.epoch != reign.who.epoch {
            let old = std::mem::replace(&mut reign.who, who.clone());
            out.push(ElectionEffect::Changed { old: Some(old), new: Some(who), reason: ChangeReason::Renewed });
        }
        let challenging = matches!(self.phase, Phase::Asking { challenge: true, .. });
        if !challenging && self.live(now).is_some() {
            self.phase = Phase::Calm;
            self.reneged.clear();
        }
        Verdict::Followed
    }

    fn follow(
        &mut self,
        now: Mono,
        claim: &Claim,
        heard: Mono,
        reason: ChangeReason,
        out: &mut Vec<ElectionEffect>,
    ) -> Verdict {
        self.leading = None;
        let who = Coordinator { name: claim.name.clone(), epoch: claim.epoch };
        let old = self.enter(now, who.clone(), heard + self.config.lost());
        if let Some(reign) = &mut self.reign {
            (reign.rank, reign.standing, reign.heard) = (claim.rank, claim.standing, heard);
        }
        out.push(ElectionEffect::Changed { old, new: Some(who), reason });
        Verdict::Followed
    }

    /// The coordinator gives up its reign. Whoever followed it asks at once, since there is nothing to wait for.
    pub(super) fn on_resign(&mut self, now: Mono, from: &ServerName, epoch: Epoch, out: &mut Vec<ElectionEffect>) {
        if !self.learn(epoch, out) {
            return;
        }
        let theirs = self.reign.as_ref().filter(|reign| reign.who.name == *from && reign.who.epoch <= epoch);
        if theirs.is_some() {
            self.resigned = epoch;
            self.forget(ChangeReason::Resigned, out);
            self.reneged.insert(from.clone());
            self.elect(now, false, out);
        }
    }
}
