use std::time::Duration;

use crate::endpoint::Keepalive;
use crate::zmtp::DecoderLimits;

/// Everything that a listening or connecting socket of the engine is bounded by.
///
/// The memory of a socket stays below `connection_cap` × (`read_chunk_bytes` + `outbox_cap_bytes`), and its output
/// queues together below `outbox_total_cap_bytes`, its incomplete messages together below
/// `partial_total_cap_bytes` plus one read chunk per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes of one message, all frames together. At most 1 GiB.
    pub message_cap_bytes: usize,
    /// Frames of one message.
    pub frame_cap: usize,
    /// Bytes of one command, subscriptions included.
    pub command_cap_bytes: usize,
    /// Connections in all, those in handshake included. Further ones are closed at once.
    pub connection_cap: usize,
    /// Connections in handshake. One more evicts the oldest of them: honest handshakes take a round trip or two,
    /// so whoever lingers makes room.
    pub pending_cap: usize,
    /// Deadline of a handshake, from the connection's first moment.
    pub handshake_timeout: Duration,
    /// Bytes queued for one peer. A push beyond it reports `Full`.
    pub outbox_cap_bytes: usize,
    /// Messages queued for one peer. No bound by default, since bytes are what costs.
    pub outbox_cap_messages: usize,
    /// Bytes queued for all peers of the socket.
    pub outbox_total_cap_bytes: usize,
    /// Bytes of received batches that wait for the socket's user (a `Router`'s or a port's queue). Reading stops there.
    pub inbox_cap_bytes: usize,
    /// Bytes of incomplete messages of all peers, beyond one read chunk each. The peer that needs more is closed.
    pub partial_total_cap_bytes: usize,
    /// Most bytes taken by one read. Reads start small and grow to this while they are filled.
    pub read_chunk_bytes: usize,
    /// How long a peer may leave our output untouched, or a message of its own half sent, before it is closed.
    pub stall_timeout: Duration,
    /// PINGs to peers that understand them.
    pub heartbeat: Heartbeat,
    /// TCP keepalive, for all TCP peers.
    pub keepalive: Keepalive,
}

impl Default for Limits {
    fn default() -> Self {
        let decoder = DecoderLimits::default();
        Self {
            message_cap_bytes: decoder.message_cap_bytes,
            frame_cap: decoder.frame_cap,
            command_cap_bytes: decoder.command_cap_bytes,
            connection_cap: 4096,
            pending_cap: 256,
            handshake_timeout: Duration::from_secs(5),
            outbox_cap_bytes: 16 << 20,
            outbox_cap_messages: usize::MAX,
            outbox_total_cap_bytes: 512 << 20,
            inbox_cap_bytes: 32 << 20,
            partial_total_cap_bytes: 256 << 20,
            read_chunk_bytes: 128 << 10,
            stall_timeout: Duration::from_secs(60),
            heartbeat: Heartbeat::default(),
            keepalive: Keepalive::default(),
        }
    }
}

impl Limits {
    /// The part that the decoder applies.
    #[must_use]
    pub fn decoder(&self) -> DecoderLimits {
        DecoderLimits {
            message_cap_bytes: self.message_cap_bytes,
            frame_cap: self.frame_cap,
            command_cap_bytes: self.command_cap_bytes,
        }
    }
}

/// Heartbeats of ZMTP 3.1 (RFC 37, "Connection heartbeating"). Any traffic counts as a sign of life.
///
/// While messages cross, silence of `interval` is asked about. When only heartbeats cross, each that is answered
/// doubles the silence that is borne next, up to `idle_interval`; the first message, in either direction, ends that. So
/// a request to a peer that vanished meanwhile is given up as fast as ever, and many idle peers cost little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Silence after which a PING is sent. Zero: never PING (PINGs of the peer are answered all the same).
    pub interval: Duration,
    /// The longest silence borne while no messages cross; less than `interval` counts as `interval`.
    pub idle_interval: Duration,
    /// How long a PING may stay without any answer before the peer is given up.
    pub timeout: Duration,
}

impl Default for Heartbeat {
    /// 10 s, 30 s while idle, 20 s: a dead peer is noticed within 30 s, and within 50 s where nothing is sent to it.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            idle_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(20),
        }
    }
}

impl Heartbeat {
    /// The same interval whether messages cross or not.
    #[must_use]
    pub const fn every(interval: Duration, timeout: Duration) -> Self {
        Self { interval, idle_interval: interval, timeout }
    }

    /// No PINGs of ours.
    #[must_use]
    pub const fn off() -> Self {
        Self::every(Duration::ZERO, Duration::ZERO)
    }
}
