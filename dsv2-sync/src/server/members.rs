//! Who else is there: the reference's list, announcements of links, the election and the clock rounds among them.

use std::time::Duration;

use dsv2_core::{
    Announcement, Failure, LinkNotice, LogicalClock, Mono, Now, RankedServer, RawTimestamp, Reply, ReplyBody, Request,
    RequestBody, RequestExt, ServerCard, ServerName,
};

use super::Server;
use super::io::{Effect, Note, Outgoing};
use crate::clock_sync::{ClockEffect, ClockInput, Part};
use crate::election::{ElectionEffect, ElectionInput, Member, NodeId};
use crate::link::LinkMessage;
use dsv2_core::Machine;

/// What is known from the reference, and what to ask it next.
#[derive(Debug)]
pub(super) struct Registry {
    /// As the reference gave it, in this life or an earlier one.
    pub(super) rank: Option<u64>,
    /// The reference knows this server, as far as known: it is asked for the rank, and told the one it gave before, until
    /// it does.
    registered: bool,
    asked: Option<Asked>,
    next: Mono,
    /// What to ask next.
    list_next: bool,
    failures: u32,
    next_notice: Mono,
    /// How many notices are still to come soon after the start.
    first_notices: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Rank,
    Heartbeat,
    List,
}

/// So many questions in a row without an answer, and the reference counts as lost.
const LOST_AFTER: u32 = 2;

/// So many announcements of the link follow each other soon after the start.
const FIRST_NOTICES: u32 = 5;

/// Between questions as long as something is not known yet.
const EAGER: Duration = Duration::from_millis(500);

impl Registry {
    pub(super) fn new(now: Mono, rank: Option<u64>) -> Self {
        Self {
            rank,
            registered: false,
            asked: None,
            next: now,
            list_next: false,
            failures: 0,
            next_notice: now,
            first_notices: FIRST_NOTICES,
        }
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        let question = self.asked.is_none().then_some(self.next);
        question.into_iter().chain([self.next_notice]).min()
    }
}

impl Server {
    fn card(&self) -> ServerCard {
        ServerCard {
            name: self.config.name.clone(),
            address: self.config.address.clone(),
            node: Some(format!("{:032x}", self.config.node.0)),
            rank: self.registry.rank,
        }
    }

    pub(super) fn registry_wake(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.registry.asked.is_none() && self.registry.next <= now.mono {
            let asked = match (self.registry.registered, self.registry.list_next) {
                (false, _) => Asked::Rank,
                (true, false) => Asked::Heartbeat,
                (true, true) => Asked::List,
            };
            if asked == Asked::Rank && self.registry.rank.is_some() {
                // The election goes by the rank of an earlier life for as long as the reference is away.
                self.tell_members(now, out);
            }
            self.registry.asked = Some(asked);
            let body = match asked {
                Asked::Rank => RequestBody::Rank(self.card()),
                Asked::Heartbeat => RequestBody::Heartbeat(self.card()),
                Asked::List => RequestBody::List,
            };
            let request = Request {
                format: self.config.format,
                timestamp: Some(RawTimestamp::from(self.wall_now(now).timestamp())),
                clock: Some(self.prompt_clock()),
                ext: RequestExt::default(),
                body,
            };
            out.push(Effect::Reference(Box::new(request)));
        }
        if self.registry.next_notice <= now.mono {
            // Nobody hears what is published before subscriptions have arrived, so the first notices come often; and as
            // long as the reference lists a server without an address, that one may not know ours either.
            let unreached = self.peers.by_name.values().any(|peer| peer.listed && peer.address.is_none());
            self.registry.first_notices = self.registry.first_notices.saturating_sub(1);
            let eager = unreached || self.registry.first_notices > 0;
            self.registry.next_notice = now.mono + if eager { EAGER } else { self.config.timing.notice };
            self.announce_link(now, out);
        }
    }

