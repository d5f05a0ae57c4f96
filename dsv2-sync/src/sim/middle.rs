//! Brokers and proxies in the world: connections to them, and what passes through.

use dsv2_core::{Announcement, Clock, Limits, LinkNotice, Refusal, Request, Topic};

use super::broker::Act;
use super::world::{BrokerLink, DEAD_AFTER_US, Happening, REDIAL_US, World, between};
use crate::server::Input;
use crate::session::Input as Session;

impl World {
    pub(super) fn dial_broker(&mut self, client: usize, life: u64) {
        let number = self.connection();
        let count = self.brokers.len();
        let end = &mut self.clients[client];
        if end.life != life || !end.up || end.broker.number.is_some() {
            return;
        }
        let broker = end.broker.to % count;
        if !self.brokers[broker].up {
            end.broker.to = broker + 1;
            return self.later(self.now_us + REDIAL_US, Happening::DialBroker { client, life });
        }
        end.broker = super::client::Connection { to: broker, number: Some(number) };
        self.brokers[broker].client_came(number);
        self.session(client, Session::BrokerUp);
    }

    pub(super) fn dial_proxy(&mut self, client: usize, life: u64) {
        let number = self.connection();
        let count = self.proxies.len();
        let end = &mut self.clients[client];
        if end.life != life || !end.up || end.proxy.number.is_some() {
            return;
        }
        let proxy = end.proxy.to % count;
        if !self.proxies[proxy].up {
            end.proxy.to = proxy + 1;
            return self.later(self.now_us + REDIAL_US, Happening::DialProxy { client, life });
        }
        end.proxy = super::client::Connection { to: proxy, number: Some(number) };
        let topics: Vec<String> = end.topics.iter().cloned().collect();
        self.proxies[proxy].client_came(number);
        for topic in topics {
            let at_us = self.arrival(number, 0);
            self.later(at_us, Happening::Listen { proxy, connection: number, topic, on: true });
        }
        self.session(client, Session::ProxyUp);
    }

    /// The session subscribes, or no longer.
    pub(super) fn listen(&mut self, client: usize, topic: String, on: bool) {
        let end = &mut self.clients[client];
        if on {
            end.topics.insert(topic.clone());
        } else {
            end.topics.remove(&topic);
        }
        let (proxy, number) = (end.proxy.to, end.proxy.number);
        if let Some(connection) = number {
            let at_us = self.arrival(connection, 0);
            self.later(at_us, Happening::Listen { proxy, connection, topic, on });
        }
    }

    /// The session sends a request.
    pub(super) fn client_sends(&mut self, client: usize, request: u64, body: Vec<u8>) {
        let (broker, number) = (self.clients[client].broker.to, self.clients[client].broker.number);
        let Some(connection) = number else { return };
        if self.trace.is_told()
            && let Ok(decoded) = Request::decode(&body, &Limits::default())
        {
            let (clock, ext) = (decoded.clock.unwrap_or(Clock::ZERO), &decoded.ext);
            let number = ext.number.map_or_else(String::new, |number| format!(", request number {number}"));
            let service = decoded.body.service().as_str();
            self.tell(2, || format!("u{client}"), || format!("stamps {service:?} with clock {clock}{number}"));
            self.tell(3, || format!("u{client}"), || format!("sends [{request}, \"\", {} bytes]", body.len()));
        }
        if self.strikes(self.config.faults.broker_break_ppm) {
            return self.break_client(client);
        }
        let at_us = self.arrival(connection, 0);
        self.later(at_us, Happening::ToBroker { broker, connection, request, body });
    }

    /// A client's connection to its broker breaks; the client learns of it later.
    fn break_client(&mut self, client: usize) {
        let (broker, number, life) =
            (self.clients[client].broker.to, self.clients[client].broker.number, self.clients[client].life);
        let Some(connection) = number.filter(|&number| self.brokers[broker].has_client(number)) else { return };
        self.report.breaks += 1;
        self.brokers[broker].client_went(connection);
        let at_us = self.now_us + between(&mut self.net_random, DEAD_AFTER_US);
        self.later(at_us, Happening::BrokerGone { client, life, connection });
    }

    pub(super) fn broker_gone(&mut self, client: usize, life: u64, connection: u64) {
        let end = &mut self.clients[client];
        if end.life == life && end.broker.number == Some(connection) {
            end.broker.number = None;
            end.broker.to += 1;
            self.later(self.now_us + REDIAL_US, Happening::DialBroker { client, life });
            self.session(client, Session::BrokerDown);
        }
    }

    pub(super) fn proxy_gone(&mut self, client: usize, life: u64, connection: u64) {
        let end = &mut self.clients[client];
        if end.life == life && end.proxy.number == Some(connection) {
            end.proxy.number = None;
            end.proxy.to += 1;
            self.later(self.now_us + REDIAL_US, Happening::DialProxy { client, life });
            self.session(client, Session::ProxyDown);
        }
    }

