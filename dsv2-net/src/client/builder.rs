//! Describing a client, and connecting it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dsv2_core::{Format, Level, UserName};
use dsv2_sync::session::{CallOptions, Command, Session, SessionConfig};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::driver::{Driver, End, Places};
use super::{About, CallError, Client, ClientState, ConnectError};
use crate::endpoint::{Endpoint, EndpointError};
use crate::engine::Heartbeat;
use crate::port::{PortLimits, Transport};
use crate::time::random_u64;

/// How a client is to be; made by [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `connect`"]
pub struct ClientBuilder {
    brokers: Vec<String>,
    proxies: Vec<Option<String>>,
    user: Option<String>,
    transport: Transport,
    connect_timeout: Duration,
    message_cap_bytes: usize,
    ports: PortLimits,
    session: SessionConfig,
}

impl ClientBuilder {
    pub(super) fn new(broker: &str) -> Self {
        let mut ports = PortLimits::default();
        // A broker that vanished without a word is noticed within three seconds of the request that wants it, and a
        // proxy when history tells of what it did not bring; who wants nothing may learn of it later.
        ports.connection.heartbeat = Heartbeat {
            interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(2),
        };
        Self {
            brokers: vec![broker.to_owned()],
            proxies: vec![None],
            user: None,
            transport: Transport::default(),
            connect_timeout: Duration::from_secs(10),
            message_cap_bytes: 256 << 10,
            ports,
            session: SessionConfig::default(),
        }
    }

    /// The proxy's endpoint for subscribers. If not told: over TCP the broker's port plus 3, as in the seed.
    pub fn proxy(mut self, proxy: impl AsRef<str>) -> Self {
        if let Some(last) = self.proxies.last_mut() {
            *last = Some(proxy.as_ref().to_owned());
        }
        self
    }

    /// Another broker and proxy of the same cluster, to go to when the others cannot be reached. The proxies must carry
    /// the publications of all servers.
    pub fn or(mut self, broker: impl AsRef<str>) -> Self {
        self.brokers.push(broker.as_ref().to_owned());
        self.proxies.push(None);
        self
    }

    /// Who writes. Logged in by [`ClientBuilder::connect`], and again after every loss of the broker.
    pub fn user(mut self, name: impl AsRef<str>) -> Self {
        self.user = Some(name.as_ref().to_owned());
        self
    }

    /// The serialization of requests; JSON if not told. Anything is understood.
    pub fn serde(mut self, format: Format) -> Self {
        self.session.format = format;
        self
    }

    /// How safe a write must be before it is acknowledged; the server's default if not told.
    pub fn level(mut self, level: Level) -> Self {
        self.session.level = Some(level);
        self
    }

    /// Which implementation of ZeroMQ carries it; ours if not told.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// How long a call may take; 10 s if not told.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.session.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// How long [`ClientBuilder::connect`] may take; 10 s if not told. Afterwards it reconnects for ever.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many calls may be in flight, and how many bytes; 4,096 and 16 MiB if not told. More wait.
    pub fn in_flight(mut self, calls: usize, bytes: usize) -> Self {
        (self.session.in_flight, self.session.in_flight_bytes) = (calls.max(1), bytes.max(1));
        self
    }

    /// How many deliveries of a subscription may wait for its consumer; 1,024 if not told.
    pub fn window(mut self, deliveries: usize) -> Self {
        self.session.window = deliveries.max(1);
        self
    }

    /// The longest text that is sent, in bytes; 256 KiB if not told, which is what servers take.
    pub fn message_cap_bytes(mut self, cap_bytes: usize) -> Self {
        self.message_cap_bytes = cap_bytes;
        self
    }

    /// Leaves servers that lack our extensions, and does not write there.
    pub fn require_extensions(mut self, require: bool) -> Self {
        self.session.require_extensions = require;
        self
    }

