//! The frames around a body: a REQ envelope, kept so that the answer finds its way back.

use bytes::Bytes;

use crate::zmtp::Message;

/// The frames before the body, the empty delimiter included.
#[derive(Clone, Debug)]
pub(crate) struct Envelope(Vec<Bytes>);

impl Envelope {
    /// Splits `[frames…, "", body]`. `None` where there is no delimiter, or not exactly one frame after it.
    pub(crate) fn split(message: &Message) -> Option<(Self, Bytes)> {
        let mut frames: Vec<Bytes> = message.frames().collect();
        let body = frames.pop()?;
        frames.last()?.is_empty().then_some((Self(frames), body))
    }

    /// An envelope with one frame before the delimiter.
    pub(crate) fn of(id: &[u8]) -> Self {
        Self(vec![Bytes::copy_from_slice(id), Bytes::new()])
    }

    /// The first frame.
    pub(crate) fn first(&self) -> &[u8] {
        self.0.first().map_or(&[], |frame| frame)
    }

    /// The answer `[frames…, "", body]`.
    pub(crate) fn wrap(&self, body: &[u8]) -> Message {
        Message::from_frames(self.0.iter().map(|frame| &frame[..]).chain([body]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_is_wrapped_again() {
        let message = Message::from_frames([&b"rid"[..], b"7", b"", b"body"]);
        let (envelope, body) = Envelope::split(&message).expect("an envelope");
        assert_eq!((&body[..], envelope.first()), (&b"body"[..], &b"rid"[..]));
        assert_eq!(envelope.wrap(b"answer"), Message::from_frames([&b"rid"[..], b"7", b"", b"answer"]));
        for bad in [&[&b"body"[..]][..], &[b"id", b"body"], &[b"", b"a", b"b"]] {
            assert!(Envelope::split(&Message::from_frames(bad)).is_none());
        }
    }
}
