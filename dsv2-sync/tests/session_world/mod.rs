//! A tiny world for sessions: servers, a broker and a proxy that lose, delay, double and reorder, from one seed.

mod servers;

use std::collections::{BTreeMap, VecDeque};

use dsv2_core::{Clock, Failure, Feed, Format, Machine, Mono, Now, Publication, Request, Wall};
use dsv2_sync::session::{
    Answer, CallOptions, Command, Cursor, Delivery, Effect, Input, Order, ResumePoint, Session, SessionConfig, Side,
    Step,
};

pub(crate) use servers::Cluster;

/// SplitMix64: enough for choices, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a run saw of its faults, so that a run without any cannot pass for a good one.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) rejected: u64,
    pub(crate) retried: u64,
    pub(crate) twins: u64,
    pub(crate) lost_publications: u64,
    pub(crate) recovered: u64,
    pub(crate) restarts: u64,
    pub(crate) disconnections: u64,
}

enum Act {
    ToServer { client: usize, connection: u64, request: u64, body: Vec<u8> },
    ToClient { client: usize, connection: u64, request: u64, body: Vec<u8> },
    Publication { client: usize, topic: String, body: Vec<u8> },
    Connect { client: usize },
    ConnectProxy { client: usize },
    Write { client: usize },
    Consume { client: usize },
    Replicate,
    Fault,
}

/// One life of a message's delivery, as a consumer noted it down.
pub(crate) struct Noted {
    pub(crate) life: u64,
    pub(crate) feed: Feed,
    pub(crate) publication: Publication,
}

pub(crate) struct Client {
    session: Session,
    connection: Option<u64>,
    server: usize,
    proxy: bool,
    /// Deliveries and steps on their way to the consumer.
    queue: VecDeque<(Option<Delivery>, Option<Step>)>,
    life: u64,
    /// What the consumer has stored, together with what it noted.
    pub(crate) point: ResumePoint,
    pub(crate) noted: Vec<Noted>,
    writes: u64,
    /// Text of every write and what became of it.
    pub(crate) outcomes: BTreeMap<u64, (String, Option<Result<(), Failure>>)>,
    follows: bool,
}

pub(crate) struct World {
    random: Random,
    now_us: u64,
    acts: BTreeMap<(u64, u64), Act>,
    acts_made: u64,
    pub(crate) cluster: Cluster,
    pub(crate) clients: Vec<Client>,
    /// No faults from now on.
    calm: bool,
    connections: u64,
    pub(crate) tally: Tally,
}

const WALL_MS: i64 = 1_795_407_353_924;

pub(crate) fn feeds() -> Vec<Feed> {
    ["dev", "ops"].iter().filter_map(|name| name.parse().ok()).map(Feed::Channel).collect()
}

fn config(client: usize, life: u64) -> SessionConfig {
    SessionConfig {
        user: format!("u{client}").parse().ok(),
        random: (client as u128 + 1) * 1_000_003 + u128::from(life),
        format: if client.is_multiple_of(2) { Format::Json } else { Format::MsgPack },
        window: 8,
        held: 16,
        page: 4,
        attempt_ms: 300,
        timeout_ms: 5_000,
        silence_ms: 1_000,
        patience_ms: None,
        ..SessionConfig::default()
    }
}

