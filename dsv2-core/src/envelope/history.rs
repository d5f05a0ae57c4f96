//! Reading a feed back: the service `history`.

use serde::ser::SerializeMap;

use super::Data;
use super::loose::{Field, FieldError, Loose};
use super::publication::Publication;
use crate::clock::Clock;
use crate::event::{Event, EventKind, Feed};
use crate::id::{EventId, OrderKey};
use crate::name::{ChannelName, UserName};
use crate::position::Position;

/// Asks for a part of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Which feed.
    pub subject: Subject,
    /// Which part of it.
    pub span: HistorySpan,
    /// How many events at most; the server has a bound of its own, 1,000, and one in bytes.
    pub limit: u64,
}

/// The feed that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `topic` alone: the channel of that name, or else the inbox of the user of that name.
    Topic(String),
    /// `topic` with `kind: channel`.
    Channel(ChannelName),
    /// `topic` with `kind: user`: the private messages that the user received.
    Inbox(UserName),
    /// `user` and `with`: both directions of a private conversation.
    Conversation {
        /// Who asks.
        user: UserName,
        /// Who the other one is.
        with: UserName,
    },
}

impl Subject {
    /// The feed, where the name alone does not leave open which.
    #[must_use]
    pub fn feed(&self) -> Option<Feed> {
        match self {
            Self::Topic(_) => None,
            Self::Channel(channel) => Some(Feed::Channel(channel.clone())),
            Self::Inbox(user) => Some(Feed::Inbox(user.clone())),
            Self::Conversation { user, with } => Some(Feed::conversation(user.clone(), with.clone())),
        }
    }
}

/// The part of a feed that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistorySpan {
    /// Forwards: the events that the position does not mean. Its numbers are those of this feed's events.
    After(Position),
    /// Backwards: the newest events before the key; before the end where there is none.
    Before(Option<OrderKey>),
}

/// A part of a feed, in the total order.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryPage {
    /// Oldest first.
    pub events: Vec<Publication>,
    /// The position after these events, for the next query.
    pub next: Position,
    /// The last event of each origin on the feed.
    pub heads: Position,
    /// Whether the feed goes on in the direction that was asked for.
    pub more: bool,
    /// Nothing will ever be inserted before this logical time; absent without voters.
    pub stable: Option<Clock>,
    /// Predecessors of events of this page that retention took, and that the query did not mean: a reader missed them for
    /// good, and perhaps others before them.
    pub retired: Vec<EventId>,
}

impl HistoryQuery {
    pub(super) fn from_loose(loose: &Loose<'_>) -> Field<Self> {
        let subject = match (loose.text_or_none("with")?, loose.text_or_none("kind")?) {
            (Some(_), _) => Subject::Conversation { user: loose.name("user")?, with: loose.name("with")? },
            (None, Some("channel")) => Subject::Channel(loose.name("topic")?),
            (None, Some("user")) => Subject::Inbox(loose.name("topic")?),
            (None, None) => Subject::Topic(loose.name::<crate::name::Channel>("topic")?.as_str().to_owned()),
            (None, Some(_)) => return Err(FieldError { field: "kind", why: "is neither channel nor user".into() }),
        };
        let span = match (loose.structure("after")?, loose.structure("before")?) {
            (Some(_), Some(_)) => {
                return Err(FieldError { field: "before", why: "and after exclude each other".into() });
            }
            (Some(position), None) => HistorySpan::After(position),
            (None, Some(key)) => HistorySpan::Before(Some(key)),
            (None, None) => HistorySpan::Before(None),
        };
        Ok(Self { subject, span, limit: loose.integer("limit")?.unwrap_or(100) })
    }

    pub(super) fn serialize_into<M: SerializeMap>(&self, data: &mut Data<M>) -> Result<(), M::Error> {
        match &self.subject {
            Subject::Topic(topic) => data.serialize_entry("topic", topic)?,
            Subject::Channel(channel) => {
                data.serialize_entry("topic", channel)?;
                data.serialize_entry("kind", "channel")?;
            }
            Subject::Inbox(user) => {
                data.serialize_entry("topic", user)?;
                data.serialize_entry("kind", "user")?;
            }
            Subject::Conversation { user, with } => {
                data.serialize_entry("user", user)?;
                data.serialize_entry("with", with)?;
            }
        }
        match &self.span {
            HistorySpan::After(position) => data.serialize_entry("after", position)?,
            HistorySpan::Before(key) => data.optional("before", key.as_ref())?,
        }
        data.serialize_entry("limit", &self.limit)
    }
}

impl HistoryPage {
    pub(super) fn from_loose(loose: &Loose<'_>) -> Field<Self> {
        Ok(Self {
            events: loose.structure("events")?.unwrap_or_default(),
            next: loose.structure("next")?.unwrap_or_default(),
            heads: loose.structure("heads")?.unwrap_or_default(),
            more: loose.structure("more")?.unwrap_or_default(),
            stable: loose.structure("stable")?,
            retired: loose.structure("retired")?.unwrap_or_default(),
        })
    }

    pub(super) fn serialize_into<M: SerializeMap>(&self, data: &mut Data<M>) -> Result<(), M::Error> {
        data.serialize_entry("events", &self.events)?;
        data.serialize_entry("next", &self.next)?;
        data.serialize_entry("heads", &self.heads)?;
        data.serialize_entry("more", &self.more)?;
        data.optional("stable", self.stable.as_ref())?;
        data.optional("retired", (!self.retired.is_empty()).then_some(&self.retired))
    }

    /// The events of a feed as a page carries them; those without a text of their own are left out.
    #[must_use]
    pub fn publications(events: &[Event]) -> Vec<Publication> {
        let messages =
            events.iter().filter(|event| matches!(event.body.kind(), EventKind::Publish | EventKind::Message));
        messages.filter_map(|event| Publication::of_event(event, true)).collect()
    }
}
