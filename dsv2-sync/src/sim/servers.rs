//! Servers in the world: their turns, what they want done, and the links between them.

use dsv2_core::{Change, Limits, Machine, Reply, Request, Service};

use dsv2_store::StoreError;

use super::node::{Node, Process};
use super::storage::Health;
use super::trace::{answer, written};
use super::world::{DEAD_AFTER_US, Happening, REDIAL_US, World, between};
use crate::link::LinkMessage;
use crate::planted::Bug;
use crate::reference::{ReferenceEffect, ReferenceInput};
use crate::server::{Effect, Input, Lane, LinkId, Note, Outgoing, Read};

/// How long what the storage thread tells takes: it arrives in order.
pub(super) const READ_US: u64 = 10;

impl World {
    pub(super) fn start(&mut self, server: usize) {
        let random = self.fault_random.next_u64();
        if self.nodes[server].process.is_some() || self.lost.contains(&server) {
            return;
        }
        let retention = self.config.retention();
        match self.nodes[server].start(self.now_us, &self.voters, retention, random, self.planted) {
            Ok(from_snapshot) => self.report.snapshot_starts += u64::from(from_snapshot),
            // A new data directory needs room to begin, and recovery a disk that keeps what it is given.
            Err(StoreError::Full { .. } | StoreError::Io { .. }) if self.config.faults.spoils_disks() => {
                return self.later(self.now_us + 1_000_000, Happening::Restart { server });
            }
            Err(why) => return self.broken(format!("server {server} does not start: {why}")),
        }
        self.check_clock(server);
        let life = self.nodes[server].life;
        for broker in 0..self.brokers.len() {
            let at_us = self.now_us + self.delay_us();
            self.later(at_us, Happening::Join { server, life, broker });
        }
        self.input(server, life, Input::Wake);
    }

    /// A wake-up; one that came too late does nothing.
    pub(super) fn wake(&mut self, server: usize, life: u64) {
        let now = self.nodes[server].now(self.now_us);
        let node = &mut self.nodes[server];
        if node.life != life {
            return;
        }
        let Some(process) = &mut node.process else { return };
        if process.armed_us > self.now_us {
            return;
        }
        process.armed_us = u64::MAX;
        if process.machine.deadline().is_some_and(|at| at <= now.mono) {
            self.input(server, life, Input::Wake);
        } else {
            self.plan_wake(server, life);
        }
    }

    /// One turn of a server, as the driver runs it.
    pub(super) fn input(&mut self, server: usize, life: u64, input: Input) {
        let now = self.nodes[server].now(self.now_us);
        let node = &mut self.nodes[server];
        if node.life != life {
            return;
        }
        let Some(process) = &mut node.process else { return };
        let mut effects = std::mem::take(&mut self.turn);
        let flushes = matches!(input, Input::Flush);
        let stuck = match input {
            Input::Stuck { .. } => Some(true),
            Input::Unstuck => Some(false),
            _ => None,
        };
        if self.config.keeps_final() && may_append(&input) {
            process.promised = process.promised.max(process.machine.stable().unwrap_or_default());
        }
        process.machine.step(now, input, &mut effects);
        if !flushes {
            process.machine.step(now, Input::Flush, &mut effects);
        }
        let inserted = inserted(process, &effects);
        match stuck {
            Some(stuck) => process.stuck = stuck,
            None if process.stuck
                && effects.iter().any(|effect| matches!(effect, Effect::Change(Change::Append(_)))) =>
            {
                self.report.violations.push(format!("server {server} writes although its disk takes nothing"));
            }
            None => {}
        }
        let bug = self.planted;
        let mut free = std::mem::take(&mut self.free_effects);
        collect(process, &mut effects, &mut free, |effect| match effect {
            Effect::Reply { .. } => bug.has(Bug::AckBeforeSync),
            Effect::Publish(_) => bug.has(Bug::PublishBeforeSync),
            Effect::Link { message: LinkMessage::Events { .. }, .. } => bug.has(Bug::PublishBeforeSync),
            Effect::Link { message: LinkMessage::Ack { .. } | LinkMessage::Vector { .. }, .. } => {
                bug.has(Bug::VectorBeforeSync)
            }
            _ => false,
        });
        self.turn = effects;
        self.check_leader(server);
        inserted.into_iter().for_each(|why| self.broken(format!("server {server} {why}")));
        self.start_sync(server, life);
        free.drain(..).for_each(|effect| self.carry_out(server, life, effect));
        self.free_effects = free;
        self.plan_wake(server, life);
    }

