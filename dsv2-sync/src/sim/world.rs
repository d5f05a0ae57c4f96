//! The world: one heap of events in virtual time, and what each of them does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use dsv2_core::{Limits, Machine, Reply, Request, Service};

use super::client::SimClient;
use super::network::Network;
use super::node::{Node, Process, name};
use super::{SimConfig, SimReport};
use crate::election::Election;
use crate::link::LinkMessage;
use crate::random::SplitMix;
use crate::reference::{RankRecord, Reference, ReferenceConfig, ReferenceEffect, ReferenceInput};
use crate::server::{Effect, Input, Lane, LinkId, Note};
use crate::state::Fnv;

/// How long until a server notices that a connection is dead without a word.
const DEAD_AFTER_US: (u64, u64) = (20_000, 1_500_000);
/// How long until a broken connection is dialled again.
const REDIAL_US: u64 = 150_000;
/// How long clients wait for an answer before they ask again, perhaps elsewhere.
const RETRY_US: u64 = 1_500_000;
/// How often clients look what to send.
const TICK_US: u64 = 20_000;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Happening {
    /// To a server in one of its lives; another life does not hear of it.
    Input {
        server: usize,
        life: u64,
        input: Box<Input>,
    },
    /// Bytes on a connection.
    Bytes {
        connection: u64,
        forward: bool,
        frame: Vec<u8>,
    },
    Dial {
        server: usize,
        life: u64,
        link: u64,
        address: String,
    },
    Synced {
        server: usize,
        life: u64,
    },
    ToReference {
        server: usize,
        life: u64,
        body: Vec<u8>,
        service: Service,
    },
    Tick {
        client: usize,
    },
    Request {
        client: usize,
        number: u64,
        server: usize,
        body: Vec<u8>,
    },
    Reply {
        client: usize,
        number: u64,
        body: Vec<u8>,
        service: Service,
    },
    Crash,
    Restart {
        server: usize,
    },
    Partition,
    Heal,
    FaultsEnd,
}

/// One simulation.
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<SimClient>,
    pub(super) report: SimReport,
    network: Network,
    reference: Reference,
    ranks: Vec<RankRecord>,
    voters: BTreeSet<dsv2_core::ServerName>,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    now_us: u64,
    end_us: u64,
    faults_on: bool,
    /// Requests at servers: the server's number for it, and whose it is.
    routes: BTreeMap<u64, (usize, u64, Service)>,
    next_route: u64,
    /// Who led in which epoch.
    leaders: BTreeMap<(u64, u128), usize>,
    trace: Fnv,
    net_random: SplitMix,
    fault_random: SplitMix,
    load_random: SplitMix,
}