    /// The session wants another connection.
    pub(super) fn leave_broker(&mut self, client: usize) {
        let (broker, number, life) =
            (self.clients[client].broker.to, self.clients[client].broker.number, self.clients[client].life);
        if let Some(connection) = number {
            self.brokers[broker].client_went(connection);
            self.later(self.now_us, Happening::BrokerGone { client, life, connection });
        }
    }

    pub(super) fn leave_proxy(&mut self, client: usize) {
        let (proxy, number, life) =
            (self.clients[client].proxy.to, self.clients[client].proxy.number, self.clients[client].life);
        if let Some(connection) = number {
            self.proxies[proxy].client_went(connection);
            self.later(self.now_us, Happening::ProxyGone { client, life, connection });
        }
    }

    /// A client's process is gone, and its connections with it.
    pub(super) fn drop_client(&mut self, client: usize) {
        let end = &mut self.clients[client];
        let (broker, proxy) = (std::mem::take(&mut end.broker.number), std::mem::take(&mut end.proxy.number));
        let (to_broker, to_proxy) = (end.broker.to, end.proxy.to);
        broker.into_iter().for_each(|number| self.brokers[to_broker].client_went(number));
        proxy.into_iter().for_each(|number| self.proxies[to_proxy].client_went(number));
    }

    pub(super) fn asked(&mut self, broker: usize, connection: u64, request: u64, body: Vec<u8>) {
        self.trace.bytes(&body);
        let mut out = Vec::new();
        self.brokers[broker].request(self.now_us, (connection, request), body, &mut self.next_route, &mut out);
        self.broker_acts(broker, out);
        if let Some(at_us) = self.brokers[broker].deadline() {
            self.later(at_us, Happening::Patience { broker });
        }
    }

    pub(super) fn patience(&mut self, broker: usize) {
        let mut out = Vec::new();
        self.brokers[broker].expire(self.now_us, &mut out);
        self.broker_acts(broker, out);
    }

