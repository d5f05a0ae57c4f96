//! Bodies exactly as ours emit them: read at once, without a table of fields between.
//!
//! Most of what a server and a client read was written by this crate, and this way takes a third of the time of the other.
//! It takes less than that: an unknown field, a repeated one, a value of another type, and it gives up, without a word of
//! what was wrong. Then the body is read as the family may write it, from its beginning. Where it does not give up, it
//! says what that way says.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};

use super::publication::{Publication, PublicationBody};
use super::reply::{Receipt, Reply, ReplyBody, is_success};
use super::request::{Request, RequestBody, RequestExt};
use super::service::{Level, Service};
use super::timestamp::RawTimestamp;
use crate::clock::Clock;
use crate::codec::{Codec, Format, Limits};
use crate::id::{EventId, IdempotencyKey, MessageId, Origin, SessionId};
use crate::name::{ChannelName, UserName};
use crate::position::Position;
use crate::time::Wall;

/// How deep these bodies nest: the root, `data`, `position`.
pub(super) const DEPTH: usize = 3;

/// Reads a body, unless it may be beyond the limits: where it has fewer bytes than it may have values, it is within.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8], limits: &Limits) -> Option<(Format, T)> {
    if body.len() > limits.body_bytes.min(limits.items) || limits.depth < DEPTH {
        return None;
    }
    let format = Format::detect(body)?;
    let Object(value) = format.decode(PhantomData::<Object<T>>, body).ok()?;
    Some((format, value))
}

/// An object only: what derives `Deserialize` would take a list of its fields' values too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<fn() -> T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OfObject(PhantomData))
    }
}

/// A service by its name, nothing else.
struct ServiceName(Service);

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <&str>::deserialize(deserializer)?;
        Service::parse(name).map(Self).ok_or_else(|| de::Error::custom("no service"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    service: ServiceName,
    data: Object<T>,
}

/// All that a write, or a question without fields, may hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    user: Option<UserName>,
    channel: Option<ChannelName>,
    src: Option<UserName>,
    dst: Option<UserName>,
    message: Option<String>,
    timestamp: Option<i64>,
    clock: Option<Clock>,
    id: Option<IdempotencyKey>,
    session: Option<SessionId>,
    request: Option<u64>,
    level: Option<&'a str>,
    position: Option<Position>,
}

/// A request of ours; `None` for one that may be of anybody.
pub(super) fn request(body: &[u8], limits: &Limits) -> Option<Request> {
    let (format, Envelope { service: ServiceName(service), data: Object(asked) }) =
        read::<Envelope<Asked<'_>>>(body, limits)?;
    let level = asked.level.map(str::parse::<Level>).transpose().ok()?;
    let number = asked.session.and(asked.request);
    let ext = RequestExt { id: asked.id, session: asked.session, number, level, position: asked.position };
    let body = match service {
        Service::Login => RequestBody::Login { user: asked.user? },
        Service::Users => RequestBody::Users,
        Service::Channel => RequestBody::Channel { channel: asked.channel? },
        Service::Channels => RequestBody::Channels,
        Service::Publish => {
            RequestBody::Publish { user: asked.user?, channel: asked.channel?, message: asked.message? }
        }
        Service::Message => RequestBody::Message { src: asked.src?, dst: asked.dst?, message: asked.message? },
        _ => return None,
    };
    Some(Request { format, timestamp: asked.timestamp.map(RawTimestamp::Integer), clock: asked.clock, ext, body })
}

/// All that the answer to them may hold where it went well.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered<'a> {
    status: Option<&'a str>,
    id: Option<MessageId>,
    origin: Option<Origin>,
    seq: Option<u64>,
    level: Option<&'a str>,
    users: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    timestamp: Option<i64>,
    clock: Option<Clock>,
    position: Option<Position>,
}

/// A reply of ours that tells no failure; `None` for one that may be of anybody.
pub(super) fn reply(service: Service, body: &[u8], limits: &Limits) -> Option<Reply> {
    let (format, Envelope { service: ServiceName(named), data: Object(answered) }) =
        read::<Envelope<Answered<'_>>>(body, limits)?;
    if !answered.status.is_none_or(is_success) {
        return None;
    }
    let event = identity(answered.origin, answered.seq).ok()?;
    let level = answered.level.map(str::parse::<Level>).transpose().ok()?;
    let body = match service {
        Service::Login | Service::Channel | Service::Publish | Service::Message | Service::Heartbeat => {
            answered.status?;
            let receipt = answered.id.zip(event).zip(level);
            ReplyBody::Done(receipt.map(|((id, event), level)| Receipt { id, event, level }))
        }
        Service::Users => ReplyBody::Users(answered.users?),
        Service::Channels => ReplyBody::Channels(answered.channels?),
        _ => return None,
    };
    Some(Reply {
        format,
        service: named.as_str().into(),
        timestamp: RawTimestamp::Integer(answered.timestamp.unwrap_or(0)),
        clock: answered.clock,
        position: answered.position,
        body,
    })
}

