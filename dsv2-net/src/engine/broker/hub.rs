//! What all connections of a broker share. One step at a time: connections feed [`Dispatch`], whose decisions are
//! staged per peer and queued when the step is done.

use std::sync::Arc;

use tokio::sync::Notify;

use super::link::{self, Link};
use super::{CONTROL_DRAINING, CONTROL_FRAME, CONTROL_READY, Refuser};
use crate::engine::dispatch::{
    ClientId, Dispatch, DispatchConfig, Effect, Load, Outcome, Pace, Refusal, RequestId, ServerId, Stray,
};
use crate::engine::{CloseReason, Outbox, PushError};
use crate::zmtp::{Batch, Item, Message};

/// Requests below this size are copied out of the read buffer, which they would keep alive while they wait.
const DETACH_BELOW_BYTES: usize = 16 << 10;

/// Counters of a [`Broker`](super::Broker) since it was bound, and its present load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BrokerStats {
    /// What is going on now.
    pub load: Load,
    /// Requests accepted from clients.
    pub requests: u64,
    /// Requests handed to servers.
    pub forwarded: u64,
    /// Replies passed on to clients.
    pub replies: u64,
    /// Requests answered by the broker itself: nothing changed.
    pub rejected: u64,
    /// Requests answered by the broker itself: the outcome is unknown.
    pub unknown: u64,
    /// Replies for clients that had left.
    pub replies_for_departed: u64,
    /// Replies that belong to no request: repeated, or late after the broker's own answer.
    pub replies_stray: u64,
    /// Messages of clients without a request's envelope (frames…, empty frame, body): dropped.
    pub malformed: u64,
    /// Times that a client was not read for a while because a bound was reached.
    pub parked: u64,
    /// Times that nothing was handed over for a client for a while because it did not keep up with reading its replies.
    pub held: u64,
    /// Clients disconnected because they did not read their replies.
    pub disconnected_clients: u64,
    /// Servers disconnected because they did not read their requests.
    pub disconnected_servers: u64,
}

#[derive(Debug)]
pub(super) struct Hub {
    dispatch: Dispatch,
    /// By slot of their id.
    clients: Vec<Option<ClientLink>>,
    servers: Vec<Option<Link>>,
    effects: Vec<Effect>,
    touched_clients: Vec<usize>,
    touched_servers: Vec<usize>,
    /// When the timer wakes at latest.
    armed_ms: u64,
    stopping: bool,
    stats: BrokerStats,
}

#[derive(Debug)]
struct ClientLink {
    id: ClientId,
    link: Link,
    signals: Arc<Signals>,
    on_hold: bool,
}

/// What a client's task waits for.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// It may offer again what was not taken.
    pub(super) resume: Notify,
    /// Its output queue is half full: nothing is handed over for it until it reports [`Hub::caught_up`].
    pub(super) lagging: Notify,
}

/// How far a client's batch was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// A bound is reached: go on when the client is resumed.
    Parked,
}

/// A request that the broker answers itself.
#[derive(Debug)]
pub(super) struct Undeliverable {
    outbox: Outbox,
    request: Message,
    why: Refusal,
}

impl Undeliverable {
    /// Queues the broker's answer.
    pub(super) fn answer(&self, refuser: &dyn Refuser) {
        let Some(answer) = link::refusal(&self.request, self.why, refuser) else { return };
        if self.outbox.push(&answer) == Err(PushError::Full) {
            self.outbox.close(CloseReason::Stalled);
        }
    }
}

impl Hub {
    /// `generation` should be random: see [`Dispatch::starting_at`].
    pub(super) fn new(config: DispatchConfig, generation: u32) -> Self {
        Self {
            dispatch: Dispatch::new(config, 0).starting_at(generation),
            clients: Vec::new(),
            servers: Vec::new(),
            effects: Vec::new(),
            touched_clients: Vec::new(),
            touched_servers: Vec::new(),
            armed_ms: u64::MAX,
            stopping: false,
            stats: BrokerStats::default(),
        }
    }