    fn broker_acts(&mut self, broker: usize, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Forward { link, route, body } => {
                    let Some(server) = self.broker_links.get(&link).map(|link| link.server) else { continue };
                    self.tell(
                        4,
                        || format!("broker{broker}"),
                        || format!("forwards it to s{server}, as route {route}"),
                    );
                    if self.strikes(self.config.faults.broker_break_ppm) {
                        self.break_broker_link(link);
                        continue;
                    }
                    let at_us = self.arrival(link, 0);
                    self.later(at_us, Happening::Request { broker, link, route, body });
                }
                Act::Answer { connection, request, body } => self.send_answer(broker, connection, request, body),
                Act::Refuse { connection, request, body, failure } => {
                    self.tell(4, || format!("broker{broker}"), || format!("answers itself: {failure}"));
                    let refusal = Refusal::of(&body, &Limits::default(), failure);
                    let clock = refusal.clock.unwrap_or(Clock::ZERO).plus(1);
                    let reply = refusal.reply(clock, self.client_now().wall.timestamp());
                    self.send_answer(broker, connection, request, reply.encode());
                }
            }
        }
    }

    fn send_answer(&mut self, broker: usize, connection: u64, request: u64, body: Vec<u8>) {
        let Some(client) = self.clients.iter().position(|client| client.broker.number == Some(connection)) else {
            return;
        };
        if !self.brokers[broker].has_client(connection) {
            return;
        }
        let at_us = self.arrival(connection, 1);
        self.later(at_us, Happening::Answer { client, connection, request, body });
    }

    pub(super) fn answer(&mut self, client: usize, connection: u64, request: u64, body: Vec<u8>) {
        let end = &self.clients[client];
        let alive = self.brokers.get(end.broker.to).is_some_and(|broker| broker.has_client(connection));
        if end.broker.number == Some(connection) && alive {
            self.trace.bytes(&body);
            self.tell(0, || format!("u{client}"), || format!("has the answer to {request}"));
            self.session(client, Session::Reply { request, body });
        }
    }

    /// A server connects to a broker.
    pub(super) fn join(&mut self, server: usize, life: u64, broker: usize) {
        let node = &self.nodes[server];
        let Some(process) = node.process.as_ref().filter(|_| node.life == life) else { return };
        if !self.brokers[broker].up || self.network.is_blocked(server, self.place_of_broker(broker)) {
            return self.later(self.now_us + REDIAL_US, Happening::Join { server, life, broker });
        }
        let ready = process.machine.is_ready();
        let link = self.connection();
        self.broker_links.insert(link, BrokerLink { server, life, broker });
        let mut out = Vec::new();
        self.brokers[broker].server_came(link, ready, &mut self.next_route, &mut out);
        self.broker_acts(broker, out);
    }

    pub(super) fn tell_ready(&mut self, server: usize, ready: bool) {
        let links: Vec<(u64, usize)> = self
            .broker_links
            .iter()
            .filter(|(_, link)| link.server == server)
            .map(|(&number, link)| (number, link.broker))
            .collect();
        for (link, broker) in links {
            let at_us = self.arrival(link, 1);
            self.later(at_us, Happening::ServerReady { broker, link, ready });
        }
    }

    pub(super) fn server_ready(&mut self, broker: usize, link: u64, ready: bool) {
        let mut out = Vec::new();
        self.brokers[broker].server_ready(link, ready, &mut self.next_route, &mut out);
        self.broker_acts(broker, out);
    }

    /// A server's connection to a broker breaks: both ends learn of it later, and the server connects again.
    pub(super) fn break_broker_link(&mut self, link: u64) {
        let Some(BrokerLink { server, life, broker }) = self.broker_links.remove(&link) else { return };
        self.report.breaks += 1;
        let at_us = self.now_us + between(&mut self.net_random, DEAD_AFTER_US);
        self.later(at_us, Happening::ServerGone { broker, link });
        let at_us = self.now_us + between(&mut self.net_random, DEAD_AFTER_US) + REDIAL_US;
        self.later(at_us, Happening::Join { server, life, broker });
    }

    pub(super) fn server_gone(&mut self, broker: usize, link: u64) {
        let mut out = Vec::new();
        self.brokers[broker].server_went(link, &mut self.next_route, &mut out);
        self.broker_acts(broker, out);
    }

    /// A request arrives at a server.
    pub(super) fn request(&mut self, broker: usize, link: u64, route: u64, body: &[u8]) {
        let Some(BrokerLink { server, life, .. }) = self.broker_links.get(&link).copied() else { return };
        if self.network.is_blocked(server, self.place_of_broker(broker)) {
            return self.break_broker_link(link);
        }
        self.routes.insert(route, link);
        let request = Request::decode(body, &Limits::default());
        self.tell(
            5,
            || format!("s{server}"),
            || match &request {
                Ok(request) => format!("takes {:?}, observes its clock, and decides", request.body.service().as_str()),
                Err(_) => "refuses what it cannot read".to_owned(),
            },
        );
        self.input(server, life, Input::Request { from: route, request });
    }

    pub(super) fn reply_arrived(&mut self, broker: usize, link: u64, route: u64, body: Vec<u8>) {
        if !self.broker_links.contains_key(&link) {
            return;
        }
        let mut out = Vec::new();
        self.brokers[broker].answer(route, body, &mut out);
        self.broker_acts(broker, out);
    }

    /// A publication arrives at a proxy.
    pub(super) fn fan_out(&mut self, proxy: usize, server: usize, topic: &Topic, body: &[u8]) {
        if !self.proxies[proxy].up || self.network.is_blocked(server, self.place_of_proxy(proxy)) {
            self.report.lost_publications += 1;
            return;
        }
        let connections = self.proxies[proxy].subscribers(topic.as_str());
        if matches!(topic, Topic::Channel(_) | Topic::User(_)) {
            self.tell(
                8,
                || format!("proxy{proxy}"),
                || format!("fans {:?} out to {} subscriber(s)", topic.as_str(), connections.len()),
            );
        }
        for connection in connections {
            let client = self.clients.iter().position(|client| client.proxy.number == Some(connection));
            let Some(client) = client else { continue };
            let at_us = self.arrival(connection, 1);
            if self.strikes(self.config.faults.publication_loss_ppm) {
                self.report.lost_publications += 1;
                continue;
            }
            let (topic, body) = (topic.as_str().to_owned(), body.to_vec());
            self.later(at_us, Happening::Publication { client, connection, topic, body });
        }
        self.tell_servers(proxy, server, topic, body);
    }

    /// Servers listen to announcements of coordinators and of links.
    fn tell_servers(&mut self, proxy: usize, publisher: usize, topic: &Topic, body: &[u8]) {
        let limits = Limits::default();
        let input = match topic {
            Topic::Servers => Announcement::decode(body, &limits).map(Input::Announced),
            Topic::Links => LinkNotice::decode(body, &limits).map(Input::LinkNotice),
            _ => return,
        };
        let input = match input {
            Ok(input) => input,
            Err(why) => return self.broken(format!("a publication of server {publisher} cannot be read: {why}")),
        };
        for server in 0..self.nodes.len() {
            if server == publisher || self.network.is_blocked(server, self.place_of_proxy(proxy)) {
                continue;
            }
            let life = self.nodes[server].life;
            let at_us = self.now_us + self.delay_us();
            self.later(at_us, Happening::Input { server, life, input: Box::new(input.clone()) });
        }
    }

    pub(super) fn publication(&mut self, client: usize, connection: u64, topic: String, body: Vec<u8>) {
        if self.clients[client].proxy.number == Some(connection) {
            self.trace.bytes(&body);
            self.session(client, Session::Published { topic: topic.into_bytes(), body });
        }
    }
}
