//! What goes wrong: processes that die and come back, and partitions.

use std::collections::BTreeSet;

use super::node::name;
use super::world::{DEAD_AFTER_US, Happening, World, between};
use crate::reference::{Reference, ReferenceConfig};

/// What of the middle may die.
#[derive(Clone, Copy)]
enum Middle {
    Broker(usize),
    Proxy(usize),
    Reference,
}

impl World {
    /// Plans a fault some time from now; a mean of zero switches it off.
    pub(super) fn plan_fault(&mut self, mean_ms: u64, happening: Happening) {
        if mean_ms > 0 && self.faults_on {
            let wait_us = between(&mut self.fault_random, (mean_ms * 100, mean_ms * 1_900));
            self.later(self.now_us + wait_us, happening);
        }
    }

    pub(super) fn fault(&mut self, happening: &Happening) {
        match *happening {
            Happening::Crash => self.crash(),
            Happening::MiddleCrash => self.crash_middle(),
            Happening::ClientCrash => self.crash_client(),
            Happening::DiskFull => self.fill_disk(),
            Happening::SyncFailure => self.fail_sync(),
            Happening::Room { server } => self.nodes[server].disk.set_capacity(None),
            Happening::Probe { server, life } => self.probe(server, life),
            Happening::LosePatience { server, life } => self.lose_patience(server, life),
            Happening::GaveUp { server, life } => self.gave_up(server, life),
            Happening::Restart { server } => self.start(server),
            Happening::RestartBroker { broker } => self.brokers[broker].start(),
            Happening::RestartProxy { proxy } => self.proxies[proxy].start(),
            Happening::RestartReference { wiped } => self.start_reference(wiped),
            Happening::RestartClient { client } => self.start_client(client),
            Happening::Partition => self.partition(),
            Happening::Heal => self.network.heal(),
            Happening::FaultsEnd => self.end_faults(),
            _ => {}
        }
    }

    fn down_until(&mut self) -> u64 {
        self.now_us + between(&mut self.fault_random, (1_000, (self.config.faults.down_ms * 2_000).max(1_000)))
    }

    fn crash(&mut self) {
        if self.faults_on {
            let server = self.fault_random.below(self.nodes.len() as u64) as usize;
            if self.nodes[server].process.is_some() {
                self.report.crashes += 1;
                self.tell(0, || format!("s{server}"), || "crashes".to_owned());
                self.kill(server);
                if self.fault_random.chance(self.config.faults.server_wiped_percent, 100) {
                    self.wipe(server);
                }
                let at_us = self.down_until();
                self.later(at_us, Happening::Restart { server });
            }
        }
        self.plan_fault(self.config.faults.crash_every_ms, Happening::Crash);
    }

    /// A server ended by itself. Whoever looks after it starts it again.
    fn gave_up(&mut self, server: usize, life: u64) {
        if self.nodes[server].life == life && self.nodes[server].process.is_some() {
            self.tell(0, || format!("s{server}"), || "ends".to_owned());
            // Either the process or the whole machine is started again.
            if self.fault_random.chance(1, 2) {
                self.nodes[server].process = None;
                self.break_links_of(server);
            } else {
                self.kill(server);
            }
            self.later(self.now_us + 1_000_000, Happening::Restart { server });
        }
    }

    /// A server's power fails.
    fn kill(&mut self, server: usize) {
        self.nodes[server].crash();
        self.break_links_of(server);
    }

    fn break_links_of(&mut self, server: usize) {
        self.network.of(server).into_iter().for_each(|connection| self.break_connection(connection));
        let links: Vec<u64> =
            self.broker_links.iter().filter(|(_, link)| link.server == server).map(|(&number, _)| number).collect();
        links.into_iter().for_each(|link| self.break_broker_link(link));
    }

    fn crash_middle(&mut self) {
        if self.faults_on {
            let (brokers, proxies) = (self.brokers.len(), self.proxies.len());
            let all: Vec<Middle> = (0..brokers)
                .map(Middle::Broker)
                .chain((0..proxies).map(Middle::Proxy))
                .chain([Middle::Reference])
                .collect();
            let victim = all[self.fault_random.below(all.len() as u64) as usize];
            self.report.other_crashes += 1;
            let at_us = self.down_until();
            match victim {
                Middle::Broker(broker) if self.brokers[broker].up => {
                    self.kill_broker(broker);
                    self.later(at_us, Happening::RestartBroker { broker });
                }
                Middle::Proxy(proxy) if self.proxies[proxy].up => {
                    self.kill_proxy(proxy);
                    self.later(at_us, Happening::RestartProxy { proxy });
                }
                Middle::Reference if self.reference.is_some() => {
                    self.tell(0, || "reference".to_owned(), || "crashes".to_owned());
                    self.reference = None;
                    let wiped = self.fault_random.chance(self.config.faults.reference_wiped_percent, 100);
                    self.later(at_us, Happening::RestartReference { wiped });
                }
                _ => self.report.other_crashes -= 1,
            }
        }
        self.plan_fault(self.config.faults.middle_crash_every_ms, Happening::MiddleCrash);
    }

