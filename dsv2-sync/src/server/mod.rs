//! The server: one machine that takes requests, writes events, replicates them, and takes part in elections and clock
//! rounds.
//!
//! ```text
//!   request ──► observe the clock ──► covered? ──► validate ──► known already? ──► event
//!                                        │                                           │ Append   (durable first)
//!                                        ▼ no: pull, wait                            ├ Publish  (topic, replication)
//!   Events from a link ──► offer ──► fold ──► Append ──► Ack (once durable)          ├ Events   (to every peer)
//!                                                                                    └ Reply    (once the level is reached)
//! ```
//!
//! The machine decides as if all were durable at once; that nothing shows before it is, is the contract of whoever runs
//! it: see [`Lane`].

mod config;
mod departed;
mod foreign;
mod forwards;
mod history;
mod io;
mod links;
mod members;
mod own;
mod peers;
mod pulls;
mod replay;
mod requests;
mod retention;
mod stuck;
mod vitals;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;

use dsv2_core::{
    Clock, Event, Lamport, LogicalClock, Machine, Mono, Now, Origin, Position, RawTimestamp, Refusal, Reply, ReplyBody,
    Request, ServerName, Timestamp, Wall,
};

pub use config::{Caps, ServerConfig, Timing};
pub use io::{Effect, Input, Lane, LinkId, Note, Outgoing, Read, ReadResult, Saved, Stuck};
pub use replay::Replay;
pub use vitals::Vitals;

use crate::clock_sync::{Berkeley, ClockSync};
use crate::election::{Bully, Election, ElectionForm, QuorumBully, QuorumConfig};
use crate::guard;
use crate::planted::{Bug, Planted};
use crate::random::SplitMix;
use crate::replication::{ReplicationLog, VectorLog};
use crate::state::State;

/// Clocks are reserved durably in blocks of so many, so that ticks without an event need no write.
const CLOCK_BLOCK: u64 = 1 << 20;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyTo {
    /// To the client behind the driver's number.
    Client(u64),
    /// To the server that forwarded the request.
    Forwarder { link: LinkId, ticket: u64 },
}

/// A server.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    origin: Origin,
    clock: Lamport,
    /// The clock at the start of this life.
    opened: Clock,
    /// Clocks up to here are reserved durably.
    saved: Saved,
    /// Clocks up to here were asked to be reserved.
    asked: Saved,
    log: VectorLog,
    state: State,
    own: own::Own,
    pulls: pulls::Pulls,
    peers: peers::Peers,
    election: Box<dyn Election>,
    wall: Berkeley,
    waiting: writes::Waiting,
    parked: requests::Parked,
    reads: BTreeMap<u64, requests::Reading>,
    forwarded: BTreeMap<u64, forwards::Forwarded>,
    registry: members::Registry,
    adoptions: foreign::Adoptions,
    bounds: BTreeMap<ServerName, links::Bounds>,
    retiring: retention::Retiring,
    turn: Turn,
    random: SplitMix,
    /// Numbers for reads and forwarded requests.
    next_token: u64,
    /// Messages that were given an identity because their client named none.
    unnamed: u64,
    requests: u64,
    ready: Option<bool>,
    draining: bool,
    drained: bool,
    stuck: Option<stuck::Standstill>,
    next_ping: Mono,
    next_exchange: Mono,
    planted: Planted,
}

/// What a turn collects, to go out together when it ends.
#[derive(Debug, Default)]
struct Turn {
    own: Vec<Arc<Event>>,
    /// What to acknowledge, and on which link.
    acks: BTreeMap<LinkId, Position>,
    /// The first and last number replicated of each origin.
    replicated: BTreeMap<Origin, (u64, u64)>,
}

impl Server {
    /// A server that starts at `now` with the events that `replay` hands over, in an order that keeps each origin's.
    pub fn start(config: ServerConfig, now: Now, replay: impl IntoIterator<Item = Event>) -> Self {
        let mut folded = Replay::new(config.name.clone(), config.floors);
        replay.into_iter().for_each(|event| folded.apply(&event));
        Self::restore(config, now, folded)
    }

