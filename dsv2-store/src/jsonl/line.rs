//! One event as one line.
//!
//! ```text
//! {"n":17,"d":12,"user":"ana","channel":"dev","message":"oi","ts":1795407353924,"clock":102,
//!  "ev":"server1/9f3ac01d22e4b6aa#4","p":3,"id":"s:000102030405060708090a0b0c0d0e0f.7","crc":"0a1b2c3d"}
//! ```
//! (one line on disk). `n` is the log index, `d` the highest index known durable when the line was written. The kind is
//! told by the keys: `user` a login, `channel` a creation, `user channel message` a publication, `src dst message` a
//! private message. `p` is the previous event on the topic: its number where it has the same origin, else its whole
//! identity. `g`, where it is there, is the previous event of the origin: the numbers between were retired before this
//! server got them. `crc` is the CRC-32 (IEEE) of all bytes before `,"crc"`.

use std::borrow::Cow;

use dsv2_core::json::{Cursor, push_escaped, push_hex, push_number, push_signed, push_string};
use dsv2_core::{Clock, Event, EventBody, EventId, MessageId, Origin, Timestamp};
use serde::Deserialize;

use super::names::Interner;
use crate::index::FeedNames;

const CRC_KEY: &[u8] = b",\"crc\":\"";
const CRC_END: &[u8] = b"\"}";
/// What a checksum adds to an object: the key, eight digits, and the two characters after them, of which one was there.
const CRC_LEN: usize = CRC_KEY.len() + 8 + CRC_END.len();

/// Appends the event's line to `out`; `after` is the number of its origin that it follows, where that is not the one before.
pub(crate) fn encode(out: &mut Vec<u8>, n: u64, d: u64, after: Option<u64>, event: &Event) {
    let start = out.len();
    out.extend_from_slice(b"{\"n\":");
    push_number(out, n);
    out.extend_from_slice(b",\"d\":");
    push_number(out, d);
    match &event.body {
        EventBody::UserLogin { user } => push_field(out, "user", user.as_str()),
        EventBody::ChannelCreate { channel } => push_field(out, "channel", channel.as_str()),
        EventBody::Publish { user, channel, message } => {
            push_field(out, "user", user.as_str());
            push_field(out, "channel", channel.as_str());
            push_field(out, "message", message);
        }
        EventBody::Message { src, dst, message } => {
            push_field(out, "src", src.as_str());
            push_field(out, "dst", dst.as_str());
            push_field(out, "message", message);
        }
    }
    out.extend_from_slice(b",\"ts\":");
    push_signed(out, event.timestamp.ms);
    out.extend_from_slice(b",\"clock\":");
    push_number(out, event.clock.get());
    out.extend_from_slice(b",\"ev\":\"");
    push_event_id(out, &event.id);
    out.push(b'"');
    match &event.prev {
        None => {}
        Some(prev) if prev.origin == event.id.origin => {
            out.extend_from_slice(b",\"p\":");
            push_number(out, prev.seq);
        }
        Some(prev) => {
            out.extend_from_slice(b",\"p\":\"");
            push_event_id(out, prev);
            out.push(b'"');
        }
    }
    if let Some(after) = after {
        out.extend_from_slice(b",\"g\":");
        push_number(out, after);
    }
    push_message_id(out, &event.message_id);
    seal(out, start);
    out.push(b'\n');
}

fn push_field(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    push_string(out, value);
}

/// An identity without its quotes; the server's name is the only part that may need escapes.
fn push_event_id(out: &mut Vec<u8>, id: &EventId) {
    push_escaped(out, id.origin.server.as_str());
    out.push(b'/');
    push_hex(out, u128::from(id.origin.incarnation), 16);
    out.push(b'#');
    push_number(out, id.seq);
}

fn push_message_id(out: &mut Vec<u8>, id: &MessageId) {
    out.extend_from_slice(b",\"id\":");
    match id {
        MessageId::Request { session, number } => {
            out.extend_from_slice(b"\"s:");
            push_hex(out, session.bits(), 32);
            out.push(b'.');
            push_number(out, *number);
            out.push(b'"');
        }
        MessageId::Key(key) => {
            out.extend_from_slice(b"\"k:");
            push_escaped(out, key.as_str());
            out.push(b'"');
        }
        MessageId::Foreign(digest) => {
            out.extend_from_slice(b"\"f:");
            push_hex(out, *digest, 32);
            out.push(b'"');
        }
    }
}

/// Ends the object that began at `start`, whose closing brace is still missing, with the checksum of what is there.
pub(crate) fn seal(out: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(CRC_KEY);
    push_hex(out, u128::from(crc), 8);
    out.extend_from_slice(CRC_END);
}

