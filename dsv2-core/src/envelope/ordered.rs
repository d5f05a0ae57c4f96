//! Bodies in the very order in which ours leave: read key by key, without looking for any.
//!
//! Most of what a server and a client read was written by this crate, and this way takes half to two thirds of the time
//! of a derived structure. What is in another order, or has a field more, is read loosely, from its beginning, as the family may write
//! it; what this way takes means the same to that one.

use std::borrow::Cow;

use super::publication::{Publication, PublicationBody};
use super::reply::{Receipt, Reply, ReplyBody, is_success};
use super::request::{Request, RequestBody, RequestExt};
use super::service::{Level, Service};
use super::timestamp::RawTimestamp;
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::id::{EventId, IdempotencyKey, Origin};
use crate::json::Cursor;
use crate::name::Name;
use crate::position::Position;
use crate::time::Wall;

/// How deep these bodies nest: the root, `data`, `position`.
const DEPTH: usize = 3;

/// Objects, texts and numbers of one serialization. A method that returns `None` may have moved on: give up then.
trait Reader<'a>: Sized {
    fn new(body: &'a [u8]) -> Option<Self>;
    /// Enters the object that stands next; yields what [`Reader::close`] needs.
    fn open(&mut self) -> Option<usize>;
    /// Passes this key, if it stands next.
    fn key(&mut self, key: &str) -> bool;
    /// Leaves an object of which nothing is left.
    fn close(&mut self, outer: usize) -> Option<()>;
    fn text(&mut self) -> Option<Cow<'a, str>>;
    fn unsigned(&mut self) -> Option<u64>;
    fn signed(&mut self) -> Option<i64>;
    /// Passes the next key, whatever it is; `Some(None)` where none is left.
    fn next_key(&mut self) -> Option<Option<Cow<'a, str>>>;
    fn is_at_end(&self) -> bool;
}

/// Compact JSON.
struct JsonReader<'a> {
    cursor: Cursor<'a>,
    /// Whether a field stands before the next one.
    comma: bool,
}

impl<'a> JsonReader<'a> {
    /// Passes what stands before a key.
    fn separator(&mut self) -> Option<()> {
        if self.comma { self.cursor.literal(",\"") } else { self.cursor.literal("\"") }
    }
}

impl<'a> Reader<'a> for JsonReader<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        Some(Self { cursor: Cursor::new(std::str::from_utf8(body).ok()?), comma: false })
    }
    fn open(&mut self) -> Option<usize> {
        self.comma = false;
        self.cursor.literal("{").map(|()| 0)
    }
    fn key(&mut self, key: &str) -> bool {
        let before = self.cursor;
        let found = self.separator().and_then(|()| self.cursor.literal(key)).and_then(|()| self.cursor.literal("\":"));
        if found.is_none() {
            self.cursor = before;
            return false;
        }
        self.comma = true;
        true
    }
    fn close(&mut self, _: usize) -> Option<()> {
        self.comma = true;
        self.cursor.literal("}")
    }
    fn text(&mut self) -> Option<Cow<'a, str>> {
        self.cursor.string()
    }
    fn unsigned(&mut self) -> Option<u64> {
        self.cursor.number().filter(|_| self.is_number_over())
    }
    fn signed(&mut self) -> Option<i64> {
        self.cursor.signed().filter(|_| self.is_number_over())
    }
    fn next_key(&mut self) -> Option<Option<Cow<'a, str>>> {
        if self.separator().is_none() {
            return Some(None);
        }
        self.comma = true;
        let key = self.cursor.string_rest()?;
        self.cursor.literal(":")?;
        Some(Some(key))
    }
    fn is_at_end(&self) -> bool {
        self.cursor.is_at_end()
    }
}

impl JsonReader<'_> {
    /// A number goes on as a fraction or an exponent where neither a field nor the end of the object follows.
    fn is_number_over(&self) -> bool {
        let mut after = self.cursor;
        after.literal(",").or_else(|| after.literal("}")).is_some()
    }
}

/// MessagePack.
struct MsgPackReader<'a> {
    rest: &'a [u8],
    /// Fields left of the object.
    left: usize,
}

impl<'a> MsgPackReader<'a> {
    fn take<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }
}

