//! Which brokers and proxies there are, and the ports to those in use.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dsv2_sync::session::Side;

use crate::endpoint::Endpoint;
use crate::port::{Port, PortError, PortLimits, SocketKind, Transport, connect};

/// After so many failed attempts in a row another endpoint is tried, where there is one.
const PATIENCE: u32 = 3;

/// A connection that was lost sooner is taken for one to a broker or proxy that comes and goes: another one is tried at once,
/// because the pauses before attempts to the same one have grown.
const STEADY: Duration = Duration::from_secs(5);

/// But not twice within this time, which doubles with each such move up to [`STEADY`], should all of them hang up at once.
const MOVE_EVERY: Duration = Duration::from_secs(1);

/// The longest pause before an attempt where there is another endpoint: what stays for now must not wait longer than a move
/// would.
const PAUSE_CAP: Duration = MOVE_EVERY;

/// Where brokers and proxies are, and how to get there.
#[derive(Clone, Debug)]
pub(in crate::client) struct Places {
    pub(in crate::client) brokers: Vec<Endpoint>,
    pub(in crate::client) proxies: Vec<Endpoint>,
    pub(in crate::client) transport: Transport,
    pub(in crate::client) limits: PortLimits,
    pub(in crate::client) window: usize,
}

/// The two ports.
pub(super) struct Connections {
    pub(super) broker: Box<dyn Port>,
    pub(super) proxy: Box<dyn Port>,
    broker_at: At,
    proxy_at: At,
    topics: BTreeSet<String>,
    places: Places,
}

/// Which endpoint is in use.
#[derive(Debug)]
struct At {
    index: usize,
    /// How often another one was left.
    moves: u64,
    /// Since when it is connected, or was connected last.
    up: Option<Instant>,
    /// When another one was left for it.
    moved: Option<Instant>,
    /// How long to stay then, whatever breaks.
    stay: Duration,
}

impl Default for At {
    fn default() -> Self {
        Self { index: 0, moves: 0, up: None, moved: None, stay: MOVE_EVERY }
    }
}

impl Connections {
    pub(super) fn open(places: Places) -> Result<Self, PortError> {
        Ok(Self {
            broker: places.connect(Side::Broker, 0)?,
            proxy: places.connect(Side::Proxy, 0)?,
            broker_at: At::default(),
            proxy_at: At::default(),
            topics: BTreeSet::new(),
            places,
        })
    }

    /// How many deliveries a subscription's consumer may leave waiting.
    pub(super) fn window(&self) -> usize {
        self.places.window
    }

    pub(super) fn listen(&mut self, topic: String) {
        self.proxy.subscribe(topic.as_bytes());
        self.topics.insert(topic);
    }

    pub(super) fn unlisten(&mut self, topic: &str) {
        if self.topics.remove(topic) {
            self.proxy.unsubscribe(topic.as_bytes());
        }
    }

    /// Whether an endpoint that cannot be reached is to be left for another.
    pub(super) fn is_to_be_left(&self, side: Side, attempts: u32) -> bool {
        attempts >= PATIENCE && self.places.of(side).len() > 1
    }

    /// A port is connected.
    pub(super) fn connected(&mut self, side: Side) {
        self.at(side).up = Some(Instant::now());
    }

    /// Whether an endpoint whose connection was just lost is to be left for another, because it was not connected for long.
    pub(super) fn flaps(&mut self, side: Side) -> bool {
        let several = self.places.of(side).len() > 1;
        let at = self.at(side);
        let is_within = |since: Option<Instant>, span| since.is_some_and(|since| since.elapsed() < span);
        if !is_within(at.up, STEADY) {
            at.stay = MOVE_EVERY;
            return false;
        }
        let flaps = several && !is_within(at.moved, at.stay);
        if flaps {
            at.stay = (2 * at.stay).min(STEADY);
        }
        flaps
    }

    /// How often another endpoint was left: what a port said before that is not about the present one.
    pub(super) fn moves(&mut self, side: Side) -> u64 {
        self.at(side).moves
    }

    fn at(&mut self, side: Side) -> &mut At {
        match side {
            Side::Broker => &mut self.broker_at,
            Side::Proxy => &mut self.proxy_at,
        }
    }

    /// Makes a new port, to the next endpoint where there are several. Says whether it did: a port to the only endpoint
    /// that is down tries again by itself.
    pub(super) fn renew(&mut self, side: Side, is_up: bool) -> Result<bool, PortError> {
        let count = self.places.of(side).len();
        if count == 1 && !is_up {
            return Ok(false);
        }
        let at = self.at(side);
        *at = At {
            index: (at.index + 1) % count,
            moves: at.moves + 1,
            up: None,
            moved: Some(Instant::now()),
            stay: at.stay,
        };
        let at = at.index;
        match side {
            Side::Broker => self.broker = self.places.connect(side, at)?,
            Side::Proxy => {
                self.proxy = self.places.connect(side, at)?;
                self.topics.iter().for_each(|topic| self.proxy.subscribe(topic.as_bytes()));
            }
        }
        tracing::info!(?side, endpoint = %self.places.of(side)[at], "connecting anew");
        Ok(true)
    }
}

impl Places {
    fn of(&self, side: Side) -> &[Endpoint] {
        match side {
            Side::Broker => &self.brokers,
            Side::Proxy => &self.proxies,
        }
    }

    fn connect(&self, side: Side, at: usize) -> Result<Box<dyn Port>, PortError> {
        let kind = if side == Side::Broker { SocketKind::Dealer } else { SocketKind::Sub };
        let mut limits = self.limits.clone();
        if self.of(side).len() > 1 {
            limits.backoff.cap = limits.backoff.cap.min(PAUSE_CAP);
        }
        connect(self.transport, kind, self.of(side)[at].clone(), limits)
    }
}
