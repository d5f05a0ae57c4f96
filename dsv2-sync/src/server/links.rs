//! Direct links: streaming own events, taking others', repairing gaps, and the bound below which nothing will come.

use std::sync::Arc;

use dsv2_core::{Change, Clock, Event, LogicalClock, Now, Origin, Position, ServerName};

use super::Server;
use super::config::Caps;
use super::io::{Effect, LinkId, Note};
use super::pulls::Sure;
use super::requests::Asked;
use crate::clock_sync::ClockInput;
use crate::election::{ElectionInput, NodeId};
use crate::link::{LinkHello, LinkMessage};
use crate::planted::Bug;
use crate::replication::{Offer, ReplicationLog};

/// What a voter promised about its clocks.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// The last bound whose events are held here.
    reached: Clock,
    /// What was final at that voter then: it holds all events up to there, and all that it wrote without one of them is
    /// held here.
    pub(super) stable: Clock,
    /// The next one, whose events are not all held yet.
    next: Option<Bound>,
    /// The newest. It does not replace the next: who is always a little behind would reach none.
    newest: Option<Bound>,
    /// All events of that voter that anybody was ever heard to hold. A voter that lost some of its own to a damaged disk
    /// says less than it said before.
    known: Position,
}

/// A voter's word that it will give no event a clock up to `clock` beyond those in `events`.
#[derive(Debug)]
struct Bound {
    clock: Clock,
    events: Position,
    stable: Clock,
}

impl Bounds {
    fn hear(&mut self, bound: Bound) {
        if self.next.is_none() { self.next = Some(bound) } else { self.newest = Some(bound) }
    }

    /// What was promised while somebody was waited for who is gone tells nothing of what others hold of that one.
    pub(super) fn begin_again(&mut self) {
        (self.reached, self.stable, self.next, self.newest) = (Clock::ZERO, Clock::ZERO, None, None);
    }

    fn settle(&mut self, held: impl Fn(&Position) -> bool) {
        while held(&self.known) {
            let Some(bound) = self.next.take_if(|bound| held(&bound.events)) else { return };
            self.reached = self.reached.max(bound.clock);
            self.stable = self.stable.max(bound.stable);
            self.next = self.newest.take();
        }
    }
}

impl Server {
    fn hello(&mut self) -> LinkHello {
        LinkHello {
            name: self.config.name.clone(),
            node: self.config.node.0,
            voters: self.config.voters_digest(),
            rank: self.registry.rank,
            address: self.config.address.clone(),
            incarnation: self.config.incarnation,
            clock: self.link_clock(),
            durable: self.visible().clone(),
            departed: self.asked.departed.clone(),
        }
    }

    /// A dialled link is connected: presents this server.
    pub(super) fn link_up(&mut self, link: u64, out: &mut Vec<Effect>) {
        let message = LinkMessage::Hello(self.hello());
        out.push(Effect::Link { to: vec![LinkId::Dialled(link)], message, prompt: self.stuck.is_some() });
    }

    pub(super) fn link_down(&mut self, now: Now, link: LinkId, out: &mut Vec<Effect>) {
        self.turn.acks.remove(&link);
        self.forwards_lost(now, link, out);
        let Some(name) = self.peers.down(link) else { return };
        if self.peers.by_name.get(&name).is_some_and(|peer| peer.link().is_none()) {
            out.push(Effect::Log(Note::Unlinked(name.clone())));
            self.elect(now, ElectionInput::LinkDown(name.clone()), out);
            self.wall_step(now, ClockInput::LinkDown(name), out);
        }
    }

