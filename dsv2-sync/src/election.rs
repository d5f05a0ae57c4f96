//! Election of a coordinator.
//!
//! One server leads at a time: it runs the clock rounds, and observers look to it. Which one is decided between the
//! servers themselves, over their direct links; the reference only hands out ranks, and may die.
//!
//! ```text
//!  rank 1          rank 2          rank 3 (coordinator)
//!    │◄──────────────┼─── Heartbeat ───┤   twice a second; answered by Ack
//!    │               │◄── Heartbeat ───┤
//!    │               │                 ✗
//!    │   silence for `lost_ms`         ·
//!    ├── Election ──►│                 ·   to everybody it can reach
//!    │◄───── Ok ─────┤                 ·   "I am better, leave it to me"
//!    │◄── Election ──┤                 ·
//!    ├──── View ────►│                 ·   "I am not better, and I hear no coordinator either"
//!    │◄─ Coordinator ┤                 ·   a new epoch, saved before it is spoken
//! ```
//!
//! # Rules
//! 1. **Who wins.** The best rank among those alive: the highest, or the lowest where so configured. One rule for the
//!    first choice and for every failover. Equal ranks: the greater name (the smaller where the lowest rank wins).
//! 2. **Epochs.** Every reign has an [`Epoch`], a number and the id of the node that took it: no two reigns share one.
//!    A server takes a number above all it has seen, saves it, and only then speaks. Nobody's epoch ever goes back,
//!    restarts included, and a claim with a lower epoch than the receiver knows is refused; the refusal says which one.
//! 3. **Precedence.** Where two coordinators meet, after a partition, the better [`Standing`] precedes, then the better
//!    rank. Whoever precedes takes an epoch above both, and the other follows. So a server that comes and goes does not
//!    oust one that stayed with the others.
//! 4. **Hold-down.** A better server that joins follows the coordinator it finds, and takes over only after
//!    `hold_down_ms` of quiet. A flapping best rank causes at most two changes in that time.
//! 5. **Do not believe a single ear.** A server that lost the coordinator asks all others, and stays if one of them still
//!    hears it: a broken link between two servers is no reason for an election.
//!
//! Two implementations fit the trait: [`Bully`], where every partition may have its coordinator, and [`QuorumBully`], where
//! a coordinator needs the votes of a majority of named servers, and leads only as long as its lease lasts. The rules
//! above are those of `Bully`; what `QuorumBully` does instead, its own page says.
//!
//! Sources: H. Garcia-Molina, *Elections in a Distributed Computing System*, IEEE Transactions on Computers C-31(1),
//! 1982, for the algorithm; rule 2 follows the terms of D. Ongaro and J. Ousterhout, *In Search of an Understandable
//! Consensus Algorithm*, 2014, section 5.1, and rule 5 the check before an election of Ongaro's thesis, section 9.6.

use std::fmt;

use dsv2_core::{Machine, Mono, ServerName};
use serde::{Deserialize, Serialize};

mod bully;
mod quorum;
mod rank;
mod roster;

pub use bully::{Bully, BullyConfig};
#[cfg(feature = "sim")]
pub use quorum::Planted;
pub use quorum::{QuorumBully, QuorumConfig};
pub use rank::CoordinatorRank;

/// Which election a server takes part in. All servers of a cluster need the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ElectionForm {
    /// [`QuorumBully`] where voters are configured, else [`Bully`].
    #[default]
    Auto,
    /// [`Bully`] in any case: each side of a partition has its coordinator, although there are voters.
    Bully,
}

impl std::str::FromStr for ElectionForm {
    type Err = NoSuchForm;
    fn from_str(text: &str) -> Result<Self, NoSuchForm> {
        match text {
            "auto" => Ok(Self::Auto),
            "bully" => Ok(Self::Bully),
            _ => Err(NoSuchForm),
        }
    }
}

/// The text is neither `auto` nor `bully`. Nothing was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither auto nor bully")]
pub struct NoSuchForm;

/// The identity of a server's data directory: a random number drawn when the directory was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u128);

