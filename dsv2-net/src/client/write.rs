//! One write, with what it may be told, and what it becomes.

use std::future::IntoFuture;
use std::time::Duration;

use dsv2_core::{Clock, Code, EventId, Failure, IdempotencyKey, Level, MessageId};
use dsv2_sync::session::{Answer, CallOptions, Command, Written};

use super::{Client, Pending, WriteError};

/// A write that is made when it is awaited.
///
/// ```
/// # #[cfg(feature = "cluster")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = dsv2_net::cluster::Cluster::in_memory().await?;
/// # let client = dsv2_net::client::Client::builder(cluster.endpoints().clients.to_string());
/// # let client = client.user("ana").connect().await?;
/// # client.channel("orders").create().await?;
/// use dsv2_net::client::{IdempotencyKey, Level};
/// let key = IdempotencyKey::new("order-7")?;
/// let write = client.channel("orders").publish("seven").with_key(key).level(Level::All);
/// let receipt = write.clone().timeout(std::time::Duration::from_secs(5)).await?;
/// assert_eq!((receipt.level, receipt.event), (Some(Level::All), write.await?.event));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "cluster"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is written before it is awaited"]
pub struct Write {
    client: Client,
    command: Result<Command, WriteError>,
    options: CallOptions,
}

/// What an acknowledged write became. Servers of the family tell nothing of it: then only the clock is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's identity.
    pub id: Option<MessageId>,
    /// The event that holds it.
    pub event: Option<EventId>,
    /// How safe it is: what was asked for, or more.
    pub level: Option<Level>,
    /// The server's logical clock when it answered.
    pub clock: Option<Clock>,
}

impl Write {
    pub(super) fn new(client: Client, command: Result<Command, WriteError>) -> Self {
        Self { client, command, options: CallOptions::default() }
    }

    /// The program's own identity for this write: the same write under the same key happens once, even if the program
    /// was restarted in between. It counts for one user and one channel or receiver. Without a key every call of this
    /// SDK has an identity of its own, which its own repetitions keep.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.options.key = Some(key);
        self
    }

    /// How safe it must be before it is acknowledged; else as the client was built, or the server's default.
    pub fn level(mut self, level: Level) -> Self {
        self.options.level = Some(level);
        self
    }

    /// How long it may take, from the moment at which it leaves the client's queue. Then it is *unknown*, or *rejected*
    /// if it could not be sent at all.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    async fn run(self) -> Result<Receipt, WriteError> {
        let command = self.command?;
        check_size(&command, &self.client)?;
        let created = match &command {
            Command::CreateChannel { channel } => Some(channel.clone()),
            _ => None,
        };
        match (self.client.call(command, self.options).await.map_err(WriteError::from), created) {
            (Ok(Answer::Written(written)), _) => Ok(Receipt::of(written)),
            (Ok(_), _) => {
                Err(WriteError::Unknown(Failure::unknown(Code::Malformed, "the answer is for another question")))
            }
            // Some servers of the family refuse to create what exists, in words of their own.
            (Err(refused), Some(channel)) if refused.code() == Some(Code::Other) => {
                let exists =
                    self.client.channels().await.is_ok_and(|names| names.iter().any(|name| name == channel.as_str()));
                if exists { Ok(Receipt { id: None, event: None, level: None, clock: None }) } else { Err(refused) }
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl IntoFuture for Write {
    type Output = Result<Receipt, WriteError>;
    type IntoFuture = Pending<Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Pending::new(self.run())
    }
}

impl Receipt {
    pub(super) fn of(written: Written) -> Self {
        let (id, event, level) = match written.receipt {
            Some(receipt) => (Some(receipt.id), Some(receipt.event), Some(receipt.level)),
            None => (None, None, None),
        };
        Self { id, event, level, clock: written.clock }
    }
}

/// A text that no server takes is not sent.
pub(super) fn check_size(command: &Command, client: &Client) -> Result<(), WriteError> {
    let (Command::Publish { message: text, .. } | Command::Message { message: text, .. }) = command else {
        return Ok(());
    };
    let cap = client.about.message_cap_bytes;
    if text.len() > cap { Err(WriteError::TooLarge(text.len(), cap)) } else { Ok(()) }
}
