//! What a writer takes from the queue for one system call.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use crate::zmtp::FrameHeader;

/// Slices handed to one vectored write.
const SLICES: usize = 64;

/// A piece of output: whole frames. `messages` counts those that end in it.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    pub(crate) messages: usize,
}

/// What the writer has in hand, in the course of a write only: while it waits for the peer, everything is in the queue,
/// so that closing the queue frees it all at once.
#[derive(Debug, Default)]
pub(crate) struct InHand {
    pub(crate) chunks: VecDeque<Chunk>,
    /// How much of the first chunk is written.
    pub(crate) written_bytes: usize,
}

impl InHand {
    /// What remains, for one vectored write.
    pub(crate) fn with_slices<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            let skip = if count == 0 { self.written_bytes } else { 0 };
            *slice = IoSlice::new(&chunk.bytes[skip..]);
            count += 1;
        }
        write(&slices[..count])
    }

    /// So much more is written: drops the chunks that are done; yields how many messages they end.
    pub(super) fn advance(&mut self, written: usize) -> usize {
        let mut messages = 0;
        let mut end = self.written_bytes + written;
        while let Some(front) = self.chunks.front()
            && end >= front.bytes.len()
        {
            end -= front.bytes.len();
            messages += front.messages;
            self.chunks.pop_front();
        }
        self.written_bytes = end;
        messages
    }
}

impl Chunk {
    /// Messages that end within the first `written` bytes.
    pub(crate) fn messages_within(&self, written: usize) -> usize {
        let (mut at, mut messages) = (0, 0);
        while let Ok(Some(header)) = FrameHeader::parse(&self.bytes[at..]) {
            at = at.saturating_add(header.header_len).saturating_add(header.payload_len as usize);
            if at > written {
                break;
            }
            messages += usize::from(!header.more && !header.command);
        }
        messages.min(self.messages)
    }
}
