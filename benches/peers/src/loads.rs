//! The loads that every system is put under, the same for all.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::Result;
use crate::systems::{Publisher, Requester, Running};

/// A tenth of the time that is measured warms up, but at least so long.
const WARM_UP_LEAST: Duration = Duration::from_millis(500);
/// Nothing arrives for so long: something was lost, and there is no figure.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages published and not yet received by the slowest subscriber.
const LEAD: usize = 1_000;
/// Publications under way in a fan-out.
const FAN_OUT_IN_FLIGHT: usize = 100;
/// Between two looks at whether a system has nothing to do, and how long that may take.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// However many messages are stored first.
const FILLED_WITHIN: Duration = Duration::from_secs(900);
const HISTOGRAMS: usize = 16;
const PROBE: &[u8] = b"probe";

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Messages, deliveries or requests a second.
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor seconds of the system's processes, per million.
    pub(crate) cpu_seconds_per_million: f64,
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

/// What has ended within the time that is measured.
#[derive(Debug)]
struct Meter {
    from: Instant,
    to: Instant,
    counted: AtomicU64,
    /// Several, so that those who record do not wait for each other.
    latency_us: Vec<Mutex<Histogram<u64>>>,
}

impl Meter {
    fn start(measure: Duration) -> Result<Arc<Self>> {
        let from = Instant::now() + WARM_UP_LEAST.max(measure / 10);
        let latency_us = (0..HISTOGRAMS).map(|_| histogram().map(Mutex::new)).collect::<Result<_>>()?;
        Ok(Arc::new(Self { from, to: from + measure, counted: AtomicU64::new(0), latency_us }))
    }

    fn record(&self, who: usize, begun: Instant) {
        let now = Instant::now();
        if now >= self.from && now < self.to {
            self.counted.fetch_add(1, Ordering::Relaxed);
            let us = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
            let histogram = &self.latency_us[who % HISTOGRAMS];
            histogram.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us);
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.to
    }

    /// The processor time that the system takes within the time that is measured.
    async fn cpu_seconds(&self, system: &dyn Running) -> f64 {
        tokio::time::sleep_until(self.from.into()).await;
        let before = system.cpu_seconds();
        tokio::time::sleep_until(self.to.into()).await;
        system.cpu_seconds() - before
    }

    fn sample(&self, cpu_seconds: f64) -> Result<Sample> {
        let counted = self.counted.load(Ordering::Relaxed);
        if counted == 0 {
            return Err("nothing was answered in the time that is measured".into());
        }
        let mut latency = histogram()?;
        for part in &self.latency_us {
            latency.add(&*part.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(Sample {
            per_second: counted as f64 / (self.to - self.from).as_secs_f64(),
            p50_us: latency.value_at_quantile(0.5) as f64,
            p99_us: latency.value_at_quantile(0.99) as f64,
            cpu_seconds_per_million: cpu_seconds * 1e6 / counted as f64,
        })
    }
}

/// Everybody does the same again as soon as the last is answered.
async fn closed_loop<F, W>(system: &dyn Running, workers: Vec<F>, measure: Duration) -> Result<Sample>
where
    F: Fn() -> W + Send + 'static,
    W: Future<Output = Result<()>> + Send,
{
    let meter = Meter::start(measure)?;
    let mut tasks = JoinSet::new();
    for (who, work) in workers.into_iter().enumerate() {
        let meter = Arc::clone(&meter);
        tasks.spawn(async move {
            while !meter.is_over() {
                let begun = Instant::now();
                work().await?;
                meter.record(who, begun);
            }
            Result::Ok(())
        });
    }
    let cpu_seconds = meter.cpu_seconds(system).await;
    while let Some(ended) = tokio::time::timeout(PATIENCE, tasks.join_next()).await? {
        ended??;
    }
    meter.sample(cpu_seconds)
}

/// Durable publications, so many in flight on each of the connections.
pub(crate) async fn publish(
    system: &dyn Running,
    connections: usize,
    in_flight: usize,
    bytes: usize,
    measure: Duration,
) -> Result<Sample> {
    let mut workers = Vec::new();
    let payload = Bytes::from(vec![b'x'; bytes]);
    for _ in 0..connections {
        let publisher = system.publisher().await?;
        for _ in 0..in_flight {
            let (publisher, payload): (Arc<dyn Publisher>, _) = (Arc::clone(&publisher), payload.clone());
            workers.push(move || {
                let (publisher, payload) = (Arc::clone(&publisher), payload.clone());
                async move { publisher.publish(payload).await }
            });
        }
    }
    closed_loop(system, workers, measure).await
}

/// Stores so many messages, each acknowledged.
pub(crate) async fn fill(
    system: &dyn Running,
    connections: usize,
    in_flight: usize,
    messages: usize,
    bytes: usize,
) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let publisher = system.publisher().await?;
        for _ in 0..in_flight.min(messages) {
            let (publisher, next): (Arc<dyn Publisher>, _) = (Arc::clone(&publisher), Arc::clone(&next));
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= messages as u64 {
                        return Result::Ok(());
                    }
                    publisher.publish(text(number, bytes)).await?;
                }
            });
        }
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Result::Ok(())
    };
    tokio::time::timeout(FILLED_WITHIN, all).await?
}

