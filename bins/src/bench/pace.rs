//! When the turns of a load come due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Turns that come due one after the other. Shared by all who take them.
#[derive(Debug)]
pub(super) struct Pace {
    begin: Instant,
    end: Instant,
    rate: f64,
    /// The next turn to be taken.
    next: AtomicU64,
    /// Turns that have come due and were not taken.
    due: Semaphore,
}

impl Pace {
    /// From now on, for so long; with a rate of 0, a turn is due whenever somebody takes it.
    pub(super) fn start(rate: f64, lasts: Duration) -> Arc<Self> {
        let begin = Instant::now();
        let pace = Arc::new(Self { begin, end: begin + lasts, rate, next: AtomicU64::new(0), due: Semaphore::new(0) });
        if rate > 0.0 {
            // A thread of its own: the runtime's timers are a millisecond apart, and late under load.
            let pace = Arc::clone(&pace);
            std::thread::spawn(move || pace.tick());
        }
        pace
    }

    /// The next turn, as soon as it is due: when that was. `None` after the last one. With a rate, every turn is taken,
    /// however late: none that the cluster was too slow for is left out.
    pub(super) async fn turn(&self) -> Option<Instant> {
        if self.rate <= 0.0 {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        }
        // It is never closed.
        self.due.acquire().await.ok()?.forget();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        (turn < self.turns()).then(|| self.begin + self.after(turn))
    }

    /// How many turns there are with a rate.
    fn turns(&self) -> u64 {
        ((self.end - self.begin).as_secs_f64() * self.rate).ceil() as u64
    }

    fn after(&self, turn: u64) -> Duration {
        Duration::from_secs_f64(turn as f64 / self.rate)
    }

    fn tick(self: &Arc<Self>) {
        let mut given = 0;
        while given < self.turns() {
            let now = Instant::now();
            let before = given;
            while given < self.turns() && self.begin + self.after(given) <= now {
                given += 1;
            }
            self.due.add_permits((given - before) as usize);
            if Arc::strong_count(self) == 1 {
                return;
            }
            let next = self.begin + self.after(given);
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
        // Whoever still waits is told that there are no more.
        self.due.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_turn_comes_when_it_is_due_however_late_it_is_taken() {
        let pace = Pace::start(1_000.0, Duration::from_millis(100));
        let first = pace.turn().await.expect("the first");
        // Whoever comes late finds all that came due meanwhile.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut before = first;
        for turn in 1..100 {
            let due = pace.turn().await.expect("one of a hundred");
            assert!(due > before && due <= Instant::now(), "{turn}");
            before = due;
        }
        assert_eq!(pace.turn().await, None);
        assert_eq!(before - first, Duration::from_millis(99));
    }

    #[tokio::test]
    async fn without_a_rate_turns_are_due_at_once_and_end_in_time() {
        let pace = Pace::start(0.0, Duration::from_millis(20));
        let begun = Instant::now();
        let mut turns = 0;
        while pace.turn().await.is_some() {
            turns += 1;
        }
        assert!(turns > 100 && begun.elapsed() >= Duration::from_millis(19), "{turns}");
    }
}
