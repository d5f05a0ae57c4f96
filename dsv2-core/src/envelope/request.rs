//! Requests: what clients ask servers, servers ask the reference, and servers ask each other.

use serde::{Serialize, Serializer};

use super::history::HistoryQuery;
use super::loose::{Field, FieldError, Loose};
use super::reply::{Reply, ReplyBody};
use super::service::{Code, Failure, Level, Service};
use super::timestamp::RawTimestamp;
use super::{Data, direct, encode_into, encoded, ordered};
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::id::{IdempotencyKey, MessageId, SessionId};
use crate::name::{ChannelName, ServerName, UserName};
use crate::position::Position;
use crate::time::Timestamp;

/// A request.
///
/// ```
/// use dsv2_core::{Format, Limits, Request, RequestBody};
/// let body = br#"{"service":"login","data":{"user":"ana","timestamp":1795407353,"clock":7}}"#;
/// let request = Request::decode(body, &Limits::default())?;
/// assert_eq!(request.body, RequestBody::Login { user: "ana".parse()? });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The serialization it came in, or is to leave in; its reply uses the same.
    pub format: Format,
    /// When the sender says it sent it.
    pub timestamp: Option<RawTimestamp>,
    /// The sender's logical clock.
    pub clock: Option<Clock>,
    /// The fields of ours.
    pub ext: RequestExt,
    /// What is asked.
    pub body: RequestBody,
}

/// What our own clients add to a request. Other programs of the family ignore these fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestExt {
    /// The client's own idempotency key. Any client may send one.
    pub id: Option<IdempotencyKey>,
    /// The client's session; with `number` it is the request's identity where there is no key.
    pub session: Option<SessionId>,
    /// The request's number in the session, from 1; the field is called `request`.
    pub number: Option<u64>,
    /// How safe a write must be before it is acknowledged.
    pub level: Option<Level>,
    /// What the client has read and written: the server answers from a state that covers it.
    pub position: Option<Position>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RequestBody {
    /// Registers a user, or logs a known one in.
    Login {
        /// Who.
        user: UserName,
    },
    /// Lists the users.
    Users,
    /// Creates a channel.
    Channel {
        /// Which.
        channel: ChannelName,
    },
    /// Lists the channels.
    Channels,
    /// Publishes in a channel.
    Publish {
        /// Who.
        user: UserName,
        /// Where.
        channel: ChannelName,
        /// The text.
        message: String,
    },
    /// Sends a private message.
    Message {
        /// From whom.
        src: UserName,
        /// To whom.
        dst: UserName,
        /// The text.
        message: String,
    },
    /// Reads a feed back.
    History(HistoryQuery),
    /// Tells how the server is.
    Status,
    /// Asks the reference for the rank of a server.
    Rank(ServerCard),
    /// Asks the reference for the live servers.
    List,
    /// Tells the reference that a server lives.
    Heartbeat(ServerCard),
    /// Asks a server for its wall clock.
    Clock,
    /// Asks a server whether it takes part in an election.
    Election,
}

/// How a server presents itself to the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCard {
    /// Its name; the field is called `user`.
    pub name: ServerName,
    /// Where other servers reach its link. Ours.
    pub address: Option<String>,
    /// The random identity of its data directory, in hex: two servers must not share a name. Ours.
    pub node: Option<String>,
    /// The rank it believes to have, so that a reference that lost its disk can restore it. Ours.
    pub rank: Option<u64>,
}

impl RequestBody {
    /// The service that it asks.
    #[must_use]
    pub const fn service(&self) -> Service {
        match self {
            Self::Login { .. } => Service::Login,
            Self::Users => Service::Users,
            Self::Channel { .. } => Service::Channel,
            Self::Channels => Service::Channels,
            Self::Publish { .. } => Service::Publish,
            Self::Message { .. } => Service::Message,
            Self::History(_) => Service::History,
            Self::Status => Service::Status,
            Self::Rank(_) => Service::Rank,
            Self::List => Service::List,
            Self::Heartbeat(_) => Service::Heartbeat,
            Self::Clock => Service::Clock,
            Self::Election => Service::Election,
        }
    }
}

impl Request {
    /// Decodes a request of any member of the family, in either serialization.
    ///
    /// # Errors
    /// [`Refusal`] knows how to answer: in the serialization of the request, in the field where its service explains
    /// failures.
    pub fn decode(body: &[u8], limits: &Limits) -> Result<Self, Box<Refusal>> {
        ordered::request(body, limits).map_or_else(|| Self::decode_loosely(body, limits), Ok)
    }