    pub(super) fn client_joined(&mut self, outbox: Outbox, signals: Arc<Signals>) -> ClientId {
        let id = self.dispatch.client_joined();
        put(&mut self.clients, id.slot(), ClientLink { id, link: Link::new(outbox), signals, on_hold: false });
        id
    }

    pub(super) fn client_left(&mut self, id: ClientId) {
        self.dispatch.client_left(id, &mut self.effects);
        self.clients[id.slot()] = None;
    }

    /// The client has read at least half of what was queued for it.
    pub(super) fn caught_up(&mut self, now_ms: u64, id: ClientId) {
        if let Some(Some(client)) = self.clients.get_mut(id.slot()) {
            client.on_hold = false;
        }
        self.dispatch.release(now_ms, id, &mut self.effects);
    }

    pub(super) fn server_joined(&mut self, now_ms: u64, outbox: Outbox, pace: Pace, ready: bool) -> ServerId {
        // Not ready until its link is there: what it is handed at once needs it.
        let id = self.dispatch.server_joined(now_ms, pace, false, &mut self.effects);
        put(&mut self.servers, id.slot(), Link::new(outbox));
        self.dispatch.server_ready(now_ms, id, ready, &mut self.effects);
        id
    }

    pub(super) fn server_left(&mut self, now_ms: u64, id: ServerId) {
        self.dispatch.server_left(now_ms, id, &mut self.effects);
        self.servers[id.slot()] = None;
    }

    /// Takes the requests of a batch from `next` on, as far as the bounds allow.
    pub(super) fn requests(&mut self, now_ms: u64, id: ClientId, batch: &Batch, next: &mut usize) -> Progress {
        while *next < batch.len() {
            let wire = batch.wire_slice(*next..*next + 1);
            if link::envelope_len(wire).is_none() {
                self.stats.malformed += 1;
                *next += 1;
                continue;
            }
            let message = batch.message(*next);
            let message = if wire.len() < DETACH_BELOW_BYTES { message.detach() } else { message };
            if self.stopping {
                self.effects.push(Effect::Refuse { client: id, message, why: Refusal::Stopping });
            } else if self.dispatch.request(now_ms, id, message, &mut self.effects).is_err() {
                self.stats.parked += 1;
                return Progress::Parked;
            }
            self.stats.requests += 1;
            *next += 1;
        }
        Progress::Done
    }

    /// Takes a server's batch: replies, or word of its readiness.
    pub(super) fn replies(&mut self, now_ms: u64, id: ServerId, batch: &Batch) {
        for index in 0..batch.len() {
            let Item::Message { first, .. } = batch.item(index) else { continue };
            let wire = batch.wire_slice(index..index + 1);
            let (Some(request), Some(skip)) = (RequestId::from_frame(first), link::first_frame_len(wire)) else {
                self.control(now_ms, id, first, &batch.message(index));
                continue;
            };
            match self.dispatch.reply(now_ms, id, request, &mut self.effects) {
                Ok(client) => {
                    self.stats.replies += 1;
                    if let Some(client_link) = touch(&mut self.clients, client.slot(), &mut self.touched_clients) {
                        client_link.link.stage_reply(&wire[skip..], || batch.message(index).wire().slice(skip..));
                    }
                }
                Err(Stray::ClientGone) => self.stats.replies_for_departed += 1,
                Err(Stray::NotOutstanding) => self.stats.replies_stray += 1,
            }
        }
    }

    fn control(&mut self, now_ms: u64, id: ServerId, first: &[u8], message: &Message) {
        let ready = match message.frame(1) {
            _ if first != CONTROL_FRAME => None,
            Some(CONTROL_READY) => Some(true),
            Some(CONTROL_DRAINING) => Some(false),
            _ => None,
        };
        match ready {
            Some(ready) => self.dispatch.server_ready(now_ms, id, ready, &mut self.effects),
            None => self.stats.replies_stray += 1,
        }
    }

    pub(super) fn tick(&mut self, now_ms: u64) {
        self.dispatch.tick(now_ms, &mut self.effects);
    }

