//! The client SDK: talk to a cluster of DS-v2, or to servers of the family, from any tokio program.
//!
//! ```text
//!   Client (cloneable) ──► bounded queue ──► one task: ports + the session machine ──► broker, proxy
//!   Subscription ◄─────── batches of deliveries, as many as there is room for ◄──────────┘
//! ```
//!
//! ```
//! use dsv2_net::client::{Client, Cursor, Delivery};
//! # #[cfg(feature = "cluster")]
//! # use dsv2_net::cluster::{Cluster, ClusterOptions};
//! # #[cfg(not(feature = "cluster"))]
//! # fn main() {}
//! # #[cfg(feature = "cluster")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cluster = Cluster::start(ClusterOptions::memory(1)).await?;
//! # let broker = cluster.endpoints().clients.to_string();
//! let client = Client::builder(&broker).user("ana").connect().await?;
//! let dev = client.channel("dev");
//! dev.create().await?;
//! let mut news = client.subscribe(["dev"]).from(Cursor::Beginning).await?;
//! let receipt = dev.publish("hello").await?;
//! if let Some(Delivery::Message(message)) = news.next().await {
//!     assert_eq!(message.text(), "hello");
//!     assert_eq!(message.publication.event, receipt.event);
//! }
//! client.drain(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! - It reconnects by itself, for ever, and repeats what was not answered; a repeated write is recognised by the servers.
//! - Every error says whether anything may have [`changed`](WriteError::changed), and whether a
//!   [retry helps](WriteError::retry_helps). A write that may have happened is *unknown*, never *failed*.
//! - A client reads its own writes, and what its subscriptions delivered, on whatever server it lands.
//! - A subscription misses nothing and doubles nothing: see [`Subscription`].
//! - Whoever is too fast waits: a call for room among those [in flight](ClientBuilder::in_flight), the servers' history
//!   for a subscription's consumer.
//!
//! With servers of the family that lack our extensions it works with less: no receipts, no history, no repair of gaps,
//! no repetition of writes that may have happened. [`ClientState::extensions`] says which kind it is.

mod builder;
mod driver;
mod error;
mod publisher;
mod read;
mod subscription;
mod write;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dsv2_core::{ChannelName, Failure, NameError, StatusReport, UserName};
use dsv2_sync::session::{Answer, CallOptions, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use builder::ClientBuilder;
pub use dsv2_core::{Format, IdempotencyKey, Level};
pub use dsv2_sync::session::{Cursor, Order, ResumePoint};
pub use error::{Changed, ConnectError, ReadError, SubscribeError, WriteError};
pub use publisher::{FlushError, Publisher};
pub use read::{History, Page};
pub use subscription::{Delivery, Message, Subscribe, Subscription};
pub use write::{Receipt, Write};

use driver::{Answerer, Ask};

/// A connection to a cluster, on behalf of one user or of nobody.
///
/// Cloning is cheap, and all clones share one connection. When the last clone and the last subscription are gone the
/// connection is closed; what was not awaited by then may be lost: [`Client::drain`] waits for it.
#[derive(Clone, Debug)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    state: watch::Receiver<ClientState>,
    about: Arc<About>,
}

/// What all clones of a client share and never changes.
#[derive(Debug)]
struct About {
    user: Option<UserName>,
    message_cap_bytes: usize,
    /// When the client ends, once somebody drains it.
    until: watch::Sender<Option<Instant>>,
    /// What the drain brought.
    report: watch::Receiver<Option<DrainReport>>,
}

/// How a client is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientState {
    /// Whether the broker is connected.
    pub connected: bool,
    /// Whether the proxy is connected. Without it subscriptions go on by reading history.
    pub proxy_connected: bool,
    /// Whether the servers have our extensions; `None` until one has answered since the last connection.
    pub extensions: Option<bool>,
}

/// What a [drain](Client::drain) brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Calls that were answered with success while it waited.
    pub flushed: u64,
    /// Calls that failed, surely without a change.
    pub failed: u64,
    /// Writes of which it is not known whether they happened.
    pub unknown: u64,
}

/// A channel, as a client sees it. Made by [`Client::channel`]; the name is checked by whatever is done with it.
#[derive(Clone, Debug)]
pub struct Channel {
    client: Client,
    name: Result<ChannelName, NameError>,
}

impl Client {
    /// Describes a client of the broker at an endpoint such as `tcp://127.0.0.1:5555`.
    pub fn builder(broker: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder::new(broker.as_ref())
    }

    /// Who writes.
    #[must_use]
    pub fn user(&self) -> Option<&UserName> {
        self.about.user.as_ref()
    }

    /// A channel; nothing is sent.
    #[must_use]
    pub fn channel(&self, name: impl AsRef<str>) -> Channel {
        Channel { client: self.clone(), name: ChannelName::new(name.as_ref()) }
    }

    /// Sends a private message to a user.
    pub fn message(&self, to: impl AsRef<str>, text: impl Into<String>) -> Write {
        let command = UserName::new(to.as_ref()).map(|dst| Command::Message { dst, message: text.into() });
        Write::new(self.clone(), command.map_err(WriteError::Name))
    }

    /// The users' names. Texts, since servers of the family check no names.
    ///
    /// # Errors
    /// [`ReadError`]. Reads change nothing.
    pub async fn users(&self) -> Result<Vec<String>, ReadError> {
        self.names(Command::Users).await
    }

    /// The channels' names. Texts, since servers of the family check no names.
    ///
    /// # Errors
    /// [`ReadError`]. Reads change nothing.
    pub async fn channels(&self) -> Result<Vec<String>, ReadError> {
        self.names(Command::Channels).await
    }

