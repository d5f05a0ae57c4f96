//! The message envelope: typed services over the loose wire. Lenient in, strict out.
//!
//! ```text
//! {"service": NAME, "data": {…, "timestamp": T, "clock": N}}     requests and replies
//! {…, "timestamp": T, "clock": N}                                publications, flat
//! {"type": NAME, "server_id": ID, "clock": N, "data": {…}, …}    events on `replication`
//! ```
//!
//! What arrives may come from any program of the family: see `docs/protocol.md` for the variants that are understood.
//! What leaves is one form only: integer milliseconds, a clock, and never a `null`.

mod control;
mod direct;
mod history;
mod loose;
mod ordered;
mod publication;
mod replication;
mod reply;
mod request;
mod service;
mod status;
mod timestamp;
mod value;

pub use control::{Announcement, LinkNotice};
pub use history::{HistoryPage, HistoryQuery, HistorySpan, Subject};
pub use publication::{Publication, PublicationBody};
pub use replication::ReplicationEvent;
pub use reply::{RankedServer, Receipt, Reply, ReplyBody};
pub use request::{Refusal, Request, RequestBody, RequestExt, ServerCard};
pub use service::{Code, Failure, Level, Outcome, Service};
pub use status::{ClockReport, PeerReport, StatusReport};
pub use timestamp::RawTimestamp;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::codec::{Codec, Format};

/// Appends `{"service": service, "data": data}` to `out`.
fn encode_into(format: Format, service: &str, data: &impl Serialize, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Root<'a, T> {
        service: &'a str,
        data: &'a T,
    }
    encode_flat(format, &Root { service, data }, out);
}

/// Appends a body that has no envelope.
fn encode_flat(format: Format, body: &impl Serialize, out: &mut Vec<u8>) {
    let encoded = format.encode(body, out);
    // Keys are texts, floats are finite, and a vector takes every write: no `Serialize` of this module fails.
    debug_assert!(encoded.is_ok(), "{encoded:?}");
}

/// What `encode` appends, in memory of its own, with room for a text of so many bytes.
fn encoded(text_bytes: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(text_bytes + 512);
    encode(&mut out);
    out
}

/// A map of which absent fields are left out.
struct Data<M>(M);

impl<M: SerializeMap> Data<M> {
    /// Where the number of fields is not told, MessagePack is written twice: it stands before the fields.
    fn start<S: Serializer<SerializeMap = M>>(serializer: S, fields: Option<usize>) -> Result<Self, S::Error> {
        serializer.serialize_map(fields).map(Self)
    }

    fn serialize_entry<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        self.0.serialize_entry(key, value)
    }

    fn optional<T: Serialize>(&mut self, key: &'static str, value: Option<&T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.0.serialize_entry(key, value))
    }

    fn end(self) -> Result<M::Ok, M::Error> {
        self.0.end()
    }
}