/// One reign: a number that only grows, and the node that took it. Ordered by number, then by node.
///
/// Text: `12@…a6`: the number, and the last two hex digits of the node, for logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Greater than every number its taker had seen; at least 1 for a real reign.
    pub number: u64,
    /// Who took it.
    pub node: NodeId,
}

impl Epoch {
    /// Before the first reign. It is also what a coordinator has whom a server of the family named, since the family
    /// knows no epochs.
    pub const ZERO: Self = Self { number: 0, node: NodeId(0) };
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@…{:02x}", self.number, self.node.0 & 0xff)
    }
}

/// A coordinator, as it is known here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Coordinator {
    /// Its name.
    pub name: ServerName,
    /// Its reign; [`Epoch::ZERO`] where a server of the family named it.
    pub epoch: Epoch,
}

/// A server, as the reference lists it or as a link introduced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: ServerName,
    /// Its rank; `None` where nobody has given it one, which is worse than every rank. 0 is a rank.
    pub rank: Option<u64>,
    /// Its node; `None` for servers of the family, and where the reference dropped it.
    pub node: Option<NodeId>,
}

/// How well a server is connected, from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// In contact with less than half of the members, itself included.
    Alone,
    /// In contact with at least half of them, or following somebody who is; for less than the hold-down.
    Fresh,
    /// The same, for at least the hold-down.
    Settled,
}

/// What a coordinator says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Its name.
    pub name: ServerName,
    /// Its reign.
    pub epoch: Epoch,
    /// Its rank.
    pub rank: Option<u64>,
    /// How well it is connected.
    pub standing: Standing,
}

/// A claim at second hand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// What the coordinator said.
    pub claim: Claim,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
}

/// What servers say to each other, over direct links.
///
/// The epoch in it is the highest that the sender knows; it and the rank are `None` where a server of the family, which
/// knows neither, speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ElectionMessage {
    /// "I hold an election: answer."
    Election {
        /// The sender's highest epoch.
        epoch: Option<Epoch>,
        /// The sender's rank.
        rank: Option<u64>,
    },
    /// "I am better, and alive: leave it to me."
    Ok {
        /// The sender's highest epoch.
        epoch: Option<Epoch>,
        /// The sender's rank.
        rank: Option<u64>,
    },
    /// "I am the coordinator from now on."
    Coordinator(Claim),
    /// "I still am."
    Heartbeat(Claim),
    /// "I follow you."
    Ack {
        /// The sender's highest epoch.
        epoch: Epoch,
    },
    /// "This is the coordinator that I hear", or that I hear none. Also the refusal of a claim: the receiver learns of
    /// the epoch that it is below.
    View {
        /// The sender's highest epoch.
        epoch: Epoch,
        /// The coordinator it hears, itself included.
        seen: Option<Seen>,
    },
    /// "I lead no longer; choose another." With voters also: "I want no votes for that ballot any more."
    Resign {
        /// The reign that ends.
        epoch: Epoch,
    },
    /// With voters, the answer to [`ElectionMessage::Election`]: "I hear no coordinator and am bound to none; ask for my
    /// vote." It binds nobody.
    Support {
        /// The sender's highest epoch.
        epoch: Epoch,
    },
    /// "Vote for me."
    Request {
        /// The reign that it would be.
        ballot: Epoch,
        /// The sender's rank.
        rank: Option<u64>,
    },
    /// "You have my vote." It is saved before it is spoken.
    Grant {
        /// For which reign.
        ballot: Epoch,
    },
    /// "I lead, as long as a majority goes on to say so."
    Lease {
        /// The coordinator's claim.
        claim: Claim,
        /// When it was sent, by the coordinator's own clock, in microseconds; means nothing to others.
        sent_us: u64,
    },
    /// The answer: "I vote for nobody else for the time of the silence window."
    Renewed {
        /// The reign that is followed.
        epoch: Epoch,
        /// From the message that is answered.
        sent_us: u64,
    },
    /// "I am better than you, and a majority hears me: hand over."
    Handover {
        /// The reign that should end.
        epoch: Epoch,
    },
}

