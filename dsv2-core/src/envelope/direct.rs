//! What leaves with every write as JSON, without a serializer between: the request, its receipt, and the event on its
//! topic and on `replication`.
//!
//! It is byte for byte what the serializers make, in a third of the instructions; the tests compare them.

use super::reply::{Reply, ReplyBody};
use super::request::{Request, RequestBody};
use super::service::Service;
use super::timestamp::RawTimestamp;
use crate::event::{Event, EventBody};
use crate::id::{Origin, Spell};
use crate::json::{push_number, push_signed, push_string};
use crate::position::Position;

/// Appends a write, and tells that it did; another request, or one with a strange timestamp, is left to the serializer.
pub(super) fn request(request: &Request, out: &mut Vec<u8>) -> bool {
    let timestamp = match request.timestamp {
        None => None,
        Some(RawTimestamp::Integer(timestamp)) => Some(timestamp),
        Some(_) => return false,
    };
    let fields = match &request.body {
        RequestBody::Publish { user, channel, message } => {
            [("user", user.as_str()), ("channel", channel.as_str()), ("message", message)]
        }
        RequestBody::Message { src, dst, message } => {
            [("src", src.as_str()), ("dst", dst.as_str()), ("message", message)]
        }
        _ => return false,
    };
    let mut data = Data::start(request.body.service().as_str(), out);
    fields.iter().for_each(|(key, text)| data.text(key, text));
    data.optional("timestamp", timestamp, push_signed);
    data.optional("clock", request.clock, |out, clock| push_number(out, clock.get()));
    data.optional("id", request.ext.id.as_ref(), |out, key| push_string(out, key.as_str()));
    data.optional("session", request.ext.session, |out, session| push_spelled(out, &session));
    data.optional("request", request.ext.number, push_number);
    data.optional("level", request.ext.level, |out, level| push_string(out, level.as_str()));
    data.optional("position", request.ext.position.as_ref(), push_position);
    data.end();
    true
}

/// Appends the answer to a write that went well, and tells that it did; others are left to the serializer.
pub(super) fn reply(reply: &Reply, out: &mut Vec<u8>) -> bool {
    let (ReplyBody::Done(receipt), RawTimestamp::Integer(timestamp)) = (&reply.body, &reply.timestamp) else {
        return false;
    };
    let success = Service::parse(&reply.service).and_then(Service::success).unwrap_or("OK");
    let mut data = Data::start(&reply.service, out);
    data.text("status", success);
    if let Some(receipt) = receipt {
        data.value("id", |out| push_spelled(out, &receipt.id));
        data.value("origin", |out| push_spelled(out, &receipt.event.origin));
        data.value("seq", |out| push_number(out, receipt.event.seq));
        data.text("level", receipt.level.as_str());
    }
    data.value("timestamp", |out| push_signed(out, *timestamp));
    data.value("clock", |out| push_number(out, reply.clock.unwrap_or_default().get()));
    data.optional("position", reply.position.as_ref(), push_position);
    data.end();
    true
}

/// The envelope of a service while its fields are written.
struct Data<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Data<'a> {
    fn start(service: &str, out: &'a mut Vec<u8>) -> Self {
        push_text(out, r#"{"service":"#, service);
        out.extend_from_slice(br#","data":{"#);
        Self { out, is_first: true }
    }

    /// Keys are names of ours: nothing in them is escaped.
    fn value(&mut self, key: &str, push: impl FnOnce(&mut Vec<u8>)) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        push(self.out);
    }

    fn text(&mut self, key: &str, text: &str) {
        self.value(key, |out| push_string(out, text));
    }

    fn optional<T>(&mut self, key: &str, value: Option<T>, push: impl FnOnce(&mut Vec<u8>, T)) {
        if let Some(value) = value {
            self.value(key, |out| push(out, value));
        }
    }

    fn end(self) {
        self.out.extend_from_slice(b"}}");
    }
}

fn push_position(out: &mut Vec<u8>, position: &Position) {
    out.push(b'{');
    for (index, (origin, seq)) in position.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_spelled(out, origin);
        out.push(b':');
        push_number(out, seq);
    }
    out.push(b'}');
}