    pub(super) fn link_message(&mut self, now: Now, link: LinkId, message: LinkMessage, out: &mut Vec<Effect>) {
        match message {
            LinkMessage::Hello(hello) => return self.greeted(now, link, &hello, out),
            LinkMessage::Welcome { hello } => return self.welcomed(now, link, &hello, out),
            LinkMessage::Refused { why } => {
                out.push(Effect::Log(Note::LinkRefused(why)));
                return;
            }
            _ => {}
        }
        // Whoever has not presented itself has nothing to say.
        let Some(name) = self.peers.at(link).cloned() else { return };
        if let Some(peer) = self.peers.get_mut(&name) {
            peer.heard = Some(now.mono);
        }
        match message {
            LinkMessage::Events { events } => {
                if let Some(last) = events.last() {
                    let id = last.id.clone();
                    self.events_arrived(now, link, &name, (&id.origin, None, id.seq), &events, out);
                }
            }
            LinkMessage::Stretch { origin, from, upto, events, retirement } => {
                let sound = |event: &Arc<Event>| event.id.origin == origin && (from..=upto).contains(&event.id.seq);
                self.hear_floors(&retirement, out);
                if events.iter().all(sound) && events.is_sorted_by(|a, b| a.id.seq < b.id.seq) {
                    self.events_arrived(now, link, &name, (&origin, Some(from), upto), &events, out);
                }
            }
            LinkMessage::Ack { durable } => {
                self.note_durable(now, &name, &durable, out);
                self.catch_up(&name, out);
            }
            LinkMessage::Vector { durable, answer, retirement } => {
                self.hear_floors(&retirement, out);
                self.vector_arrived(now, link, &name, &durable, answer, out);
            }
            LinkMessage::Pull { origin, from } => self.pulled(link, &name, origin, from, out),
            LinkMessage::Bound { clock, events, stable, retirement, departed } => {
                self.clock.observe(clock);
                self.heard_of(&events);
                self.hear_departed(now, &departed, out);
                // Who still waits for one that is gone does not tell what it holds of it.
                if departed.is_superset(&self.asked.departed) {
                    self.bounds.entry(name).or_default().hear(Bound { clock, events, stable });
                }
                self.settle_bounds();
                self.hear_floors(&retirement, out);
            }
            LinkMessage::Ping => out.push(Effect::Link { to: vec![link], message: LinkMessage::Pong, prompt: true }),
            LinkMessage::Pong => self.elect(now, ElectionInput::Heard(name), out),
            LinkMessage::Forward { ticket, body, level } => self.forward_arrived(now, link, ticket, &body, level, out),
            LinkMessage::Forwarded { ticket, body } => self.forward_answered(now, link, ticket, &body, out),
            LinkMessage::Election(message) => self.elect(now, ElectionInput::Message { from: name, message }, out),
            LinkMessage::Clock(message) => self.wall_step(now, ClockInput::Message { from: name, message }, out),
            LinkMessage::Hello(_) | LinkMessage::Welcome { .. } | LinkMessage::Refused { .. } => {}
        }
    }

    /// Why a server that presents itself is no peer of ours.
    fn objection(&self, hello: &LinkHello) -> Option<String> {
        let name = &hello.name;
        if *name == self.config.name {
            return Some(format!("two servers are called {name}"));
        }
        if self.asked.departed.contains(name) {
            let how = "let it start under another name, with an empty directory";
            return Some(format!("{name} was declared gone for good: {how}"));
        }
        if hello.voters != self.config.voters_digest() {
            return Some(format!("{name} and {} were given different lists of voters", self.config.name));
        }
        if !self.has_room_for(name) {
            return Some(format!("{} knows {} servers, and takes no more", self.config.name, self.config.caps.peers));
        }
        None
    }

    /// A server dialled us.
    fn greeted(&mut self, now: Now, link: LinkId, hello: &LinkHello, out: &mut Vec<Effect>) {
        let LinkId::Accepted(number) = link else { return };
        if let Some(why) = self.objection(hello) {
            out.push(Effect::Log(Note::LinkRefused(why.clone())));
            out.push(Effect::Link { to: vec![link], message: LinkMessage::Refused { why }, prompt: true });
            return;
        }
        let first = self.introduce(now, hello, out);
        self.peers.accept(number, &hello.name);
        let message = LinkMessage::Welcome { hello: self.hello() };
        out.push(Effect::Link { to: vec![link], message, prompt: self.stuck.is_some() });
        self.linked(now, link, hello, first, out);
    }

