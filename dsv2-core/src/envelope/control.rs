//! Control messages: announcements of coordinators on `servers`, and of direct links on `_links`.

use serde::Serialize;

use super::loose::Loose;
use super::{encode_into, encoded};
use crate::clock::Clock;
use crate::codec::{Format, Limits};
use crate::name::ServerName;
use crate::time::Timestamp;

/// The announcement of an elected coordinator, on the topic `servers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// Who was elected.
    pub coordinator: ServerName,
    /// The election's epoch. Ours; announcements of other programs have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The random identity of the node that opened the epoch, in hex; it tells two epochs of one number apart. Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it was announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// The announcer's logical clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
}

/// A server's announcement of its direct link, on the topic `_links`; used where the reference does not carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkNotice {
    /// Whose link.
    #[serde(rename = "user")]
    pub name: ServerName,
    /// Where other servers reach it.
    pub address: String,
    /// The random identity of its data directory, in hex.
    pub node: String,
    /// When it was announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// The server's logical clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
}

impl Announcement {
    /// Encodes it.
    #[must_use]
    pub fn encode(&self, format: Format) -> Vec<u8> {
        encoded(0, |out| self.encode_into(format, out))
    }

    /// The same, appended to `out`.
    pub fn encode_into(&self, format: Format, out: &mut Vec<u8>) {
        encode_into(format, "election", self, out);
    }

    /// Decodes an announcement of any member of the family.
    ///
    /// # Errors
    /// A text that says what is wrong; a server drops such an announcement.
    pub fn decode(body: &[u8], limits: &Limits) -> Result<Self, String> {
        let mut loose = Loose::default();
        loose.read(body, limits).map_err(|why| why.to_string())?;
        let read = || {
            Ok(Self {
                coordinator: loose.name("coordinator")?,
                epoch: loose.integer("epoch")?,
                node: loose.text_or_none("node")?.map(str::to_owned),
                timestamp: moment(&loose)?,
                clock: loose.clock()?,
            })
        };
        read().map_err(|why: super::loose::FieldError| why.to_string())
    }
}

impl LinkNotice {
    /// Encodes it.
    #[must_use]
    pub fn encode(&self, format: Format) -> Vec<u8> {
        encoded(0, |out| self.encode_into(format, out))
    }

    /// The same, appended to `out`.
    pub fn encode_into(&self, format: Format, out: &mut Vec<u8>) {
        encode_into(format, "link", self, out);
    }

    /// Decodes it.
    ///
    /// # Errors
    /// A text that says what is wrong; a server drops such a notice.
    pub fn decode(body: &[u8], limits: &Limits) -> Result<Self, String> {
        let mut loose = Loose::default();
        loose.read(body, limits).map_err(|why| why.to_string())?;
        let read = || {
            Ok(Self {
                name: loose.name("user")?,
                address: loose.text("address")?.to_owned(),
                node: loose.text("node")?.to_owned(),
                timestamp: moment(&loose)?,
                clock: loose.clock()?,
            })
        };
        read().map_err(|why: super::loose::FieldError| why.to_string())
    }
}

fn moment(loose: &Loose<'_>) -> super::loose::Field<Option<Timestamp>> {
    let raw = loose.timestamp()?;
    Ok(raw.as_ref().and_then(super::RawTimestamp::wall).map(crate::time::Wall::timestamp))
}
