use bytes::{Bytes, BytesMut};

use super::frame::{FrameHeader, encoded_len, put_frame};

/// One message of one or more frames, already in the form in which it travels.
///
/// Cloning, slicing frames and sending to many peers cost a reference count each, never a copy.
///
/// A received message shares the read buffer of its connection (64 KiB or so): while a single frame of it is alive,
/// so is the whole buffer. What is kept for long should be copied with [`Message::detach`], or frame by frame with
/// `Bytes::copy_from_slice`.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Invariant: complete frames, all but the last with MORE, none a command, at least one.
    wire: Bytes,
}

impl Message {
    /// Encodes a message. No frames at all give a message of one empty frame, since ZMTP has no empty message.
    pub fn from_frames<I>(frames: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        MessageBuilder::new().filled(frames)
    }

    /// Encodes a message of one frame.
    #[must_use]
    pub fn single(payload: &[u8]) -> Self {
        Self::from_frames([payload])
    }

    /// Wraps bytes that are known to be exactly one encoded message.
    pub(crate) fn from_wire(wire: Bytes) -> Self {
        debug_assert!(wire.len() >= 2, "a message has at least one frame header");
        Self { wire }
    }

    /// The encoded message: frame headers and payloads.
    #[must_use]
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// The frames' payloads, each sharing this message's memory.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames { rest: self.wire.clone() }
    }

    /// The frames' payloads, borrowed.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.wire;
        std::iter::from_fn(move || {
            let (payload, end) = first_payload(rest)?;
            let frame = &rest[payload..end];
            rest = &rest[end..];
            Some(frame)
        })
    }

    /// The payload of frame `index`.
    #[must_use]
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        self.slices().nth(index)
    }

    /// The payload of the first frame.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        self.slices().next().unwrap_or_default()
    }

    /// The payload of the last frame.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        self.slices().last().unwrap_or_default()
    }

    /// Number of frames, at least one.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        self.slices().count()
    }

    /// The first frame and the message that remains: `None` in its place if there was only one frame.
    #[must_use]
    pub fn split_first(&self) -> (Bytes, Option<Message>) {
        let Some((payload, end)) = first_payload(&self.wire) else { return (Bytes::new(), None) };
        let rest = (end < self.wire.len()).then(|| Self { wire: self.wire.slice(end..) });
        (self.wire.slice(payload..end), rest)
    }

    /// The frames before the last one as they travel, each with MORE, and the payload of the last one. `None` where no empty
    /// frame stands before that.
    #[cfg(feature = "cluster")]
    pub(crate) fn split_delimited(&self) -> Option<(Bytes, Bytes)> {
        let (mut at, mut delimited) = (0, false);
        loop {
            let (payload, end) = first_payload(&self.wire[at..])?;
            if at + end == self.wire.len() {
                return delimited.then(|| (self.wire.slice(..at), self.wire.slice(at + payload..)));
            }
            (at, delimited) = (at + end, payload == end);
        }
    }

    /// A message of frames as [`Message::split_delimited`] gave them, and a last one (copies).
    #[cfg(feature = "cluster")]
    pub(crate) fn behind(frames: &Bytes, last: &[u8]) -> Self {
        let mut wire = BytesMut::with_capacity(frames.len() + encoded_len(last.len()));
        wire.extend_from_slice(frames);
        put_frame(&mut wire, last, false);
        Self { wire: wire.freeze() }
    }

    /// A new message with `frame` in front (copies).
    #[must_use]
    pub fn prepend(&self, frame: &[u8]) -> Self {
        let mut wire = BytesMut::with_capacity(encoded_len(frame.len()) + self.wire.len());
        put_frame(&mut wire, frame, true);
        wire.extend_from_slice(&self.wire);
        Self { wire: wire.freeze() }
    }

    /// One encoded frame with MORE set: a routing prefix to be sent in front of an unchanged message, see
    /// `Outbox::push_parts`.
    #[must_use]
    pub fn prefix(frame: &[u8]) -> Bytes {
        let mut wire = BytesMut::with_capacity(encoded_len(frame.len()));
        put_frame(&mut wire, frame, true);
        wire.freeze()
    }

    /// The same message in memory of its own, releasing the read buffer.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { wire: Bytes::copy_from_slice(&self.wire) }
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.frames()).finish()
    }
}

