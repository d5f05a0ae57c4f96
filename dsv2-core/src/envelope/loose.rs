//! A body as the family may write it: fields at the root, in `data`, or both; in any order; any of them strange.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::timestamp::RawTimestamp;
use super::value::{Budget, KeySeed, Value, ValueSeed};
use crate::clock::Clock;
use crate::codec::{Codec, CodecError, Format, Limits};
use crate::name::Name;

/// What was read of a body; on an error, what was read before it.
#[derive(Debug, Default)]
pub(super) struct Loose<'a> {
    pub(super) format: Format,
    pub(super) service: Option<Cow<'a, str>>,
    pub(super) root: Fields<'a>,
    pub(super) data: Fields<'a>,
    /// Whether there is a `data` at all, and it is an object.
    pub(super) has_data: bool,
}

/// The known fields of one object, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    /// The tags of all of them: most fields that are looked for are not there, and cost no comparison of texts.
    tags: u64,
    fields: Vec<(u8, Cow<'a, str>, Value<'a>)>,
}

/// A number below 64 that tells most names apart; known at compile time for the names that are looked for.
const fn tag(name: &str) -> u8 {
    match name.as_bytes() {
        [] => 0,
        [only] => *only % 64,
        [first, .., last] => {
            (name.len() as u8).wrapping_mul(3).wrapping_add(first.wrapping_mul(27)).wrapping_add(*last) % 64
        }
    }
}

/// A field that is missing or is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    pub(super) field: &'static str,
    pub(super) why: Cow<'static, str>,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.why)
    }
}

pub(super) type Field<T> = Result<T, FieldError>;

/// Fields that mean something to us. Others are checked against the limits and skipped.
fn is_known(key: &str) -> bool {
    matches!(
        key,
        "user"
            | "channel"
            | "message"
            | "timestamp"
            | "clock"
            | "src"
            | "dst"
            | "from"
            | "to"
            | "lamport_clock"
            | "status"
            | "success"
            | "description"
            | "error"
            | "users"
            | "channels"
            | "rank"
            | "list"
            | "time"
            | "election"
            | "coordinator"
            | "type"
            | "server_id"
            | "id"
            | "session"
            | "request"
            | "level"
            | "position"
            | "origin"
            | "seq"
            | "prev"
            | "code"
            | "outcome"
            | "address"
            | "node"
            | "epoch"
            | "topic"
            | "kind"
            | "with"
            | "after"
            | "before"
            | "limit"
            | "events"
            | "next"
            | "heads"
            | "more"
            | "stable"
            | "retired"
            | "report"
            | "username"
    )
}

impl<'a> Loose<'a> {
    /// Reads `body`. What was read before an error stays in `self`, so that the answer can name its service.
    pub(super) fn read(&mut self, body: &'a [u8], limits: &Limits) -> Result<(), CodecError> {
        self.format = Format::detect(body).unwrap_or_default();
        if body.len() > limits.body_bytes {
            return Err(CodecError::TooLarge(body.len(), limits.body_bytes));
        }
        if Format::detect(body).is_none() {
            return Err(CodecError::Unrecognized(body.first().copied()));
        }
        let budget = Budget::new(limits);
        let format = self.format;
        format.decode(RootSeed { loose: self, budget: &budget }, body)
    }