/// The part of a sealed object that its checksum covers; `None` if it does not fit.
pub(crate) fn unseal(line: &[u8]) -> Option<&[u8]> {
    let (covered, tail) = line.split_at_checked(line.len().checked_sub(CRC_LEN)?)?;
    let digits = tail.strip_prefix(CRC_KEY)?.strip_suffix(CRC_END)?;
    let mut crc = 0u32;
    for &digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        crc = crc << 4 | u32::from(value);
    }
    (crc32fast::hash(covered) == crc).then_some(covered)
}

/// The two indices with which every line starts, of a line whose checksum fits.
pub(crate) fn indices(covered: &[u8]) -> Option<(u64, u64)> {
    let start = &covered[..covered.len().min(2 * "{\"n\":18446744073709551615".len())];
    let ascii = start.iter().position(|byte| !byte.is_ascii()).unwrap_or(start.len());
    let text = std::str::from_utf8(&start[..ascii]).ok()?;
    let mut cursor = Cursor::new(text);
    cursor.literal("{\"n\":")?;
    let n = cursor.number()?;
    cursor.literal(",\"d\":")?;
    Some((n, cursor.number()?))
}

/// A line taken apart, its texts still in the line where they hold no escapes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) n: u64,
    pub(crate) d: u64,
    body: Body<'a>,
    timestamp: i64,
    pub(crate) clock: Clock,
    pub(crate) origin: OriginText<'a>,
    pub(crate) seq: u64,
    prev: Option<Prev<'a>>,
    /// The number that it follows, where that is not the one before.
    pub(crate) after: Option<u64>,
    message_id: Cow<'a, str>,
}

