//! Reading back: what was published, and what was said in private.

use std::future::IntoFuture;

use dsv2_core::{
    ChannelName, Clock, HistoryQuery, HistorySpan, NameError, OrderKey, Position, Publication, Subject, UserName,
};
use dsv2_sync::session::{Answer, CallOptions, Command};

use super::{Client, Pending, ReadError};

/// A question to the servers' history, asked when it is awaited: the newest messages, unless told otherwise.
///
/// ```
/// # #[cfg(feature = "cluster")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = dsv2_net::cluster::Cluster::in_memory().await?;
/// # let client = dsv2_net::client::Client::builder(cluster.endpoints().clients.to_string());
/// # let client = client.user("ana").connect().await?;
/// # client.channel("dev").create().await?;
/// # let mut publisher = client.channel("dev").publisher()?;
/// # for n in 0..30 {
/// #     publisher.send(n.to_string()).await?;
/// # }
/// # publisher.flush().await?;
/// let newest = client.channel("dev").history().limit(20).await?;
/// assert!(newest.more && newest.messages.len() == 20);
/// if let Some(key) = newest.oldest() {
///     let older = client.channel("dev").history().before(key).limit(20).await?;
///     assert_eq!(older.messages.len(), 10);
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "cluster"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is asked before it is awaited"]
pub struct History {
    client: Client,
    subject: Result<Subject, ReadError>,
    span: HistorySpan,
    limit: u64,
}

/// A part of a history.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The messages, oldest first, in the order that is the same on every server.
    pub messages: Vec<Publication>,
    /// Whether there are more in the direction that was asked for.
    pub more: bool,
    /// Where to go on forwards, by [`History::after`].
    pub next: Position,
    /// Nothing will ever be inserted before this logical time; absent where the cluster has no voters.
    pub stable: Option<Clock>,
}

impl Page {
    /// Where to go on backwards, by [`History::before`].
    #[must_use]
    pub fn oldest(&self) -> Option<OrderKey> {
        self.messages.first().and_then(Publication::key)
    }
}

impl History {
    pub(super) fn of_channel(client: Client, name: Result<ChannelName, NameError>) -> Self {
        let subject = name.map(Subject::Channel).map_err(ReadError::Name);
        Self::new(client, subject)
    }

    pub(super) fn of_inbox(client: Client) -> Self {
        let subject = client.user().cloned().map(Subject::Inbox).ok_or(ReadError::NoUser);
        Self::new(client, subject)
    }

    pub(super) fn of_conversation(client: Client, with: &str) -> Self {
        let user = client.user().cloned().ok_or(ReadError::NoUser);
        let subject = user.and_then(|user| {
            let with = UserName::new(with).map_err(ReadError::Name)?;
            Ok(Subject::Conversation { user, with })
        });
        Self::new(client, subject)
    }

    fn new(client: Client, subject: Result<Subject, ReadError>) -> Self {
        Self { client, subject, span: HistorySpan::Before(None), limit: 100 }
    }

    /// The newest messages before that one, backwards.
    pub fn before(mut self, key: OrderKey) -> Self {
        self.span = HistorySpan::Before(Some(key));
        self
    }

    /// The messages that the position does not mean, forwards. The empty position means none.
    pub fn after(mut self, position: Position) -> Self {
        self.span = HistorySpan::After(position);
        self
    }

    /// How many at most; 100 if not told, and a server gives no more than 1,000.
    pub fn limit(mut self, messages: u64) -> Self {
        self.limit = messages;
        self
    }

    async fn run(self) -> Result<Page, ReadError> {
        let query = HistoryQuery { subject: self.subject?, span: self.span, limit: self.limit };
        match self.client.call(Command::History(query), CallOptions::default()).await? {
            Answer::History(page) => {
                Ok(Page { messages: page.events, more: page.more, next: page.next, stable: page.stable })
            }
            _ => Err(ReadError::unexpected()),
        }
    }
}

impl IntoFuture for History {
    type Output = Result<Page, ReadError>;
    type IntoFuture = Pending<Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Pending::new(self.run())
    }
}
