//! Sample events.

use dsv2_core::{
    ChannelName, Clock, Event, EventBody, EventId, IdempotencyKey, MessageId, Origin, SessionId, Timestamp, UserName,
};

use super::SplitMix64;

/// Makes events as servers of a small cluster would: gapless per origin, clocks that grow, few names that repeat, texts
/// with odd Unicode. The same seed makes the same events.
///
/// ```
/// # use dsv2_store::testing::Sampler;
/// let (mut a, mut b) = (Sampler::new(7), Sampler::new(7));
/// assert_eq!(a.batch(10), b.batch(10));
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    rng: SplitMix64,
    clock: u64,
    /// Origins with the number of their last event.
    origins: Vec<(Origin, u64)>,
    users: Vec<UserName>,
    channels: Vec<ChannelName>,
    text_bytes: usize,
}

const TEXTS: [&str; 12] = [
    "oi",
    "",
    "\"quoted\" \\ back\\slash",
    "line\nfeed\r\ttab",
    "\u{0}\u{1}\u{1f}\u{7f}",
    "ação às três, não?",
    "日本語テキスト",
    "🦀👩‍👩‍👧‍👦",
    "\u{202e}reversed\u{feff}",
    "{\"n\":1,\"d\":0,\"crc\":\"00000000\"}",
    "e\u{301}\u{2028}\u{2029}",
    "\u{10ffff}\u{fffd}",
];

impl Sampler {
    /// Three origins, a few users and channels.
    ///
    /// # Panics
    /// Never: the names are constants that fit.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        let origins = ["server1", "server2", "s#3"]
            .iter()
            .filter_map(|name| Some((Origin { server: name.parse().ok()?, incarnation: rng.next() }, 0)));
        let origins = origins.collect();
        let users = ["ana", "bob", "josé \"zé\"", "日本", "an"].iter().filter_map(|name| name.parse().ok()).collect();
        let channels = ["dev", "canal geral", "de"].iter().filter_map(|name| name.parse().ok()).collect();
        Self { rng, clock: 0, origins, users, channels, text_bytes: 0 }
    }

    /// Texts of exactly so many ASCII bytes instead of odd ones; 0 for odd ones again.
    #[must_use]
    pub const fn with_text_bytes(mut self, bytes: usize) -> Self {
        self.text_bytes = bytes;
        self
    }

    /// Adds an origin, as when a server starts again.
    pub fn restart(&mut self) {
        let server = self.origins[self.rng.index(self.origins.len())].0.server.clone();
        self.origins.push((Origin { server, incarnation: self.rng.next() }, 0));
    }

    /// Forgets what was made behind `held`, as a cluster does when a crash took it: the origins go on from there.
    pub fn resume(&mut self, held: &dsv2_core::Position) {
        for (origin, seq) in &mut self.origins {
            *seq = held.get(origin);
        }
    }

    /// The next event of any origin.
    pub fn event(&mut self) -> Event {
        let at = self.rng.index(self.origins.len());
        self.clock += 1 + self.rng.below(3);
        let (origin, seq) = &mut self.origins[at];
        *seq += 1;
        let id = EventId { origin: origin.clone(), seq: *seq };
        let prev = match self.rng.below(4) {
            0 => None,
            1 => Some(EventId {
                origin: self.origins[self.rng.index(self.origins.len())].0.clone(),
                seq: 1 + self.rng.below(9),
            }),
            _ => (id.seq > 1).then(|| EventId { origin: id.origin.clone(), seq: id.seq - 1 }),
        };
        Event {
            clock: Clock::new(self.clock).unwrap_or(Clock::MAX),
            prev,
            message_id: self.message_id(),
            timestamp: Timestamp { ms: 1_795_407_353_924 + self.clock as i64 },
            body: self.body(),
            id,
        }
    }

    /// The next events.
    pub fn batch(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }

    fn message_id(&mut self) -> MessageId {
        let random = u128::from(self.rng.next()) << 64 | u128::from(self.rng.next());
        let session = SessionId::new(Clock::new(self.clock).unwrap_or(Clock::MAX), random);
        let request = MessageId::Request { session, number: 1 + self.rng.below(1_000) };
        match self.rng.below(8) {
            0 => IdempotencyKey::new("pedido \"7\" \\ ção").map_or(request, MessageId::Key),
            1 => MessageId::Foreign(random),
            _ => request,
        }
    }

    fn body(&mut self) -> EventBody {
        let user = self.users[self.rng.index(self.users.len())].clone();
        let channel = self.channels[self.rng.index(self.channels.len())].clone();
        match self.rng.below(10) {
            0 => EventBody::UserLogin { user },
            1 => EventBody::ChannelCreate { channel },
            2..=6 => EventBody::Publish { user, channel, message: self.text() },
            _ => {
                let dst = self.users[self.rng.index(self.users.len())].clone();
                EventBody::Message { src: user, dst, message: self.text() }
            }
        }
    }

    fn text(&mut self) -> String {
        if self.text_bytes > 0 {
            return (0..self.text_bytes).map(|_| char::from(b'a' + self.rng.below(26) as u8)).collect();
        }
        (0..self.rng.below(4)).map(|_| TEXTS[self.rng.index(TEXTS.len())]).collect()
    }
}
