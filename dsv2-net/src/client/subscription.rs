//! Subscriptions: streams that miss nothing.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use dsv2_core::{ChannelName, Clock, EventId, Feed, NameError, Publication};
use dsv2_sync::session::{self, CallOptions, Command, Cursor, Order, ResumePoint, Step};
use futures_core::Stream;
use tokio::sync::{Notify, mpsc, oneshot};

use super::driver::Ask;
use super::{Client, Pending, SubscribeError};

/// A subscription that is made when it is awaited.
///
/// ```
/// # #[cfg(feature = "cluster")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = dsv2_net::cluster::Cluster::in_memory().await?;
/// # let client = dsv2_net::client::Client::builder(cluster.endpoints().clients.to_string());
/// # let client = client.user("ana").connect().await?;
/// # client.channel("dev").create().await?;
/// # client.channel("ops").create().await?;
/// use dsv2_net::client::Cursor;
/// let mut everything = client.subscribe(["dev", "ops"]).and_inbox().from(Cursor::Beginning).await?;
/// client.message("ana", "remember the milk").await?;
/// assert!(everything.next().await.is_some());
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "cluster"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is subscribed before it is awaited"]
pub struct Subscribe {
    client: Client,
    feeds: Result<Vec<Feed>, SubscribeError>,
    cursor: Cursor,
    order: Order,
    options: CallOptions,
}

/// A stream of what is published on some topics.
///
/// It joins live publications with the servers' history, so that it delivers every message exactly once, each server's
/// in the order in which it wrote them; it notices what the publish side loses, repairs it from history, and says so.
/// Only [`Delivery::Gap`] tells of something that no server can supply.
///
/// A consumer that does not take deliveries is waited for: what is published meanwhile is read back from history when
/// it goes on. So a subscription takes a bounded amount of memory, whatever is published.
///
/// It ends with `None` when the client has ended. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    /// Keeps the client's task alive.
    client: Client,
    batches: mpsc::UnboundedReceiver<Vec<Item>>,
    ready: VecDeque<Item>,
    point: ResumePoint,
    /// Deliveries taken of which the session was not told yet.
    untold: usize,
    tell_after: usize,
    consumer: Arc<Consumer>,
    gapless: bool,
}

/// What a subscription yields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Something is missing, and no server could supply it in time.
    Gap {
        /// Where.
        topic: Feed,
        /// The last of the missing events; `None` where servers of the family cannot repeat what they sent.
        missing: Option<EventId>,
        /// Where to resume to go on behind it.
        position: ResumePoint,
    },
    /// Messages that the publish side had lost were read back, and were delivered just before.
    Recovered {
        /// Where.
        topic: Feed,
        /// How many.
        messages: u64,
    },
    /// The connection to the proxy was lost and is back. What was missed meanwhile follows.
    Reconnected,
    /// In [`Order::Stable`]: messages wait and do not become final, because a voter is away. Told once; they follow when
    /// it is back.
    Stalled {
        /// Where.
        topic: Feed,
        /// Up to this logical time everything is final.
        stable: Clock,
    },
}

/// A message that was delivered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// Where it was published: the channel, or the user's own inbox.
    pub topic: Feed,
    /// All that is known of it.
    pub publication: Publication,
    /// Where to resume to receive everything after it: what a program stores together with what it made of the
    /// message, so that it sees each exactly once even over its own crashes.
    pub position: ResumePoint,
}

/// What goes from the session to a subscription: a delivery, a step of its position, or both.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) delivery: Option<session::Delivery>,
    pub(super) step: Option<Step>,
}

/// What goes from a subscription to the session, without waiting.
#[derive(Debug)]
pub(super) struct Consumer {
    /// Deliveries taken since the session last looked.
    pub(super) taken: AtomicUsize,
    pub(super) gone: AtomicBool,
    /// Wakes the client's task.
    pub(super) wake: Arc<Notify>,
}

/// What the client's task hands over when a subscription is established.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) batches: mpsc::UnboundedReceiver<Vec<Item>>,
    pub(super) consumer: Arc<Consumer>,
    pub(super) window: usize,
    pub(super) gapless: bool,
}

impl Message {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.publication.body.text()
    }

    /// Who wrote it.
    #[must_use]
    pub fn author(&self) -> &str {
        self.publication.body.author()
    }

    /// Reads a value that was published by [`Channel::publish_as`](super::Channel::publish_as).
    ///
    /// # Errors
    /// The text is no such value.
    pub fn parse<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }
}

