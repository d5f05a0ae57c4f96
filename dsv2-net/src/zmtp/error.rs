use super::SocketType;

/// Why bytes of a peer were refused. After any of these the connection is closed: the stream cannot be resynchronised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZmtpError {
    /// The first bytes are not a ZMTP signature (perhaps another protocol, or ZMTP 1.0).
    #[error("the peer does not speak ZMTP 3")]
    NotZmtp,
    /// A ZMTP peer older than 3.0.
    #[error("ZMTP {major}.x is too old: 3.0 or later is needed")]
    UnsupportedVersion {
        /// The major version in the peer's greeting.
        major: u8,
    },
    /// The peer asks for a security mechanism other than NULL.
    #[error("security mechanism {0:?} is not supported: only NULL is")]
    UnsupportedMechanism(String),
    /// A frame's flags have reserved bits set, or a command announces MORE.
    #[error("invalid frame flags {0:#04x}")]
    InvalidFlags(u8),
    /// A message outgrew its limit. `announced` counts the payload bytes so far, with what the last header announces.
    #[error("a message of at least {announced} bytes exceeds the limit of {cap_bytes}")]
    MessageTooLarge {
        /// Payload bytes announced.
        announced: u64,
        /// The limit in force.
        cap_bytes: usize,
    },
    /// A message has more frames than allowed.
    #[error("a message has more than {cap} frames")]
    TooManyFrames {
        /// The limit in force.
        cap: usize,
    },
    /// A command outgrew its limit.
    #[error("a command of {announced} bytes exceeds the limit of {cap_bytes}")]
    CommandTooLarge {
        /// Bytes announced.
        announced: u64,
        /// The limit in force.
        cap_bytes: usize,
    },
    /// A command's body does not follow its grammar.
    #[error("malformed {0} command")]
    MalformedCommand(&'static str),
    /// Something other than READY arrived while the handshake was open, or READY after it.
    #[error("unexpected {0} in this phase")]
    Unexpected(&'static str),
    /// READY names no socket type, or one that is unknown.
    #[error("unknown socket type {0:?}")]
    UnknownSocketType(String),
    /// The two socket types may not be connected.
    #[error("a {theirs} peer cannot be connected to a {ours} socket")]
    IncompatibleSocket {
        /// The local type.
        ours: SocketType,
        /// The peer's type.
        theirs: SocketType,
    },
    /// The peer sent an ERROR command.
    #[error("the peer reports an error: {0:?}")]
    PeerError(String),
}
