//! Identities: of events, of messages, and the order key.
//!
//! An *event* is known by its origin and its number there; a *message* by what its client called it, so that a retry
//! is recognised on every server. The two are never mixed: one message may, after a partition, stand in two events.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Clock;
use crate::name::{NameError, ServerName};

/// The longest idempotency key, in bytes.
pub const KEY_CAP_BYTES: usize = 128;

/// Why a text is not an identity. Nothing was built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not of the documented form; says which form.
    #[error("is not of the form {0}")]
    Form(&'static str),
    /// Its server's name is no name.
    #[error("names a server whose name {0}")]
    Server(#[from] NameError),
    /// An idempotency key that is empty, too long, or holds control characters.
    #[error("must have 1 to {KEY_CAP_BYTES} bytes without control characters")]
    Key,
}

/// One life of a server process: its name and a random number drawn at its start. Clones, restored backups and lost
/// log tails can never reuse an identity, because none of them keeps the number.
///
/// Text: `server1/9f3ac01d22e4b6aa`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The server's name.
    pub server: ServerName,
    /// The random number of this life.
    pub incarnation: u64,
}

impl Spell for Origin {
    fn spell<S: Sink>(&self, out: &mut S) -> fmt::Result {
        out.chosen(self.server.as_str())?;
        out.plain(b"/")?;
        write_hex(out, self.incarnation.to_be_bytes())
    }
}

impl FromStr for Origin {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (server, incarnation) = Self::parts(text).ok_or(IdError::Form("SERVER/16 hex digits"))?;
        Ok(Self { server: ServerName::new(server)?, incarnation })
    }
}

impl Origin {
    fn parts(text: &str) -> Option<(&str, u64)> {
        // The number's length is known: there is nothing to search for.
        let (server, rest) = text.split_at_checked(text.len().checked_sub(17)?)?;
        Some((server, hex(rest.strip_prefix('/')?.as_bytes().try_into().ok()?)?))
    }

    /// Whether a text is one of an origin.
    pub(crate) fn is_spelled(text: &str) -> bool {
        Self::parts(text).is_some_and(|(server, _)| ServerName::check(server).is_ok())
    }
}

/// The text of an identity. Identities stand in every message and every line of a log, and a formatter's own ways,
/// through padding and dispatch, take several times as long.
pub(crate) trait Spell {
    fn spell<S: Sink>(&self, out: &mut S) -> fmt::Result;
}

/// Takes the parts of an identity's text.
pub(crate) trait Sink {
    /// Letters, digits and signs that stand for themselves in every notation.
    fn plain(&mut self, ascii: &[u8]) -> fmt::Result;
    /// What somebody chose.
    fn chosen(&mut self, text: &str) -> fmt::Result;
}

impl Sink for fmt::Formatter<'_> {
    fn plain(&mut self, ascii: &[u8]) -> fmt::Result {
        self.write_str(std::str::from_utf8(ascii).map_err(|_| fmt::Error)?)
    }
    fn chosen(&mut self, text: &str) -> fmt::Result {
        self.write_str(text)
    }
}

macro_rules! display_by_spelling {
    ($($id:ty),*) => {
        $(impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.spell(f)
            }
        }
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                as_text(self, serializer)
            }
        })*
    };
}
display_by_spelling!(Origin, EventId, OrderKey, SessionId, MessageId);

/// Two lower-case hex digits a byte.
fn write_hex<const BYTES: usize>(out: &mut impl Sink, bytes: [u8; BYTES]) -> fmt::Result {
    let digit = |half: u8| b"0123456789abcdef"[usize::from(half & 0xf)];
    let pairs = bytes.map(|byte| [digit(byte >> 4), digit(byte)]);
    out.plain(pairs.as_flattened())
}

fn write_number(out: &mut impl Sink, number: u64) -> fmt::Result {
    out.plain(itoa::Buffer::new().format(number).as_bytes())
}