/// An origin as it stands in a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OriginText<'a> {
    pub(crate) server: Cow<'a, str>,
    pub(crate) incarnation: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Body<'a> {
    UserLogin(Cow<'a, str>),
    ChannelCreate(Cow<'a, str>),
    Publish { user: Cow<'a, str>, channel: Cow<'a, str>, message: Cow<'a, str> },
    Message { src: Cow<'a, str>, dst: Cow<'a, str>, message: Cow<'a, str> },
}

#[derive(Debug, PartialEq, Eq)]
enum Prev<'a> {
    SameOrigin(u64),
    Other(OriginText<'a>, u64),
}

impl<'a> Line<'a> {
    /// Takes the checked part of a line apart; `None` if it is not an event that this version knows.
    pub(crate) fn parse(covered: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(covered).ok()?;
        Self::parse_exact(text).or_else(|| Self::parse_loosely(text))
    }

    /// The form that [`encode`] writes.
    fn parse_exact(text: &'a str) -> Option<Self> {
        let mut cursor = Cursor::new(text);
        cursor.literal("{\"n\":")?;
        let n = cursor.number()?;
        cursor.literal(",\"d\":")?;
        let d = cursor.number()?;
        let body = parse_body(&mut cursor)?;
        cursor.literal(",\"ts\":")?;
        let timestamp = cursor.signed()?;
        cursor.literal(",\"clock\":")?;
        let clock = Clock::new(cursor.number()?)?;
        cursor.literal(",\"ev\":")?;
        let (origin, seq) = parse_event_id(cursor.string()?)?;
        let prev = if cursor.literal(",\"p\":\"").is_some() {
            let (origin, seq) = parse_event_id(cursor.string_rest()?)?;
            Some(Prev::Other(origin, seq))
        } else if cursor.literal(",\"p\":").is_some() {
            Some(Prev::SameOrigin(cursor.number()?))
        } else {
            None
        };
        let after = match cursor.literal(",\"g\":") {
            Some(()) => Some(cursor.number()?),
            None => None,
        };
        cursor.literal(",\"id\":")?;
        let message_id = cursor.string()?;
        cursor.is_at_end().then_some(Self { n, d, body, timestamp, clock, origin, seq, prev, after, message_id })
    }

    /// The same fields in any order, with others between them: what a later version may write.
    fn parse_loosely(text: &str) -> Option<Self> {
        let loose: Loose = serde_json::from_str(&format!("{text}}}")).ok()?;
        let cow = Cow::Owned;
        let body = match (loose.user, loose.channel, loose.src, loose.dst, loose.message) {
            (Some(user), None, None, None, None) => Body::UserLogin(cow(user)),
            (None, Some(channel), None, None, None) => Body::ChannelCreate(cow(channel)),
            (Some(user), Some(channel), None, None, Some(message)) => {
                Body::Publish { user: cow(user), channel: cow(channel), message: cow(message) }
            }
            (None, None, Some(src), Some(dst), Some(message)) => {
                Body::Message { src: cow(src), dst: cow(dst), message: cow(message) }
            }
            _ => return None,
        };
        let (origin, seq) = parse_event_id(cow(loose.ev))?;
        let prev = match loose.p {
            None => None,
            Some(LoosePrev::Number(seq)) => Some(Prev::SameOrigin(seq)),
            Some(LoosePrev::Text(text)) => {
                let (origin, seq) = parse_event_id(cow(text))?;
                Some(Prev::Other(origin, seq))
            }
        };
        let (n, d, clock) = (loose.n, loose.d, loose.clock);
        let after = loose.g;
        Some(Self { n, d, body, timestamp: loose.ts, clock, origin, seq, prev, after, message_id: cow(loose.id) })
    }

    pub(crate) const fn timestamp_ms(&self) -> i64 {
        self.timestamp
    }

    pub(crate) fn feed_names(&self) -> FeedNames<'_> {
        match &self.body {
            Body::UserLogin(_) | Body::ChannelCreate(_) => FeedNames::None,
            Body::Publish { channel, .. } => FeedNames::Channel(channel),
            Body::Message { src, dst, .. } => FeedNames::Pair { src, dst },
        }
    }

    /// The event, its names shared with others of the same `names`; `None` if a name or an id in it is none.
    pub(crate) fn to_event(&self, names: &mut Interner) -> Option<Event> {
        let origin = names.origin(&self.origin.server, self.origin.incarnation)?;
        let prev = match &self.prev {
            None => None,
            Some(Prev::SameOrigin(seq)) => Some(EventId { origin: origin.clone(), seq: *seq }),
            Some(Prev::Other(other, seq)) => {
                Some(EventId { origin: names.origin(&other.server, other.incarnation)?, seq: *seq })
            }
        };
        let body = match &self.body {
            Body::UserLogin(user) => EventBody::UserLogin { user: names.user(user)? },
            Body::ChannelCreate(channel) => EventBody::ChannelCreate { channel: names.channel(channel)? },
            Body::Publish { user, channel, message } => EventBody::Publish {
                user: names.user(user)?,
                channel: names.channel(channel)?,
                message: message.clone().into_owned(),
            },
            Body::Message { src, dst, message } => EventBody::Message {
                src: names.user(src)?,
                dst: names.user(dst)?,
                message: message.clone().into_owned(),
            },
        };
        Some(Event {
            id: EventId { origin, seq: self.seq },
            clock: self.clock,
            prev,
            message_id: self.message_id.parse().ok()?,
            timestamp: Timestamp { ms: self.timestamp },
            body,
        })
    }
}

impl OriginText<'_> {
    pub(crate) fn is(&self, origin: &Origin) -> bool {
        self.incarnation == origin.incarnation && self.server == origin.server.as_str()
    }
}

fn parse_body<'a>(cursor: &mut Cursor<'a>) -> Option<Body<'a>> {
    if cursor.literal(",\"user\":").is_some() {
        let user = cursor.string()?;
        if cursor.literal(",\"channel\":").is_none() {
            return Some(Body::UserLogin(user));
        }
        let channel = cursor.string()?;
        cursor.literal(",\"message\":")?;
        Some(Body::Publish { user, channel, message: cursor.string()? })
    } else if cursor.literal(",\"src\":").is_some() {
        let src = cursor.string()?;
        cursor.literal(",\"dst\":")?;
        let dst = cursor.string()?;
        cursor.literal(",\"message\":")?;
        Some(Body::Message { src, dst, message: cursor.string()? })
    } else {
        cursor.literal(",\"channel\":")?;
        Some(Body::ChannelCreate(cursor.string()?))
    }
}

/// `SERVER/16 hex digits#NUMBER`; the server's name itself is checked where an event is made.
fn parse_event_id(text: Cow<'_, str>) -> Option<(OriginText<'_>, u64)> {
    let parse = |text: &str| {
        let (origin, seq) = text.rsplit_once('#')?;
        let (server, incarnation) = origin.rsplit_once('/')?;
        let canonical = incarnation.len() == 16 && incarnation.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let incarnation = u64::from_str_radix(incarnation, 16).ok().filter(|_| canonical)?;
        let mut number = Cursor::new(seq);
        let seq = number.number().filter(|&seq| seq > 0 && number.is_at_end())?;
        Some((server.len(), incarnation, seq))
    };
    let (server_len, incarnation, seq) = parse(&text)?;
    let server = match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..server_len]),
        Cow::Owned(mut text) => {
            text.truncate(server_len);
            Cow::Owned(text)
        }
    };
    Some((OriginText { server, incarnation }, seq))
}

#[derive(Deserialize)]
struct Loose {
    n: u64,
    d: u64,
    user: Option<String>,
    channel: Option<String>,
    src: Option<String>,
    dst: Option<String>,
    message: Option<String>,
    ts: i64,
    clock: Clock,
    ev: String,
    p: Option<LoosePrev>,
    g: Option<u64>,
    id: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LoosePrev {
    Number(u64),
    Text(String),
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
