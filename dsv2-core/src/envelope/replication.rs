//! Events on the topic `replication`: emitted for observers and for servers of the family, understood from the latter.

use serde::{Serialize, Serializer};

use super::loose::{Field, FieldError, Loose};
use super::publication::event_id;
use super::timestamp::RawTimestamp;
use super::value::Value;
use super::{Data, encode_flat};
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::event::{Event, EventBody, EventKind};
use crate::id::EventId;
use crate::time::Timestamp;

/// An event as the family publishes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicationEvent {
    /// The sender's own name for itself, a text or a number; never an identity here.
    pub server_id: String,
    /// The logical time of the event.
    pub clock: Option<Clock>,
    /// The logical time of the message in it: the one that its publication carries too, where there is one.
    pub message_clock: Option<Clock>,
    /// When the message was written, as its publication says it too.
    pub timestamp: Option<Timestamp>,
    /// What was written.
    pub body: EventBody,
    /// The event's identity: present exactly where the event is one of ours.
    pub event: Option<EventId>,
}

impl ReplicationEvent {
    /// Encodes one of our events in the form of the family, with our fields added.
    #[must_use]
    pub fn encode(event: &Event, format: Format) -> Vec<u8> {
        encode_flat(format, &Root(event))
    }

    /// Decodes an event of any member of the family.
    ///
    /// # Errors
    /// A text that says what is wrong; a server drops such an event, and counts it.
    pub fn decode(body: &[u8], limits: &Limits) -> Result<Self, String> {
        let mut loose = Loose::default();
        loose.read(body, limits).map_err(|why| why.to_string())?;
        Self::from_loose(&loose).map_err(|why| why.to_string())
    }

    fn from_loose(loose: &Loose<'_>) -> Field<Self> {
        let Some(Value::Text(kind)) = loose.root.get("type") else {
            return Err(FieldError { field: "type", why: "is missing".into() });
        };
        let kind = EventKind::parse(kind).ok_or(FieldError { field: "type", why: "is not known".into() })?;
        let body = match kind {
            EventKind::UserLogin => EventBody::UserLogin { user: loose.name("user")? },
            EventKind::ChannelCreate => EventBody::ChannelCreate { channel: loose.name("channel")? },
            EventKind::Publish => EventBody::Publish {
                user: loose.name("user")?,
                channel: loose.name("channel")?,
                message: loose.text("message")?.to_owned(),
            },
            EventKind::Message => EventBody::Message {
                src: if loose.get("src").is_some() { loose.name("src")? } else { loose.name("from")? },
                dst: if loose.get("dst").is_some() { loose.name("dst")? } else { loose.name("to")? },
                message: loose.text("message")?.to_owned(),
            },
        };
        let server_id = match loose.root.get("server_id") {
            Some(Value::Text(id)) => id.clone().into_owned(),
            Some(Value::Unsigned(id)) => id.to_string(),
            Some(Value::Signed(id)) => id.to_string(),
            _ => String::new(),
        };
        let timestamp = loose.timestamp()?.as_ref().and_then(RawTimestamp::wall).map(crate::time::Wall::timestamp);
        let message_clock = loose.clock()?;
        let clock = loose.root_clock()?.or(message_clock);
        Ok(Self { server_id, clock, message_clock, timestamp, body, event: event_id(loose)? })
    }
}

struct Root<'a>(&'a Event);

impl Serialize for Root<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut root = Data::start(serializer)?;
        root.serialize_entry("type", event.body.kind().as_str())?;
        root.serialize_entry("server_id", &event.id.origin.server)?;
        root.serialize_entry("clock", &event.clock)?;
        root.serialize_entry("data", &Written(event))?;
        root.serialize_entry("timestamp", &event.timestamp)?;
        root.serialize_entry("id", &event.message_id)?;
        root.serialize_entry("origin", &event.id.origin)?;
        root.serialize_entry("seq", &event.id.seq)?;
        root.optional("prev", event.prev.as_ref())?;
        root.end()
    }
}

/// The event's `data`, whose fields depend on its kind.
struct Written<'a>(&'a Event);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut data = Data::start(serializer)?;
        let kind = match &event.body {
            EventBody::UserLogin { user } => {
                data.serialize_entry("user", user)?;
                None
            }
            EventBody::ChannelCreate { channel } => {
                data.serialize_entry("channel", channel)?;
                None
            }
            EventBody::Publish { user, channel, message } => {
                data.serialize_entry("user", user)?;
                data.serialize_entry("channel", channel)?;
                data.serialize_entry("message", message)?;
                Some("publish")
            }
            EventBody::Message { src, dst, message } => {
                data.serialize_entry("src", src)?;
                data.serialize_entry("dst", dst)?;
                data.serialize_entry("message", message)?;
                Some("message")
            }
        };
        data.serialize_entry("timestamp", &event.timestamp)?;
        if let Some(kind) = kind {
            data.serialize_entry("clock", &event.clock)?;
            data.serialize_entry("type", kind)?;
        }
        data.end()
    }
}