    /// A server that we dialled takes the link.
    fn welcomed(&mut self, now: Now, link: LinkId, hello: &LinkHello, out: &mut Vec<Effect>) {
        let LinkId::Dialled(number) = link else { return };
        let Some(expected) = self.peers.at(link).cloned() else { return };
        let objection = self.objection(hello);
        if expected != hello.name || objection.is_some() {
            let why = objection.unwrap_or_else(|| format!("{expected} was expected there, {} answered", hello.name));
            out.push(Effect::Log(Note::LinkRefused(why)));
            self.peers.undial(&expected);
            out.push(Effect::HangUp(link));
            return;
        }
        let first = self.introduce(now, hello, out);
        let have = hello.durable.get(&self.origin);
        if let Some(peer) = self.peers.get_mut(&hello.name) {
            peer.dialled = Some(number);
            peer.welcome = true;
            // The stream goes on where the other's log ends, whatever was on its way when the link broke.
            peer.begin(have);
        }
        self.linked(now, link, hello, first, out);
        self.catch_up(&hello.name, out);
    }

    /// Takes a peer's word for who it is; yields whether it had no link before.
    fn introduce(&mut self, now: Now, hello: &LinkHello, out: &mut Vec<Effect>) -> bool {
        self.clock.observe(hello.clock);
        self.hear_departed(now, &hello.departed, out);
        self.make_room_for(&hello.name, out);
        let peer = self.peers.by_name.entry(hello.name.clone()).or_default();
        let first = peer.link().is_none();
        let unknown = peer.address.is_none();
        peer.node = Some(NodeId(hello.node));
        peer.incarnation = Some(hello.incarnation);
        peer.rank = hello.rank.or(peer.rank);
        peer.heard = Some(now.mono);
        // What it holds now it says: it may have lost what it held before.
        self.log.forget(&hello.name);
        self.bounds.entry(hello.name.clone()).or_default().stable = Clock::ZERO;
        if unknown {
            self.meet(&hello.name, hello.address.as_deref(), hello.rank, None, out);
        }
        self.tell_members(now, out);
        first
    }

    fn linked(&mut self, now: Now, link: LinkId, hello: &LinkHello, first: bool, out: &mut Vec<Effect>) {
        if first {
            out.push(Effect::Log(Note::Linked(hello.name.clone())));
        }
        self.elect(now, ElectionInput::LinkUp(hello.name.clone()), out);
        self.wall_step(now, ClockInput::LinkUp(hello.name.clone()), out);
        self.pulls.ask_again();
        self.compare(now, link, &hello.name, &hello.durable, Sure::Yes, out);
    }

    /// Counts an origin's numbers up to `upto` as held.
    fn pass_over(&mut self, origin: &Origin, upto: u64, out: &mut Vec<Effect>) {
        if upto > self.log.held().get(origin) {
            self.remember_floors(out);
            self.log.skip(origin, upto);
            out.push(Effect::Change(Change::Skip { origin: origin.clone(), upto }));
        }
    }

    /// Takes an event that may be the next one of its origin; yields the number that is missing where it is not.
    fn take_event(&mut self, event: &Arc<Event>, out: &mut Vec<Effect>) -> Option<u64> {
        match self.log.offer(&event.id) {
            Offer::Accept => {
                if !self.planted.has(Bug::ClockNotMerged) {
                    self.clock.observe(event.clock);
                }
                self.apply(event, out);
                if event.id.origin.server == self.config.name {
                    self.own.note(event, Some(&self.origin));
                }
                let range = self.turn.replicated.entry(event.id.origin.clone()).or_insert((event.id.seq, event.id.seq));
                range.1 = event.id.seq;
                out.push(Effect::Change(Change::Append(event.clone())));
                None
            }
            Offer::Duplicate => None,
            Offer::Gap(from) => Some(from),
        }
    }