impl World {
    /// Two clients that write, two that follow, three servers.
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed),
            now_us: 1_000_000,
            acts: BTreeMap::new(),
            acts_made: 0,
            cluster: Cluster::new(3),
            clients: (0..4).map(|client| Client::new(client, client >= 2)).collect(),
            calm: false,
            connections: 0,
            tally: Tally::default(),
        };
        for client in 0..4 {
            world.start(client, Cursor::Beginning);
            world.later(1_000, Act::Consume { client });
        }
        for client in 0..2 {
            world.later(50_000, Act::Write { client });
        }
        world.later(20_000, Act::Replicate);
        world.later(300_000, Act::Fault);
        world
    }

    /// Runs with faults, then without until everything must have settled.
    pub(crate) fn run(&mut self, stormy_ms: u64, calm_ms: u64) {
        self.run_until(self.now_us + stormy_ms * 1_000);
        self.calm = true;
        self.cluster.heal();
        self.run_until(self.now_us + calm_ms * 1_000);
    }

    fn run_until(&mut self, end_us: u64) {
        while let Some((at_us, next)) = self.next() {
            if at_us > end_us {
                break;
            }
            self.now_us = self.now_us.max(at_us);
            match next {
                Some(client) => self.step(client, Input::Wake),
                None => {
                    let Some((_, act)) = self.acts.pop_first() else { return };
                    self.act(act);
                }
            }
        }
        self.now_us = end_us;
    }

    /// The next moment at which something happens, and which client is to be woken then, if that is it.
    fn next(&self) -> Option<(u64, Option<usize>)> {
        let act = self.acts.keys().next().map(|&(at, _)| (at, None));
        let wakes =
            self.clients.iter().enumerate().filter_map(|(client, c)| Some((c.session.deadline()?.us, Some(client))));
        act.into_iter().chain(wakes).min_by_key(|&(at, client)| (at, client.map_or(0, |client| client + 1)))
    }

    fn later(&mut self, in_us: u64, act: Act) {
        self.acts_made += 1;
        self.acts.insert((self.now_us + in_us, self.acts_made), act);
    }

    fn now(&self) -> Now {
        Now { mono: Mono { us: self.now_us }, wall: Wall { us: WALL_MS * 1_000 + self.now_us as i64 } }
    }

    fn start(&mut self, client: usize, cursor: Cursor) {
        self.later(1_000, Act::Connect { client });
        self.later(2_000, Act::ConnectProxy { client });
        if self.clients[client].follows {
            let command = Command::Subscribe { feeds: feeds(), cursor, order: Order::Arrival };
            let options = CallOptions { timeout_ms: Some(1_000_000), ..CallOptions::default() };
            self.step(client, Input::Call { token: 0, command, options });
        }
    }

    fn step(&mut self, client: usize, input: Input) {
        let now = self.now();
        let mut out = Vec::new();
        let woken = matches!(input, Input::Wake);
        self.clients[client].session.step(now, input, &mut out);
        assert!(
            !woken || self.clients[client].session.deadline().is_none_or(|at| at > now.mono),
            "client {client} spins"
        );
        for effect in out {
            self.carry_out(client, effect);
        }
    }

    fn carry_out(&mut self, client: usize, effect: Effect) {
        match effect {
            Effect::Send { request, body } => {
                let Some(connection) = self.clients[client].connection else { return };
                // One connection keeps its order.
                self.later(500, Act::ToServer { client, connection, request, body });
            }
            Effect::Done { token, result } => self.done(client, token, result),
            Effect::Deliver { delivery, step, .. } => self.clients[client].queue.push_back((Some(delivery), step)),
            Effect::Advance { step, .. } => self.clients[client].queue.push_back((None, Some(step))),
            Effect::Reconnect(Side::Broker) => self.disconnect(client),
            Effect::Reconnect(Side::Proxy) | Effect::Listen(_) | Effect::Unlisten(_) | Effect::Log(_) => {}
        }
    }

    fn done(&mut self, client: usize, token: u64, result: Result<Answer, Failure>) {
        let Some((_, outcome)) = self.clients[client].outcomes.get_mut(&token) else {
            assert!(result.is_ok(), "the subscription failed: {result:?}");
            return;
        };
        assert!(outcome.is_none(), "answered twice");
        match &result {
            Ok(_) => self.tally.acknowledged += 1,
            Err(failure) if failure.outcome == dsv2_core::Outcome::Unknown => self.tally.unknown += 1,
            Err(_) => self.tally.rejected += 1,
        }
        *outcome = Some(result.map(|_| ()));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::ToServer { client, connection, request, body } => self.arrive(client, connection, request, &body),
            Act::ToClient { client, connection, request, body } => {
                if self.clients[client].connection == Some(connection) {
                    self.step(client, Input::Reply { request, body });
                }
            }
            Act::Publication { client, topic, body } => {
                if self.clients[client].proxy {
                    self.step(client, Input::Published { topic: topic.into_bytes(), body });
                }
            }
            Act::Connect { client } => {
                if self.clients[client].connection.is_none() {
                    self.connections += 1;
                    self.clients[client].connection = Some(self.connections);
                    self.clients[client].server = self.random.below(3) as usize;
                    self.step(client, Input::BrokerUp);
                }
            }
            Act::ConnectProxy { client } => {
                if !std::mem::replace(&mut self.clients[client].proxy, true) {
                    self.step(client, Input::ProxyUp);
                }
            }
            Act::Write { client } => self.write(client),
            Act::Consume { client } => self.consume(client),
            Act::Replicate => {
                self.cluster.replicate(&mut self.random);
                self.later(30_000, Act::Replicate);
            }
            Act::Fault => {
                if !self.calm {
                    self.fault();
                    let pause = 20_000 + self.random.below(400_000);
                    self.later(pause, Act::Fault);
                }
            }
        }
    }

    fn arrive(&mut self, client: usize, connection: u64, request: u64, body: &[u8]) {
        let server = self.clients[client].server;
        let decoded = Request::decode(body, &dsv2_core::Limits::default()).expect("a session speaks the protocol");
        if self.clients[client].connection != Some(connection) && self.random.chance(50) {
            // Lost with its connection, before the broker had it.
            return;
        }
        if !self.calm && self.random.chance(2) {
            return;
        }
        self.tally.retried += u64::from(self.cluster.knows(&decoded));
        let mood = if self.calm { 100 } else { self.random.below(100) };
        let (reply, published) = self.cluster.handle(server, &decoded, mood, self.now().wall.timestamp());
        for publication in published {
            self.publish(&publication);
        }
        if self.calm || self.random.chance(95) {
            let delay = 500 + if self.calm { 0 } else { self.random.below(400) * self.random.below(1_000) };
            self.later(delay, Act::ToClient { client, connection, request, body: reply.encode() });
        }
    }

    fn publish(&mut self, event: &dsv2_core::Event) {
        let Some((topic, publication)) = event.body.topic().zip(Publication::of_event(event, false)) else { return };
        for client in 0..self.clients.len() {
            let copies = match self.random.below(100) {
                0..20 if !self.calm => 0,
                20..30 => 2,
                _ => 1,
            };
            self.tally.lost_publications += u64::from(copies == 0);
            for _ in 0..copies {
                let delay = 500 + self.random.below(20_000);
                let body = publication.encode(Format::Json);
                self.later(delay, Act::Publication { client, topic: topic.as_str().to_owned(), body });
            }
        }
    }

    fn write(&mut self, client: usize) {
        if self.calm {
            return;
        }
        for _ in 0..=self.random.below(4) {
            let c = &mut self.clients[client];
            c.writes += 1;
            let (token, text) = (c.writes, format!("{client}:{}", c.writes));
            c.outcomes.insert(token, (text.clone(), None));
            let channel = if self.random.chance(70) { "dev" } else { "ops" };
            let command = Command::Publish { channel: channel.parse().expect("a name"), message: text };
            self.step(client, Input::Call { token, command, options: CallOptions::default() });
        }
        let pause = 20_000 + self.random.below(200_000);
        self.later(pause, Act::Write { client });
    }

    fn consume(&mut self, client: usize) {
        let mut taken = 0;
        let wanted = 1 + self.random.below(12) as usize;
        while taken < wanted {
            let Some((delivery, step)) = self.clients[client].queue.pop_front() else { break };
            let c = &mut self.clients[client];
            step.iter().for_each(|step| c.point.advance(step));
            taken += usize::from(delivery.is_some());
            match delivery {
                Some(Delivery::Message { feed, publication }) => {
                    c.noted.push(Noted { life: c.life, feed, publication: *publication });
                }
                Some(Delivery::Recovered { messages, .. }) => self.tally.recovered += messages,
                Some(Delivery::Gap { feed, missing }) => panic!("a gap in {feed:?} at {missing:?}"),
                _ => {}
            }
        }
        if taken > 0 {
            self.step(client, Input::Consumed { subscription: 0, deliveries: taken });
        }
        let lazy = if self.calm { 5_000 } else { 300_000 };
        let pause = 1_000 + self.random.below(lazy);
        self.later(pause, Act::Consume { client });
    }

    fn disconnect(&mut self, client: usize) {
        if self.clients[client].connection.take().is_some() {
            self.tally.disconnections += 1;
            self.step(client, Input::BrokerDown);
        }
        let pause = 1_000 + self.random.below(200_000);
        self.later(pause, Act::Connect { client });
    }

    fn fault(&mut self) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        match self.random.below(10) {
            0..3 => self.disconnect(client),
            3 => {
                if std::mem::replace(&mut self.clients[client].proxy, false) {
                    self.step(client, Input::ProxyDown);
                }
                let pause = self.random.below(3_000_000);
                self.later(pause, Act::ConnectProxy { client });
            }
            // The broker moves the connection, and says nothing.
            4 => self.clients[client].server = self.random.below(3) as usize,
            5..7 => self.cluster.partition(&mut self.random),
            7 => self.cluster.restart(&mut self.random),
            8 => self.cluster.heal(),
            _ => self.restart(2 + self.random.0 as usize % 2),
        }
    }

    /// A follower's process ends, with all that it had not stored, and starts again at its stored point.
    fn restart(&mut self, client: usize) {
        self.tally.restarts += 1;
        let c = &mut self.clients[client];
        c.life += 1;
        let stored = rmp_serde::to_vec_named(&c.point).expect("a point can be stored");
        let point: ResumePoint = rmp_serde::from_slice(&stored).expect("its own form");
        assert_eq!(point, c.point);
        c.session = Session::new(config(client, c.life));
        (c.connection, c.proxy) = (None, false);
        c.queue.clear();
        self.start(client, Cursor::At(point));
    }
}

impl Client {
    fn new(client: usize, follows: bool) -> Self {
        Self {
            session: Session::new(config(client, 0)),
            connection: None,
            server: client % 3,
            proxy: false,
            queue: VecDeque::new(),
            life: 0,
            point: ResumePoint::beginning(&feeds()),
            noted: Vec::new(),
            writes: 0,
            outcomes: BTreeMap::new(),
            follows,
        }
    }

    pub(crate) fn follows(&self) -> bool {
        self.follows
    }

    pub(crate) fn clock(&self) -> Clock {
        self.session.clock()
    }
}
