//! Everything that can go wrong in a store.

use std::io;
use std::sync::Arc;

use dsv2_core::{Clock, EventId};

/// Why a store could not do what it was asked.
///
/// [`StoreError::changed_nothing`] says whether the call left the store as it was, [`StoreError::may_retry`] whether
/// the same call can succeed later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The event is not the next one of its origin. Nothing was appended.
    #[error("{event} does not follow what is held of its origin: number {expected} is the next one")]
    Gap {
        /// The first event that does not follow.
        event: EventId,
        /// The number that would have followed.
        expected: u64,
    },
    /// The event's clock is lower than that of its origin's previous event. Nothing was appended.
    #[error("{event} has clock {clock}, its origin had reached {last} before it")]
    ClockOrder {
        /// The first event out of order.
        event: EventId,
        /// Its clock.
        clock: Clock,
        /// The clock of the event before it.
        last: Clock,
    },
    /// Another event with the same identity is on disk, waiting for its predecessors. Nothing was appended.
    #[error("{event} is held with other content")]
    Conflict {
        /// The identity that two events claim.
        event: EventId,
    },
    /// More than the format holds: a line beyond [`crate::LINE_CAP_BYTES`], or more unsynced bytes in one file than a
    /// segment can address. Nothing was appended.
    #[error("{what} of {bytes} bytes is beyond the {cap_bytes} bytes that are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The largest size allowed.
        cap_bytes: u64,
    },
    /// There is no room on the disk. Nothing changed, reads go on, and the same call succeeds once there is room.
    #[error("no room on the disk for {path}")]
    Full {
        /// The file that could not grow.
        path: String,
    },
    /// An earlier write or sync failed, so what is on disk is unknown. Reads go on; only opening the store again, which
    /// recovers it, allows writes.
    #[error("the store takes no more writes: {reason}")]
    Fenced {
        /// The failure that fenced it.
        reason: Arc<str>,
    },
    /// The disk failed. Where it failed in a write or a sync, the store is fenced from now on.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// What is on disk is not what was written there. Never served; opening the store again quarantines it.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Corrupt {
        /// The damaged file.
        path: String,
        /// Where in it.
        offset: u64,
        /// How it shows.
        reason: &'static str,
    },
    /// A file is intact, but written by a version of this program that this one does not understand. Nothing changed.
    #[error("{path} cannot be understood: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What is not understood.
        reason: String,
    },
    /// Another process, or another store of this process, holds the data directory. Nothing changed.
    #[error("the data directory is in use by {holder}")]
    Locked {
        /// Who holds it, as far as can be told.
        holder: String,
    },
}

impl StoreError {
    /// Whether the failed call left the store exactly as it was.
    #[must_use]
    pub const fn changed_nothing(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }

    /// Whether the same call can succeed later without a restart.
    #[must_use]
    pub const fn may_retry(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Locked { .. })
    }

    /// Tells a full disk from a broken one.
    pub(crate) fn io(action: &'static str, path: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path: path.to_owned() },
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}
