//! The loop of one server: inputs in, turns, effects out.

mod stats;

pub use stats::{Disk, ServerHandle, ServerStats, Tally};

use std::collections::HashMap;
use std::time::Duration;

use dsv2_core::{
    Announcement, Code, Limits as BodyLimits, LinkNotice, Machine as _, Outcome, ReplicationEvent, Reply, ReplyBody,
    Request, Topic,
};
use dsv2_store::EventStore;
use dsv2_sync::lanes::Lanes;
use dsv2_sync::link::LinkMessage;
use dsv2_sync::server::{Effect, Input, Lane, LinkId, Server as Machine, Stuck};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::brokers::{self, Brokers};
use super::envelope::Envelope;
use super::links::{Dialled, LinkEvent};
use super::log::Log;
use super::{ServerError, ServerOptions, machine, reference};
use crate::driver::{Report, Storage};
use crate::endpoint::Endpoint;
use crate::engine::{PeerId, Router, RouterEvent};
use crate::port::{PortError, PortEvent, PortLimits, Ports, SocketKind};
use crate::stats::{Mark, Questions};
use crate::time::Clocks;
use crate::zmtp::{Message, Press};

/// How long an answer may wait for room on a full disk, before its client is told that the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many inputs one turn takes while more are there: the disk and the clients work on one turn while the next is made.
const TURN_CAP: usize = 256;

/// Runs a server until it is stopped, or must not run.
pub(super) async fn run(
    options: ServerOptions,
    mut store: Box<dyn EventStore>,
    router: Router,
    asked: Questions<ServerStats>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    let clocks = Clocks::start();
    let machine = machine(&options, store.as_mut(), clocks)?;
    Life::begin(&options, machine, store, (router, asked), clocks)?.live(&mut stop).await
}

/// Where the answer to a request goes.
enum Route {
    Broker(brokers::Route),
    Accepted(PeerId, Envelope),
}

impl Route {
    fn envelope(&self) -> &Envelope {
        match self {
            Self::Broker(route) => &route.envelope,
            Self::Accepted(_, envelope) => envelope,
        }
    }
}

/// Something to send, already encoded.
enum Out {
    /// An answer, and its frame without content, to answer otherwise if it has to wait too long.
    Reply(Route, Message, Box<Reply>, Mark),
    /// A publication on its own topic and one on `replication`, where it has them.
    Publish([Option<Message>; 2]),
    Link(Vec<LinkId>, Message),
    Note(dsv2_sync::server::Note),
    Drained,
}

/// The machine, with its sockets.
struct Life {
    options: ServerOptions,
    clocks: Clocks,
    machine: Machine,
    storage: Storage,
    lanes: Lanes<Out>,
    brokers: Brokers,
    publishers: Ports,
    subscribers: Ports,
    router: Router,
    dialled: Dialled,
    questions: mpsc::Sender<Box<Request>>,
    /// Until when answers may wait for a full disk.
    patience: Option<Instant>,
    routes: HashMap<u64, Route>,
    next_route: u64,
    accepted: HashMap<PeerId, u64>,
    accepted_peers: HashMap<u64, PeerId>,
    next_accepted: u64,
    inputs: Vec<Input>,
    effects: Vec<Effect>,
    log: Log,
    tally: Tally,
    disk: Disk,
    /// One body at a time, before it becomes a message.
    scratch: Vec<u8>,
    press: Press,
    drained: bool,
    fatal: Option<String>,
    inboxes: Option<Inboxes>,
}

/// What arrives from tasks and threads of its own.
struct Inboxes {
    reports: mpsc::UnboundedReceiver<Report>,
    links: mpsc::Receiver<(u64, LinkEvent)>,
    answers: mpsc::Receiver<reference::Answer>,
    asked: Questions<ServerStats>,
}

