//! The world: one heap of events in virtual time, and what each of them does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use dsv2_core::{Event, EventId, Floors, Now, Reply, Wall};

use super::broker::Broker;
use super::client::Client;
use super::network::Network;
use super::node::{Node, name};
use super::program::Program;
use super::proxy::Proxy;
use super::trace::Trace;
use super::{SimConfig, SimReport};
use crate::history::{Checker, Record};
use crate::planted::Planted;
use crate::random::SplitMix;
use crate::reference::{RankRecord, Reference};
use crate::server::Input;

/// How long until an end notices that a connection is dead without a word.
pub(super) const DEAD_AFTER_US: (u64, u64) = (20_000, 1_500_000);
/// How long until a broken connection is dialled again.
pub(super) const REDIAL_US: u64 = 150_000;
/// How often it is looked whether the cluster is whole again.
const LOOK_US: u64 = 200_000;

/// Something that will happen. What concerns a process names its life: another life does not hear of it.
#[derive(Debug)]
pub(super) enum Happening {
    Input { server: usize, life: u64, input: Box<Input> },
    Wake { server: usize, life: u64 },
    Bytes { connection: u64, forward: bool, frame: Vec<u8> },
    Dial { server: usize, life: u64, link: u64, address: String },
    Synced { server: usize, life: u64 },
    ToReference { server: usize, life: u64, body: Vec<u8>, service: dsv2_core::Service },
    ClientWake { client: usize, life: u64 },
    Consumed { client: usize, life: u64, subscription: u64 },
    DialBroker { client: usize, life: u64 },
    DialProxy { client: usize, life: u64 },
    BrokerGone { client: usize, life: u64, connection: u64 },
    ProxyGone { client: usize, life: u64, connection: u64 },
    ToBroker { broker: usize, connection: u64, request: u64, body: Vec<u8> },
    Answer { client: usize, connection: u64, request: u64, body: Vec<u8> },
    Listen { proxy: usize, connection: u64, topic: String, on: bool },
    Publication { client: usize, connection: u64, topic: String, body: Vec<u8> },
    Publish { proxy: usize, server: usize, topic: dsv2_core::Topic, body: Vec<u8> },
    Join { server: usize, life: u64, broker: usize },
    ServerGone { broker: usize, link: u64 },
    ServerReady { broker: usize, link: u64, ready: bool },
    Request { broker: usize, link: u64, route: u64, body: Vec<u8> },
    Reply { broker: usize, link: u64, route: u64, body: Vec<u8> },
    Patience { broker: usize },
    Crash,
    MiddleCrash,
    ClientCrash,
    DiskFull,
    SyncFailure,
    Room { server: usize },
    Probe { server: usize, life: u64 },
    LosePatience { server: usize, life: u64 },
    GaveUp { server: usize, life: u64 },
    Restart { server: usize },
    RestartBroker { broker: usize },
    RestartProxy { proxy: usize },
    RestartReference { wiped: bool },
    RestartClient { client: usize },
    Partition,
    Heal,
    FaultsEnd,
    Look,
}

/// A server's connection to a broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokerLink {
    pub(super) server: usize,
    pub(super) life: u64,
    pub(super) broker: usize,
}

/// One simulation.
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) planted: Planted,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) brokers: Vec<Broker>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) reference: Option<Reference>,
    pub(super) ranks: Vec<RankRecord>,
    /// What ranks the servers had when the reference lost its disk first, if all of them had one: they keep those.
    pub(super) kept_ranks: Option<Vec<u64>>,
    pub(super) report: SimReport,
    pub(super) network: Network,
    pub(super) broker_links: BTreeMap<u64, BrokerLink>,
    pub(super) voters: BTreeSet<dsv2_core::ServerName>,
    /// Those of them that an operator declared gone.
    pub(super) departed: BTreeSet<dsv2_core::ServerName>,
    /// The servers some of whose own events went with a disk, so that nobody has them.
    pub(super) bereft: BTreeSet<dsv2_core::ServerName>,
    /// Servers that are lost for good.
    pub(super) lost: BTreeSet<usize>,
    /// When, and in which slot; among those of one time the order is that of planning.
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    slots: Vec<Option<Happening>>,
    free: Vec<u32>,
    next: u64,
    pub(super) now_us: u64,
    end_us: u64,
    pub(super) faults_on: bool,
    settled: bool,
    /// Requests that servers have not answered, with the connection that they came on.
    pub(super) routes: BTreeMap<u64, u64>,
    pub(super) next_route: u64,
    /// When the last message of each direction of a connection arrives, by its number: the next one arrives later.
    lanes: Vec<[u64; 2]>,
    /// What sessions want done, in order.
    pub(super) effects: VecDeque<(usize, crate::session::Effect)>,
    pub(super) carrying_out: bool,
    /// Room for the effects of a server's turn, for those of them that wait for nothing, and for those of a session.
    pub(super) turn: Vec<crate::server::Effect>,
    pub(super) free_effects: Vec<crate::server::Effect>,
    pub(super) session_turn: Vec<crate::session::Effect>,
    /// Every event that was ever written, where messages are retired or disks are lost: what nobody removed anything from.
    pub(super) archive: BTreeMap<EventId, Arc<Event>>,
    /// The highest floors that any server has written, one that was then lost included.
    pub(super) retired: Floors,
    /// Who led in which epoch.
    pub(super) leaders: BTreeMap<(u64, u128), usize>,
    pub(super) trace: Trace,
    pub(super) checker: Checker,
    pub(super) history: Option<Vec<Record>>,
    lines: u64,
    pub(super) net_random: SplitMix,
    pub(super) fault_random: SplitMix,
    pub(super) load_random: SplitMix,
}