/// The value of each lower-case hex digit; 16 for every other byte.
const HEX_DIGITS: [u8; 256] = {
    let (mut values, mut digit) = ([16; 256], 0);
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// Exactly 16 lower-case hex digits; one text for one value, or none.
fn hex(text: &[u8; 16]) -> Option<u64> {
    let (mut value, mut seen) = (0u64, 0u8);
    for &byte in text {
        let digit = HEX_DIGITS[usize::from(byte)];
        seen |= digit;
        value = value << 4 | u64::from(digit & 15);
    }
    (seen < 16).then_some(value)
}

/// Exactly 32 of them.
fn long_hex(text: &str) -> Option<u128> {
    let [high, low] = text.as_bytes().as_chunks().0 else { return None };
    let value = u128::from(hex(high)?) << 64 | u128::from(hex(low)?);
    (text.len() == 32).then_some(value)
}

/// An event's identity: its origin, and its number there. Numbers start at 1 and have no gaps.
///
/// Text: `server1/9f3ac01d22e4b6aa#12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Where it was first written.
    pub origin: Origin,
    /// Its number there, from 1.
    pub seq: u64,
}

impl Spell for EventId {
    fn spell<S: Sink>(&self, out: &mut S) -> fmt::Result {
        self.origin.spell(out)?;
        out.plain(b"#")?;
        write_number(out, self.seq)
    }
}

impl FromStr for EventId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form("SERVER/16 hex digits#NUMBER");
        let (origin, seq) = text.rsplit_once('#').ok_or_else(form)?;
        let seq = number(seq).filter(|&seq| seq > 0).ok_or_else(form)?;
        Ok(Self { origin: origin.parse()?, seq })
    }
}

/// A decimal number without sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let canonical = text == "0" || (text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// The total order of events: by clock, then by origin, then by number. It extends causality (Lamport 1978).
///
/// Text: `CLOCK:server1/9f3ac01d22e4b6aa#12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderKey {
    /// The event's logical time.
    pub clock: Clock,
    /// The event's identity.
    pub id: EventId,
}

impl Spell for OrderKey {
    fn spell<S: Sink>(&self, out: &mut S) -> fmt::Result {
        write_number(out, self.clock.get())?;
        out.plain(b":")?;
        self.id.spell(out)
    }
}

impl FromStr for OrderKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form("CLOCK:SERVER/16 hex digits#NUMBER");
        let (clock, id) = text.split_once(':').ok_or_else(form)?;
        let clock = number(clock).and_then(Clock::new).ok_or_else(form)?;
        Ok(Self { clock, id: id.parse()? })
    }
}

/// A client session: 53 bits of the logical time at which it was opened, then 75 random bits. The opening time lets a
/// server tell a session it has never seen from one it has forgotten.
///
/// Text: 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u128);

impl SessionId {
    const RANDOM_BITS: u32 = 75;

    /// A session opened at `opened`; of `random`, the low 75 bits are used.
    #[must_use]
    pub const fn new(opened: Clock, random: u128) -> Self {
        let mask = (1 << Self::RANDOM_BITS) - 1;
        Self(((opened.get() as u128) << Self::RANDOM_BITS) | (random & mask))
    }

    /// All of its 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The logical time at which the session was opened.
    #[must_use]
    pub fn opened(self) -> Clock {
        let value = u64::try_from(self.0 >> Self::RANDOM_BITS).unwrap_or(u64::MAX);
        Clock::ZERO.plus(value)
    }
}

impl Spell for SessionId {
    fn spell<S: Sink>(&self, out: &mut S) -> fmt::Result {
        write_hex(out, self.0.to_be_bytes())
    }
}

impl FromStr for SessionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        long_hex(text).map(Self).ok_or(IdError::Form("32 hex digits"))
    }
}

/// A client's own name for one write, so that a retry is recognised: 1 to [`KEY_CAP_BYTES`] bytes without control
/// characters. It is scoped by user and topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Checks `text` and takes it as a key.
    ///
    /// # Errors
    /// [`IdError::Key`] where it is empty, too long, or holds control characters.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > KEY_CAP_BYTES || text.chars().any(char::is_control) {
            return Err(IdError::Key);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message's identity, the same for every retry of it.