/// Appends the event as it stands on its topic. It must have one.
pub(super) fn publication(event: &Event, out: &mut Vec<u8>) {
    match &event.body {
        EventBody::Publish { user, message, .. } => {
            push_text(out, r#"{"user":"#, user.as_str());
            push_text(out, r#","message":"#, message);
        }
        EventBody::Message { src, message, .. } => {
            push_text(out, r#"{"src":"#, src.as_str());
            push_text(out, r#","message":"#, message);
        }
        EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => {}
    }
    out.extend_from_slice(br#","timestamp":"#);
    push_signed(out, event.timestamp.ms);
    out.extend_from_slice(br#","clock":"#);
    push_number(out, event.clock.get());
    push_identity(out, r#","id":"#, &event.message_id);
    push_identity(out, r#","origin":"#, &event.id.origin);
    out.extend_from_slice(br#","seq":"#);
    push_number(out, event.id.seq);
    if let Some(prev) = &event.prev {
        push_identity(out, r#","prev":"#, prev);
    }
    out.push(b'}');
}

/// Appends the event as it stands on `replication`.
pub(super) fn replication(event: &Event, out: &mut Vec<u8>) {
    push_text(out, r#"{"type":"#, event.body.kind().as_str());
    push_text(out, r#","server_id":"#, event.id.origin.server.as_str());
    out.extend_from_slice(br#","clock":"#);
    push_number(out, event.clock.get());
    // Before the rest: see `ReplicationEvent::is_ours`.
    push_identity(out, r#","origin":"#, &event.id.origin);
    out.extend_from_slice(br#","seq":"#);
    push_number(out, event.id.seq);
    out.extend_from_slice(br#","data":{"#);
    let kind = push_written(out, &event.body);
    out.extend_from_slice(br#","timestamp":"#);
    push_signed(out, event.timestamp.ms);
    if let Some(kind) = kind {
        out.extend_from_slice(br#","clock":"#);
        push_number(out, event.clock.get());
        push_text(out, r#","type":"#, kind);
    }
    out.extend_from_slice(br#"},"timestamp":"#);
    push_signed(out, event.timestamp.ms);
    push_identity(out, r#","id":"#, &event.message_id);
    if let Some(prev) = &event.prev {
        push_identity(out, r#","prev":"#, prev);
    }
    out.push(b'}');
}

/// Whether a body begins as [`replication`] writes it, up to its identity. What is written otherwise may be ours too.
pub(super) fn begins_as_ours(body: &[u8]) -> bool {
    let identity = || {
        let (_, body) = text_and_rest(body.strip_prefix(br#"{"type":""#)?)?;
        let (_, body) = text_and_rest(body.strip_prefix(br#","server_id":""#)?)?;
        let body = body.strip_prefix(br#","clock":"#)?;
        let (clock, body) = body.split_at(digits(body));
        let (origin, body) = text_and_rest(body.strip_prefix(br#","origin":""#)?)?;
        let (seq, body) = body.strip_prefix(br#","seq":"#).map(|body| body.split_at(digits(body)))?;
        let is_number = seq.first() != Some(&b'0') && std::str::from_utf8(seq).ok()?.parse::<u64>().is_ok();
        let is_over = body.first() == Some(&b',');
        Some(is_number && is_over && !clock.is_empty() && Origin::is_spelled(std::str::from_utf8(origin).ok()?))
    };
    identity() == Some(true)
}

fn digits(body: &[u8]) -> usize {
    body.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Splits behind a text whose opening quote is passed; `None` where something in it is escaped.
fn text_and_rest(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|&byte| byte == b'"' || byte == b'\\')?;
    (body[end] == b'"').then(|| (&body[..end], &body[end + 1..]))
}

/// Appends the fields that depend on the kind; yields what the family calls it within `data`.
fn push_written(out: &mut Vec<u8>, body: &EventBody) -> Option<&'static str> {
    match body {
        EventBody::UserLogin { user } => {
            push_text(out, r#""user":"#, user.as_str());
            None
        }
        EventBody::ChannelCreate { channel } => {
            push_text(out, r#""channel":"#, channel.as_str());
            None
        }
        EventBody::Publish { user, channel, message } => {
            push_text(out, r#""user":"#, user.as_str());
            push_text(out, r#","channel":"#, channel.as_str());
            push_text(out, r#","message":"#, message);
            Some("publish")
        }
        EventBody::Message { src, dst, message } => {
            push_text(out, r#""src":"#, src.as_str());
            push_text(out, r#","dst":"#, dst.as_str());
            push_text(out, r#","message":"#, message);
            Some("message")
        }
    }
}

/// Appends what stands before a text, and the text with its quotes.
fn push_text(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    push_string(out, text);
}

/// Appends what stands before an identity, and the identity with its quotes.
fn push_identity(out: &mut Vec<u8>, before: &str, id: &impl Spell) {
    out.extend_from_slice(before.as_bytes());
    push_spelled(out, id);
}

/// Appends an identity with its quotes.
fn push_spelled(out: &mut Vec<u8>, id: &impl Spell) {
    out.push(b'"');
    let spelled = id.spell(out);
    debug_assert!(spelled.is_ok(), "a vector takes every write");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode_into;
    use super::super::replication::{ReplicationEvent, Root};
    use super::super::reply::{Receipt, ReplyData};
    use super::super::request::{RequestData, RequestExt};
    use super::super::service::Level;
    use super::*;
    use crate::clock::Clock;
    use crate::codec::Format;
    use crate::id::{EventId, IdempotencyKey, MessageId, SessionId};
    use crate::time::Timestamp;

    fn name() -> impl Strategy<Value = String> {
        "[a-zé\" .]{1,12}".prop_filter("a name", |text| crate::UserName::new(text).is_ok())
    }

    fn position() -> impl Strategy<Value = Option<Position>> {
        let origin = (name(), any::<u64>())
            .prop_map(|(name, incarnation)| Origin { server: name.parse().expect("a name"), incarnation });
        let position = proptest::collection::vec((origin, 1..u64::MAX), 0..3).prop_map(|all| all.into_iter().collect());
        proptest::option::of(position)
    }

    proptest! {
        #[test]
        fn requests_and_receipts_are_what_the_serializer_makes(
            (one, other, text) in (name(), name(), any::<String>()), is_private in any::<bool>(), position in position(),
            timestamp in proptest::option::of(any::<i64>()), clock in proptest::option::of(0..1u64 << 53),
            key in proptest::option::of("[ -~]{1,20}"), number in proptest::option::of(any::<u64>()), has_receipt in any::<bool>(),
        ) {
            let (user, channel) = (one.parse().expect("a name"), other.parse().expect("a name"));
            let body = match is_private {
                false => RequestBody::Publish { user, channel, message: text },
                true => RequestBody::Message { src: user, dst: other.parse().expect("a name"), message: text },
            };
            let key = key.map(|key| IdempotencyKey::new(&key).expect("a key"));
            let clock = clock.and_then(Clock::new);
            let ext = RequestExt {
                id: key.clone(),
                session: number.map(|number| SessionId::new(Clock::ZERO, u128::from(number))),
                number,
                level: key.as_ref().map(|_| Level::Quorum),
                position: position.clone(),
            };
            let timestamp = timestamp.map(RawTimestamp::Integer);
            let asked = Request { format: Format::Json, timestamp: timestamp.clone(), clock, ext, body };
            let mut serialized = Vec::new();
            encode_into(Format::Json, asked.body.service().as_str(), &RequestData(&asked), &mut serialized);
            let mut direct = Vec::new();
            prop_assert!(request(&asked, &mut direct));
            prop_assert_eq!(String::from_utf8(direct), String::from_utf8(serialized));

            let origin = Origin { server: one.parse().expect("a name"), incarnation: 7 };
            let id = key.map_or(MessageId::Foreign(1), MessageId::Key);
            let receipt = Receipt { id, event: EventId { origin, seq: 3 }, level: Level::Local };
            let answer = Reply {
                format: Format::Json,
                service: asked.body.service().as_str().into(),
                timestamp: timestamp.unwrap_or(RawTimestamp::Integer(1)),
                clock,
                position,
                body: ReplyBody::Done(has_receipt.then_some(receipt)),
            };
            let mut serialized = Vec::new();
            encode_into(Format::Json, &answer.service, &ReplyData(&answer), &mut serialized);
            let mut direct = Vec::new();
            prop_assert!(reply(&answer, &mut direct));
            prop_assert_eq!(String::from_utf8(direct), String::from_utf8(serialized));
        }

        #[test]
        fn events_on_replication_are_what_the_serializer_makes(
            (one, other, text) in (name(), name(), any::<String>()), kind in 0..4, (seq, clock) in (1..u64::MAX, 0..1u64 << 53),
            ms in any::<i64>(), has_prev in any::<bool>(), key in "[ -~]{1,20}",
        ) {
            let (user, channel) = (one.parse().expect("a name"), other.parse().expect("a name"));
            let body = match kind {
                0 => EventBody::UserLogin { user },
                1 => EventBody::ChannelCreate { channel },
                2 => EventBody::Publish { user, channel, message: text },
                _ => EventBody::Message { src: user, dst: other.parse().expect("a name"), message: text },
            };
            let id = EventId { origin: Origin { server: one.parse().expect("a name"), incarnation: 7 }, seq };
            let event = Event {
                prev: has_prev.then(|| id.clone()),
                id,
                clock: Clock::new(clock).expect("in range"),
                message_id: MessageId::Key(IdempotencyKey::new(&key).expect("a key")),
                timestamp: Timestamp { ms },
                body,
            };
            let serialized = serde_json::to_string(&Root(&event)).expect("it serializes");
            let written = ReplicationEvent::encode(&event, Format::Json);
            prop_assert_eq!(begins_as_ours(&written), !one.contains('"'));
            prop_assert_eq!(String::from_utf8(written).expect("UTF-8"), serialized);
        }
    }
}