    /// Events of one origin arrived, up to a number: those that are new are appended, and acknowledged when they are
    /// durable.
    ///
    /// Where they are all from a number on that their sender has not retired, the others are passed over. Those were final
    /// at every voter, so none of them can be an acknowledged write that only this server lacks.
    fn events_arrived(
        &mut self,
        now: Now,
        link: LinkId,
        sender: &ServerName,
        (origin, from, upto): (&Origin, Option<u64>, u64),
        events: &[Arc<Event>],
        out: &mut Vec<Effect>,
    ) {
        // They are asked for again when they can be written.
        if self.stuck.is_some() || self.is_too_late(sender, origin) {
            return;
        }
        let passes = from.is_some_and(|from| from <= self.log.held().get(origin) + 1);
        let mut gap = None;
        for event in events {
            if passes {
                self.pass_over(origin, event.id.seq - 1, out);
            }
            if self.planted.has(Bug::OwnLivesRefused) && event.id.origin.server == self.config.name {
                continue;
            }
            gap = self.take_event(event, out).or(gap);
        }
        if passes {
            self.pass_over(origin, upto, out);
        }
        let held = self.log.held().get(origin);
        self.turn.acks.entry(link).or_default().advance_to(origin, held);
        // A server sends its own events only when they are durable.
        if origin.server == *sender {
            let said = Position::from_iter([(origin.clone(), upto)]);
            self.note_durable(now, sender, &said, out);
        }
        match gap {
            Some(from) => self.pull(now, origin, from, (Some(link), Sure::Yes), out),
            None => self.arrived(now, link, sender, origin, out),
        }
        self.settle_bounds();
        self.raise_floors(out);
        self.unpark(now, out);
    }

    fn vector(&self, answer: bool) -> LinkMessage {
        LinkMessage::Vector { durable: self.visible().clone(), answer, retirement: self.retiring.wanted.clone() }
    }

    fn vector_arrived(
        &mut self,
        now: Now,
        link: LinkId,
        name: &ServerName,
        durable: &Position,
        answer: bool,
        out: &mut Vec<Effect>,
    ) {
        self.compare(now, link, name, durable, Sure::Perhaps, out);
        if answer {
            let message = self.vector(false);
            out.push(Effect::Link { to: vec![link], message, prompt: self.stuck.is_some() });
        }
    }

    /// Compares what a peer holds with what is held here, and sees to the difference.
    fn compare(
        &mut self,
        now: Now,
        link: LinkId,
        name: &ServerName,
        durable: &Position,
        sure: Sure,
        out: &mut Vec<Effect>,
    ) {
        self.note_durable(now, name, durable, out);
        self.heard_of(durable);
        for (origin, from) in self.log.missing(durable) {
            self.pull(now, &origin, from, (Some(link), sure), out);
        }
        self.catch_up(name, out);
    }

    /// Somebody holds these events: until they are here, nothing that their servers said is final.
    fn heard_of(&mut self, events: &Position) {
        for (server, bounds) in &mut self.bounds {
            let theirs = events.iter().filter(|(origin, _)| origin.server == *server);
            theirs.for_each(|(origin, seq)| bounds.known.advance_to(origin, seq));
        }
    }

    /// Reads what a peer lacks of our own events, where the stream alone will not bring it.
    pub(super) fn catch_up(&mut self, name: &ServerName, out: &mut Vec<Effect>) {
        let last = self.log.held().get(&self.origin);
        let cap = self.config.caps.unacknowledged;
        let unsent = self.turn.own.first().map_or(last, |event| event.id.seq - 1);
        let Some(peer) = self.peers.get_mut(name) else { return };
        let Some(link) = peer.dialled.filter(|_| peer.welcome) else { return };
        if peer.reading || peer.sent >= unsent || peer.sent.saturating_sub(peer.acked) >= cap {
            return;
        }
        peer.reading = true;
        let from = peer.sent + 1;
        self.start_range(LinkId::Dialled(link), true, self.origin.clone(), from, out);
    }

