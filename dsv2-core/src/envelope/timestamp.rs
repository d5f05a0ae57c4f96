//! Timestamps as the family writes them.

use serde::{Serialize, Serializer};
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{OffsetDateTime, PrimitiveDateTime};

use super::value::Value;
use crate::time::{Timestamp, Wall};

/// A timestamp in the form in which it arrived, so that a reply can echo it unchanged.
///
/// A number below 1e11 counts seconds, below 1e14 milliseconds, above that microseconds; a text is RFC 3339, and without
/// an offset it is UTC.
#[derive(Clone, Debug, PartialEq)]
pub enum RawTimestamp {
    /// An integer.
    Integer(i64),
    /// A number with a fraction. Always finite.
    Float(f64),
    /// A text; it need not be a date.
    Text(String),
}

impl RawTimestamp {
    /// The moment it means, to the microsecond; `None` for a text that is no date.
    #[must_use]
    pub fn wall(&self) -> Option<Wall> {
        match self {
            Self::Integer(value) => {
                let us = match value.unsigned_abs() {
                    0..100_000_000_000 => value.saturating_mul(1_000_000),
                    100_000_000_000..100_000_000_000_000 => value.saturating_mul(1_000),
                    _ => *value,
                };
                Some(Wall { us })
            }
            Self::Float(value) => {
                let us = match value.abs() {
                    seconds if seconds < 1e11 => value * 1e6,
                    millis if millis < 1e14 => value * 1e3,
                    _ => *value,
                };
                // A cast from a float saturates.
                Some(Wall { us: us.round() as i64 })
            }
            Self::Text(text) => {
                let date = OffsetDateTime::parse(text, &Rfc3339)
                    .or_else(|_| PrimitiveDateTime::parse(text, &Iso8601::DEFAULT).map(PrimitiveDateTime::assume_utc));
                Some(Wall { us: i64::try_from(date.ok()?.unix_timestamp_nanos() / 1_000).ok()? })
            }
        }
    }

    pub(super) fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Unsigned(value) => i64::try_from(*value).ok().map(Self::Integer),
            Value::Signed(value) => Some(Self::Integer(*value)),
            Value::Float(value) if value.is_finite() => Some(Self::Float(*value)),
            Value::Text(text) if text.len() <= 64 => Some(Self::Text(text.clone().into_owned())),
            _ => None,
        }
    }
}

impl From<Timestamp> for RawTimestamp {
    fn from(timestamp: Timestamp) -> Self {
        Self::Integer(timestamp.ms)
    }
}

impl Serialize for RawTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Non-negative integers leave unsigned, as every other writer of MessagePack emits them.
            Self::Integer(value) => match u64::try_from(*value) {
                Ok(value) => serializer.serialize_u64(value),
                Err(_) => serializer.serialize_i64(*value),
            },
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_the_same_moment() {
        let us = 1_795_407_353_924_000;
        for raw in [
            RawTimestamp::Integer(1_795_407_353_924),
            RawTimestamp::Integer(1_795_407_353_924_000),
            RawTimestamp::Float(1_795_407_353.924),
            RawTimestamp::Float(1_795_407_353_924.0),
            RawTimestamp::Text("2026-11-23T04:15:53.924Z".into()),
            RawTimestamp::Text("2026-11-23T01:15:53.924-03:00".into()),
            RawTimestamp::Text("2026-11-23T04:15:53.924".into()),
        ] {
            assert_eq!(raw.wall(), Some(Wall { us }), "{raw:?}");
        }
        assert_eq!(RawTimestamp::Integer(1_795_407_353).wall(), Some(Wall { us: 1_795_407_353_000_000 }));
        assert_eq!(RawTimestamp::Text("soon".into()).wall(), None);
    }
}
