//! The words of DS-v2: message envelope, codecs, names, events, identities and Lamport clocks.
//!
//! ```text
//!            bytes ──► codec ──► envelope ──► Request │ Reply │ Publication
//!                                                │
//!   names, clocks, times ─────────────────► Event (origin, seq, clock, prev, message id, body)
//!                                                │
//!                                 Machine: inputs in, effects out
//! ```
//!
//! This crate does no I/O and reads no clock. `dsv2-store` keeps events, `dsv2-sync` decides about them, `dsv2-net`
//! carries them.

#![warn(clippy::disallowed_methods)]

mod clock;
mod codec;
mod digest;
mod envelope;
mod event;
mod id;
pub mod json;
mod machine;
mod name;
mod position;
mod retention;
mod time;

pub use clock::{Clock, Lamport, LogicalClock};
pub use codec::{Codec, CodecError, Format, Json, Limits, MsgPack};
pub use envelope::{
    Announcement, ClockReport, Code, Failure, HistoryPage, HistoryQuery, HistorySpan, Level, LinkNotice, Outcome,
    PeerReport, Publication, PublicationBody, RankedServer, RawTimestamp, Receipt, Refusal, ReplicationEvent, Reply,
    ReplyBody, Request, RequestBody, RequestExt, ServerCard, Service, StatusReport, Subject,
};
pub use event::{Change, Event, EventBody, EventKind, Feed};
pub use id::{EventId, IdError, IdempotencyKey, KEY_CAP_BYTES, MessageId, OrderKey, Origin, SessionId};
pub use machine::Machine;
pub use name::{
    Channel, ChannelName, NAME_CAP_BYTES, Name, NameError, RESERVED, Server, ServerName, Topic, User, UserName,
};
pub use position::Position;
pub use retention::{Floors, Keep, Retention, Retirement};
pub use time::{Mono, Now, Timestamp, Wall};