    fn announce_link(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(address) = self.config.address.clone() else { return };
        let notice = LinkNotice {
            name: self.config.name.clone(),
            address,
            node: format!("{:032x}", self.config.node.0),
            timestamp: Some(self.wall_now(now).timestamp()),
            clock: Some(self.prompt_clock()),
        };
        out.push(Effect::Publish(Outgoing::LinkNotice(notice)));
    }

    /// The reference answered, or could not be asked.
    pub(super) fn reference_answered(&mut self, now: Now, answer: Result<Reply, Failure>, out: &mut Vec<Effect>) {
        let Some(asked) = self.registry.asked.take() else { return };
        let answer = answer.map(|reply| {
            self.observe(now, reply.clock);
            reply.body
        });
        let known = matches!(answer, Ok(ref body) if !matches!(body, ReplyBody::Failed(_)));
        if known {
            if self.registry.failures >= LOST_AFTER {
                out.push(Effect::Log(Note::ReferenceBack));
                self.elect(now, ElectionInput::ReferenceBack, out);
            }
            self.registry.failures = 0;
        }
        match (asked, answer) {
            (Asked::Rank, Ok(ReplyBody::Rank(rank))) => {
                (self.registry.rank, self.registry.registered) = (Some(rank), true);
                if self.asked.rank != Some(rank) {
                    self.asked.rank = Some(rank);
                    out.push(Effect::Save(self.asked.clone()));
                }
                out.push(Effect::Log(Note::Ranked(rank)));
                self.tell_members(now, out);
                self.registry.next = now.mono;
            }
            (Asked::Heartbeat, Ok(ReplyBody::Done(_))) => {
                self.registry.list_next = true;
                self.registry.next = now.mono;
            }
            (Asked::List, Ok(ReplyBody::List(list))) => {
                self.registry.list_next = false;
                let alone = !list.iter().any(|server| server.name != self.config.name.as_str());
                self.registry.next = now.mono + if alone { EAGER * 2 } else { self.config.timing.heartbeat };
                self.listed(now, &list, out);
            }
            (Asked::Rank, Ok(ReplyBody::Failed(failure))) if failure.code == dsv2_core::Code::NameTaken => {
                out.push(Effect::Fatal(failure.text));
            }
            (asked, answer) => self.reference_failed(now, asked, answer, out),
        }
    }

    fn reference_failed(&mut self, now: Now, asked: Asked, answer: Result<ReplyBody, Failure>, out: &mut Vec<Effect>) {
        self.registry.next = now.mono + EAGER;
        let why = match answer {
            // It answers, and knows us no longer: it has lost its disk, and is told our rank anew.
            Ok(ReplyBody::Failed(_)) if asked == Asked::Heartbeat => {
                self.registry.registered = false;
                return;
            }
            Ok(ReplyBody::Failed(failure)) => failure.text,
            Ok(_) => "it answered something else".to_owned(),
            Err(failure) => failure.text,
        };
        self.registry.failures += 1;
        if self.registry.failures == LOST_AFTER {
            out.push(Effect::Log(Note::ReferenceLost(why)));
            self.elect(now, ElectionInput::ReferenceLost, out);
            out.push(Effect::Log(Note::CoordinatorStays(self.election.coordinator().map(|c| c.name.clone()))));
        }
    }