impl World {
    pub(super) fn new(config: SimConfig, planted: Planted) -> Self {
        // Separate streams: a change in how one concern draws must not change what the others do.
        let mut seeds = SplitMix::new(config.seed);
        let mut skews = SplitMix::new(seeds.next_u64());
        let skew_us = |random: &mut SplitMix| {
            let most = config.faults.skew_ms * 1_000;
            i64::try_from(random.below(2 * most + 1)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
        };
        let count = |number: u64| usize::try_from(number).unwrap_or(1);
        let servers = count(config.servers);
        let learners = if config.voters > 0 { count(config.learners) } else { 0 };
        let nodes = (0..servers + learners)
            .map(|index| Node::new(index, config.seed ^ index as u64, skew_us(&mut skews)))
            .collect();
        let voters = if config.voters > 0 { (0..servers).map(name).collect() } else { BTreeSet::new() };
        Self {
            end_us: (config.faults_ms + config.drain_ms) * 1_000,
            report: SimReport { seed: config.seed, ..SimReport::default() },
            planted,
            nodes,
            clients: Vec::new(),
            brokers: (0..count(config.brokers)).map(|_| Broker::default()).collect(),
            proxies: (0..count(config.proxies)).map(|_| Proxy::default()).collect(),
            reference: None,
            ranks: Vec::new(),
            kept_ranks: None,
            voters,
            departed: BTreeSet::new(),
            bereft: BTreeSet::new(),
            lost: BTreeSet::new(),
            network: Network::default(),
            broker_links: BTreeMap::new(),
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            next: 0,
            now_us: 0,
            faults_on: true,
            settled: false,
            routes: BTreeMap::new(),
            next_route: 0,
            lanes: Vec::new(),
            effects: VecDeque::new(),
            carrying_out: false,
            turn: Vec::new(),
            free_effects: Vec::new(),
            session_turn: Vec::new(),
            archive: BTreeMap::new(),
            retired: Floors::default(),
            leaders: BTreeMap::new(),
            trace: Trace::default(),
            checker: Checker::default(),
            history: None,
            lines: 0,
            net_random: SplitMix::new(seeds.next_u64()),
            fault_random: SplitMix::new(seeds.next_u64()),
            load_random: SplitMix::new(seeds.next_u64()),
            config,
        }
    }

    pub(super) fn add(&mut self, program: Box<dyn Program>) {
        let seed = self.load_random.next_u64();
        self.clients.push(Client::new(self.clients.len(), program, seed));
    }

    /// Runs to the end, and judges.
    pub(super) fn run(&mut self) {
        self.begin_all();
        while let Some(Reverse((at, planned))) = self.heap.pop() {
            let slot = planned as u32;
            if at > self.end_us || self.settled {
                break;
            }
            self.now_us = at;
            self.report.steps += 1;
            self.free.push(slot);
            if let Some(happening) = self.slots[slot as usize].take() {
                self.trace.mix(at);
                self.happen(happening);
            }
        }
        self.report.simulated_ms = self.now_us / 1_000;
        self.report.trace_hash = self.trace.hash();
        self.judge();
    }

    fn begin_all(&mut self) {
        (0..self.brokers.len()).for_each(|broker| self.brokers[broker].start());
        (0..self.proxies.len()).for_each(|proxy| self.proxies[proxy].start());
        self.start_reference(false);
        for node in 0..self.nodes.len() {
            self.nodes[node].published = (0..self.proxies.len()).map(|_| self.connection()).collect();
        }
        (0..self.nodes.len()).for_each(|server| self.start(server));
        (0..self.clients.len()).for_each(|client| self.start_client(client));
        let faults = self.config.faults;
        self.plan_fault(faults.crash_every_ms, Happening::Crash);
        self.plan_fault(faults.full_every_ms, Happening::DiskFull);
        self.plan_fault(faults.sync_failure_every_ms, Happening::SyncFailure);
        self.plan_fault(faults.middle_crash_every_ms, Happening::MiddleCrash);
        self.plan_fault(faults.client_crash_every_ms, Happening::ClientCrash);
        self.plan_fault(faults.partition_every_ms, Happening::Partition);
        self.later(self.config.faults_ms * 1_000, Happening::FaultsEnd);
    }

    pub(super) fn later(&mut self, at_us: u64, happening: Happening) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slots[slot as usize] = Some(happening);
        self.next += 1;
        self.heap.push(Reverse((at_us, self.next << u32::BITS | u64::from(slot))));
    }