    /// The same, where the events were replayed one by one, or the replay was loaded.
    #[must_use]
    pub fn restore(config: ServerConfig, now: Now, replay: Replay) -> Self {
        let Replay { state, held, own, clock, .. } = replay;
        let clock = Lamport::after(clock.max(config.clock_limit));
        let saved = Saved {
            clock_limit: config.clock_limit,
            epoch: config.epoch.number,
            epoch_owner: config.epoch.node.0,
            vote: config.vote,
            rank: config.rank,
            departed: config.departed.clone(),
            retirement: config.retirement.clone(),
        };
        let election = election(&config, now.mono);
        let wall = Berkeley::new(config.name.clone(), config.wall.clone(), now);
        Self {
            origin: Origin { server: config.name.clone(), incarnation: config.incarnation },
            opened: clock.now(),
            asked: saved.clone(),
            saved,
            log: VectorLog::new(config.name.clone(), held),
            random: SplitMix::new(config.seed),
            clock,
            state,
            own,
            pulls: pulls::Pulls::default(),
            election,
            wall,
            peers: peers::Peers::default(),
            waiting: writes::Waiting::default(),
            parked: requests::Parked::default(),
            reads: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            registry: members::Registry::new(now.mono, config.rank),
            adoptions: foreign::Adoptions::default(),
            bounds: BTreeMap::new(),
            retiring: retention::Retiring::new(config.retirement.clone(), now.mono),
            turn: Turn::default(),
            // The answer to a request that an earlier life forwarded must not be taken for this one's.
            next_token: config.incarnation,
            unnamed: 0,
            requests: 0,
            ready: None,
            draining: false,
            drained: false,
            stuck: None,
            next_ping: now.mono,
            next_exchange: now.mono,
            planted: Planted::default(),
            config,
        }
    }

    /// Plants a bug; for the simulator's own tests.
    #[cfg(feature = "planted")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// The fold of its events.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What it holds.
    #[must_use]
    pub fn position(&self) -> &Position {
        self.log.held()
    }

    /// Its logical clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.now()
    }

    /// The identity under which it writes.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The rank that the reference gave it.
    #[must_use]
    pub fn rank(&self) -> Option<u64> {
        self.registry.rank
    }

    /// Its election.
    #[must_use]
    pub fn election(&self) -> &dyn Election {
        self.election.as_ref()
    }

    /// Its agreed wall clock.
    #[must_use]
    pub fn wall(&self) -> &impl ClockSync {
        &self.wall
    }

    /// Whether it takes writes, as it last told the broker.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready == Some(true)
    }

    fn wall_now(&mut self, now: Now) -> Wall {
        self.wall.wall(now)
    }

    fn token(&mut self) -> u64 {
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token
    }

    /// Merges the clock of something that arrived, where it carries one that is plausible.
    fn observe(&mut self, now: Now, received: Option<Clock>) {
        let received = received.filter(|_| !self.planted.has(Bug::ClockNotMerged));
        guard::merge(&mut self.clock, now, received);
    }

    /// The clock as it may be told to people: never one that a restart could go back behind.
    fn shown_clock(&self) -> Clock {
        self.clock.now().min(self.saved.clock_limit)
    }

    /// The clock for what leaves without waiting: never one that is not reserved durably.
    fn prompt_clock(&mut self) -> Clock {
        self.clock.tick().min(self.saved.clock_limit)
    }

    fn reply_to(&mut self, now: Now, request: &Request, body: ReplyBody, with_position: bool) -> Reply {
        Reply {
            format: request.format,
            service: request.body.service().as_str().into(),
            timestamp: request.timestamp.clone().unwrap_or_else(|| RawTimestamp::from(self.wall_now(now).timestamp())),
            clock: None,
            position: with_position.then(|| self.visible().clone()),
            body,
        }
    }

    fn send_reply(&mut self, to: ReplyTo, mut reply: Reply, prompt: bool, out: &mut Vec<Effect>) {
        let prompt = prompt || self.stuck.is_some();
        reply.clock = Some(if prompt { self.prompt_clock() } else { self.clock.tick() });
        match to {
            ReplyTo::Client(to) => out.push(Effect::Reply { to, reply: Box::new(reply), prompt }),
            ReplyTo::Forwarder { link, ticket } => {
                let message = crate::link::LinkMessage::Forwarded { ticket, body: reply.encode() };
                out.push(Effect::Link { to: vec![link], message, prompt });
            }
        }
    }

    fn refuse_request(&mut self, now: Now, to: u64, refusal: &Refusal, out: &mut Vec<Effect>) {
        self.observe(now, refusal.clock);
        let timestamp: Timestamp = self.wall_now(now).timestamp();
        let reply = refusal.reply(Clock::ZERO, timestamp);
        self.send_reply(ReplyTo::Client(to), reply, false, out);
    }

    /// Reserves the next block of clocks, early enough that nothing has to wait for it.
    fn reserve_clocks(&mut self, out: &mut Vec<Effect>) {
        let now = self.clock.now();
        if now.plus(CLOCK_BLOCK / 2) <= self.asked.clock_limit {
            return;
        }
        self.asked.clock_limit = now.plus(CLOCK_BLOCK);
        out.push(Effect::Save(self.asked.clone()));
    }

    /// Whether enough voters can be reached to acknowledge at `quorum`.
    fn has_majority(&self, now: Mono) -> bool {
        let voters = &self.config.voters;
        let silence = self.config.timing.silence;
        let own = usize::from(voters.contains(&self.config.name));
        let due = (voters.len() / 2 + 1).saturating_sub(own);
        voters.is_empty()
            || self.peers.alive(now, silence).filter(|name| voters.contains(*name)).take(due).count() == due
    }

    /// Tells the broker where readiness changed.
    fn update_readiness(&mut self, now: Now, out: &mut Vec<Effect>) {
        let can_forward =
            || self.peers.alive(now.mono, self.config.timing.silence).any(|name| self.config.voters.contains(name));
        let (ready, why) = if self.stuck.is_some() {
            (false, "")
        } else if self.draining {
            (false, "the server is stopping")
        } else if !self.config.may_write() {
            (can_forward(), "it forwards writes to the voters")
        } else {
            (self.has_majority(now.mono), "as many voters as needed can be reached")
        };
        if self.ready != Some(ready) {
            let why = match &self.stuck {
                Some(stuck) => stuck.why.to_string(),
                None if ready || self.draining => why.to_owned(),
                None => "too few voters can be reached".to_owned(),
            };
            let was = self.ready.replace(ready);
            out.push(Effect::Ready(ready));
            if ready || was.is_some() {
                out.push(Effect::Log(Note::Readiness { ready, why }));
            }
        }
    }

    fn drain(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.draining {
            self.draining = true;
            self.elect(now, crate::election::ElectionInput::Stepdown, out);
        }
    }

    fn check_drained(&mut self, out: &mut Vec<Effect>) {
        let idle =
            self.waiting.is_empty() && self.parked.is_empty() && self.reads.is_empty() && self.forwarded.is_empty();
        if self.draining && !self.drained && idle {
            self.drained = true;
            out.push(Effect::Drained);
        }
    }
}

