//! What opening a store found and did.

use std::fmt;

use dsv2_core::Origin;

use crate::ranges::Ranges;

/// What opening a store found and did. All of it is also logged, as warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The first log index that was cut off, if intact lines were: a crash had lost one before them that nobody had been
    /// told was durable.
    pub cut_from: Option<u64>,
    /// How many bytes were cut off the ends of files, torn lines included.
    pub cut_bytes: u64,
    /// The files that what was cut off is kept in, for people; they can be removed.
    pub cut_kept_in: Vec<String>,
    /// Log indices that damage took since the last start. Their events are not served; see [`Recovery::missing`].
    pub lost: Ranges,
    /// Events that are known to be missing, by their origins' numbers: they can be pulled from other servers and
    /// appended again. An origin whose *last* events are lost does not show here, but in its place in the vector.
    pub missing: Vec<Missing>,
    /// Intact events that wait, unserved, for missing ones.
    pub waiting: u64,
    /// Bytes that are no intact line and stay where they are.
    pub damage: Vec<Damage>,
    /// Intact lines of events that another line holds, too. They do no harm; copying files about makes them.
    pub repeated: u64,
    /// The manifest was damaged too, so that everything missing counts as damage.
    pub manifest_damaged: bool,
    /// There were events, but no metadata: votes and reserved clocks are forgotten, and the directory has a new identity.
    pub metadata_missing: bool,
    /// There was no room for the repair: the store serves reads, and appends once there is.
    pub unfinished: bool,
}

/// Events of one origin that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Whose.
    pub origin: Origin,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
}

/// Bytes of a log file that are no intact line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: String,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub len: u64,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}-{}", self.origin, self.first, self.last)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {} bytes are no intact line", self.path, self.offset, self.len)
    }
}

impl Recovery {
    /// Tells the operator.
    pub(crate) fn log(&self) {
        if self.cut_bytes > 0 {
            tracing::warn!(
                bytes = self.cut_bytes,
                from_index = self.cut_from,
                kept_in = ?self.cut_kept_in,
                "the end of the log was incomplete, as after a crash, and was cut off"
            );
        }
        if !self.lost.is_empty() {
            let count = self.lost.count();
            tracing::error!(count, indices = ?self.lost, "the log is damaged; what is lost must be pulled from other servers");
        }
        for missing in &self.missing {
            tracing::warn!(%missing, "events are missing");
        }
        for damage in &self.damage {
            tracing::warn!(%damage, "damaged bytes in the log");
        }
        if self.manifest_damaged {
            tracing::error!("the manifest was damaged and has been written anew");
        }
        if self.metadata_missing {
            tracing::error!("the metadata were missing beside a log: votes and reserved clocks are forgotten");
        }
        if self.unfinished {
            tracing::warn!("the disk is full: the store serves reads, and writes once there is room");
        }
    }
}