/// What happens to an election.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElectionInput {
    /// The list of members, this server included; replaces the last one. Servers with a link stay known without it.
    Members(Vec<Member>),
    /// A direct link to a server works.
    LinkUp(ServerName),
    /// It no longer does.
    LinkDown(ServerName),
    /// A server gave another sign of life.
    Heard(ServerName),
    /// A server said something.
    Message {
        /// Which.
        from: ServerName,
        /// What.
        message: ElectionMessage,
    },
    /// A server of the family announced a coordinator on `servers`, without an epoch.
    ForeignAnnouncement {
        /// The coordinator's name.
        name: ServerName,
    },
    /// The reference does not answer.
    ReferenceLost,
    /// It answers again.
    ReferenceBack,
    /// This server is about to stop: it leads no longer, and never will again in this life.
    Stepdown,
    /// The deadline came.
    Wake,
}

/// What an election wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElectionEffect {
    /// Make the epoch durable. No later effect, of this turn or another, may be carried out before that.
    Save(Epoch),
    /// Make the vote durable, as [`ElectionEffect::Save`]: whom this server grants the number of that epoch.
    SaveVote(Epoch),
    /// Say something over the direct link; may be lost.
    Send {
        /// To whom.
        to: ServerName,
        /// What.
        message: ElectionMessage,
    },
    /// Publish on `servers` that this server is coordinator.
    Announce(Coordinator),
    /// The coordinator, as known here, changed.
    Changed {
        /// It was.
        old: Option<Coordinator>,
        /// It is; `None` where it resigned, or where this server is about to stop and lost it.
        new: Option<Coordinator>,
        /// Why.
        reason: ChangeReason,
    },
    /// The reference is gone, and this coordinator stays nevertheless. Once for every loss of the reference.
    CoordinatorStays {
        /// Its name.
        name: ServerName,
    },
    /// A server of the family named a coordinator, and it is not obeyed: voters are configured, or nobody knows the name.
    ForeignIgnored {
        /// The name.
        name: ServerName,
    },
}

/// Why the coordinator changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeReason {
    /// There was none.
    Chosen,
    /// The old one fell silent.
    Lost,
    /// The old one is alive, and the new one precedes it: two partitions met, or a better server took over.
    Outranked,
    /// The same one leads on, in a new epoch.
    Renewed,
    /// The old one resigned.
    Resigned,
    /// This server led, and too few voters went on to say so.
    LeaseEnded,
    /// This server led, and a better one asked it to hand over.
    HandedOver,
    /// A server of the family named the new one.
    Foreign,
}

impl fmt::Display for ChangeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chosen => "there was none",
            Self::Lost => "the old one fell silent",
            Self::Outranked => "the new one precedes",
            Self::Renewed => "the same in a new epoch",
            Self::Resigned => "the old one resigned",
            Self::LeaseEnded => "the lease ended",
            Self::HandedOver => "handed over to a better one",
            Self::Foreign => "named by a server of the family",
        })
    }
}

/// An election: a machine that knows who leads.
///
/// Laws, which the property tests check on both implementations:
/// - no two servers ever lead in the same epoch;
/// - `epoch` never goes back, in a restart neither, given what was last saved;
/// - once links are stable, all servers that are linked with each other agree within a bound; then the best rank leads;
/// - in quiet times nothing changes.
pub trait Election: Machine<Input = ElectionInput, Effect = ElectionEffect> + fmt::Debug + Send {
    /// The coordinator as known here. While an election runs, the last one; only its successor replaces it.
    fn coordinator(&self) -> Option<&Coordinator>;
    /// The highest epoch known here.
    fn epoch(&self) -> Epoch;
    /// Whether this server leads at `now`, by its own clock, read when the question is put: a process may have been
    /// paused since its last step, and a lease does not wait.
    fn is_coordinator(&self, now: Mono) -> bool;
    /// When this server's lease ends unless it is renewed; `None` where it does not lead, or leads without a lease.
    fn lease_until(&self) -> Option<Mono> {
        None
    }
}