    /// Writes what was committed; its sync ends some time later, and covers what was written when it began.
    pub(super) fn start_sync(&mut self, server: usize, life: u64) {
        let planted = self.planted;
        let Some(process) = &mut self.nodes[server].process else { return };
        if !process.is_due(self.now_us) {
            return;
        }
        for change in process.uncommitted.iter().flat_map(|(_, changes, _)| changes) {
            match change {
                Change::Append(_) if !self.config.archives() => {}
                Change::Append(event) => drop(self.archive.insert(event.id.clone(), event.clone())),
                Change::Retire { floors, .. } => self.retired.merge(*floors),
                Change::Skip { .. } => {}
            }
            if self.trace.is_told() {
                self.trace.tell(self.now_us, 6, &format!("s{server}"), &written(change));
            }
        }
        if let Err(error) = process.write(planted) {
            return self.disk_refused(server, life, &error);
        }
        let faults = &self.config.faults;
        let sync_us = between(&mut self.net_random, (faults.sync_low_us, faults.sync_high_us));
        self.later(self.now_us + sync_us, Happening::Synced { server, life });
    }

    fn plan_wake(&mut self, server: usize, life: u64) {
        let Some(process) = &mut self.nodes[server].process else { return };
        let Some(at) = process.machine.deadline().filter(|at| at.us < process.armed_us) else { return };
        let at_us = at.us.max(self.now_us + 1);
        process.armed_us = at_us;
        self.later(at_us, Happening::Wake { server, life });
    }

    pub(super) fn synced(&mut self, server: usize, life: u64) {
        let planted = self.planted;
        let node = &mut self.nodes[server];
        if node.life != life {
            return;
        }
        let Some(process) = &mut node.process else { return };
        let saved = match process.sync(planted) {
            Ok(saved) => saved,
            Err(error) => return self.disk_refused(server, life, &error),
        };
        let room = matches!(process.health, Health::Full(_));
        if room {
            process.health = Health::Good;
            process.patience_us = None;
        }
        if !process.lies {
            node.durable.merge(dsv2_store::EventStore::vector(&process.store));
        }
        let reads = process.due_reads();
        let mut free = Vec::new();
        while let Some(effect) = process.lanes.next() {
            free.push(effect);
        }
        reads.into_iter().for_each(|(token, read)| self.read(server, life, token, read));
        free.into_iter().for_each(|effect| self.carry_out(server, life, effect));
        if let Some(saved) = saved {
            self.nodes[server].rank = saved.rank;
            self.input(server, life, Input::Saved(saved));
        }
        if room {
            self.later(self.now_us + READ_US, Happening::Input { server, life, input: Box::new(Input::Unstuck) });
        }
        self.keep_up(server);
        // What was committed meanwhile waits for a sync of its own.
        self.input(server, life, Input::Flush);
    }

    /// Now and then a server looks after its log.
    fn keep_up(&mut self, server: usize) {
        let percent = self.config.upkeep_percent;
        if percent > 0 && self.load_random.chance(percent, 100) {
            let compact = self.load_random.chance(1, 2);
            match self.nodes[server].keep_up(compact) {
                Ok(changed) => self.report.compactions += u64::from(changed),
                // It is tried again, as it is where a disk is full or fails.
                Err(_) if self.config.faults.spoils_disks() => {}
                Err(why) => self.broken(why),
            }
        }
    }