    pub(super) fn decode_loosely(body: &[u8], limits: &Limits) -> Result<Self, Box<Refusal>> {
        let mut loose = Loose::default();
        let read = loose.read(body, limits).map_err(|why| Failure::rejected(Code::Malformed, why.to_string()));
        read.and_then(|()| Self::from_loose(&loose)).map_err(|failure| {
            let clock = loose.clock().ok().flatten();
            let timestamp = loose.timestamp().ok().flatten();
            let service = loose.service.as_deref().unwrap_or("").to_owned();
            Box::new(Refusal { format: loose.format, service, timestamp, clock, failure })
        })
    }

    /// Encodes it, strictly: integer milliseconds, a clock, no `null`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encoded(0, |out| self.encode_into(out))
    }

    /// The same, appended to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        if self.format != Format::Json || !direct::request(self, out) {
            encode_into(self.format, self.body.service().as_str(), &RequestData(self), out);
        }
    }

    /// The identity of the write it asks for: the client's key, else its number in the session.
    #[must_use]
    pub fn message_id(&self) -> Option<MessageId> {
        match (&self.ext.id, self.ext.session, self.ext.number) {
            (Some(key), _, _) => Some(MessageId::Key(key.clone())),
            (None, Some(session), Some(number)) => Some(MessageId::Request { session, number }),
            _ => None,
        }
    }

    fn from_loose(loose: &Loose<'_>) -> Result<Self, Failure> {
        let name = loose.service.as_deref().unwrap_or("");
        let Some(service) = Service::parse(name) else {
            let text = if name.is_empty() {
                "service is missing".to_owned()
            } else {
                format!("service {name:.40?} is not known")
            };
            return Err(Failure::rejected(Code::UnknownService, text));
        };
        let clock = loose.clock().map_err(|why| Failure::rejected(Code::BadClock, why.to_string()))?;
        let parts = || -> Field<_> {
            Ok((loose.timestamp()?, RequestExt::from_loose(loose)?, RequestBody::from_loose(service, loose)?))
        };
        let (timestamp, ext, body) = parts().map_err(|why| Failure::rejected(Code::BadField, why.to_string()))?;
        Ok(Self { format: loose.format, timestamp, clock, ext, body })
    }
}

impl RequestExt {
    fn from_loose(loose: &Loose<'_>) -> Field<Self> {
        // Other programs put numbers of their own into `id`, `session` or `request`: what is no text of ours is not ours.
        let foreign = |field| !matches!(loose.get(field), Some(super::value::Value::Text(_)));
        Ok(Self {
            id: if foreign("id") { None } else { loose.structure("id")? },
            session: if foreign("session") { None } else { loose.parsed("session")? },
            number: if foreign("session") { None } else { loose.integer("request")? },
            level: loose.parsed("level")?,
            position: loose.structure("position")?,
        })
    }
}

impl RequestBody {
    fn from_loose(service: Service, loose: &Loose<'_>) -> Field<Self> {
        Ok(match service {
            Service::Login => Self::Login { user: loose.name("user")? },
            Service::Users => Self::Users,
            Service::Channel => Self::Channel { channel: loose.name("channel")? },
            Service::Channels => Self::Channels,
            Service::Publish => Self::Publish {
                user: loose.name("user")?,
                channel: loose.name("channel")?,
                message: loose.text("message")?.to_owned(),
            },
            Service::Message => Self::Message {
                src: if loose.get("src").is_none() && loose.get("from").is_some() {
                    loose.name("from")?
                } else {
                    loose.name("src")?
                },
                dst: if loose.get("dst").is_none() && loose.get("to").is_some() {
                    loose.name("to")?
                } else {
                    loose.name("dst")?
                },
                message: loose.text("message")?.to_owned(),
            },
            Service::History => Self::History(HistoryQuery::from_loose(loose)?),
            Service::Status => Self::Status,
            Service::Rank => Self::Rank(ServerCard::from_loose(loose)?),
            Service::List => Self::List,
            Service::Heartbeat => Self::Heartbeat(ServerCard::from_loose(loose)?),
            Service::Clock => Self::Clock,
            Service::Election => Self::Election,
        })
    }
}

impl ServerCard {
    fn from_loose(loose: &Loose<'_>) -> Field<Self> {
        let address = loose.text_or_none("address")?;
        if address.is_some_and(|address| address.len() > 256) {
            return Err(FieldError { field: "address", why: "is longer than 256 bytes".into() });
        }
        Ok(Self {
            name: loose.name("user")?,
            address: address.map(str::to_owned),
            node: loose.text_or_none("node")?.filter(|node| node.len() <= 64).map(str::to_owned),
            rank: loose.integer("rank")?,
        })
    }
}

