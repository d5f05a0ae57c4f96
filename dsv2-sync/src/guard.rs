//! What may push a logical clock from outside, and how far.

use dsv2_core::{Clock, Lamport, LogicalClock, Now};

/// No honest clock is further than this many ticks per second since 1970. Receiving a clock advances one's own, so
/// without a bound a single message could push every clock of a cluster to its end.
const TICKS_PER_SECOND: u64 = 1_000_000;

/// Whether a clock from outside is one that an honest program can have.
pub(crate) fn is_plausible(own: &Lamport, now: Now, received: Clock) -> bool {
    let seconds = u64::try_from(now.wall.us / 1_000_000).unwrap_or(0).max(1);
    received <= own.now() || received.get() <= seconds.saturating_mul(TICKS_PER_SECOND)
}

/// Merges the clock of something that arrived, if it carries one and that is plausible; the receipt is an event either
/// way.
pub(crate) fn merge(own: &mut Lamport, now: Now, received: Option<Clock>) -> Clock {
    match received.filter(|&received| is_plausible(own, now, received)) {
        Some(received) => own.observe(received),
        None => own.tick(),
    }
}