impl<'a> Reader<'a> for MsgPackReader<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        Some(Self { rest: body, left: 0 })
    }
    fn open(&mut self) -> Option<usize> {
        let fields = match self.take()? {
            [marker @ 0x80..=0x8f] => usize::from(marker & 0x0f),
            [0xde] => usize::from(u16::from_be_bytes(self.take()?)),
            _ => return None,
        };
        Some(std::mem::replace(&mut self.left, fields))
    }
    fn key(&mut self, key: &str) -> bool {
        // Keys are shorter than 32 bytes.
        let passed = match self.rest.split_first() {
            Some((&marker, rest)) if self.left > 0 && usize::from(marker) == 0xa0 + key.len() => {
                rest.strip_prefix(key.as_bytes())
            }
            _ => None,
        };
        match passed {
            Some(rest) => {
                (self.rest, self.left) = (rest, self.left - 1);
                true
            }
            None => false,
        }
    }
    fn close(&mut self, outer: usize) -> Option<()> {
        let is_over = self.left == 0;
        self.left = outer;
        is_over.then_some(())
    }
    fn text(&mut self) -> Option<Cow<'a, str>> {
        let len = match self.take()? {
            [marker @ 0xa0..=0xbf] => usize::from(marker & 0x1f),
            [0xd9] => usize::from(self.take::<1>()?[0]),
            [0xda] => usize::from(u16::from_be_bytes(self.take()?)),
            [0xdb] => u32::from_be_bytes(self.take()?) as usize,
            _ => return None,
        };
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok().map(Cow::Borrowed)
    }
    fn unsigned(&mut self) -> Option<u64> {
        Some(match self.take()? {
            [small @ 0..=0x7f] => u64::from(small),
            [0xcc] => u64::from(self.take::<1>()?[0]),
            [0xcd] => u64::from(u16::from_be_bytes(self.take()?)),
            [0xce] => u64::from(u32::from_be_bytes(self.take()?)),
            [0xcf] => u64::from_be_bytes(self.take()?),
            _ => return None,
        })
    }
    fn signed(&mut self) -> Option<i64> {
        match self.rest.first()? {
            0xe0..=0xff | 0xd0..=0xd3 => None,
            _ => self.unsigned()?.try_into().ok(),
        }
    }
    fn next_key(&mut self) -> Option<Option<Cow<'a, str>>> {
        let Some(left) = self.left.checked_sub(1) else { return Some(None) };
        self.left = left;
        self.text().map(Some)
    }
    fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Reads by the reader of the body's serialization, as far as the limits allow: a body has no more values than bytes.
macro_rules! read {
    ($body:expr, $limits:expr, $read:ident $(, $more:expr)*) => {{
        let (body, limits): (&[u8], &Limits) = ($body, $limits);
        if body.len() > limits.body_bytes.min(limits.items) || limits.depth < DEPTH {
            return None;
        }
        match Format::detect(body)? {
            Format::Json => $read(JsonReader::new(body)?, Format::Json $(, $more)*),
            Format::MsgPack => $read(MsgPackReader::new(body)?, Format::MsgPack $(, $more)*),
        }
    }};
}

/// A write or a question without fields; `None` for what is not in our order.
pub(super) fn request(body: &[u8], limits: &Limits) -> Option<Request> {
    read!(body, limits, read_request)
}

/// The answer to a write that went well; `None` for what is not in our order.
pub(super) fn reply(service: Service, body: &[u8], limits: &Limits) -> Option<Reply> {
    match service {
        Service::Login | Service::Channel | Service::Publish | Service::Message | Service::Heartbeat => {
            read!(body, limits, read_receipt)
        }
        _ => None,
    }
}

/// A publication; `None` for what is not in our order.
pub(super) fn publication(body: &[u8], limits: &Limits) -> Option<Publication> {
    read!(body, limits, read_publication)
}

fn read_request<'a>(mut from: impl Reader<'a>, format: Format) -> Option<Request> {
    let root = from.open()?;
    let service = Service::parse(&required(&mut from, "service")?)?;
    let data = enter_data(&mut from)?;
    let body = match service {
        Service::Login => RequestBody::Login { user: name(&mut from, "user")? },
        Service::Users => RequestBody::Users,
        Service::Channel => RequestBody::Channel { channel: name(&mut from, "channel")? },
        Service::Channels => RequestBody::Channels,
        Service::Publish => RequestBody::Publish {
            user: name(&mut from, "user")?,
            channel: name(&mut from, "channel")?,
            message: required(&mut from, "message")?.into_owned(),
        },
        Service::Message => RequestBody::Message {
            src: name(&mut from, "src")?,
            dst: name(&mut from, "dst")?,
            message: required(&mut from, "message")?.into_owned(),
        },
        _ => return None,
    };
    let timestamp = optional(&mut from, "timestamp", Reader::signed)?.map(RawTimestamp::Integer);
    let clock = optional(&mut from, "clock", clock)?;
    let id = optional(&mut from, "id", |from| IdempotencyKey::new(&from.text()?).ok())?;
    let session = optional(&mut from, "session", |from| from.text()?.parse().ok())?;
    let number = session.and(optional(&mut from, "request", Reader::unsigned)?);
    let level = optional(&mut from, "level", level)?;
    let position = optional(&mut from, "position", position)?;
    end(from, data, root)?;
    Some(Request { format, timestamp, clock, ext: RequestExt { id, session, number, level, position }, body })
}

