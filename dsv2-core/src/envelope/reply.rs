//! Replies: strict out, and lenient in, since each member of the family says success in words of its own.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer};

use super::history::HistoryPage;
use super::loose::{Field, FieldError, Loose, wrong};
use super::publication::event_id;
use super::service::{Code, Failure, Level, Outcome, Service};
use super::status::StatusReport;
use super::timestamp::RawTimestamp;
use super::value::Value;
use super::{Data, direct, encode_into, encoded, ordered};
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::id::{EventId, MessageId};
use crate::position::Position;
use crate::time::Wall;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The serialization: the request's.
    pub format: Format,
    /// The service it answers, as the request named it.
    pub service: Cow<'static, str>,
    /// The request's timestamp, verbatim; else the sender's own.
    pub timestamp: RawTimestamp,
    /// The sender's logical clock. Always present in what we emit.
    pub clock: Option<Clock>,
    /// A position that covers what the reply shows. Ours.
    pub position: Option<Position>,
    /// The answer.
    pub body: ReplyBody,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ReplyBody {
    /// The write is acknowledged; a server of the family sends no receipt.
    Done(Option<Receipt>),
    /// Not carried out, or not known to be.
    Failed(Failure),
    /// The users' names. Texts, since servers of the family check no names.
    Users(Vec<String>),
    /// The channels' names.
    Channels(Vec<String>),
    /// A part of a feed.
    History(HistoryPage),
    /// A server's account of itself.
    Status(Box<StatusReport>),
    /// A server's rank.
    Rank(u64),
    /// The live servers, by ascending rank.
    List(Vec<RankedServer>),
    /// A server's wall clock.
    Time {
        /// The reading.
        wall: Wall,
        /// How coarse the sender writes it, in microseconds.
        resolution_us: u64,
    },
    /// The server takes part in the election.
    Election,
}

/// What a write became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's identity.
    pub id: MessageId,
    /// The event that holds it.
    pub event: EventId,
    /// How safe it is now.
    pub level: Level,
}

/// A server in the reference's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedServer {
    /// Its name.
    pub name: String,
    /// Its rank.
    pub rank: u64,
    /// Where its link is. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The random identity of its data directory, in hex. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl Reply {
    /// Encodes it, strictly.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encoded(0, |out| self.encode_into(out))
    }

    /// The same, appended to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        if self.format != Format::Json || !direct::reply(self, out) {
            encode_into(self.format, &self.service, &ReplyData(self), out);
        }
    }

    /// Decodes the answer to a request for `service`, of any member of the family.
    ///
    /// # Errors
    /// A text that says what is wrong. Whether the request took effect is then unknown.
    pub fn decode(service: Service, body: &[u8], limits: &Limits) -> Result<Self, String> {
        ordered::reply(service, body, limits).map_or_else(|| Self::decode_loosely(service, body, limits), Ok)
    }

    pub(super) fn decode_loosely(service: Service, body: &[u8], limits: &Limits) -> Result<Self, String> {
        let mut loose = Loose::default();
        loose.read(body, limits).map_err(|why| why.to_string())?;
        Self::from_loose(service, &loose).map_err(|why| why.to_string())
    }

    fn from_loose(service: Service, loose: &Loose<'_>) -> Field<Self> {
        Ok(Self {
            format: loose.format,
            service: loose.service.as_deref().map_or(service.as_str().into(), |name| name.to_owned().into()),
            timestamp: loose.timestamp()?.unwrap_or(RawTimestamp::Integer(0)),
            clock: loose.clock()?,
            position: loose.structure("position")?,
            body: ReplyBody::from_loose(service, loose)?,
        })
    }
}

impl ReplyBody {
    fn from_loose(service: Service, loose: &Loose<'_>) -> Field<Self> {
        if let Some(failure) = failure(service, loose)? {
            return Ok(Self::Failed(failure));
        }
        let missing = |field| FieldError { field, why: "is missing".into() };
        Ok(match service {
            Service::Login | Service::Channel | Service::Publish | Service::Message | Service::Heartbeat => {
                // A reply that says neither success nor failure must not pass for success.
                if !says_success(loose) {
                    return Err(missing("status"));
                }
                Self::Done(receipt(loose)?)
            }
            Service::Users => Self::Users(names(loose, &["users"])?),
            Service::Channels => Self::Channels(names(loose, &["channels", "users"])?),
            Service::History => Self::History(HistoryPage::from_loose(loose)?),
            Service::Status => Self::Status(Box::new(loose.structure("report")?.ok_or_else(|| missing("report"))?)),
            Service::Rank => Self::Rank(loose.integer("rank")?.ok_or_else(|| missing("rank"))?),
            Service::List => Self::List(loose.structure("list")?.ok_or_else(|| missing("list"))?),
            Service::Clock => time(loose)?,
            Service::Election => {
                loose.text("election")?;
                Self::Election
            }
        })
    }
}

fn says_success(loose: &Loose<'_>) -> bool {
    let by_status = matches!(loose.get("status"), Some(Value::Text(status)) if is_success(status));
    by_status || loose.get("success") == Some(&Value::Bool(true))
}

pub(super) fn is_success(status: &str) -> bool {
    ["ok", "sucesso", "success"].iter().any(|word| status.eq_ignore_ascii_case(word))
}