/// The election that fits the configuration, with what the server remembered.
fn election(config: &ServerConfig, now: Mono) -> Box<dyn Election> {
    let (name, rank) = (config.name.clone(), config.election.rank);
    if config.voters.is_empty() || config.form == ElectionForm::Bully {
        let bully = crate::election::BullyConfig { obey_foreign: config.voters.is_empty(), ..config.election.clone() };
        return Box::new(Bully::new(name, config.node, config.epoch, bully, now));
    }
    let quorum = QuorumConfig { rank, ..QuorumConfig::new(config.voters.clone()) };
    Box::new(QuorumBully::new(name, config.node, config.epoch, config.vote, quorum, now))
}

impl Machine for Server {
    type Input = Input;
    type Effect = Effect;

    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            // The turn has looked after the rest.
            Input::Flush => return self.flush(now, out),
            Input::Request { from, request: Ok(request) } => {
                self.request(now, ReplyTo::Client(from), Box::new(request), out)
            }
            Input::Request { from, request: Err(refusal) } => self.refuse_request(now, from, &refusal, out),
            Input::Link { link, message } => self.link_message(now, link, *message, out),
            Input::LinkUp(link) => self.link_up(link, out),
            Input::LinkDown(link) => self.link_down(now, link, out),
            Input::Reference(answer) => self.reference_answered(now, answer, out),
            Input::Announced(announcement) => self.announced(now, &announcement, out),
            Input::LinkNotice(notice) => self.link_noticed(now, &notice, out),
            Input::Replicated(event) => self.replicated(now, event),
            Input::Read { token, result } => self.read_done(now, token, result, out),
            Input::Saved(saved) => self.saved = saved,
            Input::Stuck { durable, why } => self.stuck = Some(stuck::Standstill { durable, why }),
            Input::Unstuck => self.unstuck(now, out),
            Input::Drain => self.drain(now, out),
            Input::Wake => self.wake(now, out),
        }
        self.reserve_clocks(out);
        self.update_readiness(now, out);
        self.check_drained(out);
    }

    fn deadline(&self) -> Option<Mono> {
        [
            Some(self.next_ping),
            Some(self.next_exchange),
            self.registry.deadline(),
            self.waiting.deadline(),
            self.parked.deadline(),
            self.forwarded.values().map(forwards::Forwarded::deadline).min(),
            self.adoptions.deadline().filter(|_| self.stuck.is_none()),
            self.retention_deadline(),
            self.election.deadline(),
            self.wall.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Server {
    fn wake(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.next_ping <= now.mono {
            self.next_ping = now.mono + self.config.timing.ping;
            let to = self.peers.links();
            if !to.is_empty() {
                out.push(Effect::Link { to, message: crate::link::LinkMessage::Ping, prompt: true });
            }
        }
        if self.next_exchange <= now.mono {
            self.next_exchange = now.mono + self.config.timing.exchange;
            self.exchange(out);
        }
        self.registry_wake(now, out);
        self.expire_writes(now, out);
        self.expire_parked(now, out);
        self.expire_forwarded(now, out);
        self.adopt_due(now, out);
        self.look_at_retention(now, out);
        self.raise_floors(out);
        if self.election.deadline().is_some_and(|at| at <= now.mono) {
            self.elect(now, crate::election::ElectionInput::Wake, out);
        }
        self.wake_wall(now, out);
    }
}
