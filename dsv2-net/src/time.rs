//! The process's clocks, as machines are given them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dsv2_core::{Mono, Now, Wall};
use tokio::time::Instant;

/// Reads both clocks. Monotonic readings count from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    start: Instant,
}

impl Clocks {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: Mono { us }, wall: Wall { us: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX) } }
    }

    /// When a machine's deadline comes; far away where it has none.
    pub(crate) fn at(&self, deadline: Option<Mono>) -> Instant {
        let far = Duration::from_secs(3_600);
        match deadline {
            Some(at) => self.start + Duration::from_micros(at.us),
            None => Instant::now() + far,
        }
    }
}

/// 64 bits from the system's source of randomness.
///
/// # Errors
/// The system has none.
pub(crate) fn random_u64() -> std::io::Result<u64> {
    getrandom::u64().map_err(std::io::Error::other)
}
