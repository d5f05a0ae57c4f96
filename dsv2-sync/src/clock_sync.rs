//! Agreement of wall clocks.
//!
//! The coordinator asks the others what time it is, averages the clocks that agree, and tells everybody, itself included,
//! how far to move. No system clock is ever touched: every server carries an offset, and its wall clock, the one that
//! stamps messages, is the system's plus that offset.
//!
//! ```text
//!   coordinator                     server
//!        │ ── Probe(round, nonce) ────► │        sent at T1
//!        │ ◄── Reading(wall, offset) ── │        received at T2:  rtt = T2 − T1
//!        │           …  4 times         │        the smallest rtt counts
//!        │                              │
//!        │  difference = wall − own wall at (T1+T2)/2,  known to ± rtt/2
//!        │  the largest set of clocks within γ of each other; at least a majority of the members, or no round
//!        │  agreed time = the mean of that set; outliers do not pull
//!        │                              │
//!        │ ── Adjust(offset, bound) ──► │        slewed: 500 ppm at most, never backwards
//! ```
//!
//! # Rules
//! 1. **When.** Every 10 client requests that the coordinator served, and every 30 s, since an idle cluster would never
//!    synchronize; when it takes office; and on request. At most one round at a time, and one a second.
//! 2. **Samples.** A reading counts only for the probe it names, over the link it came from. With a smallest round trip
//!    of `rtt`, the difference is known to ± rtt/2, whatever the asymmetry of the way.
//! 3. **Average.** Fault-tolerant: the largest set of clocks of which no two differ by more than γ. A clock that is an hour
//!    off is outside, moves nobody, and is told how to come back. A reading too coarse to be judged (a family server that
//!    answers in whole seconds, a slow link) may confirm the set and never moves its mean. A clock that still slews counts
//!    where it is going, or every round meanwhile would move the others once more.
//! 4. **Majority.** Without one among the *known members*, reachable or not, nothing changes anywhere.
//! 5. **Slew.** An offset moves by at most 500 µs a second, so that time neither jumps nor goes back. A step happens only at
//!    the first adjustment after a start, after the system clock itself was set, and on request.
//! 6. **Absolute.** An adjustment names the server's new offset, not a difference: to receive it twice changes nothing.
//!
//! After a round, when slews have ended, two good clocks differ by at most (rtt₁ + rtt₂)/2 + 2ρ·t, where ρ is the most
//! that a clock drifts and t the time since the round.
//!
//! Sources: R. Gusella and S. Zatti, *The Accuracy of the Clock Synchronization Achieved by TEMPO in Berkeley UNIX
//! 4.3BSD*, IEEE Transactions on Software Engineering 15(7), 1989, for the algorithm and γ; F. Cristian, *Probabilistic
//! Clock Synchronization*, Distributed Computing 3, 1989, for the error of a reading.

use dsv2_core::{Machine, Mono, Now, ServerName, Wall};
use serde::{Deserialize, Serialize};

use crate::election::{Coordinator, Epoch};

mod average;
mod berkeley;
mod round;
mod slew;

pub use average::{Agreement, Reading, fault_tolerant_average};
pub use berkeley::{Berkeley, BerkeleyConfig};
pub use slew::{Slew, VirtualWall};

/// What servers say to each other about clocks, over direct links. Nothing in it reveals unsaved state, so it may take the
/// prompt lane; the less it waits, the smaller the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ClockMessage {
    /// "What time is it?" To a server of the family, the plain `clock` request.
    Probe {
        /// The coordinator's reign.
        epoch: Epoch,
        /// The round's number, growing within a reign.
        round: u64,
        /// To be returned.
        nonce: u64,
    },
    /// "This."
    Reading {
        /// That of the probe.
        epoch: Epoch,
        /// That of the probe.
        round: u64,
        /// That of the probe.
        nonce: u64,
        /// The sender's wall clock, its offset included.
        wall: Wall,
        /// The offset in it, in microseconds.
        offset_us: i64,
        /// How much of its last adjustment is still to be slewed, in microseconds.
        left_us: i64,
    },
    /// "This is your offset from now on."
    Adjust {
        /// The coordinator's reign.
        epoch: Epoch,
        /// The round's number.
        round: u64,
        /// The receiver's new offset to its own system clock, in microseconds.
        offset_us: i64,
        /// How far from the agreed time that is at most, in microseconds.
        error_bound_us: u64,
        /// The receiver's clock was far from the others.
        outlier: bool,
        /// Somebody asked for a step: do not slew.
        step: bool,
    },
    /// "My system clock was set; a round, please."
    Request,
}

