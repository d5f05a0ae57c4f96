//! Publications: what subscribers of a channel or of a user's own topic receive, and what `history` lists.

use serde::{Deserialize, Serialize, Serializer};

use super::loose::{Field, FieldError, Loose};
use super::timestamp::RawTimestamp;
use super::value::Value;
use super::{direct, encode_flat, encoded, ordered};
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::event::{Event, EventBody};
use crate::id::{EventId, MessageId, OrderKey};
use crate::name::{ChannelName, UserName};
use crate::time::Timestamp;

/// A message on its way to subscribers, or in a history.
///
/// On its topic it is flat; `channel` and `dst` are left out there, since the topic says them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Flat")]
pub struct Publication {
    /// What was written.
    pub body: PublicationBody,
    /// When it was written, for people.
    pub timestamp: Option<Timestamp>,
    /// Its logical time.
    pub clock: Option<Clock>,
    /// The message's identity. Ours.
    pub id: Option<MessageId>,
    /// The event's identity; the fields are called `origin` and `seq`. Ours.
    pub event: Option<EventId>,
    /// The previous event of the same server on the same topic. Ours.
    pub prev: Option<EventId>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicationBody {
    /// A publication in a channel.
    Channel {
        /// Who wrote it.
        user: String,
        /// Where; `None` on the channel's own topic.
        channel: Option<ChannelName>,
        /// The text.
        message: String,
    },
    /// A private message.
    Private {
        /// Who wrote it.
        src: String,
        /// To whom; `None` on the receiver's own topic.
        dst: Option<UserName>,
        /// The text.
        message: String,
    },
}

impl PublicationBody {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Channel { message, .. } | Self::Private { message, .. } => message,
        }
    }

    /// Who wrote it. Foreign servers may publish names that are none here, so this is a text.
    #[must_use]
    pub fn author(&self) -> &str {
        match self {
            Self::Channel { user, .. } => user,
            Self::Private { src, .. } => src,
        }
    }
}

impl Publication {
    /// An event as it is published on its topic, or with its address (`addressed`) as a history lists it. `None` for an
    /// event that has no topic.
    #[must_use]
    pub fn of_event(event: &Event, addressed: bool) -> Option<Self> {
        let body = match &event.body {
            EventBody::Publish { user, channel, message } => PublicationBody::Channel {
                user: user.as_str().to_owned(),
                channel: addressed.then(|| channel.clone()),
                message: message.clone(),
            },
            EventBody::Message { src, dst, message } => PublicationBody::Private {
                src: src.as_str().to_owned(),
                dst: addressed.then(|| dst.clone()),
                message: message.clone(),
            },
            EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => return None,
        };
        Some(Self {
            body,
            timestamp: Some(event.timestamp),
            clock: Some(event.clock),
            id: Some(event.message_id.clone()),
            event: Some(event.id.clone()),
            prev: event.prev.clone(),
        })
    }

    /// Its place in the total order, where it carries one.
    #[must_use]
    pub fn key(&self) -> Option<OrderKey> {
        Some(OrderKey { clock: self.clock?, id: self.event.clone()? })
    }

    /// Encodes it, flat.
    #[must_use]
    pub fn encode(&self, format: Format) -> Vec<u8> {
        encoded(self.body.text().len(), |out| encode_flat(format, self, out))
    }

    /// Appends an event to `out` as it is published on its topic: the same bytes as of [`Publication::of_event`], made at
    /// once. Nothing for an event that has no topic.
    pub fn encode_event(event: &Event, format: Format, out: &mut Vec<u8>) {
        let (user, src, message) = match &event.body {
            EventBody::Publish { user, message, .. } => (Some(user.as_str()), None, message),
            EventBody::Message { src, message, .. } => (None, Some(src.as_str()), message),
            EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => return,
        };
        if format == Format::Json {
            return direct::publication(event, out);
        }
        let flat = FlatRef {
            user,
            channel: None,
            src,
            dst: None,
            message,
            timestamp: Some(event.timestamp),
            clock: Some(event.clock),
            id: Some(&event.message_id),
            origin: Some(&event.id.origin),
            seq: Some(event.id.seq),
            prev: event.prev.as_ref(),
        };
        encode_flat(format, &flat, out);
    }

    /// Decodes a publication of any member of the family, flat or in an envelope.
    ///
    /// # Errors
    /// A text that says what is wrong; a subscriber drops such a publication, and counts it.
    pub fn decode(body: &[u8], limits: &Limits) -> Result<Self, String> {
        ordered::publication(body, limits).map_or_else(|| Self::decode_loosely(body, limits), Ok)
    }

