//! Append-only event store of the DS-v2 messaging system: JSON Lines in the files of the family, safe against crashes,
//! damage and full disks.
//!
//! ```text
//!   append ─► check ─► encode ─► one write per file ─► index          sync ─► fdatasync of the files written to
//!                                        │                │                   = everything appended is durable
//!                                        ▼                ▼
//!    DIR/users.json            {"n":1,…}          range(origin, seq..)
//!    DIR/channels.json         {"n":2,…}          read(feed, after a position │ before a key)
//!    DIR/messages/publishes.jsonl  {"n":3,…}      replay(everything)
//!    DIR/messages/messages.jsonl   {"n":5,…}
//!    DIR/messages/publishes.000001.jsonl          a sealed segment: the same, no longer growing
//!    DIR/meta.json  manifest.json  lock           name, clock, vote; what is durable and lost; who holds it
//!    DIR/cut/…                                    what crashes left incomplete, for people; can be removed
//! ```
//!
//! Four kinds of events, four files; together they are *one* log. Every line carries its log index `n`, the highest
//! index `d` that was durable when it was written, and a CRC-32, so that opening a store can put the log together again
//! and tell what a crash left incomplete (cut off, never acknowledged) from damage (never served, reported, and taken in
//! again once another server gives it back). See [`JsonlStore::open`] and [`Recovery`].
//!
//! ```
//! use std::sync::Arc;
//! use dsv2_core::{ChannelName, Clock, Event, EventBody, Feed, Timestamp};
//! use dsv2_store::{EventStore, FeedCursor, JsonlConfig, JsonlStore, Limit, MemDisk};
//!
//! // A program uses `JsonlStore::open_dir("data", …)`.
//! let disk = MemDisk::new();
//! let mut store = JsonlStore::open(Arc::new(disk.clone()), JsonlConfig::default())?;
//! let dev: ChannelName = "dev".parse()?;
//! store.append(&[Event {
//!     id: "server1/9f3ac01d22e4b6aa#1".parse()?,
//!     clock: Clock::ZERO.plus(7),
//!     prev: None,
//!     message_id: "k:order-7".parse()?,
//!     timestamp: Timestamp { ms: 1_795_407_353_924 },
//!     body: EventBody::Publish { user: "ana".parse()?, channel: dev.clone(), message: "oi".into() },
//! }])?;
//! store.sync()?; // Now it may be acknowledged.
//!
//! let page = store.read(&Feed::Channel(dev), FeedCursor::Before(None), Limit::default())?;
//! assert_eq!(page.events.len(), 1);
//! let line = disk.content("messages/publishes.jsonl").unwrap_or_default();
//! assert!(line.starts_with(br#"{"n":1,"d":0,"user":"ana","channel":"dev","message":"oi","ts":1795407353924,"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where to look: [`EventStore`] is the interface and its laws; [`JsonlStore`] and [`MemoryStore`] keep them; [`Disk`] is
//! what lies below, [`FsDisk`] and [`MemDisk`] are two; [`inspect`] looks at a directory without changing it;
//! [`import_family`] reads what other programs of the family stored. With the feature `testing`, the module `testing`
//! has a disk that fails in every way, and the laws as a test suite for other stores.
//!
//! Memory: the index takes about 40 bytes an event (28 for a publication, 32 for a private message, and room to grow),
//! plus some hundred bytes for every feed and every name. Texts are not kept. Disk: about 220 bytes an event beside its
//! text. Nothing an append does takes longer as the log grows.

mod bytes;
mod disk;
mod error;
mod import;
mod index;
mod inspect;
mod jsonl;
mod memory;
mod meta;
mod ranges;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(any(unix, windows))]
pub use disk::FsDisk;
pub use disk::{Disk, DiskFile, DiskLock, LockError, MemDisk, OpenMode};
pub use error::StoreError;
pub use import::{ImportPlace, ImportProblem, Imported, import_family};
#[cfg(any(unix, windows))]
pub use inspect::inspect_dir;
pub use inspect::{FileReport, Inspection, OriginReport, inspect};
pub use jsonl::{
    Damage, Fold, JsonlConfig, JsonlStore, LINE_CAP_BYTES, Missing, Packed, Packing, Recovery, Snapshotted,
    make_snapshot, remove_snapshot,
};
pub use memory::MemoryStore;
pub use meta::{Meta, Vote};
pub use ranges::Ranges;
pub use store::{EventStore, FeedCursor, Limit, Page, StoreStats, Stretch};