impl Life {
    fn begin(
        options: &ServerOptions,
        machine: Machine,
        store: Box<dyn EventStore>,
        (router, asked): (Router, Questions<ServerStats>),
        clocks: Clocks,
    ) -> Result<Self, ServerError> {
        let limits = PortLimits { queue_cap_messages: 100_000, queue_cap_bytes: 64 << 20, ..super::port_limits() };
        let closed = |error: PortError| ServerError::Fatal(error.to_string());
        let ports = |kind, endpoints: &[Endpoint]| Ports::connect(kind, endpoints, &limits).map_err(closed);
        let (storage, reports) = Storage::start(store, &options.name)?;
        let (dialled, links) = Dialled::new();
        let (questions, answers) = reference::start(options.reference.clone());
        let mut subscribers = ports(SocketKind::Sub, &options.subscribe)?;
        for subscriber in subscribers.iter_mut() {
            for topic in [Topic::Replication, Topic::Servers, Topic::Links] {
                subscriber.subscribe(topic.as_str().as_bytes());
            }
        }
        Ok(Self {
            clocks,
            machine,
            storage,
            lanes: Lanes::default(),
            brokers: Brokers::connect(&options.brokers, &limits).map_err(closed)?,
            publishers: ports(SocketKind::Pub, &options.publish)?,
            subscribers,
            router,
            dialled,
            questions,
            patience: None,
            routes: HashMap::new(),
            next_route: 0,
            accepted: HashMap::new(),
            accepted_peers: HashMap::new(),
            next_accepted: 0,
            inputs: vec![Input::Wake],
            effects: Vec::new(),
            log: Log::new(options.name.clone()),
            tally: Tally::default(),
            disk: Disk::default(),
            scratch: Vec::new(),
            press: Press::default(),
            drained: false,
            fatal: None,
            inboxes: Some(Inboxes { reports, links, answers, asked }),
            options: options.clone(),
        })
    }

