//! A broker, modelled: it pins a client's connection to a ready server, moves it when that goes, and answers *unknown* for
//! what a server took with it. What it holds dies with it.
//!
//! The real one is `dsv2-net/src/engine/dispatch/`; this one keeps its promises to clients and servers, not its bounds.

use std::collections::{BTreeMap, VecDeque};

use dsv2_core::{Code, Failure};

/// How long a request waits for a server.
const WAIT_US: u64 = 5_000_000;

#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) up: bool,
    servers: BTreeMap<u64, Server>,
    clients: BTreeMap<u64, Client>,
    /// Requests at servers, by route.
    pending: BTreeMap<u64, Pending>,
}

#[derive(Debug)]
struct Server {
    ready: bool,
    clients: usize,
}

#[derive(Debug, Default)]
struct Client {
    server: Option<u64>,
    waiting: VecDeque<(u64, u64, Vec<u8>)>,
}

#[derive(Debug)]
struct Pending {
    connection: u64,
    request: u64,
    server: u64,
    body: Vec<u8>,
}

/// What a broker does.
#[derive(Debug)]
pub(super) enum Act {
    /// To the server behind that link.
    Forward { link: u64, route: u64, body: Vec<u8> },
    /// A server's answer, to a client.
    Answer { connection: u64, request: u64, body: Vec<u8> },
    /// An answer of its own.
    Refuse { connection: u64, request: u64, body: Vec<u8>, failure: Failure },
}

impl Broker {
    pub(super) fn start(&mut self) {
        *self = Self { up: true, ..Self::default() };
    }

    pub(super) fn stop(&mut self) -> (Vec<u64>, Vec<u64>) {
        let dead = std::mem::take(self);
        (dead.clients.into_keys().collect(), dead.servers.into_keys().collect())
    }

    pub(super) fn client_came(&mut self, connection: u64) {
        self.clients.insert(connection, Client::default());
    }

    pub(super) fn has_client(&self, connection: u64) -> bool {
        self.clients.contains_key(&connection)
    }

    pub(super) fn client_went(&mut self, connection: u64) {
        if let Some(link) = self.clients.remove(&connection).and_then(|client| client.server) {
            self.count(link, false);
        }
        self.pending.retain(|_, pending| pending.connection != connection);
    }

    fn count(&mut self, link: u64, more: bool) {
        if let Some(server) = self.servers.get_mut(&link) {
            server.clients = if more { server.clients + 1 } else { server.clients.saturating_sub(1) };
        }
    }

    pub(super) fn server_came(&mut self, link: u64, ready: bool, routes: &mut u64, out: &mut Vec<Act>) {
        self.servers.insert(link, Server { ready, clients: 0 });
        self.serve(routes, out);
    }

    pub(super) fn server_ready(&mut self, link: u64, ready: bool, routes: &mut u64, out: &mut Vec<Act>) {
        if let Some(server) = self.servers.get_mut(&link) {
            server.ready = ready;
            self.serve(routes, out);
        }
    }

    /// A server is gone: whether it did what it had taken cannot be told.
    pub(super) fn server_went(&mut self, link: u64, routes: &mut u64, out: &mut Vec<Act>) {
        self.servers.remove(&link);
        let lost: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.server == link).map(|(&route, _)| route).collect();
        for pending in lost.iter().filter_map(|route| self.pending.remove(route)).collect::<Vec<_>>() {
            let failure = Failure::unknown(Code::ServerLost, "the server left after it took the request");
            let Pending { connection, request, body, .. } = pending;
            out.push(Act::Refuse { connection, request, body, failure });
        }
        for client in self.clients.values_mut().filter(|client| client.server == Some(link)) {
            client.server = None;
        }
        self.serve(routes, out);
    }

    /// A client asks. Its requests keep their order.
    pub(super) fn request(
        &mut self,
        now_us: u64,
        (connection, request): (u64, u64),
        body: Vec<u8>,
        routes: &mut u64,
        out: &mut Vec<Act>,
    ) {
        let Some(client) = self.clients.get_mut(&connection) else { return };
        client.waiting.push_back((now_us + WAIT_US, request, body));
        self.serve_client(connection, routes, out);
    }

    fn serve(&mut self, routes: &mut u64, out: &mut Vec<Act>) {
        let waiting: Vec<u64> =
            self.clients.iter().filter(|(_, client)| !client.waiting.is_empty()).map(|(&client, _)| client).collect();
        waiting.into_iter().for_each(|connection| self.serve_client(connection, routes, out));
    }

    fn serve_client(&mut self, connection: u64, routes: &mut u64, out: &mut Vec<Act>) {
        let Some(pinned) = self.clients.get(&connection).map(|client| client.server) else { return };
        let is_ready = |link: &u64| self.servers.get(link).is_some_and(|server| server.ready);
        let link = pinned.filter(is_ready).or_else(|| {
            let ready = self.servers.iter().filter(|(_, server)| server.ready);
            ready.min_by_key(|(link, server)| (server.clients, **link)).map(|(&link, _)| link)
        });
        let Some(link) = link else { return };
        if pinned != Some(link) {
            pinned.into_iter().for_each(|old| self.count(old, false));
            self.count(link, true);
        }
        let Some(client) = self.clients.get_mut(&connection) else { return };
        client.server = Some(link);
        for (_, request, body) in std::mem::take(&mut client.waiting) {
            *routes += 1;
            out.push(Act::Forward { link, route: *routes, body: body.clone() });
            self.pending.insert(*routes, Pending { connection, request, server: link, body });
        }
    }

    pub(super) fn answer(&mut self, route: u64, body: Vec<u8>, out: &mut Vec<Act>) {
        if let Some(Pending { connection, request, .. }) = self.pending.remove(&route) {
            out.push(Act::Answer { connection, request, body });
        }
    }

    /// When a request has waited too long.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.clients.values().filter_map(|client| client.waiting.front().map(|(until, ..)| *until)).min()
    }

    pub(super) fn expire(&mut self, now_us: u64, out: &mut Vec<Act>) {
        for (&connection, client) in &mut self.clients {
            while client.waiting.front().is_some_and(|(until, ..)| *until <= now_us) {
                let Some((_, request, body)) = client.waiting.pop_front() else { break };
                let failure = Failure::rejected(Code::NoServer, "no server is ready");
                out.push(Act::Refuse { connection, request, body, failure });
            }
        }
    }
}