    pub(super) fn delay_us(&mut self) -> u64 {
        let faults = &self.config.faults;
        between(&mut self.net_random, (faults.delay_low_us, faults.delay_high_us))
    }

    /// When a message on a connection arrives: messages of one direction do not overtake each other.
    pub(super) fn arrival(&mut self, connection: u64, direction: usize) -> u64 {
        let soonest = self.now_us + self.delay_us();
        let last_us = &mut self.lanes[connection as usize][direction];
        *last_us = (*last_us + 1).max(soonest);
        *last_us
    }

    pub(super) fn connection(&mut self) -> u64 {
        self.lanes.push([0; 2]);
        self.lanes.len() as u64 - 1
    }

    pub(super) fn client_now(&self) -> Now {
        let wall = Wall { us: super::node::EPOCH_US }.offset(i64::try_from(self.now_us).unwrap_or(i64::MAX));
        Now { mono: dsv2_core::Mono { us: self.now_us }, wall }
    }

    pub(super) fn record(&mut self, record: Record) {
        self.lines += 1;
        if let Some(history) = &mut self.history {
            history.push(record.clone());
        }
        self.checker.add(self.lines, record);
    }

    pub(super) fn broken(&mut self, why: String) {
        if self.report.violations.len() < 100 {
            self.report.violations.push(why);
        }
    }

    /// A line of the readable trace, where one is wanted.
    pub(super) fn tell(&mut self, stop: u8, who: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        if self.trace.is_told() {
            self.trace.tell(self.now_us, stop, &who(), &what());
        }
    }

    /// Whether a fault of that many in a million happens now.
    pub(super) fn strikes(&mut self, ppm: u64) -> bool {
        ppm > 0 && self.faults_on && self.net_random.chance(ppm, 1_000_000)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input { server, life, input } => self.input(server, life, *input),
            Happening::Wake { server, life } => self.wake(server, life),
            Happening::Bytes { connection, forward, frame } => self.bytes(connection, forward, &frame),
            Happening::Dial { server, life, link, address } => self.dial(server, life, link, address),
            Happening::Synced { server, life } => self.synced(server, life),
            Happening::ToReference { server, life, body, service } => self.ask_reference(server, life, &body, service),
            Happening::ClientWake { client, life } => self.client_wake(client, life),
            Happening::Consumed { client, life, subscription } => {
                if self.clients[client].life == life {
                    self.session(client, crate::session::Input::Consumed { subscription, deliveries: 1 });
                }
            }
            Happening::DialBroker { client, life } => self.dial_broker(client, life),
            Happening::DialProxy { client, life } => self.dial_proxy(client, life),
            Happening::BrokerGone { client, life, connection } => self.broker_gone(client, life, connection),
            Happening::ProxyGone { client, life, connection } => self.proxy_gone(client, life, connection),
            Happening::ToBroker { broker, connection, request, body } => {
                self.asked(broker, connection, request, body);
            }
            Happening::Answer { client, connection, request, body } => self.answer(client, connection, request, body),
            Happening::Listen { proxy, connection, topic, on } => self.proxies[proxy].subscribe(connection, &topic, on),
            Happening::Publication { client, connection, topic, body } => {
                self.publication(client, connection, topic, body);
            }
            Happening::Publish { proxy, server, topic, body } => self.fan_out(proxy, server, &topic, &body),
            Happening::Join { server, life, broker } => self.join(server, life, broker),
            Happening::ServerGone { broker, link } => self.server_gone(broker, link),
            Happening::ServerReady { broker, link, ready } => self.server_ready(broker, link, ready),
            Happening::Request { broker, link, route, body } => self.request(broker, link, route, &body),
            Happening::Reply { broker, link, route, body } => self.reply_arrived(broker, link, route, body),
            Happening::Patience { broker } => self.patience(broker),
            Happening::Look => self.look(),
            fault => self.fault(&fault),
        }
    }

    /// Looks whether all is well again; a run ends then.
    pub(super) fn look(&mut self) {
        match self.unsettled() {
            None => self.settled = true,
            Some(_) => self.later(self.now_us + LOOK_US, Happening::Look),
        }
    }

    /// A server answers a request.
    pub(super) fn reply(&mut self, server: usize, route: u64, reply: &Reply) {
        let Some(link) = self.routes.remove(&route) else {
            return self.broken(format!("server {server} answered a request twice: {reply:?}"));
        };
        self.check_receipt(server, reply);
        let shown = &mut self.nodes[server].shown;
        *shown = reply.clock.map_or(*shown, |clock| clock.max(*shown));
        let Some(BrokerLink { broker, .. }) = self.broker_links.get(&link).copied() else { return };
        if self.strikes(self.config.faults.broker_break_ppm) {
            return self.break_broker_link(link);
        }
        let at_us = self.arrival(link, 1);
        self.later(at_us, Happening::Reply { broker, link, route, body: reply.encode() });
    }
}

pub(super) fn between(random: &mut SplitMix, (low, high): (u64, u64)) -> u64 {
    low + random.below(high.saturating_sub(low) + 1)
}
