use bytes::{Bytes, BytesMut};

use super::batch::{Kind, Span};
use super::{Batch, Command, FrameHeader, ZmtpError};

/// No limit may be set higher than this (1 GiB): offsets in a batch are 32 bits wide.
pub const HARD_MESSAGE_CAP_BYTES: usize = 1 << 30;

const HARD_FRAME_CAP: usize = 1 << 20;

/// What a decoder accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Payload bytes of one message, all frames together. At most [`HARD_MESSAGE_CAP_BYTES`].
    pub message_cap_bytes: usize,
    /// Frames of one message. At most 2²⁰, since even empty frames take memory.
    pub frame_cap: usize,
    /// Payload bytes of one command.
    pub command_cap_bytes: usize,
}

impl Default for DecoderLimits {
    /// 8 MiB, 128 frames, 16 KiB.
    fn default() -> Self {
        Self { message_cap_bytes: 8 << 20, frame_cap: 128, command_cap_bytes: 16 << 10 }
    }
}

/// Cuts a byte stream into messages, without copying them.
///
/// Append what was read to [`Decoder::buffer`], then call [`Decoder::decode`] until it returns `false`.
/// A header is judged when it is complete, before its payload arrives: what it announces is never reserved, and a
/// limit that it breaks is reported at once. Memory held: at most one incomplete message and what was last appended.
#[derive(Debug)]
pub struct Decoder {
    limits: DecoderLimits,
    /// PUB and XPUB read messages that start with 0 or 1 as subscriptions (RFC 29).
    subscriptions: bool,
    /// Starts with the current message; `scan` is where its next frame header is.
    buffer: BytesMut,
    scan: usize,
    current: Current,
    /// The first frames of a message that a command interrupted (libzmq sends PINGs so).
    stash: BytesMut,
    failed: Option<ZmtpError>,
}

/// The message under way.
#[derive(Debug, Default)]
struct Current {
    /// Where it starts in the buffer.
    start: usize,
    frames: u32,
    payload_bytes: u64,
    /// Its first payload, counted from the message's start (stashed bytes included).
    body: usize,
    body_end: usize,
}

enum Step {
    /// More bytes are needed.
    Starved,
    /// Carry on with the next frame.
    Next,
    /// The batch is full: what follows is of another kind.
    Cut,
}

impl Decoder {
    /// A decoder at the start of a frame. `subscriptions`: whether the local socket is a PUB or XPUB.
    #[must_use]
    pub fn new(limits: DecoderLimits, subscriptions: bool) -> Self {
        let message_cap_bytes = limits.message_cap_bytes.min(HARD_MESSAGE_CAP_BYTES);
        let command_cap_bytes = limits.command_cap_bytes.min(HARD_MESSAGE_CAP_BYTES);
        Self {
            limits: DecoderLimits {
                message_cap_bytes,
                frame_cap: limits.frame_cap.min(HARD_FRAME_CAP),
                command_cap_bytes,
            },
            subscriptions,
            buffer: BytesMut::new(),
            scan: 0,
            current: Current::default(),
            stash: BytesMut::new(),
            failed: None,
        }
    }