fn read_receipt<'a>(mut from: impl Reader<'a>, format: Format) -> Option<Reply> {
    let root = from.open()?;
    let service = Service::parse(&required(&mut from, "service")?)?;
    let data = enter_data(&mut from)?;
    if !is_success(&required(&mut from, "status")?) {
        return None;
    }
    let receipt = if from.key("id") {
        let id = from.text()?.parse().ok()?;
        let event = identity(&mut from)?;
        let level = if from.key("level") { level(&mut from)? } else { return None };
        Some(Receipt { id, event, level })
    } else {
        None
    };
    let timestamp = optional(&mut from, "timestamp", Reader::signed)?.unwrap_or(0);
    let clock = optional(&mut from, "clock", clock)?;
    let position = optional(&mut from, "position", position)?;
    end(from, data, root)?;
    let (service, timestamp) = (service.as_str().into(), RawTimestamp::Integer(timestamp));
    Some(Reply { format, service, timestamp, clock, position, body: ReplyBody::Done(receipt) })
}

fn read_publication<'a>(mut from: impl Reader<'a>, _: Format) -> Option<Publication> {
    let root = from.open()?;
    let body = if from.key("user") {
        let user = from.text()?.into_owned();
        let channel = optional(&mut from, "channel", |from| Name::new(&from.text()?).ok())?;
        PublicationBody::Channel { user, channel, message: required(&mut from, "message")?.into_owned() }
    } else {
        let src = required(&mut from, "src")?.into_owned();
        let dst = optional(&mut from, "dst", |from| Name::new(&from.text()?).ok())?;
        PublicationBody::Private { src, dst, message: required(&mut from, "message")?.into_owned() }
    };
    let timestamp = optional(&mut from, "timestamp", Reader::signed)?;
    let timestamp = timestamp.and_then(|raw| RawTimestamp::Integer(raw).wall()).map(Wall::timestamp);
    let clock = optional(&mut from, "clock", clock)?;
    let id = optional(&mut from, "id", |from| from.text()?.parse().ok())?;
    let event = identity(&mut from)?;
    let prev = optional(&mut from, "prev", |from| from.text()?.parse().ok())?;
    from.close(root)?;
    from.is_at_end().then_some(Publication { body, timestamp, clock, id, event: Some(event), prev })
}

fn enter_data<'a>(from: &mut impl Reader<'a>) -> Option<usize> {
    if from.key("data") { from.open() } else { None }
}

fn end<'a>(mut from: impl Reader<'a>, data: usize, root: usize) -> Option<()> {
    from.close(data)?;
    from.close(root)?;
    from.is_at_end().then_some(())
}

fn required<'a>(from: &mut impl Reader<'a>, key: &str) -> Option<Cow<'a, str>> {
    if from.key(key) { from.text() } else { None }
}

fn name<'a, K>(from: &mut impl Reader<'a>, key: &str) -> Option<Name<K>> {
    Name::new(&required(from, key)?).ok()
}

/// A field that may not be there; the outer `None` where it is something else.
fn optional<'a, R: Reader<'a>, T>(
    from: &mut R,
    key: &str,
    read: impl FnOnce(&mut R) -> Option<T>,
) -> Option<Option<T>> {
    if from.key(key) { read(from).map(Some) } else { Some(None) }
}

fn clock<'a>(from: &mut impl Reader<'a>) -> Option<Clock> {
    Clock::new(from.unsigned()?)
}

fn level<'a>(from: &mut impl Reader<'a>) -> Option<Level> {
    from.text()?.parse().ok()
}

/// The two fields of an event's identity.
fn identity<'a>(from: &mut impl Reader<'a>) -> Option<EventId> {
    let origin = required(from, "origin")?.parse().ok()?;
    let seq = if from.key("seq") { from.unsigned()? } else { return None };
    (seq > 0).then_some(EventId { origin, seq })
}

