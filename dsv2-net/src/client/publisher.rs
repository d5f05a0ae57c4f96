//! Many publications in a row.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dsv2_core::{ChannelName, Failure, Level, Outcome};
use dsv2_sync::session::{Answer, CallOptions, Command};
use tokio::sync::Notify;

use super::driver::{Answerer, Ask};
use super::write::check_size;
use super::{Client, WriteError};

/// Publishes in one channel without waiting for each acknowledgement.
///
/// Publications leave in the order of the calls. [`Publisher::send`] waits while too many are in flight, so a fast
/// program is slowed down to what the servers take.
///
/// ```
/// # #[cfg(feature = "cluster")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = dsv2_net::cluster::Cluster::in_memory().await?;
/// # let client = dsv2_net::client::Client::builder(cluster.endpoints().clients.to_string());
/// # let client = client.user("ana").connect().await?;
/// # client.channel("dev").create().await?;
/// let mut publisher = client.channel("dev").publisher()?;
/// for n in 0..1_000 {
///     publisher.send(format!("message {n}")).await?;
/// }
/// assert_eq!(publisher.flush().await?, 1_000);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "cluster"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    channel: ChannelName,
    level: Option<Level>,
    tally: Arc<Tally>,
    sent: u64,
}

/// What became of a publisher's messages.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
    first: Mutex<Option<Failure>>,
    /// Somebody waits for this many to be answered.
    awaited: AtomicU64,
    reached: Notify,
}

/// Some publications were not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rejected} publications were rejected, {unknown} may have happened, {acknowledged} are acknowledged: {first}")]
#[non_exhaustive]
pub struct FlushError {
    /// How many are acknowledged.
    pub acknowledged: u64,
    /// How many surely did not happen.
    pub rejected: u64,
    /// How many may have happened.
    pub unknown: u64,
    /// The first failure.
    pub first: WriteError,
}

impl Publisher {
    pub(super) fn new(client: Client, channel: ChannelName) -> Self {
        Self { client, channel, level: None, tally: Arc::default(), sent: 0 }
    }

    /// How safe its publications must be before they are acknowledged.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// Queues a publication, as soon as there is room.
    ///
    /// Cancel-safe: if it is dropped before it is ready, nothing was queued.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`] and [`WriteError::Closed`]; nothing was queued. What becomes of it later,
    /// [`Publisher::flush`] tells.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), WriteError> {
        let command = Command::Publish { channel: self.channel.clone(), message: text.into() };
        check_size(&command, &self.client)?;
        let options = CallOptions { level: self.level, ..CallOptions::default() };
        let permit = self.client.asks.reserve().await.map_err(|_| WriteError::Closed)?;
        let answerer = Answerer::Tally(Pledge(Some(Arc::clone(&self.tally))));
        permit.send(Ask::Call { command, options, answerer });
        self.sent += 1;
        Ok(())
    }

    /// Waits until all that was sent is answered. Yields how many were acknowledged since the last flush.
    ///
    /// Cancel-safe: a later flush goes on where it was.
    ///
    /// # Errors
    /// [`FlushError`] where not all were acknowledged.
    pub async fn flush(&mut self) -> Result<u64, FlushError> {
        self.tally.answered(self.sent).await;
        self.sent = 0;
        let acknowledged = self.tally.acknowledged.swap(0, Ordering::Relaxed);
        let rejected = self.tally.rejected.swap(0, Ordering::Relaxed);
        let unknown = self.tally.unknown.swap(0, Ordering::Relaxed);
        match self.tally.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(acknowledged),
            Some(first) => Err(FlushError { acknowledged, rejected, unknown, first: WriteError::of(first) }),
        }
    }
}

impl Tally {
    fn total(&self) -> u64 {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        count(&self.acknowledged) + count(&self.rejected) + count(&self.unknown)
    }

    async fn answered(&self, count: u64) {
        loop {
            let reached = self.reached.notified();
            self.awaited.store(count, Ordering::SeqCst);
            if self.total() >= count {
                self.awaited.store(0, Ordering::SeqCst);
                return;
            }
            reached.await;
        }
    }

    fn note(&self, result: Result<Answer, Failure>) {
        let counter = match result {
            Ok(_) => &self.acknowledged,
            Err(failure) => {
                let unknown = failure.outcome == Outcome::Unknown;
                self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                if unknown { &self.unknown } else { &self.rejected }
            }
        };
        counter.fetch_add(1, Ordering::SeqCst);
        let awaited = self.awaited.load(Ordering::SeqCst);
        if awaited > 0 && self.total() >= awaited {
            self.reached.notify_one();
        }
    }
}

/// One publication that will be counted, whatever happens to it.
#[derive(Debug)]
pub(super) struct Pledge(Option<Arc<Tally>>);

impl Pledge {
    pub(super) fn keep(mut self, result: Result<Answer, Failure>) {
        if let Some(tally) = self.0.take() {
            tally.note(result);
        }
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        if let Some(tally) = self.0.take() {
            let text = "the client ended before the answer came";
            tally.note(Err(Failure::unknown(dsv2_core::Code::NotReady, text)));
        }
    }
}