/// Letters without a pattern, another text for each number: what packs its files gains no more by them than by prose.
fn text(number: u64, bytes: usize) -> Bytes {
    // Xorshift of 64 bits (Marsaglia, 2003), begun elsewhere by each number.
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"abcdefghijklmnopqrstuvwxyz "[((state >> 32) % 27) as usize]
    };
    (0..bytes).map(|_| letter()).collect::<Vec<_>>().into()
}

/// Waits until a system has nothing to do: what it does behind its answers takes processor, memory and disk meanwhile.
pub(crate) async fn settle(system: &dyn Running) {
    let begun = Instant::now();
    let mut quiet = 0;
    while quiet < 3 && begun.elapsed() < SETTLED_WITHIN {
        let before = system.cpu_seconds();
        tokio::time::sleep(LOOK_EVERY).await;
        let is_quiet = system.cpu_seconds() - before < LOOK_EVERY.as_secs_f64() * 0.05;
        quiet = if is_quiet { quiet + 1 } else { 0 };
    }
}

/// Requests, so many outstanding on one connection.
pub(crate) async fn request(system: &dyn Running, outstanding: usize, measure: Duration) -> Result<Sample> {
    let requester: Arc<dyn Requester> = system.requester().await?;
    let workers = (0..outstanding).map(|_| {
        let requester = Arc::clone(&requester);
        move || {
            let requester = Arc::clone(&requester);
            async move { requester.request().await }
        }
    });
    closed_loop(system, workers.collect(), measure).await
}

/// What arrives at the subscribers of a fan-out.
#[derive(Debug)]
pub(crate) struct Arrivals {
    base: Instant,
    meter: OnceLock<Arc<Meter>>,
    /// By subscriber: whether a probe came.
    probed: Vec<AtomicBool>,
    /// By subscriber, the warm-up included, without probes.
    received: Vec<AtomicU64>,
    /// Tells the one who looks how far the slowest is.
    arrived: Notify,
}

impl Arrivals {
    fn new(subscribers: usize) -> Arc<Self> {
        let probed = (0..subscribers).map(|_| AtomicBool::new(false)).collect();
        let received = (0..subscribers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { base: Instant::now(), meter: OnceLock::new(), probed, received, arrived: Notify::new() })
    }

    /// A message came to the subscriber of that number.
    pub(crate) fn take(&self, subscriber: usize, payload: &[u8]) {
        if payload == PROBE {
            return self.probed[subscriber].store(true, Ordering::Release);
        }
        let sent = payload.get(..20).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        if let (Some(meter), Some(us)) = (self.meter.get(), sent) {
            meter.record(subscriber, self.base + Duration::from_micros(us));
        }
        self.received[subscriber].fetch_add(1, Ordering::Release);
        self.arrived.notify_one();
    }

    /// A message that was due then.
    fn payload(&self, due: Instant, bytes: usize) -> Bytes {
        let mut text = format!("{:020}", (due - self.base).as_micros()).into_bytes();
        text.resize(bytes.max(20), b'x');
        text.into()
    }

