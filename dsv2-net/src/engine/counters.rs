use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What happened at one socket since it was made. Each value is exact; values read one after the other may be of
/// slightly different moments.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted or opened, handshakes that failed later included.
    pub connections_opened: Counter,
    /// Handshakes that succeeded.
    pub handshakes: Counter,
    /// Established connections that ended.
    pub connections_closed: Counter,
    /// Refused at once: `connection_cap` reached.
    pub refused_capacity: Counter,
    /// Evicted from the handshake by newer connections: `pending_cap` reached.
    pub refused_pending: Counter,
    /// Handshakes that missed their deadline.
    pub refused_timeout: Counter,
    /// Handshakes with bytes that are not ZMTP 3, a wrong version or mechanism, or a limit broken.
    pub refused_protocol: Counter,
    /// Handshakes of a socket type that does not fit ours.
    pub refused_incompatible: Counter,
    /// Handshakes cut by the peer or the network.
    pub refused_io: Counter,
    /// Accepts that failed (out of descriptors, for example), each followed by a pause.
    pub accept_errors: Counter,
    /// Messages received.
    pub messages_in: Counter,
    /// Bytes received, headers and commands included.
    pub bytes_in: Counter,
    /// Messages written to the system whole.
    pub messages_out: Counter,
    /// Bytes written to the system.
    pub bytes_out: Counter,
    /// Write calls to the system.
    pub writes: Counter,
    /// Read calls that brought something.
    pub reads: Counter,
    /// Messages refused because an output queue was full. What becomes of them is the caller's policy.
    pub messages_refused: Counter,
    /// Messages that were queued and not written when their connection ended.
    pub messages_unsent: Counter,
    /// Established connections closed because the peer broke the protocol or a limit.
    pub protocol_errors: Counter,
    /// Established connections closed for silence (PING unanswered, TTL passed).
    pub heartbeat_timeouts: Counter,
    /// Established connections closed because the peer took nothing, or left a message half sent.
    pub stalls: Counter,
    /// Established connections closed because incomplete messages took all the memory granted.
    pub memory_exhausted: Counter,
    /// PINGs left unanswered because the peer reads nothing.
    pub pongs_dropped: Counter,
}

impl Counters {
    /// Every counter with its name, for logs and metrics.
    #[must_use]
    pub fn entries(&self) -> [(&'static str, u64); 23] {
        [
            ("connections_opened", self.connections_opened.get()),
            ("handshakes", self.handshakes.get()),
            ("connections_closed", self.connections_closed.get()),
            ("refused_capacity", self.refused_capacity.get()),
            ("refused_pending", self.refused_pending.get()),
            ("refused_timeout", self.refused_timeout.get()),
            ("refused_protocol", self.refused_protocol.get()),
            ("refused_incompatible", self.refused_incompatible.get()),
            ("refused_io", self.refused_io.get()),
            ("accept_errors", self.accept_errors.get()),
            ("messages_in", self.messages_in.get()),
            ("bytes_in", self.bytes_in.get()),
            ("messages_out", self.messages_out.get()),
            ("bytes_out", self.bytes_out.get()),
            ("writes", self.writes.get()),
            ("reads", self.reads.get()),
            ("messages_refused", self.messages_refused.get()),
            ("messages_unsent", self.messages_unsent.get()),
            ("protocol_errors", self.protocol_errors.get()),
            ("heartbeat_timeouts", self.heartbeat_timeouts.get()),
            ("stalls", self.stalls.get()),
            ("memory_exhausted", self.memory_exhausted.get()),
            ("pongs_dropped", self.pongs_dropped.get()),
        ]
    }
}

/// A socket's numbers at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStats {
    /// Every counter with its name: [`Counters::entries`].
    pub counters: [(&'static str, u64); 23],
    /// Bytes queued for all peers.
    pub queued_bytes: usize,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of bytes that several queues draw from. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<BudgetInner>);

#[derive(Debug)]
struct BudgetInner {
    cap_bytes: usize,
    used: AtomicUsize,
    /// Somebody waits for `room`.
    awaited: AtomicBool,
    room: Notify,
}

impl Budget {
    /// A budget of `cap_bytes`.
    #[must_use]
    pub fn new(cap_bytes: usize) -> Self {
        Self(Arc::new(BudgetInner {
            cap_bytes,
            used: AtomicUsize::new(0),
            awaited: AtomicBool::new(false),
            room: Notify::new(),
        }))
    }

    /// Bytes drawn.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.0.used.load(Ordering::SeqCst)
    }

    /// Whether an eighth of the budget is free.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used_bytes() <= self.0.cap_bytes - self.0.cap_bytes / 8
    }

    /// Draws `bytes`; `false`, and nothing drawn, if they are not there.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> bool {
        let used = self.0.used.fetch_add(bytes, Ordering::SeqCst);
        let fits = used.checked_add(bytes).is_some_and(|total| total <= self.0.cap_bytes);
        if !fits {
            self.release(bytes);
        }
        fits
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::SeqCst);
        if self.0.awaited.load(Ordering::SeqCst) && self.has_room() {
            self.0.awaited.store(false, Ordering::SeqCst);
            self.0.room.notify_waiters();
        }
    }

    /// Waits until there is room. Cancel-safe.
    pub async fn room(&self) {
        loop {
            let mut room = std::pin::pin!(self.0.room.notified());
            room.as_mut().enable();
            // Sequentially consistent with `release`: either it sees the mark, or the look below sees the room.
            self.0.awaited.store(true, Ordering::SeqCst);
            if self.has_room() {
                return;
            }
            room.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_overdrawn() {
        let budget = Budget::new(10);
        assert!(budget.try_reserve(6));
        assert!(!budget.try_reserve(5));
        assert_eq!(budget.used_bytes(), 6);
        budget.release(6);
        assert!(budget.try_reserve(10));
    }
}