    async fn live(mut self, stop: &mut watch::Receiver<bool>) -> Result<(), ServerError> {
        let Some(mut inboxes) = self.inboxes.take() else { return Ok(()) };
        let mut drain_by: Option<Instant> = None;
        let (mut asked, mut subscribed, mut published, mut routed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        loop {
            self.turn();
            while !self.inputs.is_empty() && self.fatal.is_none() {
                while let Ok(report) = inboxes.reports.try_recv() {
                    self.reported(report);
                }
                self.turn();
            }
            self.lose_patience();
            self.log.tell_due();
            if let Some(why) = self.fatal.take() {
                return Err(ServerError::Fatal(why));
            }
            if (self.drained && self.lanes.is_empty()) || drain_by.is_some_and(|by| by <= Instant::now()) {
                return self.end().await;
            }
            let wake_at = self.clocks.at(self.machine.deadline());
            let wake_at = drain_by.into_iter().chain(self.patience).chain(self.log.due()).fold(wake_at, Instant::min);
            let closed = |error: PortError| ServerError::Fatal(error.to_string());
            tokio::select! {
                report = inboxes.reports.recv() => {
                    let mut next = report;
                    while let Some(report) = next {
                        self.reported(report);
                        next = inboxes.reports.try_recv().ok();
                    }
                }
                received = self.brokers.recv(&mut asked) => {
                    received.map_err(closed)?;
                    for (broker, event) in asked.drain(..) {
                        if let Some((route, body)) = self.brokers.take(broker, event) {
                            self.request(Route::Broker(route), &body);
                        }
                    }
                }
                received = self.subscribers.recv(&mut subscribed) => {
                    received.map_err(closed)?;
                    subscribed.drain(..).for_each(|(_, event)| self.proxy_event(event));
                }
                received = self.publishers.recv(&mut published) => {
                    received.map_err(closed)?;
                    published.clear();
                }
                alive = self.router.recv(&mut routed) => {
                    if !alive {
                        return Err(ServerError::Fatal("the link's listener ended".to_owned()));
                    }
                    routed.drain(..).for_each(|event| self.router_event(event));
                }
                Some((link, event)) = inboxes.links.recv() => {
                    self.link_event(link, event);
                    while let Ok((link, event)) = inboxes.links.try_recv() {
                        self.link_event(link, event);
                    }
                }
                Some(answer) = inboxes.answers.recv() => self.inputs.push(Input::Reference(answer)),
                Some(answer) = inboxes.asked.recv() => {
                    let _gone = answer.send(self.stats()).is_err();
                }
                () = sleep_until(wake_at) => self.inputs.push(Input::Wake),
                Ok(()) = stop.changed(), if drain_by.is_none() => {
                    drain_by = Some(Instant::now() + self.options.drain);
                    self.inputs.push(Input::Drain);
                }
            }
        }
    }

    /// One turn: inputs, then the effects of all of them.
    fn turn(&mut self) {
        if self.inputs.is_empty() {
            return;
        }
        let now = self.clocks.now();
        let count = self.inputs.len().min(TURN_CAP);
        for input in self.inputs.drain(..count) {
            self.machine.step(now, input, &mut self.effects);
        }
        if self.machine.deadline().is_some_and(|at| at <= now.mono) {
            self.machine.step(now, Input::Wake, &mut self.effects);
        }
        self.machine.step(now, Input::Flush, &mut self.effects);
        let effects = std::mem::take(&mut self.effects);
        let durable = effects.iter().any(|effect| effect.lane() == Lane::Durable);
        let commit = if durable { self.lanes.issue() } else { 0 };
        let (mut changes, mut save, mut reads) = (Vec::new(), None, Vec::new());
        for effect in effects {
            let ordered = effect.lane() == Lane::Ordered;
            let out = match effect {
                Effect::Change(change) => {
                    changes.push(change);
                    None
                }
                Effect::Save(saved) => {
                    save = Some(saved);
                    None
                }
                Effect::Read { token, read } => {
                    reads.push((token, read));
                    None
                }
                effect => self.prepare(effect),
            };
            let Some(out) = out else { continue };
            if let Some(out) = if ordered { self.lanes.order(out) } else { Some(out) } {
                self.carry_out(out);
            }
        }
        if durable {
            self.storage.commit(commit, changes, save);
        }
        // A read must find what was decided before it in the same turn.
        reads.into_iter().for_each(|(token, read)| self.storage.read(token, read));
    }

    /// Encodes what is to be sent, while the disk is busy; carries out the rest.
    fn prepare(&mut self, effect: Effect) -> Option<Out> {
        match effect {
            Effect::Reply { to, mut reply, .. } => self.routes.remove(&to).map(|route| {
                let answer = self.encode(&route, &reply);
                let mark = Mark::of(&reply);
                reply.body = ReplyBody::Election;
                Out::Reply(route, answer, reply, mark)
            }),
            Effect::Publish(outgoing) => {
                let (format, body) = (self.options.format, &mut self.scratch);
                let topic = outgoing.publication(format, body);
                let publication = topic.map(|topic| self.press.message([topic.as_str().as_bytes(), body]));
                let topic = outgoing.replication(format, body);
                let replication = topic.map(|topic| self.press.message([topic.as_str().as_bytes(), body]));
                Some(Out::Publish([publication, replication]))
            }
            Effect::Link { to, message, .. } => Some(Out::Link(to, Message::single(&message.encode()))),
            Effect::Log(note) => Some(Out::Note(note)),
            Effect::Drained => Some(Out::Drained),
            Effect::Reference(request) => {
                // One question at a time: there is room.
                let _ended = self.questions.try_send(request).is_err();
                None
            }
            Effect::Dial { link, address } => {
                self.dialled.dial(link, &address);
                None
            }
            Effect::HangUp(LinkId::Dialled(link)) => {
                self.dialled.hang_up(link);
                None
            }
            Effect::HangUp(LinkId::Accepted(link)) => {
                self.accepted_peers.get(&link).inspect(|&&peer| self.router.disconnect(peer));
                None
            }
            Effect::Ready(ready) => {
                self.brokers.set_ready(ready);
                None
            }
            Effect::Fatal(why) => {
                self.fatal = Some(why);
                None
            }
            Effect::Change(_) | Effect::Save(_) | Effect::Read { .. } => None,
        }
    }

    fn encode(&mut self, route: &Route, reply: &Reply) -> Message {
        self.scratch.clear();
        reply.encode_into(&mut self.scratch);
        self.press.behind(route.envelope().frames(), &self.scratch)
    }

    fn carry_out(&mut self, out: Out) {
        match out {
            Out::Reply(route, answer, _, mark) => {
                self.tally.answers.count(mark);
                match route {
                    Route::Broker(route) => self.brokers.answer(&route, answer),
                    Route::Accepted(peer, _) => {
                        let _gone = self.router.send(peer, &answer).is_err();
                    }
                }
            }
            Out::Publish(messages) => {
                for message in messages.into_iter().flatten() {
                    for publisher in self.publishers.iter_mut() {
                        // Subscribers repair what they miss from the history.
                        self.tally.unpublished += u64::from(publisher.send(message.clone()).is_err());
                    }
                }
            }
            Out::Link(to, message) => {
                for link in to {
                    match link {
                        LinkId::Dialled(link) => self.dialled.send(link, message.clone()),
                        LinkId::Accepted(link) => {
                            let peer = self.accepted_peers.get(&link);
                            let _gone = peer.is_some_and(|&peer| self.router.send(peer, &message).is_err());
                        }
                    }
                }
            }
            Out::Note(note) => {
                self.tally.note(&note);
                self.log.note(note);
            }
            Out::Drained => self.drained = true,
        }
    }

    fn request(&mut self, route: Route, body: &[u8]) {
        self.next_route += 1;
        self.routes.insert(self.next_route, route);
        let request = Request::decode(body, &BodyLimits::default());
        self.inputs.push(Input::Request { from: self.next_route, request });
    }

    fn proxy_event(&mut self, event: PortEvent) {
        let PortEvent::Message(message) = event else { return };
        let limits = BodyLimits::default();
        let (topic, body) = (message.first(), message.last());
        // A subscription matches by prefix: only the whole topic counts.
        let input = if topic == Topic::Replication.as_str().as_bytes() {
            // Each comes back to whoever wrote it, and goes to all others, who have it over their links.
            if ReplicationEvent::is_ours(body, &limits) {
                return;
            }
            ReplicationEvent::decode(body, &limits).map(Input::Replicated)
        } else if topic == Topic::Servers.as_str().as_bytes() {
            Announcement::decode(body, &limits).map(Input::Announced)
        } else if topic == Topic::Links.as_str().as_bytes() {
            LinkNotice::decode(body, &limits).map(Input::LinkNotice)
        } else {
            return;
        };
        match input {
            Ok(input) => self.inputs.push(input),
            Err(why) => {
                self.tally.unreadable += 1;
                tracing::debug!(why, "a control publication cannot be read");
            }
        }
    }

    fn router_event(&mut self, event: RouterEvent) {
        match event {
            RouterEvent::PeerUp { peer, .. } => {
                self.next_accepted += 1;
                self.accepted.insert(peer, self.next_accepted);
                self.accepted_peers.insert(self.next_accepted, peer);
            }
            RouterEvent::PeerDown { peer, .. } => {
                if let Some(link) = self.accepted.remove(&peer) {
                    self.accepted_peers.remove(&link);
                    self.inputs.push(Input::LinkDown(LinkId::Accepted(link)));
                }
            }
            RouterEvent::Message { peer, message } => {
                let Some(&link) = self.accepted.get(&peer) else { return };
                if LinkMessage::detect(message.first()) {
                    self.link_message(LinkId::Accepted(link), message.first());
                } else if let Some((envelope, body)) = Envelope::split(&message) {
                    self.request(Route::Accepted(peer, envelope), &body);
                }
            }
        }
    }

    fn link_event(&mut self, link: u64, event: LinkEvent) {
        match event {
            LinkEvent::Up => self.inputs.push(Input::LinkUp(link)),
            LinkEvent::Down => self.inputs.push(Input::LinkDown(LinkId::Dialled(link))),
            LinkEvent::Message(message) => self.link_message(LinkId::Dialled(link), message.first()),
        }
    }

    fn link_message(&mut self, link: LinkId, frame: &[u8]) {
        match LinkMessage::decode(frame) {
            Ok(message) => self.inputs.push(Input::Link { link, message: Box::new(message) }),
            Err(error) => {
                self.tally.unreadable += 1;
                tracing::warn!(server = %self.options.name, %error, "a message on a link was ignored");
            }
        }
    }

    /// Takes a report of the storage thread.
    fn reported(&mut self, report: Report) {
        match report {
            Report::Committed { commit, saved } => {
                self.lanes.committed(commit);
                while let Some(out) = self.lanes.next() {
                    self.carry_out(out);
                }
                self.inputs.extend(saved.map(Input::Saved));
            }
            Report::Read { token, result } => self.inputs.push(Input::Read { token, result }),
            Report::Full { durable, error } => {
                tracing::error!(server = %self.options.name, %error, "the disk is full: writes are refused until there is room");
                (self.patience, self.disk) = (Some(Instant::now() + PATIENCE), Disk::Full);
                self.inputs.push(Input::Stuck { durable, why: Stuck::Full });
            }
            Report::Room => {
                tracing::info!(server = %self.options.name, "there is room on the disk again");
                (self.patience, self.disk) = (None, Disk::Good);
                self.inputs.push(Input::Unstuck);
            }
            Report::Failed { durable, error } => {
                let why = error.to_string();
                tracing::error!(server = %self.options.name, why, "the store failed: reads go on, writes do not");
                // What waits for it waits in vain; only its outcome is open.
                (self.patience, self.disk) = (Some(Instant::now()), Disk::Failed);
                self.inputs.push(Input::Stuck { durable, why: Stuck::Failed(why) });
            }
        }
    }

    /// Answers *unknown* to those whose answers wait for a disk that takes nothing: it may be written yet.
    fn lose_patience(&mut self) {
        if self.patience.take_if(|until| *until <= Instant::now()).is_none() {
            return;
        }
        for out in self.lanes.pick(|out| matches!(out, Out::Reply(..))) {
            let Out::Reply(route, _, mut reply, mark) = out else { continue };
            self.machine.stop_waiting(&mut reply);
            let mark = mark.failed(Code::Timeout, Outcome::Unknown);
            let answer = self.encode(&route, &reply);
            self.carry_out(Out::Reply(route, answer, reply, mark));
        }
    }

    async fn end(mut self) -> Result<(), ServerError> {
        let patience = Duration::from_secs(1);
        self.brokers.drain(patience).await;
        self.publishers.drain(patience).await;
        if let Some(mut store) = self.storage.stop().await {
            store.close()?;
        }
        self.router.shutdown(patience).await;
        Ok(())
    }
}
