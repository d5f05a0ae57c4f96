//! Events: what the log holds, and all that ever changes a server's state.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::id::{EventId, MessageId, OrderKey, Origin};
use crate::name::{ChannelName, Topic, UserName};
use crate::retention::Floors;
use crate::time::Timestamp;

/// One write, as its origin decided it. Never changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who wrote it, and its number there.
    pub id: EventId,
    /// Its logical time: assigned by its origin, greater than all that caused it.
    pub clock: Clock,
    /// The previous event that the same server wrote on the same topic, over all of its lives; it lets a subscriber of
    /// one topic see a loss there. `None` for the first one, and for events that have no topic.
    pub prev: Option<EventId>,
    /// The same for every retry of the write.
    pub message_id: MessageId,
    /// When it was written, for people.
    pub timestamp: Timestamp,
    /// What was written.
    pub body: EventBody,
}

/// What was written. The names of the variants in the family are those of [`EventBody::kind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventBody {
    /// A user logged in for the first time.
    UserLogin {
        /// Who.
        user: UserName,
    },
    /// A channel was created.
    ChannelCreate {
        /// Which.
        channel: ChannelName,
    },
    /// A publication in a channel.
    Publish {
        /// Who wrote it.
        user: UserName,
        /// Where.
        channel: ChannelName,
        /// The text.
        message: String,
    },
    /// A private message.
    Message {
        /// Who wrote it.
        src: UserName,
        /// To whom.
        dst: UserName,
        /// The text.
        message: String,
    },
}

/// The four kinds of events; each has a file of its own in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// `user_login`.
    UserLogin,
    /// `channel_create`.
    ChannelCreate,
    /// `message_publish`.
    Publish,
    /// `message_send`.
    Message,
}

impl EventKind {
    /// All of them, in the order of their files.
    pub const ALL: [Self; 4] = [Self::UserLogin, Self::ChannelCreate, Self::Publish, Self::Message];

    /// The `type` of such an event on the `replication` topic.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserLogin => "user_login",
            Self::ChannelCreate => "channel_create",
            Self::Publish => "message_publish",
            Self::Message => "message_send",
        }
    }

    /// The kind with that `type`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// One change of a log, to be made durable in order with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The next event of its origin.
    Append(Arc<Event>),
    /// All numbers of the origin up to `upto` count as held: those that did not come are retired elsewhere. It comes before
    /// the event that follows them.
    Skip {
        /// Whose.
        origin: Origin,
        /// Up to which number.
        upto: u64,
    },
    /// What is below the floors is retired.
    Retire {
        /// Below which clocks.
        floors: Floors,
        /// Events that do not stay as the last ones of their feeds, because their messages count by others.
        hidden: BTreeSet<EventId>,
    },
}

/// A sequence of messages that can be read back, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Feed {
    /// The publications in a channel.
    Channel(ChannelName),
    /// The private messages that a user received.
    Inbox(UserName),
    /// The private messages between two users, both directions. Build it with [`Feed::conversation`].
    Conversation(UserName, UserName),
}

impl Feed {
    /// The conversation of two users; the same whichever is named first.
    #[must_use]
    pub fn conversation(a: UserName, b: UserName) -> Self {
        if a <= b { Self::Conversation(a, b) } else { Self::Conversation(b, a) }
    }
}

impl Event {
    /// Its place in the total order.
    #[must_use]
    pub fn key(&self) -> OrderKey {
        OrderKey { clock: self.clock, id: self.id.clone() }
    }
}

impl EventBody {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::UserLogin { .. } => EventKind::UserLogin,
            Self::ChannelCreate { .. } => EventKind::ChannelCreate,
            Self::Publish { .. } => EventKind::Publish,
            Self::Message { .. } => EventKind::Message,
        }
    }

    /// How long its text is, in bytes; 0 where it has none.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Publish { message, .. } | Self::Message { message, .. } => message.len(),
            Self::UserLogin { .. } | Self::ChannelCreate { .. } => 0,
        }
    }

    /// The topic it is published on, if it is.
    #[must_use]
    pub fn topic(&self) -> Option<Topic> {
        match self {
            Self::Publish { channel, .. } => Some(Topic::Channel(channel.clone())),
            Self::Message { dst, .. } => Some(Topic::User(dst.clone())),
            Self::UserLogin { .. } | Self::ChannelCreate { .. } => None,
        }
    }

    /// The feeds it stands in: none, a channel, or an inbox and a conversation.
    #[must_use]
    pub fn feeds(&self) -> [Option<Feed>; 2] {
        match self {
            Self::Publish { channel, .. } => [Some(Feed::Channel(channel.clone())), None],
            Self::Message { src, dst, .. } => {
                [Some(Feed::Inbox(dst.clone())), Some(Feed::conversation(src.clone(), dst.clone()))]
            }
            Self::UserLogin { .. } | Self::ChannelCreate { .. } => [None, None],
        }
    }
}
