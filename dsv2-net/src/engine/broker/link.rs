//! The broker's end of one connection: what is encoded for it, side by side, until the step is done.

use bytes::{BufMut, Bytes, BytesMut};

use super::Refuser;
use crate::engine::dispatch::Refusal;
use crate::engine::{Outbox, PushError};
use crate::zmtp::{FrameHeader, Message};

/// Encoded size of the routing frame: short header and eight bytes.
pub(super) const ID_FRAME_BYTES: usize = 10;

/// Messages of at least this size are queued by reference, smaller ones are copied side by side.
const BY_REFERENCE_BYTES: usize = 16 << 10;

const MORE: u8 = 1;

/// Output for one peer. Everything staged is queued at once by [`Link::queue`].
#[derive(Debug)]
pub(super) struct Link {
    pub(super) outbox: Outbox,
    staged: BytesMut,
    staged_messages: usize,
    /// Already on the list of links to flush.
    pub(super) touched: bool,
    overflow: bool,
}

impl Link {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self { outbox, staged: BytesMut::new(), staged_messages: 0, touched: false, overflow: false }
    }

    /// Stages `[id, message…]`.
    pub(super) fn stage_request(&mut self, id: [u8; 8], message: &Message) {
        let wire = message.wire();
        if wire.len() < BY_REFERENCE_BYTES {
            self.staged.reserve(ID_FRAME_BYTES + wire.len());
            put_id(&mut self.staged, id);
            self.staged.extend_from_slice(wire);
            self.staged_messages += 1;
        } else {
            self.queue_staged();
            let mut frame = BytesMut::with_capacity(ID_FRAME_BYTES);
            put_id(&mut frame, id);
            self.note(self.outbox.append_parts(&[&frame.freeze(), wire]));
        }
    }

    /// Stages a reply whose routing frame has been taken off; `owned` shares it if it is large.
    pub(super) fn stage_reply(&mut self, wire: &[u8], owned: impl FnOnce() -> Bytes) {
        if wire.len() < BY_REFERENCE_BYTES {
            self.staged.extend_from_slice(wire);
            self.staged_messages += 1;
        } else {
            self.queue_staged();
            self.note(self.outbox.append_wire(&owned(), 1));
        }
    }

    /// Queues what is staged; the outbox is to be flushed. `false`: the queue is full and something was lost.
    pub(super) fn queue(&mut self) -> bool {
        self.queue_staged();
        self.touched = false;
        !std::mem::take(&mut self.overflow)
    }

    fn queue_staged(&mut self) {
        if self.staged_messages > 0 {
            let wire = self.staged.split().freeze();
            let queued = self.outbox.append_wire(&wire, std::mem::take(&mut self.staged_messages));
            self.note(queued);
        }
    }

    fn note(&mut self, queued: Result<(), PushError>) {
        self.overflow |= queued == Err(PushError::Full);
    }
}

fn put_id(out: &mut BytesMut, id: [u8; 8]) {
    out.put_slice(&[MORE, id.len() as u8]);
    out.put_slice(&id);
}

/// Bytes of the first frame with its header, if another frame follows.
pub(super) fn first_frame_len(wire: &[u8]) -> Option<usize> {
    let header = FrameHeader::parse(wire).ok().flatten().filter(|header| header.more)?;
    header.header_len.checked_add(usize::try_from(header.payload_len).ok()?)
}

/// Where the body starts: behind the first empty frame. `None`: this is no request.
pub(super) fn envelope_len(wire: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let header = FrameHeader::parse(wire.get(at..)?).ok().flatten().filter(|header| header.more)?;
        at = at.checked_add(header.header_len)?.checked_add(usize::try_from(header.payload_len).ok()?)?;
        if header.payload_len == 0 {
            return Some(at);
        }
    }
}

/// The broker's answer to a request: the same envelope, and the refuser's body.
pub(super) fn refusal(request: &Message, why: Refusal, refuser: &dyn Refuser) -> Option<Message> {
    let mut frames: Vec<Bytes> = request.frames().collect();
    let delimiter = frames.iter().position(Bytes::is_empty)?;
    let body = frames.get(delimiter + 1)?.clone();
    frames.truncate(delimiter + 1);
    frames.push(refuser.refuse(&body, why).into());
    Some(Message::from_frames(frames))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::broker::EmptyRefuser;

    #[test]
    fn envelopes_end_at_the_first_empty_frame_that_is_not_the_last() {
        let request = Message::from_frames([&b"id"[..], b"", b"body", b""]);
        assert_eq!(envelope_len(request.wire()), Some(2 + 2 + 2));
        assert_eq!(envelope_len(Message::from_frames(["", "body"]).wire()), Some(2));
        for no_request in [&[&b""[..]][..], &[b"id", b""], &[b"id", b"body"], &[b"body"]] {
            assert_eq!(envelope_len(Message::from_frames(no_request).wire()), None, "{no_request:?}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_whole_envelope() {
        let request = Message::from_frames([&b"a"[..], b"b", b"", b"body", b"more"]);
        let answer = refusal(&request, Refusal::NoServer, &EmptyRefuser).unwrap();
        assert_eq!(answer, Message::from_frames(["a", "b", "", ""]));
    }

    #[test]
    fn the_routing_frame_is_taken_off_whatever_its_header() {
        assert_eq!(first_frame_len(Message::from_frames(["12345678", "x"]).wire()), Some(ID_FRAME_BYTES));
        assert_eq!(first_frame_len(Message::single(b"12345678").wire()), None);
    }
}
