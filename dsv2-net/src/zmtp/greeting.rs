use super::ZmtpError;

/// Length of a ZMTP 3 greeting.
pub const GREETING_BYTES: usize = 64;

const MAJOR_AT: usize = 10;
const MINOR_AT: usize = 11;
const MECHANISM: std::ops::Range<usize> = 12..32;

/// The version and mechanism that a peer announces first (RFC 37, "Greeting").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Major version: 3.
    pub major: u8,
    /// Minor version: PING, SUBSCRIBE and CANCEL as commands need 1 or more.
    pub minor: u8,
    /// The security mechanism, padded with zeros.
    pub mechanism: [u8; 20],
}

impl Greeting {
    /// What we send: 3.1, NULL.
    #[must_use]
    pub fn ours() -> Self {
        let mut mechanism = [0; 20];
        mechanism[..4].copy_from_slice(b"NULL");
        Self { major: 3, minor: 1, mechanism }
    }

    /// The 64 bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut wire = [0; GREETING_BYTES];
        wire[0] = 0xFF;
        // ZMTP 1.0 peers read these ten bytes as the header of a one-byte frame, which is what libzmq sends too.
        wire[8] = 1;
        wire[9] = 0x7F;
        wire[MAJOR_AT] = self.major;
        wire[MINOR_AT] = self.minor;
        wire[MECHANISM].copy_from_slice(&self.mechanism);
        wire
    }

    /// Reads a greeting from the start of `input`: `None` while it is incomplete. Refuses at the first byte that
    /// cannot be right, so that a stranger does not hold a handshake open.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, ZmtpError> {
        if input.first().is_some_and(|&b| b != 0xFF) {
            return Err(ZmtpError::NotZmtp);
        }
        if input.get(9).is_some_and(|&b| b & 1 == 0) {
            return Err(ZmtpError::NotZmtp);
        }
        if let Some(&major) = input.get(MAJOR_AT)
            && major < 3
        {
            // ZMTP 2.0 puts its revision (1) here; 2 was never released.
            return Err(ZmtpError::UnsupportedVersion { major: if major == 0 { 1 } else { 2 } });
        }
        let Some(wire) = input.get(..GREETING_BYTES) else { return Ok(None) };
        let mut mechanism = [0; 20];
        mechanism.copy_from_slice(&wire[MECHANISM]);
        Ok(Some(Self { major: wire[MAJOR_AT], minor: wire[MINOR_AT], mechanism }))
    }

    /// Refuses any mechanism but NULL.
    pub fn require_null(&self) -> Result<(), ZmtpError> {
        if self.mechanism == Self::ours().mechanism {
            return Ok(());
        }
        let name: Vec<u8> = self.mechanism.iter().copied().take_while(|&b| b != 0).collect();
        Err(ZmtpError::UnsupportedMechanism(String::from_utf8_lossy(&name).into_owned()))
    }

    /// Whether the peer speaks at least 3.1: it understands PING, and SUBSCRIBE as a command.
    #[must_use]
    pub const fn is_at_least_3_1(&self) -> bool {
        self.major > 3 || self.minor >= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_every_length() {
        let wire = Greeting::ours().encode();
        for n in 0..GREETING_BYTES {
            assert_eq!(Greeting::parse(&wire[..n]), Ok(None), "{n} bytes");
        }
        assert_eq!(Greeting::parse(&wire), Ok(Some(Greeting::ours())));
        assert_eq!(Greeting::ours().require_null(), Ok(()));
        assert!(Greeting::ours().is_at_least_3_1());
    }

    #[test]
    fn strangers_are_refused_early() {
        assert_eq!(Greeting::parse(b"G"), Err(ZmtpError::NotZmtp));
        // ZMTP 1.0 with a long frame header.
        assert_eq!(Greeting::parse(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Err(ZmtpError::NotZmtp));
        // ZMTP 2.0: revision 1, socket type REQ.
        let two = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 1, 3];
        assert_eq!(Greeting::parse(&two), Err(ZmtpError::UnsupportedVersion { major: 2 }));
    }

    #[test]
    fn other_mechanisms_are_named() {
        let mut curve = Greeting::ours();
        curve.mechanism[..5].copy_from_slice(b"CURVE");
        assert_eq!(curve.require_null(), Err(ZmtpError::UnsupportedMechanism("CURVE".into())));
    }
}
