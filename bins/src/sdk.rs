//! From flags to the client SDK, and from its errors to ours.

use std::time::Duration;

use dsv2_core::{Format, Level, UserName};
use dsv2_net::Endpoint;
use dsv2_net::client::{Client, ConnectError, ReadError, SubscribeError, WriteError};

use crate::error::Error;

/// What a client is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The broker's side for clients; more than one are tried in turn.
    pub brokers: Vec<Endpoint>,
    /// The proxy's side for subscribers, one for each broker; the last one serves the brokers that have none.
    pub proxies: Vec<Endpoint>,
    /// Who writes.
    pub user: Option<UserName>,
    /// The serialization of requests.
    pub format: Format,
    /// How safe a write must be before it is acknowledged.
    pub level: Option<Level>,
    /// How long a call may take, and the connection at the start.
    pub timeout: Duration,
    /// How many calls may be under way, and how many bytes they may have together, where the SDK's defaults are not enough.
    pub in_flight: Option<(usize, usize)>,
}

impl Options {
    /// A client of one broker and proxy, with everything else by default.
    #[must_use]
    pub fn new(broker: Endpoint, proxy: Endpoint) -> Self {
        Self {
            brokers: vec![broker],
            proxies: vec![proxy],
            user: None,
            format: Format::default(),
            level: None,
            timeout: Duration::from_secs(10),
            in_flight: None,
        }
    }
}

/// Connects, and logs the user in.
///
/// # Errors
/// [`Error::NoAnswer`] where no broker was reached, or no server behind it, in time.
pub async fn connect(options: &Options) -> Result<Client, Error> {
    let proxy = |index: usize| options.proxies.get(index).or(options.proxies.last());
    let mut brokers = options.brokers.iter();
    let first = brokers.next().ok_or_else(|| Error::Usage("there is no broker to connect to".to_owned()))?;
    let mut builder = Client::builder(first.to_string());
    if let Some(proxy) = proxy(0) {
        builder = builder.proxy(proxy.to_string());
    }
    for (index, broker) in brokers.enumerate() {
        builder = builder.or(broker.to_string());
        if let Some(proxy) = proxy(index + 1) {
            builder = builder.proxy(proxy.to_string());
        }
    }
    if let Some(user) = &options.user {
        builder = builder.user(user);
    }
    if let Some(level) = options.level {
        builder = builder.level(level);
    }
    if let Some((calls, bytes)) = options.in_flight {
        builder = builder.in_flight(calls, bytes);
    }
    let connected =
        builder.serde(options.format).timeout(options.timeout).connect_timeout(options.timeout).connect().await;
    connected.map_err(|error| match error {
        ConnectError::Unreachable => {
            let tried: Vec<String> = options.brokers.iter().map(ToString::to_string).collect();
            Error::NoAnswer(format!(
                "nobody answered at {} within {} s",
                tried.join(", "),
                options.timeout.as_secs_f32()
            ))
        }
        ConnectError::Login(failure) => failure.into(),
        ConnectError::Endpoint(why) => Error::Usage(why.to_string()),
        ConnectError::Name(why) => why.into(),
        other => Error::Failed(other.to_string()),
    })
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Rejected(failure) | WriteError::Unknown(failure) => failure.into(),
            WriteError::Name(why) => why.into(),
            other @ (WriteError::TooLarge(..) | WriteError::Serialize(_)) => Self::Usage(other.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Failed(failure) => failure.into(),
            ReadError::Name(why) => why.into(),
            ReadError::NoUser => Self::Usage("say who you are with --user NAME".to_owned()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<SubscribeError> for Error {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Failed(failure) => failure.into(),
            SubscribeError::Name(why) => why.into(),
            SubscribeError::NoUser => Self::Usage("say who you are with --user NAME".to_owned()),
            other => Self::Failed(other.to_string()),
        }
    }
}
