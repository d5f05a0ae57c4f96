//! Clients and servers, and the lines in which clients wait for servers.

use std::collections::VecDeque;

use super::requests::Place;
use super::slab::Key;
use super::{ClientId, Dispatch, DispatchConfig, Effect, Pace, Quota, Refusal, RequestId, ServerId};
use crate::zmtp::Message;

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) pin: Option<Pin>,
    /// Its waiting requests, oldest first.
    pub(super) waiting: VecDeque<Key>,
    pub(super) waiting_quota: Quota,
    /// Its unanswered requests at `handed_at`.
    pub(super) handed: usize,
    pub(super) handed_at: Option<ServerId>,
    /// It does not read its replies fast enough.
    pub(super) on_hold: bool,
    /// Invariant: if something waits, the client is in exactly one line, or on hold, or something of it is unanswered
    /// at a server that is not its own any more.
    pub(super) line: Option<Line>,
    pub(super) parked: Option<Parked>,
}

/// The line a client stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Orphans,
    Server(ServerId),
}

/// Which bound handed a request back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parked {
    ForOwn,
    ForTotal,
}

/// Affinity of a client; void as soon as the server's term is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) server: ServerId,
    pub(super) term: u64,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) pace: Pace,
    /// As it declares itself.
    pub(super) ready: bool,
    /// The replies that a lock-step server owes and the broker has given in its place.
    pub(super) overdue: Vec<Key>,
    /// Ready and owing nothing.
    pub(super) available: bool,
    pub(super) term: u64,
    pub(super) pinned: usize,
    pub(super) in_flight: Quota,
    /// Clients whose next request waits for room here, in turn.
    pub(super) line: VecDeque<ClientId>,
}

impl Server {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            ready: false,
            overdue: Vec::new(),
            available: false,
            term: 0,
            pinned: 0,
            in_flight: Quota::default(),
            line: VecDeque::new(),
        }
    }

    fn has_room(&self, config: &DispatchConfig, bytes: usize) -> bool {
        let window = match self.pace {
            Pace::LockStep => Quota { messages: config.lock_step_window, ..config.server_window },
            Pace::Window => config.server_window,
        };
        window.admits(self.in_flight, bytes)
    }
}

/// Where a client's next request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// There, now.
    To(ServerId),
    /// There, in turn.
    Full(ServerId),
    /// No server is available.
    Nowhere,
    /// Nowhere yet: the client is on hold, or would go to another server than the one that still has requests of it.
    Held,
}

impl Dispatch {
    /// Decides for the next request of a client, pinning the client if it has no server.
    pub(super) fn route(&mut self, id: ClientId, bytes: usize) -> Route {
        let Some(server_id) = self.server_of(id) else {
            return Route::Nowhere;
        };
        let held = self
            .clients
            .get(id.0)
            .is_some_and(|client| client.on_hold || client.handed > 0 && client.handed_at != Some(server_id));
        if held {
            return Route::Held;
        }
        match self.servers.get(server_id.0) {
            Some(server) if server.has_room(&self.config, bytes) => Route::To(server_id),
            Some(_) => Route::Full(server_id),
            None => Route::Nowhere,
        }
    }

    /// Who comes later must not overtake: a large request would wait for ever behind small ones.
    pub(super) fn nobody_in_line(&self, id: ServerId) -> bool {
        self.servers.get(id.0).is_some_and(|server| server.line.is_empty())
    }

    fn server_of(&mut self, id: ClientId) -> Option<ServerId> {
        if let Some(pin) = self.clients.get(id.0)?.pin
            && self.pinned_server(pin).is_some()
        {
            return Some(pin.server);
        }
        let (key, _) =
            self.servers.iter().filter(|(_, server)| server.available).min_by_key(|(_, server)| server.pinned)?;
        let server = self.servers.get_mut(key)?;
        server.pinned += 1;
        let pin = Pin { server: ServerId(key), term: server.term };
        self.clients.get_mut(id.0)?.pin = Some(pin);
        Some(pin.server)
    }

    /// The server of a pin that still holds.
    pub(super) fn pinned_server(&mut self, pin: Pin) -> Option<&mut Server> {
        let server = self.servers.get_mut(pin.server.0)?;
        (server.available && server.term == pin.term).then_some(server)
    }

    /// Puts a client whose next request cannot go now where it will be found again.
    pub(super) fn line_up(&mut self, id: ClientId, route: Route) {
        let line = match route {
            Route::To(server) | Route::Full(server) => {
                if let Some(server) = self.servers.get_mut(server.0) {
                    server.line.push_back(id);
                }
                Some(Line::Server(server))
            }
            Route::Nowhere => {
                self.orphans.push_back(id);
                Some(Line::Orphans)
            }
            Route::Held => None,
        };
        if let Some(client) = self.clients.get_mut(id.0) {
            client.line = line;
        }
    }

