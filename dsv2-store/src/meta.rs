//! What a server must remember besides events.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Clock, Retirement, ServerName};
use serde::{Deserialize, Serialize};

/// What a server must remember besides events: a small record that is replaced as a whole.
///
/// Fields that a later version adds are kept in [`Meta::extra`] by this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The random identity of this data directory, drawn when it was made.
    #[serde(with = "hex128")]
    pub node: u128,
    /// The server's name. It wins over the configured one, because the host names of containers change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ServerName>,
    /// Logical clocks up to here may have been used; a restart continues above it.
    #[serde(default)]
    pub clock_limit: Clock,
    /// The highest election epoch seen.
    #[serde(default)]
    pub epoch: u64,
    /// The node that owns that epoch, where epochs have owners.
    #[serde(default, with = "hex128::option", skip_serializing_if = "Option::is_none")]
    pub epoch_owner: Option<u128>,
    /// The last vote given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vote: Option<Vote>,
    /// The rank that the reference gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// The digest of the list of voters last agreed upon.
    #[serde(default, with = "hex128::option", skip_serializing_if = "Option::is_none")]
    pub voters: Option<u128>,
    /// Voters that are gone for good, as an operator said: nobody waits for them any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub departed: BTreeSet<ServerName>,
    /// Floors that were raised, or are to be because messages below them were passed over that others had retired.
    #[serde(default, skip_serializing_if = "Retirement::is_none")]
    pub retirement: Retirement,
    /// Fields of other versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// A vote in an election. There is at most one per epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The epoch voted in.
    pub epoch: u64,
    /// The node voted for.
    #[serde(with = "hex128")]
    pub candidate: u128,
}

impl Meta {
    /// The record of a new data directory.
    #[must_use]
    pub fn new(node: u128) -> Self {
        Self {
            node,
            name: None,
            clock_limit: Clock::ZERO,
            epoch: 0,
            epoch_owner: None,
            vote: None,
            rank: None,
            voters: None,
            departed: BTreeSet::new(),
            retirement: Retirement::default(),
            extra: BTreeMap::new(),
        }
    }
}

/// 128-bit numbers as 32 hex digits: JSON readers elsewhere round large numbers.
mod hex128 {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("not 32 hex digits"))
    }

    fn parse(text: &str) -> Option<u128> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
    }

    pub(super) mod option {
        use serde::{Deserialize, Deserializer, Serializer};

        #[allow(clippy::ref_option, reason = "the signature is serde's")]
        pub(in super::super) fn serialize<S: Serializer>(
            value: &Option<u128>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<u128>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            match text {
                None => Ok(None),
                Some(text) => match super::parse(&text) {
                    Some(value) => Ok(Some(value)),
                    None => Err(serde::de::Error::custom("not 32 hex digits")),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_later_versions_are_kept() {
        let text = r#"{"node":"000000000000000000000000000000ff","epoch":3,"vote":{"epoch":3,"candidate":"00000000000000000000000000000001"},"lease":{"x":[1,2.5,null]}}"#;
        let meta: Meta = serde_json::from_str(text).expect("valid");
        assert_eq!((meta.node, meta.epoch, meta.vote.as_ref().map(|v| v.candidate)), (255, 3, Some(1)));
        let again: Meta = serde_json::from_str(&serde_json::to_string(&meta).expect("valid")).expect("valid");
        assert_eq!(again, meta);
        assert!(again.extra.contains_key("lease"));
    }

    #[test]
    fn all_fields_round_trip() {
        let meta = Meta {
            name: "server1".parse().ok(),
            clock_limit: Clock::MAX,
            epoch: u64::MAX,
            epoch_owner: Some(u128::MAX),
            vote: Some(Vote { epoch: 9, candidate: 7 }),
            voters: Some(1),
            ..Meta::new(u128::MAX - 1)
        };
        let text = serde_json::to_string(&meta).expect("valid");
        assert_eq!(serde_json::from_str::<Meta>(&text).expect("valid"), meta);
        for bad in ["ff", "+0000000000000000000000000000001"] {
            assert!(serde_json::from_str::<Meta>(&format!(r#"{{"node":"{bad}"}}"#)).is_err());
        }
    }
}