    async fn names(&self, command: Command) -> Result<Vec<String>, ReadError> {
        match self.call(command, CallOptions::default()).await? {
            Answer::Names(names) => Ok(names),
            _ => Err(ReadError::unexpected()),
        }
    }

    /// The server's account of itself: the one at the other end of the broker now.
    ///
    /// # Errors
    /// [`ReadError`]; servers of the family have no such service.
    pub async fn status(&self) -> Result<StatusReport, ReadError> {
        match self.call(Command::Status, CallOptions::default()).await? {
            Answer::Status(report) => Ok(*report),
            _ => Err(ReadError::unexpected()),
        }
    }

    /// Follows channels. Nothing is sent before the result is awaited.
    pub fn subscribe<T: AsRef<str>>(&self, channels: impl IntoIterator<Item = T>) -> Subscribe {
        Subscribe::new(self.clone()).and(channels)
    }

    /// Follows the user's private messages. Nothing is sent before the result is awaited.
    pub fn inbox(&self) -> Subscribe {
        Subscribe::new(self.clone()).and_inbox()
    }

    /// The private messages that the user received.
    pub fn inbox_history(&self) -> History {
        History::of_inbox(self.clone())
    }

    /// The private messages between the user and another one, both directions.
    pub fn history_with(&self, other: impl AsRef<str>) -> History {
        History::of_conversation(self.clone(), other.as_ref())
    }

    /// How the connection is now.
    #[must_use]
    pub fn state(&self) -> ClientState {
        *self.state.borrow()
    }

    /// Waits until the connection is other than it was. Cancel-safe. `None` once the client has ended.
    pub async fn state_changed(&mut self) -> Option<ClientState> {
        self.state.changed().await.ok()?;
        Some(*self.state.borrow_and_update())
    }

    /// Ends the client for all its clones: waits until everything that was begun is answered, at most so long, and then
    /// closes the connection. What is begun meanwhile is refused; subscriptions end. Should be the last thing that a
    /// program does with it.
    ///
    /// Not cancel-safe: if it is dropped, the client ends all the same.
    pub async fn drain(&self, within: Duration) -> DrainReport {
        if self.asks.is_closed() {
            return DrainReport::default();
        }
        let until = Instant::now() + within.min(Duration::from_secs(86_400));
        self.about.until.send_if_modified(|end| {
            let earlier = end.is_none_or(|end| until < end);
            *end = if earlier { Some(until) } else { *end };
            earlier
        });
        let mut report = self.about.report.clone();
        // What is begun before comes first; but where the queue is full, the end comes at its time all the same.
        let reported = async { report.wait_for(Option::is_some).await.ok().and_then(|report| *report) };
        let asked = self.asks.send(Ask::Drain);
        let (mut reported, mut asked) = (std::pin::pin!(reported), std::pin::pin!(asked));
        tokio::select! {
            report = &mut reported => return report.unwrap_or_default(),
            _closed = &mut asked => {}
        }
        reported.await.unwrap_or_default()
    }

    /// Makes a call and waits for its answer.
    async fn call(&self, command: Command, options: CallOptions) -> Result<Answer, CallError> {
        let (answer, result) = oneshot::channel();
        let ask = Ask::Call { command, options, answerer: Answerer::Once(answer) };
        self.asks.send(ask).await.map_err(|_| CallError::Closed)?;
        result.await.map_err(|_| CallError::Lost)?.map_err(CallError::Failed)
    }
}

/// Why a call brought no answer.
#[derive(Debug)]
enum CallError {
    /// It was never made.
    Closed,
    /// The client ended under it.
    Lost,
    /// The session says so.
    Failed(Failure),
}

impl Channel {
    /// The channel's name.
    ///
    /// # Errors
    /// It cannot be the name of a channel.
    pub fn name(&self) -> Result<&ChannelName, NameError> {
        self.name.as_ref().map_err(|why| *why)
    }

    /// Creates the channel; it is a success if it exists.
    pub fn create(&self) -> Write {
        let command = self.name.clone().map(|channel| Command::CreateChannel { channel });
        Write::new(self.client.clone(), command.map_err(WriteError::Name))
    }

    /// Publishes a text. Nothing happens before the result is polled; then the text is queued, and the rest happens
    /// even if the result is dropped.
    pub fn publish(&self, text: impl Into<String>) -> Write {
        let command = self.name.clone().map(|channel| Command::Publish { channel, message: text.into() });
        Write::new(self.client.clone(), command.map_err(WriteError::Name))
    }

    /// Publishes a value as JSON text; [`Message::parse`] reads it back.
    pub fn publish_as<T: serde::Serialize + ?Sized>(&self, value: &T) -> Write {
        match serde_json::to_string(value) {
            Ok(text) => self.publish(text),
            Err(why) => Write::new(self.client.clone(), Err(WriteError::Serialize(why.to_string()))),
        }
    }

    /// For many publications: they are queued one after the other, and their acknowledgements awaited together.
    ///
    /// # Errors
    /// [`WriteError::Name`].
    pub fn publisher(&self) -> Result<Publisher, WriteError> {
        Ok(Publisher::new(self.client.clone(), self.name.clone().map_err(WriteError::Name)?))
    }

    /// What was published in it.
    pub fn history(&self) -> History {
        History::of_channel(self.client.clone(), self.name.clone())
    }
}

/// The future of a call. Awaiting it is cancel-safe in this sense: once it was polled, the call goes on if it is dropped,
/// and only its answer is lost.
#[must_use = "nothing happens before it is polled"]
pub struct Pending<T>(Pin<Box<dyn Future<Output = T> + Send>>);

impl<T> Pending<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

impl<T> Future for Pending<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}
