//! Logical time: the value, the trait, and Lamport's clock.
//!
//! Source: L. Lamport, *Time, Clocks, and the Ordering of Events in a Distributed System*, CACM 21(7), 1978, rules IR1
//! and IR2.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// A reading of a logical clock: a non-negative integer of at most 2^53 − 1, so that every language of the family reads
/// it exactly (a double holds no larger integer without gaps).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Clock(u64);

impl Clock {
    /// Before every event.
    pub const ZERO: Self = Self(0);
    /// The largest reading, 2^53 − 1.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Takes `value` as a reading; `None` beyond [`Clock::MAX`].
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The reading's value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The reading `ticks` later, at most [`Clock::MAX`].
    #[must_use]
    pub const fn plus(self, ticks: u64) -> Self {
        let sum = self.0.saturating_add(ticks);
        if sum > Self::MAX.0 { Self::MAX } else { Self(sum) }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Clock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        Self::new(value).ok_or_else(|| serde::de::Error::custom("the clock is beyond 2^53-1"))
    }
}

/// A logical clock: whatever happens, its readings only grow.
///
/// Laws, which the property tests check on [`Lamport`] and which any other implementation must keep:
/// - `tick` and `observe` return a reading greater than every earlier one (up to [`Clock::MAX`], where they stay);
/// - `observe(received)` returns a reading greater than `received`;
/// - `now` returns the last reading and changes nothing.
pub trait LogicalClock {
    /// The last reading.
    fn now(&self) -> Clock;
    /// A local event, sending included: advances, and returns the event's reading.
    fn tick(&mut self) -> Clock;
    /// The receipt of a message that was sent at `received`: advances beyond both, and returns the receipt's reading.
    fn observe(&mut self, received: Clock) -> Clock;
}

/// Lamport's clock: `+ 1` at every local event, `max(local, received) + 1` at every receipt.
///
/// ```
/// use dsv2_core::{Clock, Lamport, LogicalClock};
/// let mut clock = Lamport::default();
/// assert_eq!(clock.tick().get(), 1);
/// assert_eq!(clock.observe(Clock::new(41).ok_or("out of range")?).get(), 42);
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lamport(Clock);

impl Lamport {
    /// A clock whose last reading was `last`: the next one is greater.
    #[must_use]
    pub const fn after(last: Clock) -> Self {
        Self(last)
    }
}

impl LogicalClock for Lamport {
    fn now(&self) -> Clock {
        self.0
    }

    fn tick(&mut self) -> Clock {
        self.0 = self.0.plus(1);
        self.0
    }

    fn observe(&mut self, received: Clock) -> Clock {
        self.0 = self.0.max(received).plus(1);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn readings_only_grow(inputs in proptest::collection::vec(proptest::option::of(0..=Clock::MAX.0 - 1_000), 0..200)) {
            let mut clock = Lamport::default();
            for input in inputs {
                let before = clock.now();
                let after = match input {
                    None => clock.tick(),
                    Some(received) => {
                        let received = Clock(received);
                        let after = clock.observe(received);
                        prop_assert!(after > received);
                        after
                    }
                };
                prop_assert!(after > before);
                prop_assert_eq!(clock.now(), after);
            }
        }

        /// If a message chain leads from one event to another, the first reading is smaller (the clock condition).
        #[test]
        fn causes_precede_effects(steps in proptest::collection::vec((0usize..4, 0usize..4), 1..100)) {
            let mut clocks = [Lamport::default(); 4];
            for (from, to) in steps {
                let sent = clocks[from].tick();
                prop_assert!(clocks[to].observe(sent) > sent);
            }
        }
    }

    #[test]
    fn the_end_of_the_range_is_a_wall() {
        let mut clock = Lamport::after(Clock::MAX);
        assert_eq!(clock.tick(), Clock::MAX);
        assert_eq!(clock.observe(Clock::MAX), Clock::MAX);
        assert_eq!(Clock::new(Clock::MAX.0 + 1), None);
        assert!(serde_json::from_str::<Clock>("9007199254740992").is_err());
    }
}
