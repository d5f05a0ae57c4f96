//! Under which identities a session writes.

use dsv2_core::{Clock, SessionId};

/// The session's identity, and the numbers given in it.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) current: Option<SessionId>,
    pub(super) numbers: u64,
    random: u128,
    opened: u64,
}

impl Identity {
    pub(super) fn new(random: u128) -> Self {
        Self { current: None, numbers: 0, random, opened: 0 }
    }

    /// Opens a session at that logical time; none before it has the same identity.
    pub(super) fn open(&mut self, clock: Clock) -> SessionId {
        // The first one takes the random bits as they are; later ones differ from it by a number.
        let salt = u128::from(mix(self.opened)) | (u128::from(self.opened) << 64);
        let random = if self.opened == 0 { self.random } else { self.random ^ salt };
        self.opened += 1;
        self.numbers = 0;
        let session = SessionId::new(clock, random);
        self.current = Some(session);
        session
    }
}

/// A good spread of similar numbers (the finalizer of SplitMix64: Steele, Lea, Flood, 2014).
pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
