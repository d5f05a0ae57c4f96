//! Voters that are gone for good.
//!
//! An operator says so at one server, which tells the others; nobody ever takes it back. From then on a departed voter's
//! links are refused, and neither what is final nor the level `all` waits for it. It still counts as a voter where a majority
//! is needed, as one that never answers: so no majority of before can be without one of after.
//!
//! What it wrote and some voter holds is waited for, as what every voter itself wrote is: the voters' bounds name it. What
//! only others hold comes too late, and is not taken.

use std::collections::BTreeSet;

use dsv2_core::{Now, Origin, Position, ServerName};

use super::Server;
use super::io::{Effect, LinkId, Note};
use crate::replication::ReplicationLog;

impl Server {
    /// The voters that are not gone.
    pub(super) fn present_voters(&self) -> impl Iterator<Item = &ServerName> {
        self.config.voters.iter().filter(|voter| !self.asked.departed.contains(*voter))
    }

    /// All that this server's bound is about: its own events, and those of voters that are gone, as far as held.
    pub(super) fn bounded(&self) -> Position {
        let mut events = self.own.last.clone();
        if !self.asked.departed.is_empty() {
            let departed = self.log.held().iter().filter(|(origin, _)| self.asked.departed.contains(&origin.server));
            departed.for_each(|(origin, seq)| events.advance_to(origin, seq));
        }
        events
    }

    /// Whether events of a voter that is gone come from somebody whose bound does not tell of them.
    pub(super) fn is_too_late(&self, sender: &ServerName, origin: &Origin) -> bool {
        self.asked.departed.contains(&origin.server) && !self.config.voters.contains(sender)
    }

    /// Somebody tells which voters are gone.
    pub(super) fn hear_departed(&mut self, now: Now, departed: &BTreeSet<ServerName>, out: &mut Vec<Effect>) {
        let voters = &self.config.voters;
        let new: Vec<ServerName> =
            departed.difference(&self.asked.departed).filter(|name| voters.contains(*name)).cloned().collect();
        if new.is_empty() {
            return;
        }
        if new.contains(&self.config.name) {
            let text = "this server was declared gone for good: start it under another name, with an empty directory";
            return out.push(Effect::Fatal(text.to_owned()));
        }
        self.asked.departed.extend(new.iter().cloned());
        out.push(Effect::Save(self.asked.clone()));
        self.bounds.values_mut().for_each(super::links::Bounds::begin_again);
        for name in new {
            self.bounds.remove(&name);
            self.part_with(now, &name, out);
            out.push(Effect::Log(Note::Departed(name)));
        }
        // What waited for all voters may wait for none any more.
        let held = self.log.held().clone();
        self.recheck_waiting(now, &held, out);
    }

    /// Gives up all links to a voter that is gone.
    fn part_with(&mut self, now: Now, name: &ServerName, out: &mut Vec<Effect>) {
        let accepted = self.peers.by_name.get(name).map(|peer| peer.accepted.clone()).unwrap_or_default();
        let links: Vec<LinkId> =
            self.peers.undial(name).into_iter().chain(accepted.into_iter().map(LinkId::Accepted)).collect();
        for link in links {
            out.push(Effect::HangUp(link));
            self.link_down(now, link, out);
        }
    }
}