    pub(super) fn carry_out(&mut self, server: usize, life: u64, effect: Effect) {
        match effect {
            Effect::Reply { to, reply, .. } => {
                self.tell(7, || format!("s{server}"), || format!("the reply leaves: {}", answer(&reply.body)));
                self.count_stuck(server, &reply.body);
                self.reply(server, to, &reply);
            }
            Effect::Link { to, message, .. } => self.send_all(server, to, &message),
            Effect::Reference(request) => {
                let (body, service) = (request.encode(), request.body.service());
                let at = self.now_us + self.delay_us();
                self.later(at, Happening::ToReference { server, life, body, service });
            }
            Effect::Dial { link, address } => {
                let at = self.now_us + self.delay_us();
                self.later(at, Happening::Dial { server, life, link, address });
            }
            Effect::HangUp(link) => {
                let connection = match link {
                    LinkId::Dialled(link) => self.network.dialled(server, link),
                    LinkId::Accepted(connection) => Some(connection),
                };
                connection.into_iter().for_each(|connection| self.break_connection(connection));
            }
            Effect::Read { token, read } => {
                let overtakes = self.planted.has(Bug::ReadOvertakesWrite);
                let Some(process) = &mut self.nodes[server].process else { return };
                let due = if overtakes { Some((token, read)) } else { process.queue_read(token, read) };
                due.into_iter().for_each(|(token, read)| self.read(server, life, token, read));
            }
            Effect::Publish(outgoing) => self.publish(server, outgoing),
            Effect::Ready(ready) => self.tell_ready(server, ready),
            // The reference takes a server with a new disk for another one of its name, until it has forgotten the old.
            Effect::Fatal(_) if self.nodes[server].wipes > 0 => {
                self.later(self.now_us, Happening::GaveUp { server, life })
            }
            Effect::Fatal(why) => self.broken(format!("server {server} gave up: {why}")),
            Effect::Log(note) => self.note(server, note),
            Effect::Drained | Effect::Change(_) | Effect::Save(_) => {}
        }
    }

    pub(super) fn read(&mut self, server: usize, life: u64, token: u64, read: Read) {
        let Some(process) = &self.nodes[server].process else { return };
        let result = process.read(read);
        let at = self.now_us + READ_US;
        self.later(at, Happening::Input { server, life, input: Box::new(Input::Read { token, result }) });
    }

    fn note(&mut self, server: usize, note: Note) {
        match note {
            Note::Coordinator { name, epoch, .. } => {
                self.report.elections += u64::from(name.is_some());
                self.tell(
                    0,
                    || format!("s{server}"),
                    || match &name {
                        Some(name) => format!("coordinator is {name}, epoch {epoch}"),
                        None => "there is no coordinator".to_owned(),
                    },
                );
            }
            Note::Replicated { origin, range, .. } => {
                self.tell(8, || format!("s{server}"), || format!("replicado: {origin} #{}..{}", range.0, range.1));
            }
            Note::Retired(_) => self.report.retirements += 1,
            Note::LinkRefused(why) => self.broken(format!("server {server}: {why}")),
            _ => {}
        }
    }

    fn send_all(&mut self, server: usize, to: Vec<LinkId>, message: &LinkMessage) {
        match message {
            LinkMessage::Pull { .. } => {
                self.report.repairs += 1;
                if self.planted.has(Bug::NoGapRepair) {
                    return;
                }
            }
            LinkMessage::Forward { .. } => self.report.forwards += 1,
            LinkMessage::Events { events } => {
                self.tell(
                    7,
                    || format!("s{server}"),
                    || {
                        let first = events.first().map_or_else(String::new, |event| event.id.to_string());
                        format!("{} event(s) leave on {} link(s), the first is {first}", events.len(), to.len())
                    },
                );
            }
            LinkMessage::Ack { durable } => {
                self.tell(
                    8,
                    || format!("s{server}"),
                    || {
                        let vector: Vec<String> =
                            durable.iter().map(|(origin, seq)| format!("{origin}#{seq}")).collect();
                        format!("acknowledges what is on its disk: {}", vector.join(", "))
                    },
                );
            }
            _ => {}
        }
        let frame = message.encode();
        to.into_iter().for_each(|link| self.send(server, link, frame.clone()));
    }