    /// Events were read for a peer.
    pub(super) fn range_read(&mut self, asked: Asked, upto: u64, events: Vec<Event>, out: &mut Vec<Effect>) {
        let Asked { link, catch_up, origin, from } = asked;
        let Some(name) = self.peers.at(link).cloned() else { return };
        let some = upto >= from;
        if some {
            let whole = events.len() as u64 == upto - from + 1;
            let events = events.into_iter().map(Arc::new).collect();
            let message = match whole {
                true => LinkMessage::Events { events },
                false => {
                    let retirement = self.retiring.wanted.clone();
                    LinkMessage::Stretch { origin, from, upto, events, retirement }
                }
            };
            out.push(Effect::Link { to: vec![link], message, prompt: self.stuck.is_some() });
        }
        if catch_up {
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.read(if some { upto } else { 0 });
            }
            if some {
                self.catch_up(&name, out);
            }
        }
    }

    pub(super) fn range_failed(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.at(link).cloned().and_then(|name| self.peers.by_name.get_mut(&name)) {
            peer.read(0);
        }
    }

    /// The turn ends: own events go to every peer in one message, acknowledgements and log lines in one each.
    pub(super) fn flush(&mut self, _now: Now, out: &mut Vec<Effect>) {
        let own = std::mem::take(&mut self.turn.own);
        if let (Some(first), Some(last)) = (own.first().map(|event| event.id.seq), own.last().map(|event| event.id.seq))
        {
            let cap = self.config.caps.unacknowledged;
            let mut to = Vec::new();
            for peer in self.peers.by_name.values_mut() {
                let Some(link) = peer.dialled.filter(|_| peer.welcome) else { continue };
                // A peer that is behind is caught up from the store, within its window.
                if peer.sent + 1 == first && !peer.reading && peer.sent.saturating_sub(peer.acked) < cap {
                    peer.sent = last;
                    to.push(LinkId::Dialled(link));
                }
            }
            if !to.is_empty() {
                for events in batches(&own, &self.config.caps) {
                    let message = LinkMessage::Events { events: events.to_vec() };
                    out.push(Effect::Link { to: to.clone(), message, prompt: false });
                }
            }
            let names: Vec<ServerName> = self.peers.by_name.keys().cloned().collect();
            names.iter().for_each(|name| self.catch_up(name, out));
            out.push(Effect::Log(Note::Written { range: (first, last), clock: self.clock.now() }));
        }
        for (origin, range) in std::mem::take(&mut self.turn.replicated) {
            out.push(Effect::Log(Note::Replicated { origin, range, clock: self.clock.now() }));
        }
        for (link, durable) in std::mem::take(&mut self.turn.acks) {
            out.push(Effect::Link { to: vec![link], message: LinkMessage::Ack { durable }, prompt: false });
        }
    }

    /// Tells one peer what is held here, and every peer the bound below which no event of ours will come.
    pub(super) fn exchange(&mut self, out: &mut Vec<Effect>) {
        let links = self.peers.links();
        if links.is_empty() {
            return;
        }
        let one = links[self.random.below(links.len() as u64) as usize];
        let message = self.vector(true);
        out.push(Effect::Link { to: vec![one], message, prompt: self.stuck.is_some() });
        if self.stuck.is_none() && self.config.voters.contains(&self.config.name) {
            let clock = self.clock.tick();
            let stable = self.stable().unwrap_or(Clock::ZERO);
            let (events, retirement) = (self.bounded(), self.retiring.wanted.clone());
            let departed = self.asked.departed.clone();
            let message = LinkMessage::Bound { clock, events, stable, retirement, departed };
            out.push(Effect::Link { to: links, message, prompt: false });
        }
        let names: Vec<ServerName> = self.peers.by_name.keys().cloned().collect();
        names.iter().for_each(|name| self.catch_up(name, out));
    }

    fn settle_bounds(&mut self) {
        let (held, soon) = (self.log.held(), self.planted.has(Bug::StableTooSoon));
        self.bounds.values_mut().for_each(|bounds| bounds.settle(|events| soon || held.covers(events)));
    }

    /// Every event up to here is held, and none will ever be inserted; `None` without voters, until each was heard, and
    /// while the own log lacks what was decided.
    #[must_use]
    pub fn stable(&self) -> Option<Clock> {
        if self.stuck.is_some() {
            return None;
        }
        let bound = |voter: &ServerName| {
            if *voter == self.config.name {
                Some(self.clock.now())
            } else {
                self.bounds.get(voter).map(|bounds| bounds.reached).filter(|&clock| clock > Clock::ZERO)
            }
        };
        let pick = if self.planted.has(Bug::StableTooHigh) { Clock::max } else { Clock::min };
        self.present_voters().map(bound).reduce(|a, b| Some(pick(a?, b?))).flatten()
    }
}

/// Own events in messages that every link takes: bounded in number, and but for the last event in bytes.
fn batches<'a>(events: &'a [Arc<Event>], caps: &Caps) -> impl Iterator<Item = &'a [Arc<Event>]> {
    let (count, bytes) = (caps.batch.max(1), caps.batch_bytes);
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = rest.iter().take(count).take_while(|event| {
            let before = size;
            size += event.body.text_bytes();
            before < bytes
        });
        let (batch, after) = rest.split_at(fits.count());
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}