impl<const N: usize> From<[&[u8]; N]> for Message {
    /// As [`Message::from_frames`], in one piece of memory.
    fn from(frames: [&[u8]; N]) -> Self {
        let wire_bytes = frames.iter().map(|frame| encoded_len(frame.len())).sum();
        MessageBuilder { wire: BytesMut::with_capacity(wire_bytes), last_header_at: None }.filled(frames)
    }
}

/// Iterator over the payloads of a [`Message`].
#[derive(Debug, Clone)]
pub struct Frames {
    rest: Bytes,
}

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (payload, end) = first_payload(&self.rest)?;
        let frame = self.rest.split_to(end);
        Some(frame.slice(payload..))
    }
}

/// Start and end of the first frame's payload; `None` at the end of the message.
fn first_payload(wire: &[u8]) -> Option<(usize, usize)> {
    let header = FrameHeader::parse(wire).ok().flatten()?;
    let end = header.header_len.checked_add(usize::try_from(header.payload_len).ok()?)?;
    (end <= wire.len()).then_some((header.header_len, end))
}

/// Encodes a message frame by frame.
#[derive(Debug, Default)]
pub struct MessageBuilder {
    wire: BytesMut,
    last_header_at: Option<usize>,
}

impl MessageBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a frame.
    pub fn push(&mut self, payload: &[u8]) -> &mut Self {
        if let Some(at) = self.last_header_at {
            self.wire[at] |= 1; // MORE: the frame before is no longer the last
        }
        self.last_header_at = Some(self.wire.len());
        put_frame(&mut self.wire, payload, false);
        self
    }

    /// The message with all of these frames.
    fn filled<I: IntoIterator<Item: AsRef<[u8]>>>(mut self, frames: I) -> Message {
        for frame in frames {
            self.push(frame.as_ref());
        }
        self.finish()
    }

    /// The message; one empty frame if nothing was pushed.
    #[must_use]
    pub fn finish(mut self) -> Message {
        if self.last_header_at.is_none() {
            self.push(&[]);
        }
        Message { wire: self.wire.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order() {
        let big = vec![9u8; 300];
        let message = Message::from_frames([&b"id"[..], b"", &big]);
        assert_eq!(message.frame_count(), 3);
        assert_eq!(message.frames().collect::<Vec<_>>(), [&b"id"[..], b"", &big]);
        assert_eq!(
            (message.first(), message.frame(1), message.last(), message.frame(3)),
            (&b"id"[..], Some(&b""[..]), &big[..], None)
        );
        let (id, rest) = message.split_first();
        assert_eq!(id, &b"id"[..]);
        let rest = rest.unwrap();
        assert_eq!(rest, Message::from_frames([&b""[..], &big]));
        assert_eq!(rest.prepend(b"id"), message);
        assert_eq!(message.detach(), message);
    }

    #[test]
    fn one_frame_leaves_no_rest_and_none_makes_one() {
        assert_eq!(Message::single(b"x").split_first(), (Bytes::from_static(b"x"), None));
        let none: [&[u8]; 0] = [];
        assert_eq!(Message::from(none), Message::single(b""));
    }

    #[test]
    fn prefix_and_message_make_one_message() {
        let mut wire = BytesMut::from(&Message::prefix(b"id")[..]);
        wire.extend_from_slice(Message::single(b"body").wire());
        assert_eq!(Message::from_wire(wire.freeze()), Message::from_frames(["id", "body"]));
    }
}
