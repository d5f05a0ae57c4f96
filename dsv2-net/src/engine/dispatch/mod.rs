//! The broker's decisions, without any I/O: which server gets which request, who waits, and what
//! the broker answers itself.
//!
//! ```text
//!   client ──request──► waiting (bounded, per client in order) ──window──► handed to its server
//!                          │                                                  │
//!          no server in time: rejected                reply ──► client        server lost: unknown
//! ```
//!
//! Rules, each of them checked against a model in the tests:
//! - A client is *pinned* to one server until that server leaves, declares itself not ready or owes
//!   a reply for too long. A client without a pin takes the ready server with the fewest clients.
//! - Requests of one client reach servers in the order in which they were accepted. A client that
//!   moves waits until nothing of it is unanswered at the server that it left.
//! - A lock-step server (REP) has one request at a time, or as many as [`DispatchConfig::lock_step_window`] says; any
//!   other has at most its window. One message larger than the window in bytes is handed over alone.
//! - Every accepted request is answered exactly once, by a server or by the broker, unless its
//!   client leaves first. What a server may have seen is answered *unknown*, the rest *rejected*.
//! - Nothing is handed over for a client that is on hold ([`Dispatch::hold`]).
//! - What waits is bounded per client and in total. A request beyond a bound is handed back to the
//!   caller, who stops reading that client until [`Effect::Resume`]; other clients go on.
//!
//! Memory: at most `total_waiting` plus, for each server, one window and one message. The caller
//! bounds the number of clients and servers.
//!
//! Time is in milliseconds of any clock that never goes back, passed in by the caller.

mod parties;
mod requests;
mod slab;

use std::collections::VecDeque;

use self::parties::{Client, Line, Parked, Route, Server};
use self::requests::{Place, Requests};
use self::slab::{Key, Slab};
use crate::zmtp::Message;

#[cfg(test)]
mod tests;

/// A connected client. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Key);

impl ClientId {
    /// A small number that no other connected client has.
    pub(crate) fn slot(self) -> usize {
        self.0.slot()
    }
}

/// A connected server. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(Key);

impl ServerId {
    /// A small number that no other connected server has.
    pub(crate) fn slot(self) -> usize {
        self.0.slot()
    }
}

/// One request that a server has. Its eight bytes travel in front of the request and come back in
/// front of the reply, so that a reply finds its request whatever the order of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Key);

impl RequestId {
    /// The routing frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_bytes()
    }

    /// Reads a routing frame; `None` if it is not eight bytes long.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        Some(Self(Key::from_bytes(frame.try_into().ok()?)))
    }
}

/// A bound on messages and on their encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Messages.
    pub messages: usize,
    /// Bytes, frame headers included.
    pub bytes: usize,
}

impl Quota {
    /// Whether one more message fits beside what is `used`. A first message always does: a bound
    /// below the largest message must slow traffic down, not stop it for good.
    fn admits(self, used: Quota, bytes: usize) -> bool {
        used.messages == 0 || (used.messages < self.messages && used.bytes.saturating_add(bytes) <= self.bytes)
    }

    fn is_half_empty(self, used: Quota) -> bool {
        used.messages <= self.messages / 2 && used.bytes <= self.bytes / 2
    }

    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn sub(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

/// Bounds and deadlines of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatchConfig {
    /// What one client may have waiting at the broker.
    pub client_waiting: Quota,
    /// What all clients together may have waiting at the broker.
    pub total_waiting: Quota,
    /// What a server that is not lock-step may have unanswered.
    pub server_window: Quota,
    /// What a lock-step server may have unanswered, in messages: the one it works on, and those that wait at its socket
    /// instead of here. One by default. More spares a round trip between two requests, and costs certainty: when the
    /// server is lost, each of them may have been carried out, so each is answered *unknown*.
    pub lock_step_window: usize,
    /// How long a request waits while no server is ready.
    pub wait_deadline_ms: u64,
    /// How long a request waits for its turn at a ready server, and how long a server may take to
    /// answer it.
    pub answer_deadline_ms: u64,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            client_waiting: Quota { messages: 1024, bytes: 4 << 20 },
            total_waiting: Quota { messages: 65_536, bytes: 64 << 20 },
            server_window: Quota { messages: 4096, bytes: 16 << 20 },
            lock_step_window: 1,
            wait_deadline_ms: 5_000,
            answer_deadline_ms: 30_000,
        }
    }
}

/// How many requests a server takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// [`DispatchConfig::lock_step_window`]: a REP socket.
    LockStep,
    /// [`DispatchConfig::server_window`]: a DEALER or ROUTER socket.
    Window,
}

/// Why the broker answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// No server was ready in time.
    NoServer,
    /// Its turn did not come in time.
    WaitedTooLong,
    /// The broker stops; no server saw it.
    Stopping,
    /// The server that had it left.
    ServerLost,
    /// The server that had it did not answer in time.
    NoAnswer,
    /// The broker stops while a server has it.
    StoppedUnanswered,
}

/// What the client of a refused request may conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// No server saw the request: nothing changed.
    Rejected,
    /// A server may have carried it out.
    Unknown,
}