    pub(super) fn decode_loosely(body: &[u8], limits: &Limits) -> Result<Self, String> {
        let mut loose = Loose::default();
        loose.read(body, limits).map_err(|why| why.to_string())?;
        Self::from_loose(&loose).map_err(|why| why.to_string())
    }

    fn from_loose(loose: &Loose<'_>) -> Field<Self> {
        let message = loose.text("message")?.to_owned();
        let is_there = |field: &&str| loose.get(field).is_some_and(|value| *value != Value::Null);
        let author = ["src", "from", "user", "username"].into_iter().find(is_there).unwrap_or("user");
        // The envelope's service does not tell: some programs wrap both sorts in `message`.
        let private = author == "src" || author == "from";
        let author = loose.text(author)?.to_owned();
        let name_or_none = |field| match loose.text_or_none(field) {
            Ok(Some(_)) => loose.name(field).map(Some),
            other => other.map(|_| None),
        };
        let body = if private {
            let dst = if loose.get("dst").is_some() { "dst" } else { "to" };
            let dst = loose.text_or_none(dst)?.map(|_| loose.name(dst)).transpose()?;
            PublicationBody::Private { src: author, dst, message }
        } else {
            PublicationBody::Channel { user: author, channel: name_or_none("channel")?, message }
        };
        let timestamp = loose.timestamp()?.as_ref().and_then(RawTimestamp::wall).map(crate::time::Wall::timestamp);
        Ok(Self {
            body,
            timestamp,
            clock: loose.clock()?,
            id: own(loose, "id")?,
            event: event_id(loose)?,
            prev: own(loose, "prev")?,
        })
    }
}

/// A field that only ours carry as a text; other programs may use the name for something else.
fn own<T: std::str::FromStr<Err: std::fmt::Display>>(loose: &Loose<'_>, field: &'static str) -> Field<Option<T>> {
    match loose.get(field) {
        Some(Value::Text(text)) => Ok(text.parse().ok()),
        _ => Ok(None),
    }
}

pub(super) fn event_id(loose: &Loose<'_>) -> Field<Option<EventId>> {
    match (own(loose, "origin")?, loose.get("seq").filter(|value| **value != Value::Null)) {
        (Some(origin), Some(_)) => {
            let seq = loose.integer("seq")?.filter(|&seq| seq > 0);
            let seq = seq.ok_or(FieldError { field: "seq", why: "is not a positive integer".into() })?;
            Ok(Some(EventId { origin, seq }))
        }
        _ => Ok(None),
    }
}

/// The flat form, strictly as it leaves.
#[derive(Serialize)]
struct FlatRef<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a ChannelName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<&'a UserName>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Clock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a crate::id::Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev: Option<&'a EventId>,
}

impl Serialize for Publication {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (user, channel, src, dst) = match &self.body {
            PublicationBody::Channel { user, channel, .. } => (Some(&**user), channel.as_ref(), None, None),
            PublicationBody::Private { src, dst, .. } => (None, None, Some(&**src), dst.as_ref()),
        };
        let flat = FlatRef {
            user,
            channel,
            src,
            dst,
            message: self.body.text(),
            timestamp: self.timestamp,
            clock: self.clock,
            id: self.id.as_ref(),
            origin: self.event.as_ref().map(|event| &event.origin),
            seq: self.event.as_ref().map(|event| event.seq),
            prev: self.prev.as_ref(),
        };
        flat.serialize(serializer)
    }
}

/// The same as it is read.
#[derive(Deserialize)]
struct Flat {
    user: Option<String>,
    channel: Option<ChannelName>,
    src: Option<String>,
    dst: Option<UserName>,
    message: String,
    timestamp: Option<Timestamp>,
    clock: Option<Clock>,
    id: Option<MessageId>,
    origin: Option<crate::id::Origin>,
    seq: Option<u64>,
    prev: Option<EventId>,
}

impl TryFrom<Flat> for Publication {
    type Error = &'static str;
    fn try_from(flat: Flat) -> Result<Self, Self::Error> {
        let body = match (flat.src, flat.user) {
            (Some(src), _) => PublicationBody::Private { src, dst: flat.dst, message: flat.message },
            (None, Some(user)) => PublicationBody::Channel { user, channel: flat.channel, message: flat.message },
            (None, None) => return Err("neither user nor src"),
        };
        let event = flat.origin.zip(flat.seq).map(|(origin, seq)| EventId { origin, seq });
        Ok(Self { body, timestamp: flat.timestamp, clock: flat.clock, id: flat.id, event, prev: flat.prev })
    }
}
