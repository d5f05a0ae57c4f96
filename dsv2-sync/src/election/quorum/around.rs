//! What goes on around an election: links, the reference, and the server's own end.

use dsv2_core::{Mono, ServerName};

use super::{Phase, QuorumBully, send};
use crate::election::{ChangeReason, ElectionEffect};

impl QuorumBully {
    pub(super) fn on_link_up(&mut self, now: Mono, name: &ServerName, out: &mut Vec<ElectionEffect>) {
        self.roster.link_up(now, name);
        if self.is_leading() && *name != self.roster.me {
            out.push(send(name, self.lease_message(now)));
        }
    }

    /// A broken link frees nobody: the lease of whoever was at its other end goes on.
    pub(super) fn on_link_down(&mut self, now: Mono, name: &ServerName, out: &mut Vec<ElectionEffect>) {
        self.roster.link_down(name);
        if self.reign.as_ref().is_some_and(|reign| reign.who.name == *name) {
            self.challenge_at = now + self.config.hold_down();
        }
        match &mut self.phase {
            Phase::Promised { until, by } if by == name => *until = now,
            Phase::Asking { .. } => self.answered(now, name, out),
            _ => {}
        }
    }

    pub(super) fn on_reference(&mut self, lost: bool) {
        if self.reference_lost != lost {
            self.reference_lost = lost;
            self.owes_stays = lost;
        }
    }

    /// Said once for every loss of the reference, as soon as there is a coordinator.
    pub(super) fn say_it_stays(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        if !self.owes_stays {
            return;
        }
        if let Some(reign) = self.live(now) {
            out.push(ElectionEffect::CoordinatorStays { name: reign.who.name.clone() });
            self.owes_stays = false;
        }
    }

    /// It is about to stop: it still votes, and leads no more.
    pub(super) fn on_stepdown(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        self.draining = true;
        match self.phase {
            Phase::Leading { .. } => self.give_up(now, ChangeReason::Resigned, out),
            Phase::Voting { .. } => self.withdraw(now, out),
            _ => {}
        }
        self.phase = Phase::Calm;
    }
}