impl Refusal {
    /// What the client may conclude.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::NoServer | Self::WaitedTooLong | Self::Stopping => Outcome::Rejected,
            Self::ServerLost | Self::NoAnswer | Self::StoppedUnanswered => Outcome::Unknown,
        }
    }

    /// One sentence for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::NoServer => "no server is ready",
            Self::WaitedTooLong => "the request waited too long for a server",
            Self::Stopping => "the broker is stopping",
            Self::ServerLost => "the server left before it answered",
            Self::NoAnswer => "the server did not answer in time",
            Self::StoppedUnanswered => "the broker stopped before the server answered",
        }
    }
}

/// What the caller has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send `[request, message…]` to `server`.
    Forward {
        /// To whom.
        server: ServerId,
        /// The routing frame.
        request: RequestId,
        /// The request as its client sent it.
        message: Message,
    },
    /// Answer `message` in the server's place.
    Refuse {
        /// To whom.
        client: ClientId,
        /// The request as its client sent it.
        message: Message,
        /// Why.
        why: Refusal,
    },
    /// Offer again what [`Dispatch::request`] handed back, and go on reading.
    Resume {
        /// Whom.
        client: ClientId,
    },
}

/// A reply that reaches nobody; drop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stray {
    /// Its client left.
    ClientGone,
    /// This server has no such request: answered already, by it or by the broker, or never its.
    NotOutstanding,
}

/// What is going on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Connected clients.
    pub clients: usize,
    /// Connected servers.
    pub servers: usize,
    /// Servers that take requests.
    pub available_servers: usize,
    /// Requests waiting at the broker.
    pub waiting: Quota,
    /// Requests that servers have.
    pub handed: usize,
}

/// The broker's state.
#[derive(Debug)]
pub struct Dispatch {
    config: DispatchConfig,
    clients: Slab<Client>,
    servers: Slab<Server>,
    requests: Requests,
    waiting: Quota,
    /// Clients in line for the first server that becomes available.
    orphans: VecDeque<ClientId>,
    /// Clients to resume when the total is half empty.
    parked: VecDeque<ClientId>,
    available: usize,
    /// Since when no server is available.
    none_since_ms: u64,
    /// Numbers the stretches in which a server is available; a pin names one.
    next_term: u64,
}

impl Dispatch {
    /// A broker without clients and servers, started at `now_ms`.
    #[must_use]
    pub fn new(config: DispatchConfig, now_ms: u64) -> Self {
        Self {
            config,
            clients: Slab::default(),
            servers: Slab::default(),
            requests: Requests::default(),
            waiting: Quota::default(),
            orphans: VecDeque::new(),
            parked: VecDeque::new(),
            available: 0,
            none_since_ms: now_ms,
            next_term: 0,
        }
    }

    /// The same, whose routing frames begin with another number. Servers may still hold replies to a broker that was here
    /// before; with a random number those find nobody.
    #[must_use]
    pub fn starting_at(mut self, generation: u32) -> Self {
        (self.clients, self.servers) = (Slab::starting_at(generation), Slab::starting_at(generation));
        self
    }

    /// A client connected.
    pub fn client_joined(&mut self) -> ClientId {
        ClientId(self.clients.insert(Client::default()))
    }

    /// A client disconnected: what it has waiting is forgotten, what servers have of it will be
    /// answered to nobody.
    pub fn client_left(&mut self, id: ClientId, out: &mut Vec<Effect>) {
        let Some(client) = self.clients.remove(id.0) else {
            return;
        };
        for key in client.waiting {
            if let Some(request) = self.requests.remove(key) {
                self.waiting.sub(request.bytes);
            }
        }
        if let Some(pin) = client.pin
            && let Some(server) = self.pinned_server(pin)
        {
            server.pinned -= 1;
        }
        match client.line {
            Some(Line::Orphans) => self.orphans.retain(|other| *other != id),
            Some(Line::Server(server)) => {
                if let Some(server) = self.servers.get_mut(server.0) {
                    server.line.retain(|other| *other != id);
                }
            }
            None => {}
        }
        if client.parked == Some(Parked::ForTotal) {
            self.parked.retain(|other| *other != id);
        }
        self.resume_parked(out);
    }