fn position<'a>(from: &mut impl Reader<'a>) -> Option<Position> {
    let outer = from.open()?;
    let mut position = Position::default();
    while let Some(origin) = from.next_key()? {
        let (origin, seq): (Origin, u64) = (origin.parse().ok()?, from.unsigned()?);
        // None of ours names an origin twice, or for nothing.
        if seq == 0 || position.get(&origin) > 0 {
            return None;
        }
        position.advance_to(&origin, seq);
    }
    from.close(outer)?;
    Some(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{MessageId, SessionId};

    const LIMITS: Limits = Limits { body_bytes: 1 << 20, depth: 32, items: 100_000 };

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let format = prop_oneof![Just(Format::Json), Just(Format::MsgPack)];
        let text = prop_oneof![Just("oi".to_owned()), "[ -~é]{0,40}"];
        (format, text, 0..5, any::<u32>(), any::<bool>()).prop_map(|(format, message, kind, number, full)| {
            let name = || "ana".parse::<crate::UserName>().expect("a name");
            let event: EventId = "s1/00000000000000ff#7".parse().expect("an identity");
            let number = u64::from(number);
            let position = full.then(|| [(event.origin.clone(), number + 1)].into_iter().collect::<Position>());
            let id = MessageId::Request { session: SessionId::new(Clock::ZERO, 1), number };
            let clock = Clock::new(number);
            let (timestamp, prev) = (RawTimestamp::Integer(1_795_407_353_924), full.then(|| event.clone()));
            let body = match kind {
                0 => RequestBody::Publish { user: name(), channel: "dev".parse().expect("a name"), message },
                1 => RequestBody::Message { src: name(), dst: name(), message },
                2 => RequestBody::Users,
                3 => {
                    let receipt = full.then_some(Receipt { id, event, level: Level::All });
                    let body = ReplyBody::Done(receipt);
                    return Reply { format, service: "publish".into(), timestamp, clock, position, body }.encode();
                }
                _ => {
                    let timestamp = timestamp.wall().map(Wall::timestamp);
                    let body = PublicationBody::Channel { user: "ana".into(), channel: None, message };
                    return Publication { body, timestamp, clock, id: Some(id), event: Some(event), prev }
                        .encode(format);
                }
            };
            let session = Some(SessionId::new(Clock::ZERO, 1));
            let ext =
                RequestExt { id: None, session, number: Some(number), level: full.then_some(Level::Local), position };
            Request { format, timestamp: Some(timestamp), clock, ext, body }.encode()
        })
    }

    fn is_taken(body: &[u8]) -> bool {
        request(body, &LIMITS).is_some()
            || reply(Service::Publish, body, &LIMITS).is_some()
            || publication(body, &LIMITS).is_some()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn what_leaves_here_is_taken_and_a_change_in_it_means_the_same_to_all(
            body in bodies(), at in any::<prop::sample::Index>(), byte in any::<u8>(), change in 0..5,
        ) {
            prop_assert!(is_taken(&body), "{:?}", String::from_utf8_lossy(&body));
            let (mut changed, at) = (body.clone(), at.index(body.len()));
            match change {
                0 => changed[at] = byte,
                1 => changed.insert(at, byte),
                2 => drop(changed.remove(at)),
                3 => changed.truncate(at),
                _ => changed[at] ^= 1,
            }
            if let Some(request) = request(&changed, &LIMITS) {
                prop_assert_eq!(Request::decode_loosely(&changed, &LIMITS), Ok(request));
            }
            if let Some(reply) = reply(Service::Publish, &changed, &LIMITS) {
                prop_assert_eq!(Reply::decode_loosely(Service::Publish, &changed, &LIMITS), Ok(reply));
            }
            if let Some(publication) = publication(&changed, &LIMITS) {
                prop_assert_eq!(Publication::decode_loosely(&changed, &LIMITS), Ok(publication));
            }
        }
    }

    #[test]
    fn a_position_that_ends_within_a_key_is_none() {
        let position = r#"{"service":"users","data":{"position":"#;
        for rest in
            [r#"{"abc"}}}"#, r#"{"\x}}}"#, r#"{"s1/0000000000000001":5,"x"}}}"#, r#"{"s1/0000000000000001":5,}}}"#]
        {
            assert_eq!(request(format!("{position}{rest}").as_bytes(), &LIMITS), None, "{rest}");
        }
        assert!(request(format!("{position}{{}}}}}}").as_bytes(), &LIMITS).is_some());
        let cut = b"\x82\xa7service\xa5users\xa4data\x81\xa8position\x81";
        for more in [&b""[..], b"\xc0", b"\xb0", b"\xd9\x09"] {
            assert_eq!(request(&[cut, more].concat(), &LIMITS), None, "{more:x?}");
        }
    }
}
