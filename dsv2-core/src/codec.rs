//! The two serializations of the wire, told apart message by message.

use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

/// What a decoder accepts of one message. Beyond it, decoding fails before memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest body, in bytes.
    pub body_bytes: usize,
    /// How deep objects and lists may nest, the outermost one counted.
    pub depth: usize,
    /// How many values, keys not counted, a body may hold.
    pub items: usize,
}

impl Default for Limits {
    /// 1 MiB, 32 levels, 100,000 values.
    fn default() -> Self {
        Self { body_bytes: 1 << 20, depth: 32, items: 100_000 }
    }
}

/// Why bytes were not decoded, or a value not encoded. Nothing else happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Longer than [`Limits::body_bytes`]; carries its length and the limit.
    #[error("the body has {0} bytes, at most {1} are allowed")]
    TooLarge(usize, usize),
    /// Begins like neither JSON nor a MessagePack map; carries the first byte, where there is one.
    #[error("the body is neither a JSON object nor a MessagePack map")]
    Unrecognized(Option<u8>),
    /// Not well-formed, or beyond [`Limits::depth`] or [`Limits::items`]; carries the decoder's words.
    #[error("the body cannot be read: {0}")]
    Malformed(String),
}

/// One serialization.
///
/// [`Json`] and [`MsgPack`] are the two of the wire; [`Format`] is the one or the other, as the message at hand says.
pub trait Codec {
    /// Appends `value` to `out`.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] where the value's own `Serialize` fails; `out` may then hold a part of it.
    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Decodes the whole of `bytes` by `seed`, which may borrow from them.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] where they are not exactly one well-formed value that the seed takes.
    fn decode<'a, S: DeserializeSeed<'a>>(&self, seed: S, bytes: &'a [u8]) -> Result<S::Value, CodecError>;
}

/// JSON (RFC 8259), compact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json;

/// MessagePack, structures as maps with string keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsgPack;

/// Which of the two serializations a message uses.
///
/// ```
/// use dsv2_core::Format;
/// assert_eq!(Format::detect(b"  {\"service\":\"users\"}"), Some(Format::Json));
/// assert_eq!(Format::detect(&[0x82, 0xa1]), Some(Format::MsgPack));
/// assert_eq!(Format::detect(b"hello"), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON, the default of the family.
    #[default]
    Json,
    /// MessagePack.
    MsgPack,
}

impl Format {
    /// Tells a body's serialization by its first byte, white space of JSON skipped: `{` is JSON, a map's marker is
    /// MessagePack, anything else is neither.
    #[must_use]
    pub fn detect(body: &[u8]) -> Option<Self> {
        match body.first()? {
            0x80..=0x8f | 0xde | 0xdf => Some(Self::MsgPack),
            _ => match body.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n'))? {
                b'{' => Some(Self::Json),
                _ => None,
            },
        }
    }
}

impl Codec for Json {
    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(malformed)
    }

    fn decode<'a, S: DeserializeSeed<'a>>(&self, seed: S, bytes: &'a [u8]) -> Result<S::Value, CodecError> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let value = seed.deserialize(&mut deserializer).map_err(malformed)?;
        deserializer.end().map_err(malformed)?;
        Ok(value)
    }
}

impl Codec for MsgPack {
    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        rmp_serde::encode::write_named(out, value).map_err(malformed)
    }

    fn decode<'a, S: DeserializeSeed<'a>>(&self, seed: S, bytes: &'a [u8]) -> Result<S::Value, CodecError> {
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        let value = seed.deserialize(&mut deserializer).map_err(malformed)?;
        // The deserializer does not tell how far it read: only at the very end does one more value find no marker.
        match serde::de::IgnoredAny::deserialize(&mut deserializer) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => {}
            _ => return Err(CodecError::Malformed("bytes follow the map".to_owned())),
        }
        Ok(value)
    }
}

impl Format {
    /// Lets `seed` read as far as it wants. What comes of it is the seed's own affair: where it ended, and whether well, is
    /// not told, which is what costs most about stopping early.
    pub(crate) fn glance<'a, S: DeserializeSeed<'a>>(self, seed: S, bytes: &'a [u8]) {
        match self {
            Self::Json => drop(seed.deserialize(&mut serde_json::Deserializer::from_slice(bytes))),
            Self::MsgPack => drop(seed.deserialize(&mut rmp_serde::Deserializer::from_read_ref(bytes))),
        }
    }
}

impl Codec for Format {
    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match self {
            Self::Json => Json.encode(value, out),
            Self::MsgPack => MsgPack.encode(value, out),
        }
    }

    fn decode<'a, S: DeserializeSeed<'a>>(&self, seed: S, bytes: &'a [u8]) -> Result<S::Value, CodecError> {
        match self {
            Self::Json => Json.decode(seed, bytes),
            Self::MsgPack => MsgPack.decode(seed, bytes),
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> CodecError {
    CodecError::Malformed(error.to_string())
}