/// A request that cannot be carried out, with what its answer needs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{failure}")]
pub struct Refusal {
    /// The serialization to answer in.
    pub format: Format,
    /// The service as it was named; empty where none was.
    pub service: String,
    /// The sender's timestamp, where it could be read.
    pub timestamp: Option<RawTimestamp>,
    /// The sender's clock, where it could be read and is in range.
    pub clock: Option<Clock>,
    /// What is wrong.
    pub failure: Failure,
}

impl Refusal {
    /// A refusal of the request in `body`, whatever can be read of it; for whoever answers without carrying out.
    #[must_use]
    pub fn of(body: &[u8], limits: &Limits, failure: Failure) -> Self {
        let mut loose = Loose::default();
        // What cannot be read leaves fields empty; the failure to answer with is given.
        let _unreadable = loose.read(body, limits).is_err();
        Self {
            format: loose.format,
            service: loose.service.as_deref().unwrap_or("").to_owned(),
            timestamp: loose.timestamp().ok().flatten(),
            clock: loose.clock().ok().flatten(),
            failure,
        }
    }

    /// The answer, sent at `clock`.
    #[must_use]
    pub fn reply(&self, clock: Clock, now: Timestamp) -> Reply {
        Reply {
            format: self.format,
            service: self.service.chars().take(64).collect::<String>().into(),
            timestamp: self.timestamp.clone().unwrap_or(RawTimestamp::from(now)),
            clock: Some(clock),
            position: None,
            body: ReplyBody::Failed(self.failure.clone()),
        }
    }
}

pub(super) struct RequestData<'a>(pub(super) &'a Request);

impl RequestData<'_> {
    /// How many fields leave, where that is known beforehand.
    fn fields(&self) -> Option<usize> {
        let Request { timestamp, clock, ext, body, .. } = self.0;
        let of_body = match body {
            RequestBody::Login { .. } | RequestBody::Channel { .. } => 1,
            RequestBody::Publish { .. } | RequestBody::Message { .. } => 3,
            RequestBody::History(_) | RequestBody::Rank(_) | RequestBody::Heartbeat(_) => return None,
            RequestBody::Users
            | RequestBody::Channels
            | RequestBody::Status
            | RequestBody::List
            | RequestBody::Clock
            | RequestBody::Election => 0,
        };
        let RequestExt { id, session, number, level, position } = ext;
        let stamps = usize::from(timestamp.is_some()) + usize::from(clock.is_some());
        let identity = usize::from(id.is_some()) + usize::from(session.is_some()) + usize::from(number.is_some());
        Some(of_body + stamps + identity + usize::from(level.is_some()) + usize::from(position.is_some()))
    }
}

impl Serialize for RequestData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let request = self.0;
        let mut data = Data::start(serializer, self.fields())?;
        match &request.body {
            RequestBody::Login { user } => data.serialize_entry("user", user)?,
            RequestBody::Channel { channel } => data.serialize_entry("channel", channel)?,
            RequestBody::Publish { user, channel, message } => {
                data.serialize_entry("user", user)?;
                data.serialize_entry("channel", channel)?;
                data.serialize_entry("message", message)?;
            }
            RequestBody::Message { src, dst, message } => {
                data.serialize_entry("src", src)?;
                data.serialize_entry("dst", dst)?;
                data.serialize_entry("message", message)?;
            }
            RequestBody::History(query) => query.serialize_into(&mut data)?,
            RequestBody::Rank(card) | RequestBody::Heartbeat(card) => {
                data.serialize_entry("user", &card.name)?;
                data.optional("address", card.address.as_ref())?;
                data.optional("node", card.node.as_ref())?;
                data.optional("rank", card.rank.as_ref())?;
            }
            RequestBody::Users
            | RequestBody::Channels
            | RequestBody::Status
            | RequestBody::List
            | RequestBody::Clock
            | RequestBody::Election => {}
        }
        data.optional("timestamp", request.timestamp.as_ref())?;
        data.optional("clock", request.clock.as_ref())?;
        data.optional("id", request.ext.id.as_ref())?;
        data.optional("session", request.ext.session.as_ref())?;
        data.optional("request", request.ext.number.as_ref())?;
        data.optional("level", request.ext.level.as_ref())?;
        data.optional("position", request.ext.position.as_ref())?;
        data.end()
    }
}
