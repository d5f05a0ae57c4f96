//! What goes on around an election: the list, links, the reference, the family, and the server's own end.

use std::time::Duration;

use dsv2_core::{Mono, ServerName};

use super::{Bully, Phase, send};
use crate::election::{ChangeReason, Coordinator, ElectionEffect, ElectionMessage, Epoch, Member};

impl Bully {
    pub(super) fn on_members(&mut self, now: Mono, members: Vec<Member>) {
        self.roster.list(members);
        let foreign = self.reign.as_ref().filter(|reign| reign.is_foreign()).map(|reign| reign.who.name.clone());
        // The list is the only witness for servers without links. Of the others their links tell more.
        if let Some(name) = foreign.filter(|name| !self.roster.is_up(name)) {
            if self.roster.is_listed(&name) {
                self.foreign_lives(now);
            } else if let Some(reign) = &mut self.reign {
                reign.expires = now;
            }
        }
    }

    pub(super) fn on_link_up(&mut self, now: Mono, name: &ServerName, out: &mut Vec<ElectionEffect>) {
        self.roster.link_up(now, name);
        if self.leading.is_some() && *name != self.roster.me {
            out.push(send(name, ElectionMessage::Heartbeat(self.own_claim(now))));
        }
    }

    pub(super) fn on_link_down(&mut self, now: Mono, name: &ServerName, out: &mut Vec<ElectionEffect>) {
        self.roster.link_down(name);
        let grace = now + Duration::from_millis(self.config.link_grace_ms);
        let lost = self.reign.as_mut().filter(|reign| reign.who.name == *name && !reign.is_foreign());
        if let Some(reign) = lost {
            reign.expires = reign.expires.min(grace);
        }
        match &mut self.phase {
            Phase::Promised { until, by } if by == name => *until = now,
            Phase::Asking { .. } => self.answered(now, name, out),
            _ => {}
        }
    }

    pub(super) fn on_heard(&mut self, now: Mono, name: &ServerName) {
        self.roster.heard(now, name);
        if self.reign.as_ref().is_some_and(|reign| reign.is_foreign() && reign.who.name == *name) {
            self.foreign_lives(now);
        }
    }

    fn foreign_lives(&mut self, now: Mono) {
        let expires = now + self.foreign_lost();
        if let Some(reign) = &mut self.reign {
            (reign.heard, reign.expires) = (now, reign.expires.max(expires));
        }
    }

    fn foreign_lost(&self) -> Duration {
        Duration::from_millis(self.config.foreign_lost_ms)
    }

    /// A server of the family named a coordinator. It is obeyed where no voters are configured and the name is known; a
    /// native server that is named claims an epoch, so that from then on the rules of epochs hold again.
    pub(super) fn on_foreign(&mut self, now: Mono, name: ServerName, out: &mut Vec<ElectionEffect>) {
        let is_me = name == self.roster.me;
        if !self.config.obey_foreign || !self.roster.knows(&name) || (is_me && self.draining) {
            out.push(ElectionEffect::ForeignIgnored { name });
            return;
        }
        if let Some(reign) = self.reign.as_ref().filter(|reign| reign.who.name == name) {
            if reign.is_foreign() && !self.roster.is_up(&name) {
                self.foreign_lives(now);
            }
            if is_me || self.live(now).is_some() {
                return;
            }
        }
        if is_me {
            self.lead(now, Some(ChangeReason::Foreign), out);
            return;
        }
        self.leading = None;
        let patience = if self.roster.is_up(&name) { self.config.lost() } else { self.foreign_lost() };
        let who = Coordinator { name, epoch: Epoch::ZERO };
        let old = self.enter(now, who.clone(), now + patience);
        out.push(ElectionEffect::Changed { old, new: Some(who), reason: ChangeReason::Foreign });
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

    pub(super) fn on_stepdown(&mut self, out: &mut Vec<ElectionEffect>) {
        self.draining = true;
        if self.leading.is_some() {
            self.resigned = self.epoch_of_reign();
            self.broadcast(&ElectionMessage::Resign { epoch: self.resigned }, out);
            self.forget(ChangeReason::Resigned, out);
        } else {
            self.phase = Phase::Calm;
        }
    }

    fn epoch_of_reign(&self) -> Epoch {
        self.reign.as_ref().map_or(Epoch::ZERO, |reign| reign.who.epoch)
    }
}
