//! What happens to a server, and what it wants done.

use std::collections::BTreeSet;
use std::sync::Arc;

use dsv2_core::{
    Announcement, Change, Clock, Event, EventId, Failure, Feed, Floors, LinkNotice, OrderKey, Origin, Position,
    Refusal, ReplicationEvent, Reply, Request, Retention, Retirement, ServerName, Timestamp, Topic,
};

use crate::election::Epoch;
use crate::link::LinkMessage;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A client's request arrived, or what should have been one.
    Request {
        /// Where the answer goes: exactly one [`Effect::Reply`] names it.
        from: u64,
        /// The request, or how to refuse it.
        request: Result<Request, Box<Refusal>>,
    },
    /// A message arrived on a link.
    Link {
        /// Which.
        link: LinkId,
        /// The message.
        message: Box<LinkMessage>,
    },
    /// A link that was dialled is connected.
    LinkUp(u64),
    /// A link is gone: one that was dialled, until it is up again, or one that was accepted, for good.
    LinkDown(LinkId),
    /// The reference answered, or could not be asked.
    Reference(Result<Reply, Failure>),
    /// Somebody announced a coordinator on `servers`.
    Announced(Announcement),
    /// Somebody announced a link on `_links`.
    LinkNotice(LinkNotice),
    /// An event stood on `replication`.
    Replicated(ReplicationEvent),
    /// The store answered a [`Effect::Read`].
    Read {
        /// The read's token.
        token: u64,
        /// What was read.
        result: Result<ReadResult, String>,
    },
    /// Metadata is durable: what it covers may be shown.
    Saved(Saved),
    /// The store takes no more writes. What was to be made durable after `durable` is not; until [`Input::Unstuck`]
    /// the machine takes no writes, and shows nothing but what is durable.
    Stuck {
        /// What is on the disk.
        durable: Position,
        /// Why nothing comes after it.
        why: Stuck,
    },
    /// The store takes writes again, and everything that was decided so far is durable.
    Unstuck,
    /// The turn ends: what was collected goes out together.
    Flush,
    /// The process is to end: finish what was begun, take nothing new.
    Drain,
    /// The time that [`dsv2_core::Machine::deadline`] named has come.
    Wake,
}

/// Why a store takes no more writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// There is no room. Nothing of what was under way was written; all of it is tried again.
    Full,
    /// It failed, for as long as this process lives.
    Failed(String),
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("the disk of this server is full"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// One end of a direct connection between servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkId {
    /// One that this server dialled, by the number it chose.
    Dialled(u64),
    /// One that it accepted, by the number the driver chose.
    Accepted(u64),
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum ReadResult {
    /// Events of one origin, in their order, and up to which number these are all that is not retired.
    Range {
        /// The events.
        events: Vec<Event>,
        /// The number.
        upto: u64,
    },
    /// The floors that a retention asks for, and what was held when they were sought.
    Floors(Retirement),
    /// A part of a feed.
    Page {
        /// Oldest first.
        events: Vec<Event>,
        /// The position after them.
        next: Position,
        /// The feed's last event per origin.
        heads: Position,
        /// Whether there are more.
        more: bool,
        /// Predecessors of these events that are retired, and that the position did not mean.
        retired: Vec<EventId>,
    },
}

/// Something is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make the change of the log durable. All that leaves in order after it waits for that.
    Change(Change),
    /// Make the metadata durable, as [`Effect::Change`], and say so by [`Input::Saved`].
    Save(Saved),
    /// Answer a request.
    Reply {
        /// Where to.
        to: u64,
        /// The answer.
        reply: Box<Reply>,
        /// Whether it shows nothing that may not be durable, and need not wait.
        prompt: bool,
    },
    /// Publish.
    Publish(Outgoing),
    /// Send the message on each of the links.
    Link {
        /// Which.
        to: Vec<LinkId>,
        /// The message.
        message: LinkMessage,
        /// Whether it shows nothing that may not be durable, and need not wait.
        prompt: bool,
    },
    /// Ask the reference. One question at a time; an answer or a failure follows.
    Reference(Box<Request>),
    /// Connect to another server's link, and stay connected.
    Dial {
        /// The number by which the link is called from now on.
        link: u64,
        /// Where.
        address: String,
    },
    /// Give a link up: a dialled one or an accepted one.
    HangUp(LinkId),
    /// Read from the store.
    Read {
        /// Comes back with the answer.
        token: u64,
        /// What.
        read: Read,
    },
    /// Tell the broker whether requests are welcome.
    Ready(bool),
    /// Everything begun is finished; the process may end.
    Drained,
    /// The process must end, and say why.
    Fatal(String),
    /// Something worth a line in the log.
    Log(Note),
}

/// What an [`Effect`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// It is itself what is made durable.
    Durable,
    /// It reveals state: it leaves in order, and only after all durable effects before it are durable.
    Ordered,
    /// It reveals nothing: it leaves at once, so that a slow disk is not taken for a dead server.
    Prompt,
}

