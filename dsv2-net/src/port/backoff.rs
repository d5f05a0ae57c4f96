use std::time::Duration;

/// Pauses between attempts to connect: doubled from `first` up to `cap`, each cut by a random part of up to a half,
/// so that a thousand clients of a restarted broker do not come back in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 50 ms to 5 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), cap: Duration::from_secs(5) }
    }
}

/// Where a series of attempts stands.
#[derive(Debug)]
pub(super) struct Attempts {
    backoff: Backoff,
    next: Duration,
    pub(super) failed: u32,
}

impl Attempts {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { backoff, next: backoff.first.min(backoff.cap), failed: 0 }
    }

    /// The pause after a failure or a lost connection.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.backoff.cap);
        // Entropy may be missing early in a machine's life; then there is simply no jitter.
        let random = getrandom::u32().unwrap_or(0);
        pause.mul_f64(1.0 - f64::from(random) / f64::from(u32::MAX) / 2.0)
    }

    /// A connection lasted this long. Only one that outlived the longest pause starts the series over: a peer that
    /// accepts and hangs up at once is not hammered.
    pub(super) fn lasted(&mut self, time: Duration) {
        self.failed = 0;
        if time >= self.backoff.cap {
            self.next = self.backoff.first.min(self.backoff.cap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_with_jitter() {
        let mut attempts =
            Attempts::new(Backoff { first: Duration::from_millis(100), cap: Duration::from_millis(300) });
        for full in [100, 200, 300, 300] {
            let pause = attempts.pause();
            let full = Duration::from_millis(full);
            assert!(pause <= full && pause >= full / 2, "{pause:?} of {full:?}");
        }
        attempts.lasted(Duration::from_millis(299));
        assert!(attempts.pause() >= Duration::from_millis(150));
        attempts.lasted(Duration::from_millis(300));
        assert!(attempts.pause() <= Duration::from_millis(100));
    }
}
