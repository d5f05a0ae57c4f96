use std::ops::Range;

use bytes::Bytes;

use super::{Command, Message};

/// What one read brought: the complete messages, in order, in one piece of memory.
///
/// A batch holds either messages only or subscriptions only, never both, so its messages lie side by side on the wire
/// and any run of them can be forwarded as a single slice with [`Batch::wire`].
///
/// Reuse one batch for a whole connection: its index is then allocated once.
#[derive(Debug, Default)]
pub struct Batch {
    chunk: Bytes,
    spans: Vec<Span>,
    controls: Vec<Command>,
}

/// Where an item lies in the chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) kind: Kind,
    pub(crate) frames: u32,
    /// The item with all its headers. 32 bits suffice: `HARD_MESSAGE_CAP_BYTES`.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// The first frame's payload, or the topic of a subscription.
    pub(crate) body: u32,
    pub(crate) body_end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    Subscribe,
    Cancel,
}

/// One item of a [`Batch`], borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A message, seen by its first frame: the topic in PUB/SUB, the routing id in ROUTER patterns.
    Message {
        /// Payload of the first frame.
        first: &'a [u8],
        /// Number of frames.
        frames: usize,
    },
    /// One more subscription to a prefix.
    Subscribe(&'a [u8]),
    /// One subscription less.
    Cancel(&'a [u8]),
}

impl Batch {
    /// An empty batch, to be filled by a decoder or a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether the items are messages (and not subscriptions).
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.spans.first().is_some_and(|s| s.kind == Kind::Message)
    }

    /// Bytes of all items on the wire, and what the batch keeps alive.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.chunk.len()
    }

    /// Item `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Batch::len`], as a slice does.
    #[must_use]
    pub fn item(&self, index: usize) -> Item<'_> {
        let span = &self.spans[index];
        let body = &self.chunk[span.body as usize..span.body_end as usize];
        match span.kind {
            Kind::Message => Item::Message { first: body, frames: span.frames as usize },
            Kind::Subscribe => Item::Subscribe(body),
            Kind::Cancel => Item::Cancel(body),
        }
    }

    /// All items in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item<'_>> {
        (0..self.len()).map(|i| self.item(i))
    }

    /// Message `index`, sharing the batch's memory.
    ///
    /// # Panics
    /// If `index` is not below [`Batch::len`].
    #[must_use]
    pub fn message(&self, index: usize) -> Message {
        let span = &self.spans[index];
        Message::from_wire(self.chunk.slice(span.start as usize..span.end as usize))
    }

    /// The messages in order, sharing the batch's memory; none if these are subscriptions.
    pub fn messages(&self) -> impl Iterator<Item = Message> {
        let count = if self.has_messages() { self.len() } else { 0 };
        (0..count).map(|i| self.message(i))
    }

    /// The encoded form of a run of messages as one slice: what `Outbox::append_wire` takes.
    ///
    /// # Panics
    /// If the range is not within `0..len`.
    #[must_use]
    pub fn wire(&self, run: Range<usize>) -> Bytes {
        let range = self.wire_range(run);
        self.chunk.slice(range)
    }

    /// Like [`Batch::wire`], borrowed.
    ///
    /// # Panics
    /// If the range is not within `0..len`.
    #[must_use]
    pub fn wire_slice(&self, run: Range<usize>) -> &[u8] {
        &self.chunk[self.wire_range(run)]
    }

    fn wire_range(&self, run: Range<usize>) -> Range<usize> {
        match &self.spans[run] {
            [] => 0..0,
            [only] => only.start as usize..only.end as usize,
            [first, .., last] => first.start as usize..last.end as usize,
        }
    }

    /// Forgets the items and releases their memory.
    pub fn clear(&mut self) {
        self.chunk = Bytes::new();
        self.spans.clear();
        self.controls.clear();
    }

    pub(crate) fn set_chunk(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    pub(crate) fn push_span(&mut self, span: Span) {
        self.spans.push(span);
    }

    pub(crate) fn push_control(&mut self, command: Command) {
        self.controls.push(command);
    }

    /// Commands for the connection itself: PING, PONG, ERROR.
    pub(crate) fn drain_controls(&mut self) -> std::vec::Drain<'_, Command> {
        self.controls.drain(..)
    }

    pub(crate) fn has_controls(&self) -> bool {
        !self.controls.is_empty()
    }
}
