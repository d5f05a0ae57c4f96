use super::hub::Tally;

/// Counters of a [`Proxy`](super::Proxy) since it was bound, and its present size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ProxyStats {
    /// Publishers connected now.
    pub publishers: usize,
    /// Subscribers connected now.
    pub subscribers: usize,
    /// Distinct topics subscribed to now.
    pub topics: usize,
    /// (subscriber, topic) pairs now.
    pub subscriptions: usize,
    /// Bytes queued for subscribers now.
    pub queued_bytes: usize,
    /// Messages received from publishers.
    pub messages_in: u64,
    /// Messages queued for subscribers, each subscriber counted.
    pub deliveries: u64,
    /// Messages that nobody had subscribed to.
    pub unmatched: u64,
    /// Messages not queued because a subscriber was slow, each subscriber counted.
    pub dropped: u64,
    /// Subscribers disconnected for slowness by [`SlowPolicy::Disconnect`](super::SlowPolicy::Disconnect).
    pub disconnected_slow: u64,
    /// Subscribers disconnected because all queues together were full and theirs was the longest.
    pub disconnected_largest: u64,
    /// Publishers disconnected because they did not take subscriptions.
    pub disconnected_publishers: u64,
    /// Subscriptions refused at a bound of the table.
    pub subscriptions_refused: u64,
    /// Messages of subscribers that are no subscriptions: ignored.
    pub ignored: u64,
}

impl ProxyStats {
    pub(super) fn with_tally(self, tally: &Tally) -> Self {
        Self {
            deliveries: tally.deliveries,
            unmatched: tally.unmatched,
            dropped: tally.dropped,
            disconnected_slow: tally.disconnected_slow,
            disconnected_largest: tally.disconnected_largest,
            disconnected_publishers: tally.disconnected_publishers,
            subscriptions_refused: tally.subscriptions_refused,
            ignored: tally.ignored,
            ..self
        }
    }
}