/// All that a publication may hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    user: Option<String>,
    channel: Option<ChannelName>,
    src: Option<String>,
    dst: Option<UserName>,
    message: String,
    timestamp: Option<i64>,
    clock: Option<Clock>,
    id: Option<MessageId>,
    origin: Option<Origin>,
    seq: Option<u64>,
    prev: Option<EventId>,
}

/// A publication of ours; `None` for one that may be of anybody.
pub(super) fn publication(body: &[u8], limits: &Limits) -> Option<Publication> {
    let (_, published) = read::<Published>(body, limits)?;
    let event = identity(published.origin, published.seq).ok()?;
    let body = match (published.src, published.user) {
        (Some(src), None) => PublicationBody::Private { src, dst: published.dst, message: published.message },
        (None, Some(user)) => PublicationBody::Channel { user, channel: published.channel, message: published.message },
        _ => return None,
    };
    let timestamp = published.timestamp.and_then(|raw| RawTimestamp::Integer(raw).wall()).map(Wall::timestamp);
    Some(Publication { body, timestamp, clock: published.clock, id: published.id, event, prev: published.prev })
}

/// The identity that both fields make; an error where the number is none of ours.
fn identity(origin: Option<Origin>, seq: Option<u64>) -> Result<Option<EventId>, ()> {
    match origin.zip(seq) {
        Some((_, 0)) => Err(()),
        event => Ok(event.map(|(origin, seq)| EventId { origin, seq })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;
    use serde::ser::{SerializeMap, Serializer};
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: Limits = Limits { body_bytes: 1 << 20, depth: 32, items: 100_000 };

    /// An object as somebody may write it: in any order, fields repeated.
    struct Fields(Vec<(&'static str, Value)>);

    impl Serialize for Fields {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(self.0.len()))?;
            self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
            map.end()
        }
    }

    const ID: &str = "s:000102030405060708090a0b0c0d0e0f.3";

    /// A field with a value that suits it, most of the time.
    fn field() -> impl Strategy<Value = (&'static str, Value)> {
        let sound = prop_oneof![
            4 => prop_oneof![Just("user"), Just("channel"), Just("src"), Just("dst")].prop_map(|key| (key, json!("ana"))),
            4 => prop_oneof![Just("x"), Just("with \"quotes\" \u{1}")].prop_map(|text| ("message", json!(text))),
            2 => any::<i64>().prop_map(|ms| ("timestamp", json!(ms))),
            2 => any::<u32>().prop_map(|clock| ("clock", json!(clock))),
            1 => Just(("status", json!("OK"))),
            1 => Just(("id", json!(ID))),
            1 => Just(("session", json!("000102030405060708090a0b0c0d0e0f"))),
            1 => any::<u64>().prop_map(|number| ("request", json!(number))),
            1 => Just(("level", json!("quorum"))),
            1 => Just(("position", json!({"s1/00000000000000ff": 3}))),
            1 => Just(("origin", json!("s1/00000000000000ff"))),
            1 => (0..3u64).prop_map(|seq| ("seq", json!(seq))),
            1 => Just(("prev", json!("s1/00000000000000ff#7"))),
            1 => prop_oneof![Just("users"), Just("channels")].prop_map(|key| (key, json!(["ana", "bia"]))),
        ];
        let key = prop_oneof![
            Just("user"),
            Just("message"),
            Just("timestamp"),
            Just("clock"),
            Just("status"),
            Just("id"),
            Just("request"),
            Just("session"),
            Just("level"),
            Just("position"),
            Just("origin"),
            Just("seq"),
            Just("users"),
            Just("src"),
            Just("from"),
            Just("success"),
            Just("code"),
            Just("lamport_clock"),
        ];
        let value = prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            Just(json!(-1)),
            Just(json!(1.5)),
            Just(json!(2.0)),
            Just(json!(u64::MAX)),
            Just(json!("erro")),
            Just(json!("")),
            Just(json!([])),
            Just(json!({})),
            Just(json!([{"name": "ana"}])),
        ];
        prop_oneof![12 => sound, 1 => (key, value)]
    }

    fn fields() -> impl Strategy<Value = Value> {
        // Objects forget repetitions: those are in the test below.
        proptest::collection::vec(field(), 0..9)
            .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }

    fn agree(body: &[u8]) -> Result<(), TestCaseError> {
        if let Some(request) = request(body, &LIMITS) {
            prop_assert_eq!(Request::decode_loosely(body, &LIMITS), Ok(request));
        }
        for service in Service::ALL {
            if let Some(reply) = reply(service, body, &LIMITS) {
                prop_assert_eq!(Reply::decode_loosely(service, body, &LIMITS), Ok(reply));
            }
        }
        if let Some(publication) = publication(body, &LIMITS) {
            prop_assert_eq!(Publication::decode_loosely(body, &LIMITS), Ok(publication));
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn what_is_taken_means_the_same_read_loosely(
            service in prop_oneof![Just("publish"), Just("message"), Just("login"), Just("users"), Just("channels"), Just("x")],
            data in fields(), stray in proptest::option::of(field()), json in any::<bool>(),
        ) {
            let mut root = vec![("service", json!(service)), ("data", data.clone())];
            root.extend(stray);
            let format = if json { Format::Json } else { Format::MsgPack };
            for body in [Fields(root), Fields(vec![("data", data.clone()), ("service", json!(service))])] {
                let mut bytes = Vec::new();
                format.encode(&body, &mut bytes).expect("it encodes");
                agree(&bytes)?;
            }
            let mut flat = Vec::new();
            format.encode(&data, &mut flat).expect("it encodes");
            agree(&flat)?;
        }

        #[test]
        fn repeated_fields_mean_the_same_read_loosely(fields in proptest::collection::vec(field(), 0..12), json in any::<bool>()) {
            let mut bytes = Vec::new();
            let format = if json { Format::Json } else { Format::MsgPack };
            format.encode(&Fields(fields), &mut bytes).expect("it encodes");
            agree(&bytes)?;
        }
    }

    #[test]
    fn ours_are_taken_and_lists_of_values_are_not() {
        let taken = |text: &str| request(text.as_bytes(), &LIMITS).is_some();
        assert!(taken(
            r#"{"service":"publish","data":{"user":"a","channel":"b","message":"c","timestamp":1,"clock":2}}"#
        ));
        let values = r#"["a","b",null,null,"c",1,2,null,null,null,null,null]"#;
        assert!(!taken(&format!(r#"{{"service":"publish","data":{values}}}"#)));
        let refused = Request::decode(br#"{"service":"publish","data":[]}"#, &LIMITS);
        assert!(refused.is_err());
        assert!(!taken(r#"{"service":"publish","data":{"user":"a","channel":"b","message":"c","colour":1}}"#));
        let small = Limits { items: 20, ..LIMITS };
        assert!(request(br#"{"service":"users","data":{}}"#, &small).is_none(), "it may hold too much");
    }

    #[test]
    fn all_that_leaves_here_is_taken() {
        let id: MessageId = ID.parse().expect("an identity");
        let event: EventId = "s1/00000000000000ff#7".parse().expect("an identity");
        for format in [Format::Json, Format::MsgPack] {
            let asked = Request {
                format,
                timestamp: Some(RawTimestamp::Integer(5)),
                clock: Some(Clock::ZERO),
                ext: RequestExt {
                    id: None,
                    session: Some(SessionId::new(Clock::ZERO, 1)),
                    number: Some(1),
                    level: Some(Level::All),
                    position: Some(Position::default()),
                },
                body: RequestBody::Message {
                    src: "ana".parse().expect("a name"),
                    dst: "bia".parse().expect("a name"),
                    message: "oi \"x\"".into(),
                },
            };
            assert_eq!(request(&asked.encode(), &LIMITS), Some(asked));
            let answer = Reply {
                format,
                service: "message".into(),
                timestamp: RawTimestamp::Integer(5),
                clock: Some(Clock::ZERO),
                position: Some(Position::default()),
                body: ReplyBody::Done(Some(Receipt { id: id.clone(), event: event.clone(), level: Level::All })),
            };
            assert_eq!(reply(Service::Message, &answer.encode(), &LIMITS), Some(answer));
            let told = Publication {
                body: PublicationBody::Channel { user: "ana".into(), channel: None, message: "oi\n".into() },
                timestamp: RawTimestamp::Integer(1_795_407_353_924).wall().map(Wall::timestamp),
                clock: Some(Clock::ZERO),
                id: Some(id.clone()),
                event: Some(event.clone()),
                prev: Some(event.clone()),
            };
            assert_eq!(publication(&told.encode(format), &LIMITS), Some(told));
        }
    }
}
