//! What servers say to each other over their direct links.
//!
//! ```text
//!   dialler                                 listener
//!      │── Hello (name, node, voters) ────────►│   refused where versions or lists of voters differ
//!      │◄────────────── Welcome (vector) ──────│
//!      │── Events … ──────────────────────────►│   own events, streamed without waiting
//!      │◄──────────────────────── Ack (vector) │   once they are durable
//!      │── Vector ────────────────────────────►│   about twice a second
//!      │◄──────── Pull (origin, from) ─────────│   what the other has and we lack
//!      │── Events … ──────────────────────────►│
//! ```
//!
//! On the wire each is one frame, `[version, message]` in MessagePack: an array, so that no request of the family,
//! which is a map, can be taken for one.

use dsv2_core::{Clock, Event, Level, Origin, Position, Retirement, ServerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock_sync::ClockMessage;
use crate::election::ElectionMessage;

/// The version of the messages here. Servers refuse others. Version 2 brought the messages of elections with a quorum,
/// version 3 the present life in a hello, version 4 retention, version 5 floors wherever what they retired is told of.
pub const LINK_VERSION: u8 = 5;

/// One message on a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LinkMessage {
    /// The dialler presents itself. First on every connection.
    Hello(LinkHello),
    /// The listener takes the connection.
    Welcome {
        /// Who it is, and what it holds, durable.
        hello: LinkHello,
    },
    /// The listener refuses it, and says why.
    Refused {
        /// For people.
        why: String,
    },
    /// Events of one origin, in their order, without gaps among them.
    Events {
        /// The events. Shared between the links they leave on.
        events: Vec<Arc<Event>>,
    },
    /// All events of one origin from number `from` up to `upto` that the sender has not retired.
    Stretch {
        /// Whose.
        origin: Origin,
        /// The first number that it tells of.
        from: u64,
        /// The last one.
        upto: u64,
        /// The events, in their order; the numbers between them are retired.
        events: Vec<Arc<Event>>,
        /// By these floors: whoever passes over what is retired must remember them.
        retirement: Retirement,
    },
    /// What of the streamed events' origins is durable at the receiver.
    Ack {
        /// For each origin concerned.
        durable: Position,
    },
    /// All that the sender holds, durable. Answered by a pull where it holds more.
    Vector {
        /// The sender's position.
        durable: Position,
        /// Whether the receiver should answer with its own.
        answer: bool,
        /// The floors that it knows of.
        retirement: Retirement,
    },
    /// Asks for the events of an origin from a number on.
    Pull {
        /// Whose events.
        origin: Origin,
        /// The first number wanted.
        from: u64,
    },
    /// The sender will never again give an event a clock up to `clock`, and `events` are all that it gave one so far.
    Bound {
        /// The bound.
        clock: Clock,
        /// The last event of each of the sender's own lives, and of all lives of voters that are gone that it holds.
        events: Position,
        /// What was final at the sender then: it holds every event up to this clock, durable. Zero where it cannot tell.
        stable: Clock,
        /// The floors that it knows of.
        retirement: Retirement,
        /// Voters that are gone for good, as far as the sender knows.
        departed: BTreeSet<ServerName>,
    },
    /// The sender lives. Answered by [`LinkMessage::Pong`].
    Ping,
    /// So does the receiver.
    Pong,
    /// A client's request, forwarded by a server that may not write.
    Forward {
        /// To tell the answers apart.
        ticket: u64,
        /// The request's body, as a client would send it.
        body: Vec<u8>,
        /// The level that the forwarding server would have used.
        level: Level,
    },
    /// The answer to a forwarded request.
    Forwarded {
        /// The request's ticket.
        ticket: u64,
        /// The reply's body.
        body: Vec<u8>,
    },
    /// A message of the election.
    Election(ElectionMessage),
    /// A message of the agreement of clocks.
    Clock(ClockMessage),
}

/// How a server presents itself on a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkHello {
    /// Its name.
    pub name: ServerName,
    /// The random identity of its data directory.
    pub node: u128,
    /// The number of its present life, whose events it streams.
    pub incarnation: u64,
    /// A digest of its list of voters; 0 without one. Two lists in one cluster could each have a majority.
    pub voters: u64,
    /// Its rank, once it has one.
    pub rank: Option<u64>,
    /// Where its own link is: whoever is dialled dials back, without waiting for a list.
    pub address: Option<String>,
    /// Its logical clock.
    pub clock: Clock,
    /// What it holds, durable.
    pub durable: Position,
    /// Voters that are gone for good, as far as it knows.
    pub departed: BTreeSet<ServerName>,
}

/// Why a frame is no link message. The connection it came on is not to be trusted any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Another version of these messages; carries it.
    #[error("the peer speaks version {0} of the link protocol, this server {LINK_VERSION}")]
    Version(u8),
    /// Not well-formed; carries the decoder's words.
    #[error("the link message cannot be read: {0}")]
    Malformed(String),
}

impl LinkMessage {
    /// Whether a frame looks like one of these; what does not may be a request of the family.
    #[must_use]
    pub fn detect(frame: &[u8]) -> bool {
        frame.first() == Some(&0x92)
    }

    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let encoded = rmp_serde::to_vec(&(LINK_VERSION, self));
        // Nothing in a message can fail to serialize: keys are texts, and a vector takes every write.
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        encoded.unwrap_or_default()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`LinkError`]; the frame is ignored.
    pub fn decode(frame: &[u8]) -> Result<Self, LinkError> {
        let version = match frame {
            [0x92, version @ 0..=0x7f, ..] => *version,
            _ => return Err(LinkError::Malformed("no version".to_owned())),
        };
        if version != LINK_VERSION {
            return Err(LinkError::Version(version));
        }
        let (_, message): (u8, Self) =
            rmp_serde::from_slice(frame).map_err(|why| LinkError::Malformed(why.to_string()))?;
        Ok(message)
    }
}