impl Subscribe {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            feeds: Ok(Vec::new()),
            cursor: Cursor::default(),
            order: Order::default(),
            options: CallOptions::default(),
        }
    }

    /// Follows these channels too.
    pub fn and<T: AsRef<str>>(mut self, channels: impl IntoIterator<Item = T>) -> Self {
        let named = channels.into_iter().map(|name| ChannelName::new(name.as_ref()).map(Feed::Channel));
        let named: Result<Vec<Feed>, NameError> = named.collect();
        self.feeds = self.feeds.and_then(|mut feeds| {
            feeds.extend(named.map_err(SubscribeError::Name)?);
            Ok(feeds)
        });
        self
    }

    /// Follows the user's private messages too.
    pub fn and_inbox(mut self) -> Self {
        let user = self.client.user().cloned().ok_or(SubscribeError::NoUser);
        self.feeds = self.feeds.and_then(|mut feeds| {
            feeds.push(Feed::Inbox(user?));
            Ok(feeds)
        });
        self
    }

    /// From where; from now on if not told.
    pub fn from(mut self, cursor: Cursor) -> Self {
        self.cursor = cursor;
        self
    }

    /// In which order; as they arrive if not told.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// How long it may take until it is established.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    async fn run(self) -> Result<Subscription, SubscribeError> {
        let feeds = self.feeds?;
        let point = match &self.cursor {
            Cursor::Last => ResumePoint::default(),
            Cursor::Beginning => ResumePoint::beginning(&feeds),
            Cursor::At(point) => point.restricted(&feeds),
        };
        let (answer, established) = oneshot::channel();
        let command = Command::Subscribe { feeds, cursor: self.cursor, order: self.order };
        let ask = Ask::Subscribe { command, options: self.options, answer };
        self.client.asks.send(ask).await.map_err(|_| SubscribeError::Closed)?;
        let established = established.await.map_err(|_| SubscribeError::Closed)?.map_err(SubscribeError::Failed)?;
        Ok(Subscription {
            client: self.client,
            batches: established.batches,
            ready: VecDeque::new(),
            point,
            untold: 0,
            tell_after: (established.window / 4).max(1),
            consumer: established.consumer,
            gapless: established.gapless,
        })
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pending<Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Pending::new(self.run())
    }
}

impl Subscription {
    /// The next delivery; `None` when the client has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// Where to resume to receive everything after the last delivery.
    #[must_use]
    pub fn position(&self) -> ResumePoint {
        self.point.clone()
    }

    /// Whether losses are noticed and repaired; not so where the servers have no history.
    #[must_use]
    pub fn is_gapless(&self) -> bool {
        self.gapless
    }

    /// The client it belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            while let Some(item) = self.ready.pop_front() {
                if item.step.is_some() {
                    self.point.take();
                }
                if let Some(delivery) = item.delivery {
                    self.untold += 1;
                    if self.untold >= self.tell_after {
                        self.tell();
                    }
                    return Poll::Ready(Some(self.hand_out(delivery)));
                }
            }
            self.tell();
            let Some(batch) = ready!(self.batches.poll_recv(cx)) else { return Poll::Ready(None) };
            let steps: Arc<[Step]> = batch.iter().filter_map(|item| item.step.clone()).collect();
            self.point.prepare(steps);
            self.ready = batch.into();
        }
    }

    fn hand_out(&self, delivery: session::Delivery) -> Delivery {
        let position = || self.point.clone();
        match delivery {
            session::Delivery::Message { feed, publication } => {
                Delivery::Message(Message { topic: feed, publication: *publication, position: position() })
            }
            session::Delivery::Gap { feed, missing } => Delivery::Gap { topic: feed, missing, position: position() },
            session::Delivery::Recovered { feed, messages } => Delivery::Recovered { topic: feed, messages },
            session::Delivery::Stalled { feed, stable } => Delivery::Stalled { topic: feed, stable },
            _ => Delivery::Reconnected,
        }
    }

    /// Tells the session how many deliveries were taken.
    fn tell(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        if untold > 0 {
            self.consumer.taken.fetch_add(untold, Ordering::AcqRel);
            self.consumer.wake.notify_one();
        }
    }
}

impl Stream for Subscription {
    type Item = Delivery;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll_delivery(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.consumer.gone.store(true, Ordering::Release);
        self.consumer.wake.notify_one();
    }
}
