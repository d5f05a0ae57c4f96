//! Many small messages, encoded side by side in few pieces of memory.

use bytes::BytesMut;

use super::Message;
use super::frame::{encoded_len, put_frame};

/// A piece of memory. A message that is not sent yet keeps the whole piece.
const PIECE_BYTES: usize = 64 << 10;

/// Encodes messages: one piece of memory is taken for hundreds of them, and used again once all of them are gone.
#[derive(Debug, Default)]
pub(crate) struct Press {
    piece: BytesMut,
}

impl Press {
    /// A message of these frames.
    pub(crate) fn message<const FRAMES: usize>(&mut self, frames: [&[u8]; FRAMES]) -> Message {
        self.reserve(frames.iter().map(|frame| encoded_len(frame.len())).sum());
        for (index, frame) in frames.iter().enumerate() {
            put_frame(&mut self.piece, frame, index + 1 < FRAMES);
        }
        self.take()
    }

    /// A message of frames as `Message::split_delimited` gave them, and a last one.
    #[cfg(feature = "cluster")]
    pub(crate) fn behind(&mut self, frames: &[u8], last: &[u8]) -> Message {
        self.reserve(frames.len() + encoded_len(last.len()));
        self.piece.extend_from_slice(frames);
        put_frame(&mut self.piece, last, false);
        self.take()
    }

    fn reserve(&mut self, bytes: usize) {
        if self.piece.capacity() < bytes {
            // One that needs more gets memory of its own size.
            self.piece.reserve(bytes.max(PIECE_BYTES));
        }
    }

    fn take(&mut self) -> Message {
        Message::from_wire(self.piece.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressed_messages_are_what_others_are() {
        let mut press = Press::default();
        let mut kept = Vec::new();
        for len in (0..600).chain([PIECE_BYTES, 2 * PIECE_BYTES, 3]) {
            let body = vec![len as u8; len];
            let message = press.message([b"topic", &body]);
            assert_eq!(message, Message::from_frames([&b"topic"[..], &body]));
            let envelope = Message::prefix(b"id");
            assert_eq!(press.behind(&envelope, &body), Message::from_frames([&b"id"[..], &body]));
            kept.push((message, body));
        }
        kept.iter().for_each(|(message, body)| assert_eq!(message.last(), body, "nobody writes over it"));
    }
}