    /// Looks a field up in `data`, then at the root.
    #[inline]
    pub(super) fn get(&self, field: &str) -> Option<&Value<'a>> {
        self.data.get(field).or_else(|| self.root.get(field))
    }

    /// The clock, wherever the family puts it. `None` where there is none, or a `null`.
    pub(super) fn clock(&self) -> Field<Option<Clock>> {
        let places = [
            self.data.get("clock"),
            self.root.get("clock"),
            self.root.get("lamport_clock"),
            self.data.get("lamport_clock"),
        ];
        places.into_iter().flatten().find(|value| **value != Value::Null).map(clock).transpose()
    }

    /// The clock at the root, where `data` has one of its own.
    pub(super) fn root_clock(&self) -> Field<Option<Clock>> {
        self.root.get("clock").filter(|value| **value != Value::Null).map(clock).transpose()
    }

    pub(super) fn timestamp(&self) -> Field<Option<RawTimestamp>> {
        match self.get("timestamp") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match RawTimestamp::from_value(value) {
                Some(raw) => Ok(Some(raw)),
                None => Err(wrong("timestamp", "a number or a date", value)),
            },
        }
    }

    /// A required text.
    pub(super) fn text(&self, field: &'static str) -> Field<&str> {
        self.text_or_none(field)?.ok_or_else(|| match self.get(field) {
            None => FieldError { field, why: Cow::Borrowed("is missing") },
            Some(value) => wrong(field, "a text", value),
        })
    }

    /// An optional text; `null` counts as missing.
    pub(super) fn text_or_none(&self, field: &'static str) -> Field<Option<&str>> {
        match self.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(value) => Err(wrong(field, "a text", value)),
        }
    }

    /// A required name.
    pub(super) fn name<K>(&self, field: &'static str) -> Field<Name<K>> {
        let text = self.text(field)?;
        Name::new(text).map_err(|why| FieldError { field, why: Cow::Owned(format!("{text:.40?} {why}")) })
    }

    /// An optional text of a form of its own.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&self, field: &'static str) -> Field<Option<T>> {
        let parse = |text: &str| text.parse().map_err(|why| FieldError { field, why: Cow::Owned(format!("{why}")) });
        self.text_or_none(field)?.map(parse).transpose()
    }

    /// An optional non-negative integer, also where it comes as a float without a fraction.
    pub(super) fn integer(&self, field: &'static str) -> Field<Option<u64>> {
        match self.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => integer(value).map(Some).ok_or_else(|| wrong(field, "a non-negative integer", value)),
        }
    }

    /// An optional structure, by its own `Deserialize`.
    pub(super) fn structure<T: Deserialize<'a>>(&self, field: &'static str) -> Field<Option<T>> {
        match self.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|why| FieldError { field, why: Cow::Owned(format!("cannot be read: {why}")) }),
        }
    }
}

impl<'a> Fields<'a> {
    /// The field's last occurrence, as JSON readers of the family take it.
    #[inline]
    pub(super) fn get(&self, field: &str) -> Option<&Value<'a>> {
        let tag = tag(field);
        if self.tags & (1 << tag) == 0 {
            return None;
        }
        let found = self.fields.iter().rev().find(|(other, key, _)| *other == tag && key == field);
        found.map(|(_, _, value)| value)
    }

    fn push(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        if self.fields.is_empty() {
            self.fields.reserve(8);
        }
        let tag = tag(&key);
        self.tags |= 1 << tag;
        self.fields.push((tag, key, value));
    }
}

/// A number without a fraction, within what a double holds exactly.
fn integer(value: &Value<'_>) -> Option<u64> {
    match *value {
        Value::Unsigned(value) => Some(value),
        Value::Float(value) if value >= 0.0 && value.fract() == 0.0 && value <= Clock::MAX.get() as f64 => {
            Some(value as u64)
        }
        _ => None,
    }
}

fn clock(value: &Value<'_>) -> Field<Clock> {
    let why = match integer(value) {
        Some(number) => match Clock::new(number) {
            Some(clock) => return Ok(clock),
            None => Cow::Borrowed("is beyond 2^53-1"),
        },
        None if matches!(value, Value::Unsigned(_) | Value::Signed(_) | Value::Float(_)) => {
            Cow::Borrowed("is not a non-negative integer")
        }
        None => return Err(wrong("clock", "a non-negative integer", value)),
    };
    Err(FieldError { field: "clock", why })
}

pub(super) fn wrong(field: &'static str, wanted: &str, found: &Value<'_>) -> FieldError {
    FieldError { field, why: Cow::Owned(format!("is {}, not {wanted}", found.kind())) }
}

struct RootSeed<'b, 'a> {
    loose: &'b mut Loose<'a>,
    budget: &'b Budget,
}

impl<'de> DeserializeSeed<'de> for RootSeed<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RootSeed<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { loose, budget } = self;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            match &*key {
                "service" => {
                    // What is not a text names no service; it is refused as such.
                    let value = map.next_value_seed(ValueSeed { budget, depth: 1, keep: true })?;
                    loose.service = match value {
                        Value::Text(text) => Some(text),
                        _ => None,
                    };
                }
                "data" => loose.has_data = map.next_value_seed(DataSeed { fields: &mut loose.data, budget })?,
                _ => {
                    let keep = is_known(&key);
                    let value = map.next_value_seed(ValueSeed { budget, depth: 1, keep })?;
                    if keep {
                        loose.root.push(key, value);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads `data`; yields whether it is an object.
struct DataSeed<'b, 'a> {
    fields: &'b mut Fields<'a>,
    budget: &'b Budget,
}

impl<'de> DeserializeSeed<'de> for DataSeed<'_, 'de> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DataSeed<'_, 'de> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object as data")
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let Self { fields, budget } = self;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let keep = is_known(&key);
            let value = map.next_value_seed(ValueSeed { budget, depth: 2, keep })?;
            if keep {
                fields.push(key, value);
            }
        }
        Ok(true)
    }
}