    fn slowest(&self) -> u64 {
        self.received.iter().map(|count| count.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Waits until the slowest has received that many; whoever publishes is let go on meanwhile, `LEAD` ahead of it.
    async fn reached(&self, messages: u64, lead: &Semaphore) -> Result<()> {
        let mut seen = self.slowest();
        while seen < messages {
            tokio::time::timeout(PATIENCE, self.arrived.notified())
                .await
                .map_err(|_| format!("nothing arrived for {PATIENCE:?}: {seen} of {messages} at the slowest"))?;
            let now = self.slowest();
            lead.add_permits((now - seen) as usize);
            seen = now;
        }
        Ok(())
    }
}

/// One publisher, and subscribers that each receive everything: as fast as they can, or so many messages a second.
pub(crate) async fn fan_out(
    system: &dyn Running,
    subscribers: usize,
    rate: Option<f64>,
    bytes: usize,
    measure: Duration,
) -> Result<Sample> {
    let arrivals = Arrivals::new(subscribers);
    for subscriber in 0..subscribers {
        system.subscribe(subscriber, Arc::clone(&arrivals)).await?;
    }
    // Kept to the end: some clients close before what they buffered has left.
    let publisher = system.announcer().await?;
    let _open = Arc::clone(&publisher);
    // Subscriptions take a moment to reach whoever publishes. A probe that comes late is told from what is measured.
    let probing = Instant::now();
    while !arrivals.probed.iter().all(|probed| probed.load(Ordering::Acquire)) {
        publisher.publish(Bytes::from_static(PROBE)).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if probing.elapsed() > PATIENCE {
            return Err("not every subscriber received something".into());
        }
    }
    let meter = Meter::start(measure)?;
    arrivals.meter.get_or_init(|| Arc::clone(&meter));
    let (sent, lead) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(LEAD)));
    let mut tasks = JoinSet::new();
    match rate {
        None => {
            for _ in 0..FAN_OUT_IN_FLIGHT {
                let (arrivals, meter, publisher) = (Arc::clone(&arrivals), Arc::clone(&meter), Arc::clone(&publisher));
                let (sent, lead) = (Arc::clone(&sent), Arc::clone(&lead));
                tasks.spawn(async move {
                    while !meter.is_over() {
                        lead.acquire().await?.forget();
                        sent.fetch_add(1, Ordering::Relaxed);
                        publisher.publish(arrivals.payload(Instant::now(), bytes)).await?;
                    }
                    Result::Ok(())
                });
            }
        }
        Some(rate) => {
            let (arrivals, meter, sent) = (Arc::clone(&arrivals), Arc::clone(&meter), Arc::clone(&sent));
            tasks.spawn(async move { paced(&arrivals, &meter, &*publisher, &sent, rate, bytes).await });
        }
    }
    let watch = async {
        let cpu_seconds = meter.cpu_seconds(system).await;
        // Those who wait for room may go on: they see that it is over.
        lead.add_permits(FAN_OUT_IN_FLIGHT);
        while let Some(ended) = tokio::time::timeout(PATIENCE, tasks.join_next()).await? {
            ended??;
        }
        Result::Ok(cpu_seconds)
    };
    let cpu_seconds = tokio::select! {
        cpu_seconds = watch => cpu_seconds?,
        failed = arrivals.reached(u64::MAX, &lead) => return Err(failed.err().unwrap_or_else(|| "too many".into())),
    };
    arrivals.reached(sent.load(Ordering::Relaxed), &lead).await?;
    meter.sample(cpu_seconds)
}

/// Publishes at its pace, whether or not the last publication was acknowledged.
async fn paced(
    arrivals: &Arrivals,
    meter: &Meter,
    publisher: &dyn Publisher,
    sent: &AtomicU64,
    rate: f64,
    bytes: usize,
) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut under_way = FuturesUnordered::new();
    while !meter.is_over() {
        tokio::select! {
            due = ticks.tick() => {
                sent.fetch_add(1, Ordering::Relaxed);
                under_way.push(publisher.publish(arrivals.payload(due.into_std(), bytes)));
            }
            Some(done) = under_way.next(), if !under_way.is_empty() => done?,
        }
    }
    while let Some(done) = under_way.next().await {
        done?;
    }
    Ok(())
}
