//! Digests: what makes an identity cover its content, and gives foreign messages an identity at all.

use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::event::EventBody;
use crate::id::MessageId;
use crate::time::Timestamp;

impl EventBody {
    /// A digest of the content: the first 128 bits of SHA-256 over the kind and every field, each with its length.
    ///
    /// ```
    /// use dsv2_core::EventBody;
    /// let body = EventBody::UserLogin { user: "ana".parse()? };
    /// assert_eq!(body.digest(), body.clone().digest());
    /// # Ok::<(), dsv2_core::NameError>(())
    /// ```
    #[must_use]
    pub fn digest(&self) -> u128 {
        finish(self.hash_content())
    }

    /// The identity of a message that a foreign server wrote: a digest of what stands in both its `replication` event
    /// and its publication. So the message has one identity however many servers adopt it, and a subscriber knows it
    /// again.
    ///
    /// Users and channels are told apart by name alone: creating one twice is no second creation.
    #[must_use]
    pub fn foreign_id(&self, timestamp: Option<Timestamp>, clock: Option<Clock>) -> MessageId {
        let mut hasher = self.hash_content();
        if matches!(self, Self::Publish { .. } | Self::Message { .. }) {
            hasher.update(timestamp.map_or(i64::MIN, |timestamp| timestamp.ms).to_be_bytes());
            hasher.update(clock.map_or(u64::MAX, Clock::get).to_be_bytes());
        }
        MessageId::Foreign(finish(hasher))
    }

    fn hash_content(&self) -> Sha256 {
        let mut hasher = Sha256::new();
        let mut field = |text: &str| {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        };
        field(self.kind().as_str());
        match self {
            Self::UserLogin { user } => field(user.as_str()),
            Self::ChannelCreate { channel } => field(channel.as_str()),
            Self::Publish { user, channel, message } => {
                field(user.as_str());
                field(channel.as_str());
                field(message);
            }
            Self::Message { src, dst, message } => {
                field(src.as_str());
                field(dst.as_str());
                field(message);
            }
        }
        hasher
    }
}

fn finish(hasher: Sha256) -> u128 {
    let bytes: [u8; 32] = hasher.finalize().into();
    bytes[..16].iter().fold(0, |digest, &byte| (digest << 8) | u128::from(byte))
}

impl MessageId {
    /// A digest of the identity within its scope: a client's own key counts for one user on one topic, the others
    /// everywhere. The first 128 bits of SHA-256.
    #[must_use]
    pub fn scoped_digest(&self, body: &EventBody) -> u128 {
        let mut hasher = Sha256::new();
        match self {
            Self::Request { session, number } => {
                hasher.update(b"s");
                hasher.update(session.bits().to_be_bytes());
                hasher.update(number.to_be_bytes());
            }
            Self::Foreign(digest) => {
                hasher.update(b"f");
                hasher.update(digest.to_be_bytes());
            }
            Self::Key(key) => {
                hasher.update(b"k");
                let (author, topic) = match body {
                    EventBody::UserLogin { user } => (user.as_str(), ""),
                    EventBody::ChannelCreate { channel } => ("", channel.as_str()),
                    EventBody::Publish { user, channel, .. } => (user.as_str(), channel.as_str()),
                    EventBody::Message { src, dst, .. } => (src.as_str(), dst.as_str()),
                };
                for text in [body.kind().as_str(), author, topic, key.as_str()] {
                    hasher.update((text.len() as u64).to_be_bytes());
                    hasher.update(text.as_bytes());
                }
            }
        }
        finish(hasher)
    }
}