///
/// Text: `s:SESSION.NUMBER`, `k:KEY` or `f:DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageId {
    /// A numbered request of a client session.
    Request {
        /// The session.
        session: SessionId,
        /// The request's number in it, from 1.
        number: u64,
    },
    /// The client's own key.
    Key(IdempotencyKey),
    /// A digest of what a foreign event and its publication both carry.
    Foreign(u128),
}

impl Spell for MessageId {
    fn spell<S: Sink>(&self, out: &mut S) -> fmt::Result {
        match self {
            Self::Request { session, number } => {
                out.plain(b"s:")?;
                session.spell(out)?;
                out.plain(b".")?;
                write_number(out, *number)
            }
            Self::Key(key) => {
                out.plain(b"k:")?;
                out.chosen(key.as_str())
            }
            Self::Foreign(digest) => {
                out.plain(b"f:")?;
                write_hex(out, digest.to_be_bytes())
            }
        }
    }
}

impl FromStr for MessageId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form("s:SESSION.NUMBER, k:KEY or f:DIGEST");
        match text.split_at_checked(2).ok_or_else(form)? {
            ("s:", rest) => {
                let (session, number_text) = rest.split_once('.').ok_or_else(form)?;
                let number = number(number_text).ok_or_else(form)?;
                Ok(Self::Request { session: session.parse()?, number })
            }
            ("k:", key) => IdempotencyKey::new(key).map(Self::Key),
            ("f:", digest) => long_hex(digest).map(Self::Foreign).ok_or_else(form),
            _ => Err(form()),
        }
    }
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = IdError>,
{
    struct Visitor<T>(std::marker::PhantomData<fn() -> T>);
    impl<T: FromStr<Err = IdError>> serde::de::Visitor<'_> for Visitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an identity")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(|why: IdError| E::custom(format_args!("the identity {why}")))
        }
    }
    deserializer.deserialize_str(Visitor(std::marker::PhantomData))
}

/// Room for every identity: the longest is a client's own key, or an [`OrderKey`] of a server with a long name.
const SPELLED_CAP_BYTES: usize = 256;

/// A text on the stack.
struct Spelled {
    bytes: [u8; SPELLED_CAP_BYTES],
    len: usize,
}

impl Sink for Spelled {
    fn plain(&mut self, ascii: &[u8]) -> fmt::Result {
        let end = self.len + ascii.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(ascii);
        self.len = end;
        Ok(())
    }
    fn chosen(&mut self, text: &str) -> fmt::Result {
        self.plain(text.as_bytes())
    }
}

/// Serializes an identity as its text.
fn as_text<S: Serializer>(id: &impl Spell, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = Spelled { bytes: [0; SPELLED_CAP_BYTES], len: 0 };
    id.spell(&mut text).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(std::str::from_utf8(&text.bytes[..text.len]).map_err(serde::ser::Error::custom)?)
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}
impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}
impl<'de> Deserialize<'de> for OrderKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}
impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}
impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}
impl Serialize for IdempotencyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|why| D::Error::custom(format_args!("the key {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip_and_are_canonical() {
        let id: EventId = "s1/00000000000000ff#7".parse().expect("valid");
        assert_eq!(id.to_string(), "s1/00000000000000ff#7");
        for bad in ["s1#7", "s1/ff#7", "s1/00000000000000FF#7", "s1/00000000000000ff#07", "s1/00000000000000ff#0"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
        for text in ["k:order-7", "f:000102030405060708090a0b0c0d0e0f", "s:000102030405060708090a0b0c0d0e0f.3"] {
            assert_eq!(text.parse::<MessageId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "k", "k:", "x:1", "s:1.2", "é", "k:a\nb"] {
            assert!(bad.parse::<MessageId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_session_carries_its_opening_clock() {
        for value in [0, 1, Clock::MAX.get()] {
            let opened = Clock::new(value).expect("in range");
            assert_eq!(SessionId::new(opened, u128::MAX).opened(), opened);
        }
    }
}