    /// Where to append what was read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes held for a message that is not complete.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() + self.stash.len()
    }

    /// Replaces the contents of `batch` by the next complete items of one kind. `false`: none, read more first.
    ///
    /// # Errors
    /// The stream is invalid at this point. All messages before it have been returned; later calls return the same.
    pub fn decode(&mut self, batch: &mut Batch) -> Result<bool, ZmtpError> {
        batch.clear();
        while self.failed.is_none() {
            match self.step(batch) {
                Ok(Step::Next) => {}
                Ok(Step::Starved | Step::Cut) => break,
                Err(error) => self.failed = Some(error),
            }
        }
        let consumed = self.current.start;
        if !batch.is_empty() && batch.wire_len() == 0 {
            batch.set_chunk(self.take(consumed).freeze());
        } else if consumed > 0 {
            // Commands only: their bytes are done with.
            drop(self.take(consumed));
        }
        match &self.failed {
            Some(error) if batch.is_empty() && !batch.has_controls() => Err(error.clone()),
            _ => Ok(!batch.is_empty() || batch.has_controls()),
        }
    }

    /// Takes one command that is not a subscription: for handshakes. `None`: read more.
    pub fn decode_command(&mut self) -> Result<Option<Command>, ZmtpError> {
        let Some(header) = FrameHeader::parse(&self.buffer)? else { return Ok(None) };
        if !header.command {
            return Err(ZmtpError::Unexpected("message"));
        }
        let end = self.command_end(&header, 0)?;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let frame = self.buffer.split_to(end).freeze();
        Command::parse(&frame.slice(header.header_len..)).map(Some)
    }

    fn take(&mut self, consumed: usize) -> BytesMut {
        self.scan -= consumed;
        self.current.start -= consumed;
        self.buffer.split_to(consumed)
    }

    fn step(&mut self, batch: &mut Batch) -> Result<Step, ZmtpError> {
        let Some(header) = FrameHeader::parse(&self.buffer[self.scan..])? else { return Ok(Step::Starved) };
        if header.command { self.step_command(&header, batch) } else { self.step_frame(&header, batch) }
    }

    fn step_frame(&mut self, header: &FrameHeader, batch: &mut Batch) -> Result<Step, ZmtpError> {
        let announced = self.current.payload_bytes.saturating_add(header.payload_len);
        if announced > self.limits.message_cap_bytes as u64 {
            return Err(ZmtpError::MessageTooLarge { announced, cap_bytes: self.limits.message_cap_bytes });
        }
        if self.current.frames as usize >= self.limits.frame_cap {
            return Err(ZmtpError::TooManyFrames { cap: self.limits.frame_cap });
        }
        let body = self.scan + header.header_len;
        let end = body + header.payload_len as usize; // below the cap
        if end > self.buffer.len() {
            return Ok(Step::Starved);
        }
        if !header.more && !batch.is_empty() && batch.has_messages() == self.is_subscription(body, end) {
            return Ok(Step::Cut);
        }
        if self.current.frames == 0 {
            (self.current.body, self.current.body_end) = (body - self.current.start, end - self.current.start);
        }
        self.current.frames += 1;
        self.current.payload_bytes = announced;
        self.scan = end;
        if header.more {
            return Ok(Step::Next);
        }
        self.finish_message(body, end, batch)
    }

    /// Whether the message whose last frame is `body..end` is a subscription in the form of ZMTP 3.0.
    fn is_subscription(&self, body: usize, end: usize) -> bool {
        self.subscriptions && self.current.frames == 0 && self.buffer[body..end].first().is_some_and(|&b| b <= 1)
    }

    fn finish_message(&mut self, body: usize, end: usize, batch: &mut Batch) -> Result<Step, ZmtpError> {
        let current = std::mem::take(&mut self.current);
        self.current.start = end;
        if !self.stash.is_empty() {
            // Put together again, in a batch of its own.
            let rest = self.take(end);
            self.stash.extend_from_slice(&rest);
            let chunk = self.stash.split().freeze();
            let span = message_span(0, chunk.len(), &current);
            batch.set_chunk(chunk);
            batch.push_span(span);
            return Ok(Step::Cut);
        }
        let kind = match self.buffer[body..end].first() {
            Some(&b) if self.subscriptions && current.frames == 1 && b <= 1 => {
                if b == 1 {
                    Kind::Subscribe
                } else {
                    Kind::Cancel
                }
            }
            _ => Kind::Message,
        };
        let mut span = message_span(current.start, end, &current);
        if kind != Kind::Message {
            span.kind = kind;
            span.body += 1;
        }
        batch.push_span(span);
        Ok(Step::Next)
    }

    fn step_command(&mut self, header: &FrameHeader, batch: &mut Batch) -> Result<Step, ZmtpError> {
        let end = self.command_end(header, self.scan)?;
        if end > self.buffer.len() {
            return Ok(Step::Starved);
        }
        if batch.has_messages() {
            return Ok(Step::Cut);
        }
        if self.current.frames > 0 {
            if !batch.is_empty() {
                return Ok(Step::Cut);
            }
            return self.interrupt(header, end, batch);
        }
        let body = Bytes::copy_from_slice(&self.buffer[self.scan + header.header_len..end]);
        let topic = |kind, name_len: usize| {
            let body = (self.scan + header.header_len + 1 + name_len) as u32;
            Span { kind, frames: 1, start: self.scan as u32, end: end as u32, body, body_end: end as u32 }
        };
        match Command::parse(&body)? {
            Command::Subscribe(_) => batch.push_span(topic(Kind::Subscribe, "SUBSCRIBE".len())),
            Command::Cancel(_) => batch.push_span(topic(Kind::Cancel, "CANCEL".len())),
            Command::Ready(_) => return Err(ZmtpError::Unexpected("READY")),
            Command::Unknown => {}
            control => batch.push_control(control),
        }
        self.scan = end;
        self.current.start = end;
        Ok(Step::Next)
    }

    /// A command between the frames of a message: the frames so far move to the stash.
    fn interrupt(&mut self, header: &FrameHeader, end: usize, batch: &mut Batch) -> Result<Step, ZmtpError> {
        if self.current.start > 0 {
            // Consumed bytes go first, so that the message starts the buffer.
            let done = self.current.start;
            drop(self.take(done));
            return Ok(Step::Next);
        }
        let mut frames = self.buffer.split_to(end);
        let command = frames.split_off(self.scan).freeze().slice(header.header_len..);
        self.stash.extend_from_slice(&frames);
        self.scan = 0;
        match Command::parse(&command)? {
            Command::Subscribe(_) | Command::Cancel(_) => {
                return Err(ZmtpError::Unexpected("subscription within a message"));
            }
            Command::Ready(_) => return Err(ZmtpError::Unexpected("READY")),
            Command::Unknown => {}
            control => batch.push_control(control),
        }
        Ok(Step::Next)
    }

    /// Where the command frame at `at` ends.
    fn command_end(&self, header: &FrameHeader, at: usize) -> Result<usize, ZmtpError> {
        let cap_bytes = self.limits.command_cap_bytes;
        if header.payload_len > cap_bytes as u64 {
            return Err(ZmtpError::CommandTooLarge { announced: header.payload_len, cap_bytes });
        }
        Ok(at + header.header_len + header.payload_len as usize) // below the cap
    }
}

fn message_span(start: usize, end: usize, current: &Current) -> Span {
    Span {
        kind: Kind::Message,
        frames: current.frames,
        start: start as u32,
        end: end as u32,
        body: (start + current.body) as u32,
        body_end: (start + current.body_end) as u32,
    }
}

#[cfg(test)]
mod tests;