    /// The reference listed the live servers.
    fn listed(&mut self, now: Now, list: &[RankedServer], out: &mut Vec<Effect>) {
        self.peers.by_name.values_mut().for_each(|peer| peer.listed = false);
        for server in list {
            let Ok(name) = server.name.parse::<ServerName>() else { continue };
            if name == self.config.name {
                continue;
            }
            let node = server.node.as_deref().and_then(|node| u128::from_str_radix(node, 16).ok()).map(NodeId);
            self.meet(&name, server.address.as_deref(), Some(server.rank), node, out);
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.listed = true;
            }
        }
        self.tell_members(now, out);
    }

    /// Learns of another server, and dials it where its address is new.
    pub(super) fn meet(
        &mut self,
        name: &ServerName,
        address: Option<&str>,
        rank: Option<u64>,
        node: Option<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        if !self.has_room_for(name) || self.asked.departed.contains(name) {
            return;
        }
        self.make_room_for(name, out);
        let peer = self.peers.by_name.entry(name.clone()).or_default();
        peer.rank = rank.or(peer.rank);
        // What the link said is fresher than what a list says.
        if peer.link().is_none() {
            peer.node = node.or(peer.node);
        }
        let moved = address.is_some_and(|address| peer.address.as_deref() != Some(address));
        if !moved {
            return;
        }
        peer.address = address.map(str::to_owned);
        if let Some(old) = self.peers.undial(name) {
            out.push(Effect::HangUp(old));
        }
        let link = self.peers.dial(name);
        out.push(Effect::Dial { link, address: address.unwrap_or_default().to_owned() });
    }

    /// Whether one more server can be known: a voter always, others as long as somebody else may be forgotten for it.
    pub(super) fn has_room_for(&self, name: &ServerName) -> bool {
        let known = self.peers.by_name.contains_key(name);
        let full = self.peers.by_name.len() >= self.config.caps.peers;
        known || !full || self.config.voters.contains(name) || self.to_forget().is_some()
    }

    fn to_forget(&self) -> Option<&ServerName> {
        self.peers.forgettable(|name| !self.config.voters.contains(name))
    }

    /// Forgets a server that is not there for one that is new.
    pub(super) fn make_room_for(&mut self, name: &ServerName, out: &mut Vec<Effect>) {
        let full = self.peers.by_name.len() >= self.config.caps.peers;
        if !full || self.peers.by_name.contains_key(name) {
            return;
        }
        if let Some(forgotten) = self.to_forget().cloned() {
            out.extend(self.peers.undial(&forgotten).map(Effect::HangUp));
            self.peers.by_name.remove(&forgotten);
        }
    }

    /// Somebody announced its link.
    pub(super) fn link_noticed(&mut self, now: Now, notice: &LinkNotice, out: &mut Vec<Effect>) {
        if notice.name == self.config.name {
            return;
        }
        let new = self.peers.by_name.get(&notice.name).is_none_or(|peer| peer.address.is_none());
        self.observe(now, notice.clock);
        let node = u128::from_str_radix(&notice.node, 16).ok().map(NodeId);
        self.meet(&notice.name, Some(&notice.address), None, node, out);
        if new {
            // The newcomer has not heard our own notice.
            self.announce_link(now, out);
            self.tell_members(now, out);
        }
    }

    pub(super) fn tell_members(&mut self, now: Now, out: &mut Vec<Effect>) {
        let own = Member { name: self.config.name.clone(), rank: self.registry.rank, node: Some(self.config.node) };
        let others = self.peers.by_name.iter().filter(|(_, peer)| peer.listed || peer.link().is_some());
        let others = others.map(|(name, peer)| Member { name: name.clone(), rank: peer.rank, node: peer.node });
        let members: Vec<Member> = std::iter::once(own).chain(others).collect();
        let names = members.iter().map(|member| member.name.clone()).collect();
        self.elect(now, ElectionInput::Members(members), out);
        self.wall_step(now, ClockInput::Members(names), out);
    }

    /// Somebody announced a coordinator.
    pub(super) fn announced(&mut self, now: Now, announcement: &Announcement, out: &mut Vec<Effect>) {
        if announcement.coordinator == self.config.name && announcement.epoch.is_some() {
            return;
        }
        self.observe(now, announcement.clock);
        // Ours carry an epoch, and come over the links as well.
        if announcement.epoch.is_none() {
            self.elect(now, ElectionInput::ForeignAnnouncement { name: announcement.coordinator.clone() }, out);
        }
    }

    /// Lets the election decide, and carries out what it wants.
    pub(super) fn elect(&mut self, now: Now, input: ElectionInput, out: &mut Vec<Effect>) {
        let mut effects = Vec::new();
        self.election.step(now, input, &mut effects);
        for effect in effects {
            match effect {
                ElectionEffect::Save(epoch) => {
                    self.asked.epoch = epoch.number;
                    self.asked.epoch_owner = epoch.node.0;
                    out.push(Effect::Save(self.asked.clone()));
                }
                ElectionEffect::SaveVote(vote) => {
                    self.asked.vote = vote;
                    out.push(Effect::Save(self.asked.clone()));
                }
                ElectionEffect::Send { to, message } => {
                    // What carries an epoch or a vote waits until that is durable; otherwise a slow disk must not delay it.
                    let known = |saved: &super::Saved| (saved.epoch, saved.epoch_owner, saved.vote);
                    let prompt = known(&self.saved) == known(&self.asked);
                    let link = self.peers.by_name.get(&to).and_then(super::peers::Peer::link);
                    // A disk that takes no epoch has no voice; to hold back all it would say would take memory.
                    if let Some(link) = link.filter(|_| prompt || self.stuck.is_none()) {
                        out.push(Effect::Link { to: vec![link], message: LinkMessage::Election(message), prompt });
                    }
                }
                ElectionEffect::Announce(coordinator) => {
                    let announcement = Announcement {
                        coordinator: coordinator.name,
                        epoch: Some(coordinator.epoch.number),
                        node: Some(format!("{:032x}", coordinator.epoch.node.0)),
                        timestamp: Some(self.wall_now(now).timestamp()),
                        clock: Some(self.prompt_clock()),
                    };
                    out.push(Effect::Publish(Outgoing::Announcement(announcement)));
                }
                ElectionEffect::Changed { new, reason, .. } => {
                    let epoch =
                        new.as_ref().map_or(self.election.epoch().number, |coordinator| coordinator.epoch.number);
                    let name = new.as_ref().map(|coordinator| coordinator.name.clone());
                    let clock = self.clock.now();
                    out.push(Effect::Log(Note::Coordinator { name, epoch, why: reason.to_string(), clock }));
                    self.wall_step(now, ClockInput::Coordinator(new), out);
                }
                ElectionEffect::CoordinatorStays { .. } => {}
                ElectionEffect::ForeignIgnored { name } => {
                    out.push(Effect::Log(Note::Trouble(format!(
                        "the coordinator {name} that a foreign server announced is not obeyed"
                    ))));
                }
            }
        }
    }

    /// A request of a client counts towards the next clock round.
    pub(super) fn count_message(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.wall_step(now, ClockInput::ClientRequest, out);
    }

    pub(super) fn wake_wall(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.wall.deadline().is_some_and(|at| at <= now.mono) {
            self.wall_step(now, ClockInput::Wake, out);
        }
    }

    pub(super) fn wall_step(&mut self, now: Now, input: ClockInput, out: &mut Vec<Effect>) {
        let mut effects = Vec::new();
        self.wall.step(now, input, &mut effects);
        for effect in effects {
            match effect {
                ClockEffect::Send { to, message } => {
                    if let Some(link) = self.peers.by_name.get(&to).and_then(super::peers::Peer::link) {
                        out.push(Effect::Link { to: vec![link], message: LinkMessage::Clock(message), prompt: true });
                    }
                }
                ClockEffect::RoundDone(report) => {
                    let agreed = report.clocks.iter().filter(|clock| clock.part == Part::Agrees).count();
                    let text = format!(
                        "round {} of {}: {agreed} of {} clocks agree",
                        report.round, report.epoch, report.members
                    );
                    out.push(Effect::Log(Note::ClockRound(text)));
                }
                ClockEffect::RoundRefused { report, needed } => {
                    let text = format!(
                        "round {} of {} refused: {needed} clocks would have to agree",
                        report.round, report.epoch
                    );
                    out.push(Effect::Log(Note::ClockRound(text)));
                }
                ClockEffect::Adjusted { offset_us, by_us, .. } => {
                    let text = format!("the wall clock's offset goes to {offset_us} us, by {by_us} us");
                    out.push(Effect::Log(Note::ClockRound(text)));
                }
                ClockEffect::SystemClockSet { by_us } => {
                    out.push(Effect::Log(Note::Trouble(format!("somebody set the system clock by {by_us} us"))));
                }
            }
        }
    }
}