    /// Changes everything else about the session: see [`SessionConfig`]. Its `user` and `random` are set by `connect`.
    pub fn session(mut self, change: impl FnOnce(&mut SessionConfig)) -> Self {
        change(&mut self.session);
        self
    }

    /// Changes everything else about the ports: see [`PortLimits`].
    pub fn ports(mut self, change: impl FnOnce(&mut PortLimits)) -> Self {
        change(&mut self.ports);
        self
    }

    /// Connects, and logs the user in where there is one; then the client works, and reconnects for ever.
    ///
    /// Must be called within a tokio runtime, which also runs the client's task. Cancel-safe: if it is dropped, there is
    /// no client.
    ///
    /// # Errors
    /// [`ConnectError`]; there is no client then.
    pub async fn connect(mut self) -> Result<Client, ConnectError> {
        let user = self.user.as_deref().map(UserName::new).transpose()?;
        let places = self.places()?;
        let random = (u128::from(random_u64().map_err(ConnectError::Random)?) << 64)
            | u128::from(random_u64().map_err(ConnectError::Random)?);
        self.session.random = random;
        self.session.user = None;
        self.ports.identity = Bytes::new();
        let (asks, inbox) = mpsc::channel(self.session.in_flight.clamp(16, 4_096));
        let (state_sender, state) = watch::channel(ClientState::default());
        let (until, ends) = watch::channel(None);
        let (reported, report) = watch::channel(None);
        let end = End { until: ends, report: reported };
        let driver = Driver::new(Session::new(self.session), places, inbox, state_sender, end)?;
        let message_cap_bytes = self.message_cap_bytes;
        let about = Arc::new(About { user: user.clone(), message_cap_bytes, until, report });
        let client = Client { asks, state, about };
        tokio::spawn(driver.run());
        client.begin(user, self.connect_timeout).await?;
        Ok(client)
    }

    fn places(&self) -> Result<Places, ConnectError> {
        let mut brokers = Vec::new();
        let mut proxies = Vec::new();
        for (broker, proxy) in self.brokers.iter().zip(&self.proxies) {
            let broker: Endpoint = broker.parse()?;
            proxies.push(match proxy {
                Some(proxy) => proxy.parse().map_err(|why: EndpointError| ConnectError::Endpoint(why))?,
                None => derived(&broker).ok_or_else(|| ConnectError::NoProxy(broker.to_string()))?,
            });
            brokers.push(broker);
        }
        let (transport, limits, window) = (self.transport, self.ports.clone(), self.session.window);
        Ok(Places { brokers, proxies, transport, limits, window })
    }
}

impl Client {
    /// Waits until the client works.
    async fn begin(&self, user: Option<UserName>, within: Duration) -> Result<(), ConnectError> {
        let start = Instant::now();
        let mut state = self.state.clone();
        let connected = state.wait_for(|state| state.connected);
        // An error here would say that the task has ended: it lives as long as this handle does.
        drop(timeout(within, connected).await.map_err(|_| ConnectError::Unreachable)?);
        let Some(user) = user else { return Ok(()) };
        // The session answers at the deadline at latest.
        let left = within.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        let options = CallOptions { timeout_ms: u64::try_from(left.as_millis()).ok(), ..CallOptions::default() };
        match self.call(Command::Login { user }, options).await {
            Ok(_) => Ok(()),
            Err(CallError::Failed(failure)) => Err(ConnectError::Login(failure)),
            Err(CallError::Closed | CallError::Lost) => Err(ConnectError::Unreachable),
        }
    }
}

/// The proxy's endpoint for subscribers, where it follows from the broker's for clients.
fn derived(broker: &Endpoint) -> Option<Endpoint> {
    match broker {
        Endpoint::Tcp { host, port } => Some(Endpoint::tcp(host.clone(), port.checked_add(3)?)),
        Endpoint::Memory { name } => Some(Endpoint::memory(format!("{}/subscribers", name.strip_suffix("/clients")?))),
        Endpoint::Ipc { .. } => None,
    }
}
