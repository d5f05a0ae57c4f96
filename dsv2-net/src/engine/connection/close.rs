use std::io;

use crate::zmtp::ZmtpError;

/// Why an established connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The network or the system ended it.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// The peer broke the protocol or a limit.
    #[error("protocol error: {0}")]
    Protocol(ZmtpError),
    /// The peer was silent for too long.
    #[error("the peer missed its heartbeat")]
    HeartbeatTimeout,
    /// The peer took none of our output, or left a message half sent, for `Limits::stall_timeout`.
    #[error("the peer stalled")]
    Stalled,
    /// Incomplete messages took all of `Limits::partial_total_cap_bytes`.
    #[error("no memory left for incomplete messages")]
    MemoryExhausted,
    /// This side closed it after all its output was written.
    #[error("closed by this side, drained")]
    Drained,
    /// This side closed it.
    #[error("closed by this side")]
    Local,
}

/// Why a handshake failed. The connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not done within `Limits::handshake_timeout`.
    #[error("the handshake took too long")]
    Timeout,
    /// The peer does not speak ZMTP 3 with NULL, or broke a limit.
    #[error(transparent)]
    Protocol(#[from] ZmtpError),
    /// The peer closed the connection.
    #[error("the peer closed the connection during the handshake")]
    PeerClosed,
    /// The network or the system failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(io::ErrorKind),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}
