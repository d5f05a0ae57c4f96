//! Validated names of users, channels and servers, and the topics made from them.
//!
//! Users, channels and control topics share one namespace on the publish/subscribe side, so the same rule holds for
//! all of them, and the names of control topics are reserved. An invalid name cannot be built.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name, in bytes of UTF-8.
pub const NAME_CAP_BYTES: usize = 128;

/// Names that are control topics here or in other programs of the family, and so name no user and no channel.
pub const RESERVED: [&str; 4] = ["servers", "replication", "replica", "replicate"];

/// The name of a user.
pub type UserName = Name<User>;
/// The name of a channel.
pub type ChannelName = Name<Channel>;
/// The name of a server.
pub type ServerName = Name<Server>;

/// Marks the names of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum User {}
/// Marks the names of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {}
/// Marks the names of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {}

/// A name that was checked: 1 to [`NAME_CAP_BYTES`] bytes of UTF-8, without control or text-direction characters,
/// slashes, or white space at its ends; neither `.` nor `..`; not [reserved](RESERVED) and not starting with `_`.
///
/// Cloning shares the text.
///
/// ```
/// use dsv2_core::{ChannelName, NameError, UserName};
/// let ana: UserName = "ana".parse()?;
/// assert_eq!(ana.as_str(), "ana");
/// assert_eq!("servers".parse::<ChannelName>(), Err(NameError::Reserved));
/// assert_eq!("../etc".parse::<ChannelName>(), Err(NameError::Character('/')));
/// # Ok::<(), NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<K>(Arc<str>, PhantomData<fn() -> K>);

/// Why a text is not a name. Nothing was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No text at all.
    #[error("is empty")]
    Empty,
    /// Longer than [`NAME_CAP_BYTES`]; carries its length in bytes.
    #[error("has {0} bytes, at most {NAME_CAP_BYTES} are allowed")]
    TooLong(usize),
    /// Holds a character that no name may hold.
    #[error("holds the character {0:?}, which no name may hold")]
    Character(char),
    /// White space at the start or the end.
    #[error("starts or ends with white space")]
    OuterSpace,
    /// `.` or `..`.
    #[error("is a path")]
    Path,
    /// A control topic's name, or one that starts with `_`.
    #[error("is reserved")]
    Reserved,
}

impl<K> Name<K> {
    /// Checks `text` and takes it as a name.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(Arc::from(text), PhantomData))
    }

    /// Whether `text` may be a name, without making it one.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn check(text: &str) -> Result<(), NameError> {
        check(text)
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_CAP_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    // Most names are of plain letters: one look at their bytes tells.
    if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        if let Some(c) = text.chars().find(|&c| is_barred(c)) {
            return Err(NameError::Character(c));
        }
        if text.trim() != text {
            return Err(NameError::OuterSpace);
        }
    }
    if text == "." || text == ".." {
        return Err(NameError::Path);
    }
    if text.starts_with('_') || RESERVED.contains(&text) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// Slashes would let a name pass for a path, control characters for terminal commands, and the characters that turn
/// the direction of text for another name.
fn is_barred(c: char) -> bool {
    c == '/'
        || c == '\\'
        || c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl<K> fmt::Display for Name<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<K> fmt::Debug for Name<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<K> FromStr for Name<K> {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl<K> TryFrom<&str> for Name<K> {
    type Error = NameError;
    fn try_from(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl<K> AsRef<str> for Name<K> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<K> Borrow<str> for Name<K> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<K> Serialize for Name<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, K> Deserialize<'de> for Name<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<K>(PhantomData<fn() -> K>);
        impl<K> serde::de::Visitor<'_> for Visitor<K> {
            type Value = Name<K>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Name<K>, E> {
                Name::new(text).map_err(|why| E::custom(format_args!("the name {why}")))
            }
        }
        deserializer.deserialize_str(Visitor(PhantomData))
    }
}

/// What a publication is addressed to: the first of its two frames.
///
/// A subscription in ZeroMQ matches by prefix; every receiver here compares the whole topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Topic {
    /// Private messages to a user.
    User(UserName),
    /// Publications in a channel.
    Channel(ChannelName),
    /// Announcements of elected coordinators.
    Servers,
    /// One event for every write, for observers and for servers of the family.
    Replication,
    /// Servers' announcements of their direct links, used where the reference does not carry them.
    Links,
}

impl Topic {
    /// The topic frame's text.
    ///
    /// ```
    /// use dsv2_core::Topic;
    /// assert_eq!(Topic::Channel("dev".parse()?).as_str(), "dev");
    /// assert_eq!(Topic::Servers.as_str(), "servers");
    /// # Ok::<(), dsv2_core::NameError>(())
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::User(name) => name.as_str(),
            Self::Channel(name) => name.as_str(),
            Self::Servers => "servers",
            Self::Replication => "replication",
            Self::Links => "_links",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_error() {
        let long = "x".repeat(NAME_CAP_BYTES + 1);
        for (text, error) in [
            ("", NameError::Empty),
            (long.as_str(), NameError::TooLong(NAME_CAP_BYTES + 1)),
            ("a/b", NameError::Character('/')),
            ("a\\b", NameError::Character('\\')),
            ("a\0b", NameError::Character('\0')),
            ("a\u{202e}b", NameError::Character('\u{202e}')),
            (" a", NameError::OuterSpace),
            ("..", NameError::Path),
            ("_links", NameError::Reserved),
            ("replication", NameError::Reserved),
        ] {
            assert_eq!(UserName::new(text), Err(error), "{text:?}");
        }
        for text in ["ana", "canal geral", "josé", "日本", &"x".repeat(NAME_CAP_BYTES)] {
            assert_eq!(UserName::new(text).as_ref().map(Name::as_str), Ok(text));
        }
    }

    #[test]
    fn deserializing_checks_too() {
        assert!(serde_json::from_str::<UserName>("\"ana\"").is_ok());
        let error = serde_json::from_str::<UserName>("\"_x\"").map_err(|e| e.to_string());
        assert!(error.is_err_and(|text| text.contains("is reserved")));
    }
}