impl Effect {
    /// What it waits for.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Change(_) | Self::Save(_) => Lane::Durable,
            Self::Reply { prompt, .. } | Self::Link { prompt, .. } => {
                if *prompt {
                    Lane::Prompt
                } else {
                    Lane::Ordered
                }
            }
            Self::Publish(Outgoing::LinkNotice(_)) => Lane::Prompt,
            Self::Publish(_) | Self::Drained | Self::Log(Note::Written { .. } | Note::Replicated { .. }) => {
                Lane::Ordered
            }
            Self::Reference(_)
            | Self::Dial { .. }
            | Self::HangUp(_)
            | Self::Read { .. }
            | Self::Ready(_)
            | Self::Fatal(_)
            | Self::Log(_) => Lane::Prompt,
        }
    }
}

/// What a server must remember besides events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Logical clocks up to here may have been used.
    pub clock_limit: Clock,
    /// The number of the highest epoch of an election that it saw.
    pub epoch: u64,
    /// The node that opened it.
    pub epoch_owner: u128,
    /// The last vote it gave, [`Epoch::ZERO`] where there was none.
    pub vote: Epoch,
    /// The rank that the reference gave it.
    pub rank: Option<u64>,
    /// Voters that are gone for good.
    pub departed: BTreeSet<ServerName>,
    /// Floors that it raised, or must raise because it passed over what another server had retired.
    pub retirement: Retirement,
}

/// A publication on its way.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// An own event, on its topic (where it has one) and on `replication`.
    Event(Arc<Event>),
    /// A coordinator, on `servers`.
    Announcement(Announcement),
    /// The own link, on `_links`.
    LinkNotice(LinkNotice),
}

impl Outgoing {
    /// What is published besides the event on `replication`: its topic, and its body in `body`, which is overwritten.
    /// Nothing for an event that has no topic of its own.
    pub fn publication(&self, format: dsv2_core::Format, body: &mut Vec<u8>) -> Option<Topic> {
        body.clear();
        match self {
            Self::Event(event) => {
                let topic = event.body.topic()?;
                dsv2_core::Publication::encode_event(event, format, body);
                Some(topic)
            }
            Self::Announcement(announcement) => {
                announcement.encode_into(format, body);
                Some(Topic::Servers)
            }
            Self::LinkNotice(notice) => {
                notice.encode_into(format, body);
                Some(Topic::Links)
            }
        }
    }

    /// The event on `replication`, if it is one; in `body`, which is overwritten.
    pub fn replication(&self, format: dsv2_core::Format, body: &mut Vec<u8>) -> Option<Topic> {
        body.clear();
        let Self::Event(event) = self else { return None };
        ReplicationEvent::encode_into(event, format, body);
        Some(Topic::Replication)
    }
}

/// What to read from the store.
#[derive(Clone, Debug)]
pub enum Read {
    /// Events of one origin.
    Range {
        /// Whose.
        origin: Origin,
        /// From which number on.
        from: u64,
        /// At most so many.
        limit: usize,
    },
    /// What a retention asks for.
    Floors {
        /// How much is to be kept.
        retention: Retention,
        /// As of when.
        now: Timestamp,
        /// No floor above.
        bound: Clock,
    },
    /// A part of a feed, forwards.
    After {
        /// Which feed.
        feed: Feed,
        /// Only events that it does not mean.
        position: Position,
        /// At most so many.
        limit: usize,
    },
    /// A part of a feed, backwards.
    Before {
        /// Which feed.
        feed: Feed,
        /// Only events before it; all where there is none.
        key: Option<OrderKey>,
        /// At most so many.
        limit: usize,
    },
}

/// Something worth a line in the log. The words that the course's tests look for stand in the driver's texts:
/// `clock`, `coordinator`, `replicado`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A batch of this server's own events is written.
    Written {
        /// The first and the last number.
        range: (u64, u64),
        /// The logical clock after it.
        clock: Clock,
    },
    /// A batch of another server's events was replicated here.
    Replicated {
        /// Whose.
        origin: Origin,
        /// The first and the last number.
        range: (u64, u64),
        /// The logical clock after it.
        clock: Clock,
    },
    /// The coordinator changed.
    Coordinator {
        /// Who it is now.
        name: Option<ServerName>,
        /// In which epoch.
        epoch: u64,
        /// Why it changed.
        why: String,
        /// The logical clock.
        clock: Clock,
    },
    /// The reference is gone; the coordinator stays.
    CoordinatorStays(Option<ServerName>),
    /// The reference gave a rank.
    Ranked(u64),
    /// The reference cannot be reached, or answers strangely; said once until it works again.
    ReferenceLost(String),
    /// The reference is back.
    ReferenceBack,
    /// A link is established.
    Linked(ServerName),
    /// A link is lost.
    Unlinked(ServerName),
    /// A link was refused, by us or by the other side.
    LinkRefused(String),
    /// The server takes writes again, or no longer, and why.
    Readiness {
        /// Whether it does.
        ready: bool,
        /// Why.
        why: String,
    },
    /// Messages below these clocks are retired.
    Retired(Floors),
    /// An event of a foreign server was adopted.
    Adopted(Arc<Event>),
    /// A voter is gone for good: nobody waits for it any more, and its links are refused.
    Departed(ServerName),
    /// A name is user and channel at once.
    NameConflict(String),
    /// The agreement of wall clocks did or refused something.
    ClockRound(String),
    /// Something was not as it should be.
    Trouble(String),
}