    /// A broker dies with all that it holds; clients and servers notice in their own time.
    fn kill_broker(&mut self, broker: usize) {
        self.tell(0, || format!("broker{broker}"), || "crashes".to_owned());
        let (clients, links) = self.brokers[broker].stop();
        for connection in clients {
            let Some(client) = self.clients.iter().position(|client| client.broker.number == Some(connection)) else {
                continue;
            };
            let life = self.clients[client].life;
            let at_us = self.now_us + between(&mut self.net_random, DEAD_AFTER_US);
            self.later(at_us, Happening::BrokerGone { client, life, connection });
        }
        links.into_iter().for_each(|link| self.break_broker_link(link));
    }

    fn kill_proxy(&mut self, proxy: usize) {
        self.tell(0, || format!("proxy{proxy}"), || "crashes".to_owned());
        for connection in self.proxies[proxy].stop() {
            let Some(client) = self.clients.iter().position(|client| client.proxy.number == Some(connection)) else {
                continue;
            };
            let life = self.clients[client].life;
            let at_us = self.now_us + between(&mut self.net_random, DEAD_AFTER_US);
            self.later(at_us, Happening::ProxyGone { client, life, connection });
        }
    }

    pub(super) fn start_reference(&mut self, wiped: bool) {
        if wiped {
            if self.kept_ranks.is_none() {
                self.kept_ranks = self.nodes.iter().map(|node| node.rank).collect();
            }
            self.ranks.clear();
        }
        let config = ReferenceConfig { ranks: self.ranks.clone(), ..ReferenceConfig::default() };
        self.reference = Some(Reference::new(config));
    }

    fn crash_client(&mut self) {
        if self.faults_on && !self.clients.is_empty() {
            let client = self.fault_random.below(self.clients.len() as u64) as usize;
            if self.clients[client].up {
                self.report.other_crashes += 1;
                self.tell(0, || format!("u{client}"), || "crashes".to_owned());
                self.kill_client(client);
                let at_us = self.down_until();
                self.later(at_us, Happening::RestartClient { client });
            }
        }
        self.plan_fault(self.config.faults.client_crash_every_ms, Happening::ClientCrash);
    }

    pub(super) fn place_of_broker(&self, broker: usize) -> usize {
        self.nodes.len() + broker
    }

    pub(super) fn place_of_proxy(&self, proxy: usize) -> usize {
        self.nodes.len() + self.brokers.len() + proxy
    }

    fn partition(&mut self) {
        let places = self.nodes.len() + self.brokers.len() + self.proxies.len();
        if self.faults_on && self.nodes.len() > 1 {
            let group = (0..places).filter(|_| self.fault_random.chance(1, 2)).collect();
            self.report.partitions += 1;
            self.tell(0, || "network".to_owned(), || format!("cuts {group:?} off from the others"));
            self.network.partition(places, &group);
            self.network.cut().into_iter().for_each(|connection| self.break_connection(connection));
            let links: Vec<u64> = self
                .broker_links
                .iter()
                .filter(|(_, link)| self.network.is_blocked(link.server, self.place_of_broker(link.broker)))
                .map(|(&number, _)| number)
                .collect();
            links.into_iter().for_each(|link| self.break_broker_link(link));
            let last_us =
                between(&mut self.fault_random, (1_000, (self.config.faults.partition_ms * 2_000).max(1_000)));
            self.later(self.now_us + last_us, Happening::Heal);
        }
        self.plan_fault(self.config.faults.partition_every_ms, Happening::Partition);
    }

    /// An operator declares the lost servers gone for good: at one that stays, which is started again.
    fn retire_lost(&mut self) {
        let departed: BTreeSet<dsv2_core::ServerName> = self.lost.iter().map(|&server| name(server)).collect();
        let at = (0..self.members()).find(|server| !self.lost.contains(server));
        let Some(server) = at.filter(|_| self.config.retire_lost > 0 && !departed.is_empty()) else { return };
        self.tell(0, || format!("s{server}"), || "is told who is gone for good".to_owned());
        self.kill(server);
        self.departed = departed;
        match self.nodes[server].declare(&self.departed) {
            Ok(()) => self.start(server),
            Err(why) => self.broken(why),
        }
    }

    /// From now on nothing goes wrong any more. A minority of the servers may be lost for good.
    fn end_faults(&mut self) {
        self.faults_on = false;
        self.network.heal();
        self.nodes.iter().for_each(|node| node.disk.set_capacity(None));
        self.tell(0, || "world".to_owned(), || "no faults from now on".to_owned());
        let wanted = usize::try_from(self.config.lost_servers).unwrap_or(0);
        let members = self.members();
        let first = self.fault_random.below(members as u64) as usize;
        for server in (first..first + members).map(|server| server % members) {
            if self.lost.len() < wanted && self.may_lose(server) {
                self.tell(0, || format!("s{server}"), || "is lost for good".to_owned());
                self.kill(server);
                self.record(crate::history::Record::Lost { server: super::node::name(server).to_string() });
                self.record_gone(server);
                self.lost.insert(server);
            }
        }
        self.retire_lost();
        self.look();
    }
}