/// What happens to a clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClockInput {
    /// Who coordinates, as the election has it; with a reign of its own, this server runs rounds.
    Coordinator(Option<Coordinator>),
    /// All known members, this server included or not; replaces the last list.
    Members(Vec<ServerName>),
    /// A direct link to a server works.
    LinkUp(ServerName),
    /// It no longer does.
    LinkDown(ServerName),
    /// A client's request was served here.
    ClientRequest,
    /// Somebody asked for a round; with `step`, for clocks to be set at once. Only the coordinator obeys.
    RoundRequested {
        /// Set, do not slew.
        step: bool,
    },
    /// A server said something.
    Message {
        /// Which.
        from: ServerName,
        /// What.
        message: ClockMessage,
    },
    /// A server of the family answered a probe.
    Reading {
        /// Which.
        from: ServerName,
        /// The probe it answers, where that is known; else the one that is still open.
        nonce: Option<u64>,
        /// The time it gave.
        wall: Wall,
        /// How coarse that is: the true time was in `wall .. wall + resolution_us`.
        resolution_us: u64,
    },
    /// The deadline came.
    Wake,
}

/// What a clock wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClockEffect {
    /// Say something over the direct link; may be lost.
    Send {
        /// To whom.
        to: ServerName,
        /// What.
        message: ClockMessage,
    },
    /// A round ended with an agreement; for logs.
    RoundDone(RoundReport),
    /// A round ended without a majority, and nothing changed anywhere; for logs.
    RoundRefused {
        /// The round, with what it measured.
        report: RoundReport,
        /// How many clocks would have had to agree.
        needed: usize,
    },
    /// This server's offset has a new target; for logs.
    Adjusted {
        /// The new offset, in microseconds.
        offset_us: i64,
        /// How far that is from the one before.
        by_us: i64,
        /// It was set at once.
        stepped: bool,
    },
    /// The system clock was set while this server ran; for logs. Its wall clock went with it.
    SystemClockSet {
        /// By how much, in microseconds.
        by_us: i64,
    },
}

/// What a round measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundReport {
    /// The coordinator's reign.
    pub epoch: Epoch,
    /// The round's number.
    pub round: u64,
    /// How many members are known.
    pub members: usize,
    /// The agreed time, as a difference to the coordinator's wall clock, in microseconds; `None` without agreement.
    pub average_us: Option<i64>,
    /// The clocks that answered, by name, the coordinator's included.
    pub clocks: Vec<ClockSample>,
}

/// One clock in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// Whose.
    pub name: ServerName,
    /// How far it is ahead of the coordinator's wall clock, in microseconds.
    pub ahead_us: i64,
    /// The smallest round trip, in microseconds.
    pub rtt_us: u64,
    /// How far `ahead_us` may be wrong, in microseconds: half the round trip, and half of what the answer left open.
    pub error_us: u64,
    /// Its part in the average.
    pub part: Part,
}

/// A clock's part in an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Of the agreeing set: it pulls.
    Agrees,
    /// Too coarse to pull, but compatible with the agreement.
    Confirms,
    /// Far from the agreement: it does not pull.
    Outlier,
}

/// A wall clock's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockStatus {
    /// The offset to the system clock now, in microseconds.
    pub offset_us: i64,
    /// How far this clock is from the time that its last round agreed on, at most; in microseconds, drift and unfinished
    /// slew included; `None` before the first agreement. Two servers that took part in the same round differ by no more
    /// than both bounds together.
    pub error_bound_us: Option<u64>,
    /// The reign of the last agreement.
    pub epoch: Epoch,
    /// The number of the last agreement, and when it came.
    pub last_round: Option<(u64, Mono)>,
    /// The offset is still on its way.
    pub slewing: bool,
    /// The outliers of the last agreement: all of them at the coordinator, elsewhere this server itself, if it was one.
    pub outliers: Vec<ServerName>,
}

/// An interval that holds the time that the server's last round agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallInterval {
    /// Not before this.
    pub earliest: Wall,
    /// Not after this.
    pub latest: Wall,
}

/// A wall clock that agrees with others.
///
/// Laws, which the property tests check on [`Berkeley`] and which any other implementation must keep:
/// - `wall` never goes back, except at a step (see the rules above) or with the system clock itself;
/// - it gains or loses at most the slew rate on the system clock;
/// - `now` holds the agreed time, if clocks drift no more than they are configured to.
pub trait ClockSync: Machine<Input = ClockInput, Effect = ClockEffect> {
    /// The clock's state.
    fn status(&self, now: Now) -> ClockStatus;
    /// Where the agreed time lies: everything, before the first agreement.
    fn now(&self, now: Now) -> WallInterval;
    /// What stamps messages.
    fn wall(&self, now: Now) -> Wall;
}