    /// A client does not keep up with reading its replies: what waits of it stays here for now.
    pub fn hold(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id.0) {
            client.on_hold = true;
        }
    }

    /// The client has caught up.
    pub fn release(&mut self, now_ms: u64, id: ClientId, out: &mut Vec<Effect>) {
        if let Some(client) = self.clients.get_mut(id.0)
            && std::mem::take(&mut client.on_hold)
        {
            self.advance_unlined(now_ms, id, out);
        }
    }

    /// A server connected. It gets requests at once if `ready`, else after [`Self::server_ready`].
    pub fn server_joined(&mut self, now_ms: u64, pace: Pace, ready: bool, out: &mut Vec<Effect>) -> ServerId {
        let id = ServerId(self.servers.insert(Server::new(pace)));
        self.server_ready(now_ms, id, ready, out);
        id
    }

    /// A server declares itself ready, or not: then its clients move, while what it has it may
    /// still answer.
    pub fn server_ready(&mut self, now_ms: u64, id: ServerId, ready: bool, out: &mut Vec<Effect>) {
        self.change_server(now_ms, id, out, |server| server.ready = ready);
    }

    /// A server disconnected or is taken for dead.
    pub fn server_left(&mut self, now_ms: u64, id: ServerId, out: &mut Vec<Effect>) {
        // Not available first: then its clients are in line elsewhere, and nothing new comes to it.
        self.server_ready(now_ms, id, false, out);
        let mut affected = Vec::new();
        for key in self.requests.handed_to(id) {
            if let Some(request) = self.requests.remove(key) {
                if let Some(message) = request.message {
                    self.refuse(request.client, message, Refusal::ServerLost, out);
                }
                affected.push(request.client);
            }
        }
        for overdue in self.servers.remove(id.0).map(|server| server.overdue).unwrap_or_default() {
            self.requests.remove(overdue);
        }
        for client in affected {
            self.one_less_handed(now_ms, client, out);
        }
        self.serve_all_lines(now_ms, out);
    }

    /// A client's request. `Err` hands it back because a bound is reached: nothing changed, and
    /// the caller reads no more of this client until [`Effect::Resume`].
    pub fn request(
        &mut self,
        now_ms: u64,
        id: ClientId,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> Result<(), Message> {
        let bytes = message.wire().len();
        let Some(client) = self.clients.get(id.0) else {
            return Ok(()); // it left while its last messages were on their way
        };
        let first_in_line = client.waiting.is_empty();
        let mut route = None;
        if first_in_line {
            match self.route(id, bytes) {
                Route::To(server) if self.nobody_in_line(server) => {
                    let place = Place::Handed(server);
                    let key = self.requests.insert(id, message, place, now_ms);
                    self.hand_over(id, server, key, out);
                    return Ok(());
                }
                other => route = Some(other),
            }
        }
        if let Some(reason) = self.must_park(id, bytes) {
            self.park(id, reason);
            return Err(message);
        }
        let key = self.requests.insert(id, message, Place::Waiting, now_ms);
        self.waiting.add(bytes);
        if let Some(client) = self.clients.get_mut(id.0) {
            client.waiting.push_back(key);
            client.waiting_quota.add(bytes);
        }
        if let Some(route) = route {
            self.line_up(id, route);
        }
        Ok(())
    }

    /// A reply of `server`. The client that it belongs to, if the reply is its request's first.
    pub fn reply(
        &mut self,
        now_ms: u64,
        server: ServerId,
        request: RequestId,
        out: &mut Vec<Effect>,
    ) -> Result<ClientId, Stray> {
        let place = self.requests.get(request.0).map(|request| request.place);
        if place == Some(Place::Overdue(server)) {
            let bytes = self.requests.remove(request.0).map_or(0, |request| request.bytes);
            self.change_server(now_ms, server, out, |server| {
                server.overdue.retain(|key| *key != request.0);
                server.in_flight.sub(bytes);
            });
            return Err(Stray::NotOutstanding);
        }
        if place != Some(Place::Handed(server)) {
            return Err(Stray::NotOutstanding);
        }
        let Some(request) = self.requests.remove(request.0) else {
            return Err(Stray::NotOutstanding);
        };
        if let Some(server) = self.servers.get_mut(server.0) {
            server.in_flight.sub(request.bytes);
        }
        let present = self.clients.get(request.client.0).is_some();
        self.one_less_handed(now_ms, request.client, out);
        self.serve_line(now_ms, server, out);
        if present { Ok(request.client) } else { Err(Stray::ClientGone) }
    }

    /// Answers what is overdue. Call at [`Self::deadline`] or later.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        while self.waiting_deadline().is_some_and(|due| due <= now_ms)
            && let Some((key, _)) = self.requests.oldest_waiting()
        {
            let why = if self.available == 0 { Refusal::NoServer } else { Refusal::WaitedTooLong };
            self.refuse_waiting(key, why, out);
        }
        while self.handed_deadline().is_some_and(|due| due <= now_ms)
            && let Some((key, _)) = self.requests.oldest_handed()
        {
            self.refuse_handed(now_ms, key, out);
        }
    }

    /// When [`Self::tick`] has something to do; `None` while nothing can become overdue.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        match (self.waiting_deadline(), self.handed_deadline()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Answers everything that is unanswered: the broker stops.
    pub fn stop(&mut self, out: &mut Vec<Effect>) {
        while let Some((key, _)) = self.requests.oldest_waiting() {
            self.refuse_waiting(key, Refusal::Stopping, out);
        }
        while let Some((key, _)) = self.requests.oldest_handed() {
            let Some(request) = self.requests.remove(key) else {
                break;
            };
            if let Some(message) = request.message {
                self.refuse(request.client, message, Refusal::StoppedUnanswered, out);
            }
        }
    }

    /// What is going on now.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            clients: self.clients.len(),
            servers: self.servers.len(),
            available_servers: self.available,
            waiting: self.waiting,
            handed: self.requests.handed_count(),
        }
    }

    /// Nothing waits and no server has anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.waiting_count() == 0 && self.requests.handed_count() == 0
    }
}