    /// A client left its line: sends one waiting request on its way, if one can go, and lines the
    /// client up again. One at a time, so that the clients of a server take turns.
    pub(super) fn advance(&mut self, now_ms: u64, id: ClientId, out: &mut Vec<Effect>) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        client.line = None;
        let Some(&key) = client.waiting.front() else {
            return;
        };
        let bytes = self.requests.get(key).map_or(0, |request| request.bytes);
        let route = self.route(id, bytes);
        if let Route::To(server) = route {
            self.requests.relocate(key, Place::Handed(server), now_ms);
            self.no_longer_waiting(id, bytes, out);
            self.hand_over(id, server, key, out);
        }
        let more = self.clients.get(id.0).is_some_and(|client| !client.waiting.is_empty());
        if more {
            self.line_up(id, route);
        }
    }

    /// Hands requests to a server, by turns, until it is full or nobody waits for it.
    pub(super) fn serve_line(&mut self, now_ms: u64, id: ServerId, out: &mut Vec<Effect>) {
        while let Some(server) = self.servers.get(id.0)
            && let Some(&client) = server.line.front()
        {
            let next = self
                .clients
                .get(client.0)
                .and_then(|client| client.waiting.front())
                .and_then(|key| self.requests.get(*key));
            if next.is_some_and(|next| !server.has_room(&self.config, next.bytes)) {
                return;
            }
            if let Some(server) = self.servers.get_mut(id.0) {
                server.line.pop_front();
            }
            self.advance(now_ms, client, out);
        }
    }

    pub(super) fn serve_all_lines(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let ids: Vec<_> = self.servers.iter().map(|(key, _)| ServerId(key)).collect();
        for id in ids {
            self.serve_line(now_ms, id, out);
        }
    }

    /// Changes a server and draws the consequences for the clients.
    pub(super) fn change_server(
        &mut self,
        now_ms: u64,
        id: ServerId,
        out: &mut Vec<Effect>,
        change: impl FnOnce(&mut Server),
    ) {
        let term = self.next_term;
        let Some(server) = self.servers.get_mut(id.0) else {
            return;
        };
        change(server);
        let available = server.ready && server.overdue.is_empty();
        if available == server.available {
            return;
        }
        server.available = available;
        server.term = term;
        server.pinned = 0;
        self.next_term += 1;
        let moving = if available {
            self.available += 1;
            std::mem::take(&mut self.orphans)
        } else {
            self.available -= 1;
            std::mem::take(&mut server.line)
        };
        if self.available == 0 && !available {
            self.none_since_ms = now_ms;
        }
        for client in moving {
            self.advance(now_ms, client, out);
        }
        self.serve_all_lines(now_ms, out);
    }

    pub(super) fn hand_over(&mut self, id: ClientId, server_id: ServerId, key: Key, out: &mut Vec<Effect>) {
        let Some(request) = self.requests.get(key) else {
            return;
        };
        if let Some(server) = self.servers.get_mut(server_id.0) {
            server.in_flight.add(request.bytes);
        }
        if let Some(client) = self.clients.get_mut(id.0) {
            client.handed += 1;
            client.handed_at = Some(server_id);
        }
        if let Some(message) = &request.message {
            out.push(Effect::Forward { server: server_id, request: RequestId(key), message: message.clone() });
        }
    }

    /// A request of this client was answered; one that is held for order may go now.
    pub(super) fn one_less_handed(&mut self, now_ms: u64, id: ClientId, out: &mut Vec<Effect>) {
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        client.handed -= 1;
        if client.handed == 0 {
            self.advance_unlined(now_ms, id, out);
        }
    }

    /// What kept a client out of every line may be over.
    pub(super) fn advance_unlined(&mut self, now_ms: u64, id: ClientId, out: &mut Vec<Effect>) {
        let stands_aside = self.clients.get(id.0).is_some_and(|c| c.line.is_none() && !c.waiting.is_empty());
        if stands_aside {
            self.advance(now_ms, id, out);
            if let Some(Line::Server(server)) = self.clients.get(id.0).and_then(|c| c.line) {
                self.serve_line(now_ms, server, out);
            }
        }
    }

    /// The oldest waiting request of a client is not waiting any more.
    fn no_longer_waiting(&mut self, id: ClientId, bytes: usize, out: &mut Vec<Effect>) {
        self.waiting.sub(bytes);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.waiting.pop_front();
            client.waiting_quota.sub(bytes);
            if client.parked == Some(Parked::ForOwn) && self.config.client_waiting.is_half_empty(client.waiting_quota) {
                client.parked = None;
                out.push(Effect::Resume { client: id });
            }
        }
        self.resume_parked(out);
    }

    /// Lets everybody who met the total bound try again once it is half empty; who does not fit is
    /// parked again, behind the others.
    pub(super) fn resume_parked(&mut self, out: &mut Vec<Effect>) {
        if self.parked.is_empty() || !self.config.total_waiting.is_half_empty(self.waiting) {
            return;
        }
        for id in std::mem::take(&mut self.parked) {
            if let Some(client) = self.clients.get_mut(id.0) {
                client.parked = None;
                out.push(Effect::Resume { client: id });
            }
        }
    }

    pub(super) fn must_park(&self, id: ClientId, bytes: usize) -> Option<Parked> {
        let own = self.clients.get(id.0)?.waiting_quota;
        if !self.config.client_waiting.admits(own, bytes) {
            Some(Parked::ForOwn)
        } else if !self.config.total_waiting.admits(self.waiting, bytes) {
            Some(Parked::ForTotal)
        } else {
            None
        }
    }

    pub(super) fn park(&mut self, id: ClientId, reason: Parked) {
        if let Some(client) = self.clients.get_mut(id.0)
            && client.parked.is_none()
        {
            client.parked = Some(reason);
            if reason == Parked::ForTotal {
                self.parked.push_back(id);
            }
        }
    }

    pub(super) fn waiting_deadline(&self) -> Option<u64> {
        let (_, oldest) = self.requests.oldest_waiting()?;
        Some(if self.available == 0 {
            oldest.since_ms.max(self.none_since_ms).saturating_add(self.config.wait_deadline_ms)
        } else {
            oldest.since_ms.saturating_add(self.config.answer_deadline_ms)
        })
    }

    pub(super) fn handed_deadline(&self) -> Option<u64> {
        let (_, oldest) = self.requests.oldest_handed()?;
        Some(oldest.since_ms.saturating_add(self.config.answer_deadline_ms))
    }

    /// Refuses the oldest waiting request of its client.
    pub(super) fn refuse_waiting(&mut self, key: Key, why: Refusal, out: &mut Vec<Effect>) {
        let Some(request) = self.requests.remove(key) else {
            return;
        };
        let id = request.client;
        if let Some(message) = request.message {
            self.refuse(id, message, why, out);
        }
        self.no_longer_waiting(id, request.bytes, out);
        let Some(client) = self.clients.get_mut(id.0) else {
            return;
        };
        if !client.waiting.is_empty() {
            return;
        }
        let line = match client.line.take() {
            Some(Line::Orphans) => &mut self.orphans,
            Some(Line::Server(server)) => match self.servers.get_mut(server.0) {
                Some(server) => &mut server.line,
                None => return,
            },
            None => return,
        };
        // Lines and deadlines are both in order of arrival: it is near the front.
        if let Some(place) = line.iter().position(|other| *other == id) {
            line.remove(place);
        }
    }

    /// Refuses a request that its server has had for too long.
    pub(super) fn refuse_handed(&mut self, now_ms: u64, key: Key, out: &mut Vec<Effect>) {
        let Some(message) = self.requests.take_message(key) else {
            return;
        };
        let Some(&super::requests::Request { client, bytes, place, .. }) = self.requests.get(key) else {
            return;
        };
        self.refuse(client, message, Refusal::NoAnswer, out);
        if let Place::Handed(id) = place {
            let lock_step = self.servers.get(id.0).is_some_and(|server| server.pace == Pace::LockStep);
            if lock_step {
                // It takes nothing new before it has replied, so it must not keep clients either.
                self.requests.relocate(key, Place::Overdue(id), now_ms);
                self.change_server(now_ms, id, out, |server| server.overdue.push(key));
            } else {
                self.requests.remove(key);
                if let Some(server) = self.servers.get_mut(id.0) {
                    server.in_flight.sub(bytes);
                }
                self.serve_line(now_ms, id, out);
            }
        }
        self.one_less_handed(now_ms, client, out);
    }

    /// The broker's own answer, unless the client left.
    pub(super) fn refuse(&self, client: ClientId, message: Message, why: Refusal, out: &mut Vec<Effect>) {
        if self.clients.get(client.0).is_some() {
            out.push(Effect::Refuse { client, message, why });
        }
    }
}