impl World {
    pub(super) fn new(config: SimConfig) -> Self {
        // Separate streams: a change in how one concern draws must not change what the others do.
        let mut seeds = SplitMix::new(config.seed);
        let mut skews = SplitMix::new(seeds.next_u64());
        let skew_us = |random: &mut SplitMix| {
            let most = config.faults.skew_ms * 1_000;
            i64::try_from(random.below(2 * most + 1)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
        };
        let nodes = (0..config.servers)
            .map(|index| Node::new(index, config.seed ^ index as u64, skew_us(&mut skews)))
            .collect();
        let mut sessions = SplitMix::new(seeds.next_u64());
        let client =
            |index| SimClient::new(index, config.writes, u128::from(sessions.next_u64()) << 11 | index as u128);
        let clients = (0..config.clients).map(client).collect();
        let voters = if config.voters { (0..config.servers).map(name).collect() } else { BTreeSet::new() };
        let faults_us = micros(config.faults_for);
        Self {
            end_us: faults_us + micros(config.drain_for),
            report: SimReport { seed: config.seed, ..SimReport::default() },
            nodes,
            clients,
            voters,
            network: Network::default(),
            reference: Reference::new(ReferenceConfig::default()),
            ranks: Vec::new(),
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            now_us: 0,
            faults_on: true,
            routes: BTreeMap::new(),
            next_route: 0,
            leaders: BTreeMap::new(),
            trace: Fnv::default(),
            net_random: SplitMix::new(seeds.next_u64()),
            fault_random: SplitMix::new(seeds.next_u64()),
            load_random: SplitMix::new(seeds.next_u64()),
            config,
        }
    }

    pub(super) fn run(mut self) -> SimReport {
        for server in 0..self.nodes.len() {
            self.start(server);
        }
        for client in 0..self.clients.len() {
            self.later(self.now_us + TICK_US, Happening::Tick { client });
        }
        self.plan_fault(self.config.faults.crash_every_ms, Happening::Crash);
        self.plan_fault(self.config.faults.partition_every_ms, Happening::Partition);
        self.later(micros(self.config.faults_for), Happening::FaultsEnd);
        while let Some(Reverse((at, number))) = self.heap.pop() {
            if at > self.end_us || (!self.faults_on && self.is_settled()) {
                break;
            }
            self.now_us = at;
            self.report.steps += 1;
            if let Some(happening) = self.happenings.remove(&number) {
                self.trace.text(&at.to_string());
                self.happen(happening);
            }
        }
        self.report.simulated_ms = self.now_us / 1_000;
        self.report.trace_hash = self.trace.0;
        self.check();
        self.report
    }

    fn later(&mut self, at_us: u64, happening: Happening) {
        self.next += 1;
        self.heap.push(Reverse((at_us, self.next)));
        self.happenings.insert(self.next, happening);
    }

    fn delay_us(&mut self) -> u64 {
        between(&mut self.net_random, self.config.faults.delay_us)
    }

    /// Plans a fault some time from now; a mean of zero switches it off.
    fn plan_fault(&mut self, mean_ms: u64, happening: Happening) {
        if mean_ms > 0 && self.faults_on {
            let wait_us = between(&mut self.fault_random, (mean_ms * 100, mean_ms * 1_900));
            self.later(self.now_us + wait_us, happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input { server, life, input } => self.input(server, life, *input),
            Happening::Bytes { connection, forward, frame } => self.bytes(connection, forward, &frame),
            Happening::Dial { server, life, link, address } => self.dial(server, life, link, address),
            Happening::Synced { server, life } => self.synced(server, life),
            Happening::ToReference { server, life, body, service } => self.ask_reference(server, life, &body, service),
            Happening::Tick { client } => self.tick(client),
            Happening::Request { client, number, server, body } => self.request(client, number, server, &body),
            Happening::Reply { client, number, body, service } => {
                self.trace.bytes(&body);
                self.clients[client].reply(number, &body, service);
            }
            Happening::Crash => self.crash(),
            Happening::Restart { server } => self.start(server),
            Happening::Partition => self.partition(),
            Happening::Heal => self.network.heal(),
            Happening::FaultsEnd => {
                self.faults_on = false;
                self.network.heal();
            }
        }
    }

    fn start(&mut self, server: usize) {
        let random = self.fault_random.next_u64();
        if self.nodes[server].process.is_some() {
            return;
        }
        if let Err(why) = self.nodes[server].start(self.now_us, &self.voters, random) {
            self.report.violations.push(why);
            return;
        }
        let life = self.nodes[server].life;
        self.input(server, life, Input::Wake);
    }

    /// One turn of a server, as the driver runs it.
    fn input(&mut self, server: usize, life: u64, input: Input) {
        let now = self.nodes[server].now(self.now_us);
        let node = &mut self.nodes[server];
        if node.life != life {
            return;
        }
        let Some(process) = &mut node.process else { return };
        let mut effects = Vec::new();
        // A wake-up that came too late does nothing.
        if matches!(input, Input::Wake) && process.machine.deadline().is_some_and(|at| at > now.mono) {
            return;
        }
        process.machine.step(now, input, &mut effects);
        process.machine.step(now, Input::Flush, &mut effects);
        let free = collect(process, effects);
        self.check_leader(server);
        if let Some(process) = &mut self.nodes[server].process
            && !process.uncommitted.is_empty()
            && !process.syncing
        {
            process.syncing = true;
            let sync_us = between(&mut self.net_random, self.config.faults.sync_us);
            self.later(self.now_us + sync_us, Happening::Synced { server, life });
        }
        free.into_iter().for_each(|effect| self.carry_out(server, life, effect));
        self.plan_wake(server, life);
    }

    fn plan_wake(&mut self, server: usize, life: u64) {
        let deadline = self.nodes[server].process.as_ref().and_then(|process| process.machine.deadline());
        if let Some(at) = deadline {
            let at_us = at.us.max(self.now_us + 1);
            self.later(at_us, Happening::Input { server, life, input: Box::new(Input::Wake) });
        }
    }

    fn synced(&mut self, server: usize, life: u64) {
        if self.nodes[server].life != life {
            return;
        }
        let Some(process) = &mut self.nodes[server].process else { return };
        let saved = match process.sync() {
            Ok((_, saved)) => saved,
            Err(why) => return self.report.violations.push(format!("server {server} cannot sync: {why}")),
        };
        let mut free = Vec::new();
        while let Some(effect) = process.lanes.next() {
            free.push(effect);
        }
        free.into_iter().for_each(|effect| self.carry_out(server, life, effect));
        if let Some(saved) = saved {
            self.input(server, life, Input::Saved(saved));
        }
        // What was committed meanwhile waits for a sync of its own.
        self.input(server, life, Input::Flush);
    }

    fn carry_out(&mut self, server: usize, life: u64, effect: Effect) {
        match effect {
            Effect::Reply { to, reply, .. } => self.reply(to, &reply),
            Effect::Link { to, message, .. } => {
                if matches!(message, LinkMessage::Pull { .. }) {
                    self.report.repairs += 1;
                }
                let frame = message.encode();
                to.into_iter().for_each(|link| self.send(server, link, frame.clone()));
            }
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
                let Some(process) = &self.nodes[server].process else { return };
                let result = process.read(read);
                let at = self.now_us + 10;
                self.later(at, Happening::Input { server, life, input: Box::new(Input::Read { token, result }) });
            }
            Effect::Fatal(why) => self.report.violations.push(format!("server {server} gave up: {why}")),
            Effect::Log(Note::Coordinator { name: Some(_), .. }) => self.report.elections += 1,
            Effect::Log(Note::LinkRefused(why)) => self.report.violations.push(format!("server {server}: {why}")),
            Effect::Publish(_)
            | Effect::Ready(_)
            | Effect::Drained
            | Effect::Log(_)
            | Effect::Append(_)
            | Effect::Save(_) => {}
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
        if self.faults_on && self.net_random.chance(self.config.faults.break_ppm, 1_000_000) {
            return self.break_connection(connection);
        }
        self.later(at, Happening::Bytes { connection, forward, frame });
    }

    fn bytes(&mut self, connection: u64, forward: bool, frame: &[u8]) {
        let Some(ends) = self.network.get(connection) else { return };
        let (from, to, link) = (ends.from, ends.to, ends.link);
        if self.network.is_blocked(from.0, to.0) {
            // Nothing after a lost part of a stream can arrive either.
            return self.break_connection(connection);
        }
        self.trace.bytes(frame);
        let message = match LinkMessage::decode(frame) {
            Ok(message) => Box::new(message),
            Err(why) => return self.report.violations.push(format!("a link message cannot be read: {why}")),
        };
        let ((server, life), link) =
            if forward { (to, LinkId::Accepted(connection)) } else { (from, LinkId::Dialled(link)) };
        self.input(server, life, Input::Link { link, message });
    }

    fn dial(&mut self, server: usize, life: u64, link: u64, address: String) {
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
    fn break_connection(&mut self, connection: u64) {
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

    fn ask_reference(&mut self, server: usize, life: u64, body: &[u8], service: Service) {
        let now = dsv2_core::Now { mono: dsv2_core::Mono { us: self.now_us }, ..self.nodes[0].now(self.now_us) };
        let mut effects = Vec::new();
        let request = Request::decode(body, &Limits::default());
        self.reference.step(now, ReferenceInput::Request { from: 0, request }, &mut effects);
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

    fn tick(&mut self, client: usize) {
        let before_us = self.now_us.saturating_sub(RETRY_US);
        let due = self.clients[client].due(self.now_us, before_us);
        // The broker keeps a client at one server, and moves it when that does not answer.
        let unready = |node: &Node| node.process.as_ref().is_none_or(|process| !process.machine.is_ready());
        if due.iter().any(|(_, retry)| *retry) || unready(&self.nodes[self.clients[client].server]) {
            self.clients[client].server = self.load_random.below(self.nodes.len() as u64) as usize;
        }
        for (number, retry) in due {
            self.report.retries += u64::from(retry);
            let server = self.clients[client].server;
            let wall_ms = self.nodes[0].now(self.now_us).wall.us / 1_000;
            let Some(body) = self.clients[client].request(number, wall_ms) else { continue };
            if !self.is_lost() {
                let at = self.now_us + self.delay_us();
                self.later(at, Happening::Request { client, number, server, body });
            }
        }
        self.later(self.now_us + TICK_US, Happening::Tick { client });
    }

    fn is_lost(&mut self) -> bool {
        self.faults_on && self.net_random.chance(self.config.faults.loss_ppm, 1_000_000)
    }

    fn request(&mut self, client: usize, number: u64, server: usize, body: &[u8]) {
        self.trace.bytes(body);
        if self.nodes[server].process.is_none() {
            return;
        }
        let request = Request::decode(body, &Limits::default());
        let service = request.as_ref().map_or(Service::Login, |request| request.body.service());
        self.next_route += 1;
        self.routes.insert(self.next_route, (client, number, service));
        let (life, from) = (self.nodes[server].life, self.next_route);
        self.input(server, life, Input::Request { from, request });
    }

    fn reply(&mut self, to: u64, reply: &Reply) {
        let Some((client, number, service)) = self.routes.remove(&to) else {
            return self.report.violations.push(format!("a request was answered twice: {reply:?}"));
        };
        if !self.is_lost() {
            let at = self.now_us + self.delay_us();
            self.later(at, Happening::Reply { client, number, body: reply.encode(), service });
        }
    }

    fn crash(&mut self) {
        if self.faults_on {
            let server = self.fault_random.below(self.nodes.len() as u64) as usize;
            if self.nodes[server].process.is_some() {
                self.report.crashes += 1;
                self.nodes[server].crash();
                self.network.of(server).into_iter().for_each(|connection| self.break_connection(connection));
                let down_us = between(&mut self.fault_random, (1_000, self.config.faults.down_ms * 2_000));
                self.later(self.now_us + down_us, Happening::Restart { server });
            }
        }
        self.plan_fault(self.config.faults.crash_every_ms, Happening::Crash);
    }

    fn partition(&mut self) {
        if self.faults_on && self.nodes.len() > 1 {
            let group = (0..self.nodes.len()).filter(|_| self.fault_random.chance(1, 2)).collect();
            self.report.partitions += 1;
            self.network.partition(self.nodes.len(), &group);
            self.network.cut().into_iter().for_each(|connection| self.break_connection(connection));
            let last_us = between(&mut self.fault_random, (1_000, self.config.faults.partition_ms * 2_000));
            self.later(self.now_us + last_us, Happening::Heal);
        }
        self.plan_fault(self.config.faults.partition_every_ms, Happening::Partition);
    }

    /// At most one server leads in an epoch, ever.
    fn check_leader(&mut self, server: usize) {
        let Some(process) = &self.nodes[server].process else { return };
        let election = process.machine.election();
        if let Some(epoch) =
            election.coordinator().filter(|_| election.is_coordinator()).map(|coordinator| coordinator.epoch)
        {
            let first = *self.leaders.entry((epoch.number, epoch.node.0)).or_insert(server);
            if first != server {
                self.report.violations.push(format!("servers {first} and {server} both led in epoch {epoch}"));
            }
        }
    }
}

/// Puts a turn's effects where they belong; yields those that may be carried out now.
fn collect(process: &mut Process, effects: Vec<Effect>) -> Vec<Effect> {
    let (mut events, mut save) = (Vec::new(), None);
    let durable = effects.iter().any(|effect| effect.lane() == Lane::Durable);
    let commit = if durable { process.lanes.issue() } else { 0 };
    let mut free = Vec::new();
    for effect in effects {
        match (effect.lane(), effect) {
            (_, Effect::Append(event)) => events.push(event),
            (_, Effect::Save(saved)) => save = Some(saved),
            (Lane::Ordered, effect) => free.extend(process.lanes.order(effect)),
            (_, effect) => free.push(effect),
        }
    }
    if durable {
        process.uncommitted.push((commit, events, save));
    }
    free
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn between(random: &mut SplitMix, (low, high): (u64, u64)) -> u64 {
    low + random.below(high.saturating_sub(low) + 1)
}
