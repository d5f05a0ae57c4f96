//! The frames around a body: a REQ envelope, kept so that the answer finds its way back.

use bytes::Bytes;

use crate::zmtp::Message;

/// The frames before the body, the empty delimiter included, in the form in which they travel.
#[derive(Clone, Debug)]
pub(crate) struct Envelope(Bytes);

impl Envelope {
    /// Splits `[frames…, "", body]`. `None` where there is no delimiter, or not exactly one frame after it.
    pub(crate) fn split(message: &Message) -> Option<(Self, Bytes)> {
        message.split_delimited().map(|(frames, body)| (Self(frames), body))
    }

    /// An envelope with one frame before the delimiter.
    pub(crate) fn of(id: &[u8]) -> Self {
        Self([Message::prefix(id), Message::prefix(b"")].concat().into())
    }

    /// The first frame.
    pub(crate) fn first(&self) -> Bytes {
        Message::from_wire(self.0.clone()).split_first().0
    }

    /// The frames themselves.
    pub(crate) fn frames(&self) -> &Bytes {
        &self.0
    }

    /// The answer `[frames…, "", body]`.
    pub(crate) fn wrap(&self, body: &[u8]) -> Message {
        Message::behind(&self.0, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_is_wrapped_again() {
        let message = Message::from_frames([&b"rid"[..], b"7", b"", b"body"]);
        let (envelope, body) = Envelope::split(&message).expect("an envelope");
        assert_eq!((&body[..], &envelope.first()[..]), (&b"body"[..], &b"rid"[..]));
        assert_eq!(envelope.wrap(b"answer"), Message::from_frames([&b"rid"[..], b"7", b"", b"answer"]));
        let made = Envelope::of(b"rid");
        assert_eq!(&made.first()[..], b"rid");
        assert_eq!(made.wrap(&[7; 300]), Message::from_frames([&b"rid"[..], b"", &[7; 300]]));
        for bad in [&[&b"body"[..]][..], &[b"id", b"body"], &[b"", b"a", b"b"]] {
            assert!(Envelope::split(&Message::from_frames(bad)).is_none());
        }
    }
}