    /// Own events go to every proxy.
    fn publish(&mut self, server: usize, mut outgoing: Outgoing) {
        if self.planted.has(Bug::PrevOmitted)
            && let Outgoing::Event(event) = &mut outgoing
        {
            std::sync::Arc::make_mut(event).prev = None;
        }
        let format = if server.is_multiple_of(2) { dsv2_core::Format::Json } else { dsv2_core::Format::MsgPack };
        // Nobody here listens to `replication`: servers of ours get events on their links.
        let mut body = Vec::new();
        if let Some(topic) = outgoing.publication(format, &mut body) {
            self.tell(7, || format!("s{server}"), || format!("publishes on {:?}", topic.as_str()));
            for proxy in 0..self.proxies.len() {
                let at_us = self.arrival(self.nodes[server].published[proxy], 0);
                if self.strikes(self.config.faults.publication_loss_ppm) {
                    self.report.lost_publications += 1;
                    continue;
                }
                self.later(at_us, Happening::Publish { proxy, server, topic: topic.clone(), body: body.clone() });
            }
        }
    }

    fn send(&mut self, server: usize, link: LinkId, frame: Vec<u8>) {
        let (connection, forward) = match link {
            LinkId::Dialled(link) => (self.network.dialled(server, link), true),
            LinkId::Accepted(connection) => (Some(connection), false),
        };
        let Some(connection) = connection else { return };
        let delay_us = self.delay_us();
        let Some(at) = self.network.arrival(connection, forward, self.now_us, delay_us) else { return };
        if self.strikes(self.config.faults.link_break_ppm) {
            return self.break_connection(connection);
        }
        self.later(at, Happening::Bytes { connection, forward, frame });
    }

    pub(super) fn bytes(&mut self, connection: u64, forward: bool, frame: &[u8]) {
        let Some(ends) = self.network.get(connection) else { return };
        let (from, to, link) = (ends.from, ends.to, ends.link);
        if self.network.is_blocked(from.0, to.0) {
            // Nothing after a lost part of a stream can arrive either.
            return self.break_connection(connection);
        }
        self.trace.bytes(frame);
        let message = match LinkMessage::decode(frame) {
            Ok(message) => Box::new(message),
            Err(why) => return self.broken(format!("a link message cannot be read: {why}")),
        };
        let ((server, life), link) =
            if forward { (to, LinkId::Accepted(connection)) } else { (from, LinkId::Dialled(link)) };
        self.input(server, life, Input::Link { link, message });
    }

    pub(super) fn dial(&mut self, server: usize, life: u64, link: u64, address: String) {
        if self.nodes[server].life != life || self.nodes[server].process.is_none() {
            return;
        }
        let target = address.strip_prefix("sim:").and_then(|index| index.parse::<usize>().ok()).unwrap_or(usize::MAX);
        let reachable = self.nodes.get(target).is_some_and(|node| node.process.is_some());
        if !reachable || self.network.is_blocked(server, target) {
            return self.later(self.now_us + REDIAL_US, Happening::Dial { server, life, link, address });
        }
        let to = (target, self.nodes[target].life);
        self.network.connect((server, life), link, to, self.now_us);
        self.input(server, life, Input::LinkUp(link));
    }

    /// A connection breaks: both ends learn of it some time later, and the dialler dials again.
    pub(super) fn break_connection(&mut self, connection: u64) {
        let Some(ends) = self.network.remove(connection) else { return };
        self.report.breaks += 1;
        let ((from, life), (to, to_life), link) = (ends.from, ends.to, ends.link);
        let at = self.now_us + between(&mut self.net_random, DEAD_AFTER_US);
        self.later(
            at,
            Happening::Input { server: from, life, input: Box::new(Input::LinkDown(LinkId::Dialled(link))) },
        );
        self.later(at + REDIAL_US, Happening::Dial { server: from, life, link, address: format!("sim:{to}") });
        let at = self.now_us + between(&mut self.net_random, DEAD_AFTER_US);
        let input = Box::new(Input::LinkDown(LinkId::Accepted(connection)));
        self.later(at, Happening::Input { server: to, life: to_life, input });
    }

