//! Events on the topic `replication`: emitted for observers and for servers of the family, understood from the latter.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::loose::{Field, FieldError, Loose};
use super::publication::event_id;
use super::timestamp::RawTimestamp;
use super::value::{KeySeed, Value};
use super::{Data, direct, encode_flat, encoded};
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::event::{Event, EventBody, EventKind};
use crate::id::{EventId, Origin};
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
        encoded(event.body.text_bytes(), |out| Self::encode_into(event, format, out))
    }

    /// The same, appended to `out`.
    pub fn encode_into(event: &Event, format: Format, out: &mut Vec<u8>) {
        match format {
            Format::Json => direct::replication(event, out),
            Format::MsgPack => encode_flat(format, &Root(event), out),
        }
    }

    /// Whether a body is an event of ours, which carries its identity. It is much cheaper than [`ReplicationEvent::decode`],
    /// and servers of ours need no more: they have each other's events over their links. What stands behind the identity is
    /// not looked at.
    ///
    /// False where it cannot be read, or may be an event of the family: decoding tells.
    #[must_use]
    pub fn is_ours(body: &[u8], limits: &Limits) -> bool {
        if body.len() > limits.body_bytes {
            return false;
        }
        if direct::begins_as_ours(body) {
            return true;
        }
        let found = Cell::new(false);
        if let Some(format) = Format::detect(body) {
            // Where the identity is found, reading stops.
            format.glance(IdentitySeed { found: &found }, body);
        }
        found.get()
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

/// Looks for an identity at the root, where the family has nothing of these names.
struct IdentitySeed<'a> {
    found: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for IdentitySeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IdentitySeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut has_origin, mut has_seq) = (false, false);
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match &*key {
                "origin" => has_origin = Origin::is_spelled(&map.next_value::<Cow<'de, str>>()?),
                "seq" => has_seq = map.next_value::<u64>()? > 0,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            if has_origin && has_seq {
                self.found.set(true);
                return Err(serde::de::Error::custom("found"));
            }
        }
        Ok(())
    }
}

pub(super) struct Root<'a>(pub(super) &'a Event);

impl Serialize for Root<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let mut root = Data::start(serializer, Some(8 + usize::from(event.prev.is_some())))?;
        root.serialize_entry("type", event.body.kind().as_str())?;
        root.serialize_entry("server_id", &event.id.origin.server)?;
        root.serialize_entry("clock", &event.clock)?;
        // Before the rest: see `is_ours`.
        root.serialize_entry("origin", &event.id.origin)?;
        root.serialize_entry("seq", &event.id.seq)?;
        root.serialize_entry("data", &Written(event))?;
        root.serialize_entry("timestamp", &event.timestamp)?;
        root.serialize_entry("id", &event.message_id)?;
        root.optional("prev", event.prev.as_ref())?;
        root.end()
    }
}

/// The event's `data`, whose fields depend on its kind.
struct Written<'a>(&'a Event);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let fields = match &event.body {
            EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => 2,
            EventBody::Publish { .. } | EventBody::Message { .. } => 6,
        };
        let mut data = Data::start(serializer, Some(fields))?;
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
