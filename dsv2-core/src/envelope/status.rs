//! How a server is: the service `status`.

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::name::ServerName;
use crate::position::Position;

/// A server's account of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StatusReport {
    /// Its name.
    pub name: ServerName,
    /// The random identity of its data directory, in hex.
    pub node: String,
    /// The version of the program, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version of the messages on its links; servers of different ones do not understand each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_version: Option<u8>,
    /// The identity under which it writes events now, `None` before its first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Whether it takes writes; else why not.
    pub ready: bool,
    /// Why it takes no writes, or what limits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Its rank, once the reference gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// The coordinator it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<ServerName>,
    /// The number of the election's epoch.
    pub epoch: u64,
    /// How many milliseconds of its lease are left, where it leads with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Its logical clock.
    pub clock: Clock,
    /// Its agreed wall clock.
    pub wall: ClockReport,
    /// Which voters the configuration names; none: levels above `local` do not exist.
    pub voters: Vec<ServerName>,
    /// The voters that are declared gone for good, as far as it knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departed: Vec<ServerName>,
    /// What it holds, durable.
    pub position: Position,
    /// Nothing will ever be inserted before this logical time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Clock>,
    /// The other servers it knows.
    pub peers: Vec<PeerReport>,
    /// Users it knows.
    pub users: u64,
    /// Channels it knows.
    pub channels: u64,
    /// Events it holds.
    pub events: u64,
    /// Requests it answered since its start.
    pub requests: u64,
    /// Names that became user on one side of a partition and channel on the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

impl StatusReport {
    /// A report of a server that holds nothing yet; the fields are public for whoever fills it in.
    #[must_use]
    pub fn new(name: ServerName, node: String) -> Self {
        Self {
            name,
            node,
            version: None,
            link_version: None,
            origin: None,
            ready: false,
            trouble: None,
            rank: None,
            coordinator: None,
            epoch: 0,
            lease_ms: None,
            clock: Clock::ZERO,
            wall: ClockReport::default(),
            voters: Vec::new(),
            departed: Vec::new(),
            position: Position::default(),
            stable: None,
            peers: Vec::new(),
            users: 0,
            channels: 0,
            events: 0,
            requests: 0,
            conflicts: Vec::new(),
        }
    }
}

/// The agreement of wall clocks, as one server sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClockReport {
    /// What is added to the system's clock, in microseconds.
    pub offset_us: i64,
    /// How far the agreed clock may be off the others', in microseconds; absent before the first round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_bound_us: Option<u64>,
    /// Whether a correction is being slewed in.
    pub slewing: bool,
    /// What the system's clock showed when this was said, uncorrected, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_us: Option<i64>,
}

/// Another server, as one server sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub name: ServerName,
    /// Where its link is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its rank, where the reference listed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// Whether the link is up.
    pub connected: bool,
    /// How many of our events it has not acknowledged as durable.
    pub lag: u64,
}