    pub(super) fn ask_reference(&mut self, server: usize, life: u64, body: &[u8], service: Service) {
        let now = self.client_now();
        let Some(reference) = &mut self.reference else {
            // Nobody is there: the driver gives up after a while.
            let silence = dsv2_core::Failure::unknown(dsv2_core::Code::Timeout, "the reference does not answer");
            let input = Box::new(Input::Reference(Err(silence)));
            return self.later(self.now_us + 1_000_000, Happening::Input { server, life, input });
        };
        let mut effects = Vec::new();
        let request = Request::decode(body, &Limits::default());
        reference.step(now, ReferenceInput::Request { from: 0, request }, &mut effects);
        for effect in effects {
            match effect {
                ReferenceEffect::Save(record) => self.ranks.push(record),
                ReferenceEffect::Reply { reply, .. } => {
                    let answer = Reply::decode(service, &reply.encode(), &Limits::default());
                    let answer = answer.map_err(|why| dsv2_core::Failure::unknown(dsv2_core::Code::Malformed, why));
                    let at = self.now_us + self.delay_us();
                    self.later(at, Happening::Input { server, life, input: Box::new(Input::Reference(answer)) });
                }
            }
        }
    }

    /// A restarted server's clock is beyond all that it has shown.
    fn check_clock(&mut self, server: usize) {
        let node = &self.nodes[server];
        let clock = node.process.as_ref().map_or(node.shown, |process| process.machine.clock());
        if clock < node.shown {
            let shown = node.shown;
            self.broken(format!("server {server} starts with clock {clock}, and had shown {shown}"));
        }
    }

    /// At most one server leads in an epoch, ever; with voters, at most one has a lease at any time.
    fn check_leader(&mut self, server: usize) {
        let Some(process) = &self.nodes[server].process else { return };
        let (election, now) = (process.machine.election(), self.nodes[server].now(self.now_us).mono);
        if let Some(epoch) =
            election.coordinator().filter(|_| election.is_coordinator(now)).map(|coordinator| coordinator.epoch)
        {
            let first = *self.leaders.entry((epoch.number, epoch.node.0)).or_insert(server);
            if first != server {
                self.broken(format!("servers {first} and {server} both led in epoch {epoch}"));
            }
            if self.config.voters > 0 {
                self.check_leases(server);
            }
        }
    }

    /// No other server leads while this one does.
    fn check_leases(&mut self, server: usize) {
        let leads = |node: &Node| {
            let now = node.now(self.now_us).mono;
            node.process.as_ref().is_some_and(|process| process.machine.election().is_coordinator(now))
        };
        if let Some(other) = self.nodes.iter().find(|node| node.index != server && leads(node)) {
            let other = other.index;
            self.broken(format!("servers {server} and {other} both held a lease"));
        }
    }
}

/// Whether events may be written at that.
fn may_append(input: &Input) -> bool {
    match input {
        Input::Link { message, .. } => {
            matches!(**message, LinkMessage::Events { .. } | LinkMessage::Forward { .. } | LinkMessage::Stretch { .. })
        }
        Input::Request { .. } | Input::Wake | Input::Unstuck => true,
        _ => false,
    }
}

/// An event that a server takes although it had said that nothing would be inserted there any more.
fn inserted(process: &Process, effects: &[Effect]) -> Option<String> {
    let promised = process.promised;
    effects.iter().find_map(|effect| match effect {
        Effect::Change(Change::Append(event)) if event.clock <= promised => {
            Some(format!("takes {} of clock {}, below its final bound {promised}", event.id, event.clock))
        }
        _ => None,
    })
}

/// Puts a turn's effects where they belong; `free` gets those that may be carried out now. `hurries` are those that a
/// planted bug does not let wait.
fn collect(
    process: &mut Process,
    effects: &mut Vec<Effect>,
    free: &mut Vec<Effect>,
    hurries: impl Fn(&Effect) -> bool,
) {
    let (mut changes, mut save) = (Vec::new(), None);
    let durable = effects.iter().any(|effect| effect.lane() == Lane::Durable);
    let commit = if durable { process.lanes.issue() } else { 0 };
    for effect in effects.drain(..) {
        match (effect.lane(), effect) {
            (_, Effect::Change(change)) => changes.push(change),
            (_, Effect::Save(saved)) => save = Some(saved),
            (Lane::Ordered, effect) if hurries(&effect) => free.push(effect),
            (Lane::Ordered, effect) => free.extend(process.lanes.order(effect)),
            (_, effect) => free.push(effect),
        }
    }
    if durable {
        process.issued = commit;
        process.uncommitted.push((commit, changes, save));
    }
}
