//! Physical time as data: machines receive it, none reads it.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of a monotonic clock, in microseconds since some start of the process's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono {
    /// Microseconds since the start.
    pub us: u64,
}

impl Mono {
    /// The start.
    pub const ZERO: Self = Self { us: 0 };

    /// A reading so many milliseconds after the start.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self { us: ms * 1_000 }
    }

    /// How long ago `earlier` was; zero where it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.us.saturating_sub(earlier.us))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self { us: self.us.saturating_add(us) }
    }
}

impl Sub<Duration> for Mono {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self { us: self.us.saturating_sub(us) }
    }
}

/// A reading of a wall clock, in microseconds since 1970-01-01T00:00:00Z. For people, and for the agreement of clocks;
/// it orders nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall {
    /// Microseconds since the epoch.
    pub us: i64,
}

impl Wall {
    /// A reading so many milliseconds after the epoch.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self { us: ms.saturating_mul(1_000) }
    }

    /// Whole milliseconds since the epoch, as the wire carries them.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        Timestamp { ms: self.us.div_euclid(1_000) }
    }

    /// This reading moved by `offset_us` microseconds.
    #[must_use]
    pub const fn offset(self, offset_us: i64) -> Self {
        Self { us: self.us.saturating_add(offset_us) }
    }
}

/// The moment of an event for people: integer milliseconds since 1970-01-01T00:00:00Z, the one form we emit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp {
    /// Milliseconds since the epoch.
    pub ms: i64,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ms.fmt(f)
    }
}

/// Both clocks, read together when a turn begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and spans.
    pub mono: Mono,
    /// For people.
    pub wall: Wall,
}
