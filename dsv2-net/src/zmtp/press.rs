//! Many small messages, encoded side by side in few pieces of memory.

use bytes::BytesMut;

use super::Message;
use super::frame::{encoded_len, put_frame};

/// A piece of memory. A message that is not sent yet keeps the whole piece; a longer one has memory of its own.
const PIECE_BYTES: usize = 16 << 10;

/// Encodes messages: one piece of memory is taken for dozens of them, and used again once all of them are gone.
#[derive(Debug, Default)]
pub(crate) struct Press {
    piece: BytesMut,
    /// The memory of one that does not fit into a piece.
    alone: Option<BytesMut>,
}

impl Press {
    /// A message of these frames.
    pub(crate) fn message<const FRAMES: usize>(&mut self, frames: [&[u8]; FRAMES]) -> Message {
        let piece = self.room(frames.iter().map(|frame| encoded_len(frame.len())).sum());
        for (index, frame) in frames.iter().enumerate() {
            put_frame(piece, frame, index + 1 < FRAMES);
        }
        self.take()
    }

    /// A message of frames as `Message::split_delimited` gave them, and a last one.
    #[cfg(feature = "cluster")]
    pub(crate) fn behind(&mut self, frames: &[u8], last: &[u8]) -> Message {
        let piece = self.room(frames.len() + encoded_len(last.len()));
        piece.extend_from_slice(frames);
        put_frame(piece, last, false);
        self.take()
    }

    /// Where so many bytes fit.
    fn room(&mut self, bytes: usize) -> &mut BytesMut {
        if bytes > PIECE_BYTES {
            return self.alone.insert(BytesMut::with_capacity(bytes));
        }
        if self.piece.capacity() < bytes && !self.piece.try_reclaim(PIECE_BYTES) {
            self.piece = BytesMut::with_capacity(PIECE_BYTES);
        }
        &mut self.piece
    }

    /// What was put there.
    fn take(&mut self) -> Message {
        let wire = self.alone.take().unwrap_or_else(|| self.piece.split());
        Message::from_wire(wire.freeze())
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
            #[cfg(feature = "cluster")]
            assert_eq!(press.behind(&Message::prefix(b"id"), &body), Message::from_frames([&b"id"[..], &body]));
            assert!(press.piece.capacity() <= PIECE_BYTES);
            kept.push((message, body));
        }
        kept.iter().for_each(|(message, body)| assert_eq!(message.last(), body, "nobody writes over it"));
    }
}