/// The failure that a reply tells, if it tells one.
fn failure(service: Service, loose: &Loose<'_>) -> Field<Option<Failure>> {
    let failed = match loose.get("status") {
        Some(Value::Text(status)) => !is_success(status),
        _ => loose.get("success") == Some(&Value::Bool(false)),
    };
    if !failed {
        return Ok(None);
    }
    let places = [service.error_field(), "description", "message", "error"];
    let text = places.iter().find_map(|field| match loose.get(field) {
        Some(Value::Text(text)) => Some(text.clone().into_owned()),
        _ => None,
    });
    let code = loose.text_or_none("code")?.map_or(Code::Other, Code::parse);
    let outcome = match loose.text_or_none("outcome")? {
        Some("unknown") => Outcome::Unknown,
        _ => Outcome::Rejected,
    };
    Ok(Some(Failure { code, outcome, text: text.unwrap_or_else(|| "no reason given".to_owned()) }))
}

fn receipt(loose: &Loose<'_>) -> Field<Option<Receipt>> {
    let id = match loose.get("id") {
        Some(Value::Text(text)) => text.parse().ok(),
        _ => None,
    };
    let level = loose.parsed("level")?;
    Ok(id.zip(event_id(loose)?).zip(level).map(|((id, event), level)| Receipt { id, event, level }))
}

/// A list of names, or of objects with a `name`, under the first of the keys that is there.
fn names(loose: &Loose<'_>, keys: &[&'static str]) -> Field<Vec<String>> {
    let found = keys.iter().find_map(|&key| loose.get(key).map(|value| (key, value)));
    let (key, list) = match found {
        Some((key, Value::List(list))) => (key, list),
        Some((key, value)) => return Err(wrong(key, "a list", value)),
        None => return Err(FieldError { field: keys[0], why: "is missing".into() }),
    };
    let name = |value: &Value<'_>| match value {
        Value::Text(name) => Ok(name.clone().into_owned()),
        Value::Map(fields) => {
            match fields.iter().find(|(field, _)| field == "name" || field == "channel" || field == "user") {
                Some((_, Value::Text(name))) => Ok(name.clone().into_owned()),
                _ => Err(FieldError { field: key, why: "holds an object without a name".into() }),
            }
        }
        value => Err(FieldError { field: key, why: format!("holds {}", value.kind()).into() }),
    };
    list.iter().map(name).collect()
}

fn time(loose: &Loose<'_>) -> Field<ReplyBody> {
    let value = loose.get("time").ok_or(FieldError { field: "time", why: "is missing".into() })?;
    let raw = RawTimestamp::from_value(value).ok_or_else(|| wrong("time", "a number or a date", value))?;
    let wall = raw.wall().ok_or(FieldError { field: "time", why: "is no date".into() })?;
    let resolution_us = match raw {
        RawTimestamp::Integer(value) if value.unsigned_abs() < 100_000_000_000 => 1_000_000,
        RawTimestamp::Integer(value) if value.unsigned_abs() < 100_000_000_000_000 => 1_000,
        _ => 1,
    };
    Ok(ReplyBody::Time { wall, resolution_us })
}

pub(super) struct ReplyData<'a>(pub(super) &'a Reply);

impl Serialize for ReplyData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reply = self.0;
        let service = Service::parse(&reply.service);
        let of_body = match &reply.body {
            ReplyBody::Done(receipt) => Some(if receipt.is_some() { 5 } else { 1 }),
            ReplyBody::Failed(_) => Some(4),
            ReplyBody::Channels(_) => Some(2),
            ReplyBody::History(_) => None,
            ReplyBody::Users(_)
            | ReplyBody::Status(_)
            | ReplyBody::Rank(_)
            | ReplyBody::List(_)
            | ReplyBody::Time { .. }
            | ReplyBody::Election => Some(1),
        };
        let stamps = 2 + usize::from(reply.position.is_some());
        let mut data = Data::start(serializer, of_body.map(|fields| fields + stamps))?;
        match &reply.body {
            ReplyBody::Done(receipt) => {
                data.serialize_entry("status", service.and_then(Service::success).unwrap_or("OK"))?;
                if let Some(receipt) = receipt {
                    data.serialize_entry("id", &receipt.id)?;
                    data.serialize_entry("origin", &receipt.event.origin)?;
                    data.serialize_entry("seq", &receipt.event.seq)?;
                    data.serialize_entry("level", &receipt.level)?;
                }
            }
            ReplyBody::Failed(failure) => {
                data.serialize_entry("status", service.map_or("erro", Service::failure))?;
                data.serialize_entry(service.map_or("description", Service::error_field), &failure.text)?;
                data.serialize_entry("code", failure.code.as_str())?;
                data.serialize_entry("outcome", failure.outcome.as_str())?;
            }
            ReplyBody::Users(users) => data.serialize_entry("users", users)?,
            ReplyBody::Channels(channels) => {
                // The assignment's text calls the list `users`, most programs `channels`: both find theirs.
                data.serialize_entry("channels", channels)?;
                data.serialize_entry("users", channels)?;
            }
            ReplyBody::History(page) => page.serialize_into(&mut data)?,
            ReplyBody::Status(report) => data.serialize_entry("report", report)?,
            ReplyBody::Rank(rank) => data.serialize_entry("rank", rank)?,
            ReplyBody::List(list) => data.serialize_entry("list", list)?,
            ReplyBody::Time { wall, .. } => data.serialize_entry("time", &wall.timestamp())?,
            ReplyBody::Election => data.serialize_entry("election", "OK")?,
        }
        data.serialize_entry("timestamp", &reply.timestamp)?;
        data.serialize_entry("clock", &reply.clock.unwrap_or_default())?;
        data.optional("position", reply.position.as_ref())?;
        data.end()
    }
}
