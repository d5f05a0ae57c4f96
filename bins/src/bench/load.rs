//! Many clients that do the same over and over, and how long each turn took.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::pace::Pace;
use crate::error::Error;
use crate::latency::{self, us};
use crate::shutdown::Shutdown;

/// Histograms are shared by so many groups of clients: few enough for memory, enough that they do not wait.
const HISTOGRAMS: usize = 16;
/// A turn that begins so long after it was due says more of the load than of the cluster.
const LATE: Duration = Duration::from_millis(10);
/// Between two looks of the progress bar.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How much, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Turns that each client has under way.
    pub(super) in_flight: u32,
    /// Turns a second of all clients; 0 for as many as they can.
    pub(super) rate: f64,
    /// What is not measured, at the beginning.
    pub(super) warm_up: Duration,
    /// What is.
    pub(super) measure: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Measured {
    /// Turns that ended well within the time that is measured, and how much they did: 1 each, but for pages.
    pub(super) turns: u64,
    pub(super) amount: u64,
    /// All that ended well, those before included.
    pub(super) amount_in_all: u64,
    pub(super) failed: u64,
    /// Turns that began long after they were due.
    pub(super) late: u64,
    pub(super) first_failure: Option<Error>,
    /// From the end of the warm-up to the end of the last turn.
    pub(super) took: Duration,
    pub(super) latency_us: Histogram<u64>,
}

/// What many record together.
#[derive(Debug)]
pub(super) struct Recorder {
    /// The end of the warm-up.
    from: Instant,
    /// What was due before it is not measured; else what ended before it.
    by_due: bool,
    histograms: Vec<Mutex<Histogram<u64>>>,
}

impl Recorder {
    /// Measures from then on, for that plan.
    pub(super) fn new(plan: &Plan, from: Instant) -> Result<Self, Error> {
        let histograms = (0..HISTOGRAMS).map(|_| latency::histogram().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self { from, by_due: plan.rate > 0.0, histograms })
    }

    /// Something that was due then ended now. Tells whether it is measured.
    pub(super) fn record(&self, who: usize, due: Instant) -> bool {
        let now = Instant::now();
        if self.from > if self.by_due { due } else { now } {
            return false;
        }
        let histogram = &self.histograms[who % HISTOGRAMS];
        histogram.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us(now - due));
        true
    }

    /// All of them in one.
    pub(super) fn total(&self) -> Result<Histogram<u64>, Error> {
        let mut total = latency::histogram()?;
        for histogram in &self.histograms {
            let histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
            total.add(&*histogram).map_err(|error| Error::Failed(error.to_string()))?;
        }
        Ok(total)
    }
}

#[derive(Debug, Default)]
struct Counts {
    turns: AtomicU64,
    amount: AtomicU64,
    amount_in_all: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
    first_failure: Mutex<Option<Error>>,
}

/// Lets every client do its work, turn after turn. Work is told when its turn was due, and tells how much it did.
///
/// # Errors
/// None of the work's: they are counted. [`Error::Failed`] where it was interrupted before anything was measured.
pub(super) async fn run<F, W>(plan: &Plan, clients: Vec<F>, shutdown: &mut Shutdown) -> Result<Measured, Error>
where
    F: Fn(Instant) -> W + Clone + Send + 'static,
    W: Future<Output = Result<u64, Error>> + Send + 'static,
{
    let pace = Pace::start(plan.rate, plan.warm_up + plan.measure);
    let measured_from = Instant::now() + plan.warm_up;
    let recorder = Arc::new(Recorder::new(plan, measured_from)?);
    let counts = Arc::new(Counts::default());
    let mut workers = JoinSet::new();
    for (who, work) in clients.into_iter().enumerate() {
        for _ in 0..plan.in_flight {
            let (pace, recorder, counts, work) =
                (Arc::clone(&pace), Arc::clone(&recorder), Arc::clone(&counts), work.clone());
            workers.spawn(async move {
                while let Some(due) = pace.turn().await {
                    counts.late.fetch_add(u64::from(due.elapsed() > LATE), Ordering::Relaxed);
                    let result = work(due).await;
                    let done = *result.as_ref().unwrap_or(&0);
                    counts.amount_in_all.fetch_add(done, Ordering::Relaxed);
                    match result {
                        Ok(done) if recorder.record(who, due) => {
                            counts.turns.fetch_add(1, Ordering::Relaxed);
                            counts.amount.fetch_add(done, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err(error) => {
                            counts.failed.fetch_add(1, Ordering::Relaxed);
                            let mut first = counts.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                            first.get_or_insert(error);
                        }
                    }
                }
            });
        }
    }
    wait(plan, &mut workers, &counts, shutdown).await;
    let ended = Instant::now();
    workers.shutdown().await;
    if ended <= measured_from {
        return Err(Error::Failed("interrupted before anything was measured".to_owned()));
    }
    let first_failure = counts.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Measured {
        turns: counts.turns.load(Ordering::Relaxed),
        amount: counts.amount.load(Ordering::Relaxed),
        amount_in_all: counts.amount_in_all.load(Ordering::Relaxed),
        failed: counts.failed.load(Ordering::Relaxed),
        late: counts.late.load(Ordering::Relaxed),
        first_failure,
        took: ended - measured_from,
        latency_us: recorder.total()?,
    })
}

/// Until all have ended, or the process is asked to end.
async fn wait(plan: &Plan, workers: &mut JoinSet<()>, counts: &Counts, shutdown: &mut Shutdown) {
    let (bar, begun) = (bar(plan), Instant::now());
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let (mut before, mut seen_at) = (0, begun);
    loop {
        tokio::select! {
            ended = workers.join_next() => if ended.is_none() { break },
            () = shutdown.wait() => break,
            _ = looks.tick() => {
                let (done, now) = (counts.amount_in_all.load(Ordering::Relaxed), Instant::now());
                let rate = (done - before) as f64 / (now - seen_at).as_secs_f64().max(0.001);
                let failed = counts.failed.load(Ordering::Relaxed);
                let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
                bar.set_position(begun.elapsed().as_millis() as u64);
                bar.set_message(format!("{rate:.0} a second{failed}"));
                (before, seen_at) = (done, now);
            }
        }
    }
    bar.finish_and_clear();
}

/// Drawn on stderr, and only where that is a terminal.
fn bar(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new((plan.warm_up + plan.measure).as_millis() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {elapsed}, {msg}") {
        bar.set_style(style);
    }
    bar
}