    /// From now on requests are refused.
    pub(super) fn stop_accepting(&mut self) {
        self.stopping = true;
    }

    /// Answers everything unanswered.
    pub(super) fn stop(&mut self, _now_ms: u64) {
        self.stopping = true;
        self.dispatch.stop(&mut self.effects);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.dispatch.is_idle()
    }

    /// Does what was decided. Queues to be flushed, and requests to be answered by the broker, are handed out, because
    /// writing takes time. `true`: the next deadline is earlier than the timer knows.
    pub(super) fn carry_out(&mut self, refusals: &mut Vec<Undeliverable>, touched: &mut Vec<Outbox>) -> bool {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Forward { server, request, message } => {
                    self.stats.forwarded += 1;
                    if let Some(link) = touch(&mut self.servers, server.slot(), &mut self.touched_servers) {
                        link.stage_request(request.to_bytes(), &message);
                    }
                }
                Effect::Refuse { client, message, why } => {
                    match why.outcome() {
                        Outcome::Rejected => self.stats.rejected += 1,
                        Outcome::Unknown => self.stats.unknown += 1,
                    }
                    if let Some(Some(client)) = self.clients.get(client.slot()) {
                        refusals.push(Undeliverable { outbox: client.link.outbox.clone(), request: message, why });
                    }
                }
                Effect::Resume { client } => {
                    if let Some(Some(client)) = self.clients.get(client.slot()) {
                        client.signals.resume.notify_one();
                    }
                }
            }
        }
        self.queue_staged(touched);
        self.dispatch.deadline().is_some_and(|due| due < self.armed_ms)
    }

    /// The next deadline, which the timer promises to keep.
    pub(super) fn arm(&mut self) -> Option<u64> {
        let due = self.dispatch.deadline();
        self.armed_ms = due.unwrap_or(u64::MAX);
        due
    }

    fn queue_staged(&mut self, touched: &mut Vec<Outbox>) {
        for slot in self.touched_servers.drain(..) {
            let Some(Some(link)) = self.servers.get_mut(slot) else { continue };
            if link.queue() {
                touched.push(link.outbox.clone());
            } else {
                // What it was handed is answered when its connection ends.
                link.outbox.close(CloseReason::Stalled);
                self.stats.disconnected_servers += 1;
            }
        }
        for slot in self.touched_clients.drain(..) {
            let Some(Some(client)) = self.clients.get_mut(slot) else { continue };
            if !client.link.queue() {
                client.link.outbox.close(CloseReason::Stalled);
                self.stats.disconnected_clients += 1;
                continue;
            }
            touched.push(client.link.outbox.clone());
            if !client.on_hold && is_lagging(&client.link.outbox) {
                client.on_hold = true;
                client.signals.lagging.notify_one();
                self.dispatch.hold(client.id);
                self.stats.held += 1;
            }
        }
    }

    pub(super) fn stats(&self) -> BrokerStats {
        BrokerStats { load: self.dispatch.load(), ..self.stats }
    }
}

/// As [`Outbox::writable`] sees it.
pub(super) fn is_lagging(outbox: &Outbox) -> bool {
    outbox.queued_bytes() > outbox.cap_bytes() / 2
}

fn put<T>(all: &mut Vec<Option<T>>, slot: usize, value: T) {
    if slot >= all.len() {
        all.resize_with(slot + 1, || None);
    }
    all[slot] = Some(value);
}

/// The peer in this slot, noted down to be flushed.
fn touch<'a, T: AsMut<Link>>(all: &'a mut [Option<T>], slot: usize, touched: &mut Vec<usize>) -> Option<&'a mut T> {
    let peer = all.get_mut(slot)?.as_mut()?;
    let link = peer.as_mut();
    if !link.touched {
        link.touched = true;
        touched.push(slot);
    }
    Some(peer)
}

impl AsMut<Link> for Link {
    fn as_mut(&mut self) -> &mut Link {
        self
    }
}

impl AsMut<Link> for ClientLink {
    fn as_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}
