//! Bugs that are planted on purpose: a simulator that does not find them is not to be believed.
//!
//! The machines ask [`Planted::has`] at the places concerned. Without the feature `planted`, which only tests switch on,
//! the answer is the constant `false` and the question compiles to nothing; with it, only the simulator can plant one.

/// Which bug is planted, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planted {
    #[cfg(feature = "planted")]
    pub(crate) bug: Option<Bug>,
}

impl Planted {
    /// Whether this bug is planted.
    #[cfg(feature = "planted")]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// None is.
    #[cfg(not(feature = "planted"))]
    #[allow(clippy::unused_self, reason = "as its namesake")]
    pub(crate) const fn has(self, _bug: Bug) -> bool {
        false
    }
}

/// A bug that can be planted; each has been made by somebody, somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// Servers never ask for events that they lack.
    NoGapRepair,
    /// A restarted server numbers its events from 1 again under the old origin, with its clock reset.
    IdentityReused,
    /// A restarted server forgets which clocks it had reserved.
    ClocksReused,
    /// Replies leave before what they acknowledge is on disk.
    AckBeforeSync,
    /// Publications and events for other servers leave before they are on disk.
    PublishBeforeSync,
    /// Other servers are told that events are durable before they are.
    VectorBeforeSync,
    /// A read is answered without what was written before it.
    ReadOvertakesWrite,
    /// A commit is reported as durable, and was never synced.
    SyncSkipped,
    /// The level `quorum` counts half of the voters as a majority.
    QuorumOfHalf,
    /// A server does not look whether it knows a write already.
    RetryForgotten,
    /// Histories list a message once for every event that holds it.
    TwinShown,
    /// A subscription delivers a message once for every event that holds it.
    TwinDelivered,
    /// Publications do not name their predecessor.
    PrevOmitted,
    /// A subscription moves its position over a gap.
    PositionOverGap,
    /// A subscription never compares its end with history.
    TailNeverCompared,
    /// The stable bound is the highest of the voters' bounds, not the lowest.
    StableTooHigh,
    /// The stable bound counts although the events below it have not arrived.
    StableTooSoon,
    /// A server answers at once, whatever its client has seen elsewhere.
    PositionIgnored,
    /// Received clocks are not merged.
    ClockNotMerged,
    /// A write whose level was not reached in time is answered as if it had not happened.
    TimeoutRejected,
    /// A session gives every attempt of a write an identity of its own.
    RetryRenamed,
    /// Messages are retired before they are final everywhere.
    RetiredTooSoon,
    /// A write of a session whose messages may be retired is carried out.
    ForgottenExecuted,
    /// Readers are not told of what was retired before they came.
    RetiredUntold,
    /// A server takes nothing that an earlier life of its own wrote.
    OwnLivesRefused,
    /// The level `quorum` counts servers that are no voters.
    LearnersCount,
    /// A server that is no voter writes events of its own.
    LearnerWrites,
    /// What a full disk did not take is not tried again.
    FullForgotten,
    /// A sync that failed is taken for one that did not.
    SyncFailureIgnored,
    /// A server whose disk takes nothing shows what it holds, and not only what is durable.
    StuckShowsAll,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::NoGapRepair,
        Self::IdentityReused,
        Self::ClocksReused,
        Self::AckBeforeSync,
        Self::PublishBeforeSync,
        Self::VectorBeforeSync,
        Self::ReadOvertakesWrite,
        Self::SyncSkipped,
        Self::QuorumOfHalf,
        Self::RetryForgotten,
        Self::TwinShown,
        Self::TwinDelivered,
        Self::PrevOmitted,
        Self::PositionOverGap,
        Self::TailNeverCompared,
        Self::StableTooHigh,
        Self::StableTooSoon,
        Self::PositionIgnored,
        Self::ClockNotMerged,
        Self::TimeoutRejected,
        Self::RetryRenamed,
        Self::RetiredTooSoon,
        Self::ForgottenExecuted,
        Self::RetiredUntold,
        Self::OwnLivesRefused,
        Self::LearnersCount,
        Self::LearnerWrites,
        Self::FullForgotten,
        Self::SyncFailureIgnored,
        Self::StuckShowsAll,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planted_unless_somebody_does() {
        assert!(Bug::ALL.iter().all(|&bug| !Planted::default().has(bug)));
        assert!(Bug::ALL.len() >= 12);
    }
}
