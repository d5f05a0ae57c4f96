//! Subscribers of a load: what each receives, and when.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dsv2_core::ChannelName;
use dsv2_net::client::{Client, Cursor, Delivery};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::load::{Plan, Recorder};
use super::report::Deliveries;
use crate::error::Error;
use crate::latency::Latency;

/// What of a text is its own: `run due`, both as sixteen hexadecimal digits.
const MARK_BYTES: usize = 33;
/// What fills the rest, again and again.
const FILLING: &str = "................";

/// A text that tells whose it is and when it was due, exactly so long.
pub(super) fn text(run: u64, base: Instant, due: Instant, size_bytes: u32) -> String {
    let due_us = u64::try_from((due - base).as_micros()).unwrap_or(u64::MAX);
    let mut text = String::with_capacity(size_bytes as usize);
    // A string takes every write.
    let _written = write!(text, "{run:016x} {due_us:016x}").is_ok();
    while text.len() < size_bytes as usize {
        let rest = (size_bytes as usize - text.len()).min(FILLING.len());
        text.push_str(&FILLING[..rest]);
    }
    text
}

/// When it was due, if it is of this run.
fn due(text: &str, run: u64, base: Instant) -> Option<Instant> {
    let mark = text.get(..MARK_BYTES)?;
    let (whose, due_us) = mark.split_once(' ')?;
    let is_ours = u64::from_str_radix(whose, 16) == Ok(run);
    let due_us = u64::from_str_radix(due_us, 16).ok().filter(|_| is_ours)?;
    base.checked_add(Duration::from_micros(due_us))
}

/// Subscribers of one channel.
#[derive(Debug)]
pub(super) struct Subscribers {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
    count: u32,
    /// What the times in texts count from: when all had subscribed.
    pub(super) base: Instant,
    measured_from: Instant,
}

#[derive(Debug)]
struct Shared {
    recorder: Recorder,
    measured: AtomicU64,
    /// Deliveries of all subscribers, the warm-up included.
    received: AtomicU64,
    gaps: AtomicU64,
    recovered: AtomicU64,
    arrived: Notify,
}

impl Subscribers {
    /// Subscribes all clients. What they receive is measured after the warm-up, from now on.
    ///
    /// # Errors
    /// The first that could not.
    pub(super) async fn start(clients: &[Client], channel: &ChannelName, run: u64, plan: &Plan) -> Result<Self, Error> {
        let mut subscriptions = Vec::new();
        for client in clients {
            subscriptions.push(client.subscribe([channel]).from(Cursor::Last).await?);
        }
        let base = Instant::now();
        let measured_from = base + plan.warm_up;
        let shared = Arc::new(Shared {
            recorder: Recorder::new(plan, measured_from)?,
            measured: AtomicU64::new(0),
            received: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            arrived: Notify::new(),
        });
        let (mut tasks, count) = (JoinSet::new(), clients.len() as u32);
        for (who, mut subscription) in subscriptions.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                while let Some(delivery) = subscription.next().await {
                    shared.take(who, &delivery, run, base);
                }
            });
        }
        Ok(Self { tasks, shared, count, base, measured_from })
    }

    /// Waits until each has received that many, or nothing came for so long.
    pub(super) async fn end(mut self, acknowledged: u64, quiet: Duration) -> Result<Deliveries, Error> {
        let expected = acknowledged * u64::from(self.count);
        let mut last = Instant::now();
        loop {
            let arrived = self.shared.arrived.notified();
            if self.shared.received.load(Ordering::Acquire) >= expected {
                break;
            }
            match tokio::time::timeout(quiet, arrived).await {
                Ok(()) => last = Instant::now(),
                Err(_) => break,
            }
        }
        self.tasks.shutdown().await;
        let shared = &self.shared;
        let deliveries = shared.measured.load(Ordering::Relaxed);
        let seconds = (last - self.measured_from).as_secs_f64().max(0.001);
        Ok(Deliveries {
            subscribers: self.count,
            deliveries,
            per_second: deliveries as f64 / seconds,
            missing: expected.saturating_sub(shared.received.load(Ordering::Relaxed)),
            gaps: shared.gaps.load(Ordering::Relaxed),
            recovered: shared.recovered.load(Ordering::Relaxed),
            latency_us: Latency::of(&shared.recorder.total()?),
        })
    }
}

impl Shared {
    fn take(&self, who: usize, delivery: &Delivery, run: u64, base: Instant) {
        match delivery {
            Delivery::Message(message) => {
                let Some(due) = due(message.text(), run, base) else { return };
                if self.recorder.record(who, due) {
                    self.measured.fetch_add(1, Ordering::Relaxed);
                }
                self.received.fetch_add(1, Ordering::Release);
                self.arrived.notify_waiters();
            }
            Delivery::Gap { .. } => drop(self.gaps.fetch_add(1, Ordering::Relaxed)),
            Delivery::Recovered { messages, .. } => drop(self.recovered.fetch_add(*messages, Ordering::Relaxed)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_tells_when_it_was_due() {
        let base = Instant::now();
        let at = base + Duration::from_micros(1_234_567);
        let text = text(7, base, at, 128);
        assert_eq!(text.len(), 128);
        assert_eq!(due(&text, 7, base), Some(at));
        for foreign in ["", "oi", &text.replacen('7', "8", 1), &text[..20]] {
            assert_eq!(due(foreign, 7, base), None, "{foreign}");
        }
    }
}
