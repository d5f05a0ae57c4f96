//! One connection: handshake, reading in batches, a bounded output queue, heartbeats.

mod close;
mod handshake;
mod pulse;
mod writer;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

pub use close::{CloseReason, HandshakeError};
pub use handshake::DSV2_PROPERTY;

use self::pulse::{Pulse, Signs, Verdict};
use super::counters::{Budget, Counters, SocketStats};
use super::limits::Limits;
use super::outbox::Outbox;
use crate::endpoint::{ReadHalf, Stream};
use crate::zmtp::{Batch, Command, Decoder, Metadata, SocketType, ZmtpError};

/// Reads start this small and double while they are filled, so that idle connections are cheap.
const FIRST_READ_BYTES: usize = 4 << 10;

/// After this much a busy reader lets other tasks run (the writers that it feeds, first of all).
const YIELD_AFTER_BYTES: usize = 256 << 10;

/// How long a drained connection waits for the peer to hang up.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// What all connections of one socket have in common: its type, limits, budgets and counters.
#[derive(Debug)]
pub struct LocalSocket {
    socket_type: SocketType,
    identity: Bytes,
    properties: Vec<(String, Bytes)>,
    limits: Limits,
    counters: Arc<Counters>,
    outbox_budget: Budget,
    partial_budget: Budget,
    pub(super) open: AtomicUsize,
    /// From when on moments are counted at which connections are judged.
    epoch: Instant,
}

impl LocalSocket {
    /// A socket without an identity.
    #[must_use]
    pub fn new(socket_type: SocketType, limits: Limits) -> Self {
        Self {
            socket_type,
            identity: Bytes::new(),
            properties: Vec::new(),
            counters: Arc::default(),
            outbox_budget: Budget::new(limits.outbox_total_cap_bytes),
            partial_budget: Budget::new(limits.partial_total_cap_bytes),
            open: AtomicUsize::new(0),
            epoch: Instant::now(),
            limits,
        }
    }

    /// The end of a period that begins now, up to an eighth of it late: at a moment that connections share, because a thousand that
    /// wake a sleeping thread one by one cost many times what they do then.
    fn shared_moment(&self, period: Duration) -> Instant {
        let slack = (period / 8).as_nanos().max(1);
        let due = (self.epoch.elapsed() + period).as_nanos();
        self.epoch + Duration::from_nanos(u64::try_from(due.div_ceil(slack) * slack).unwrap_or(u64::MAX))
    }

    /// Sets the identity to announce (RFC 23: at most 255 bytes, not starting with zero; empty for none).
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<Bytes>) -> Self {
        self.identity = identity.into();
        self
    }

    /// Adds a property to READY: applications' names start with `X-`.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Counts into `counters` instead of a set of its own.
    #[must_use]
    pub fn with_counters(mut self, counters: Arc<Counters>) -> Self {
        self.counters = counters;
        self
    }

    /// The local socket type.
    #[must_use]
    pub fn socket_type(&self) -> SocketType {
        self.socket_type
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Bytes queued for all peers.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.outbox_budget.used_bytes()
    }

    /// Its numbers now.
    #[must_use]
    pub fn stats(&self) -> SocketStats {
        SocketStats { counters: self.counters.entries(), queued_bytes: self.queued_bytes() }
    }

    /// Connections in existence, those in handshake included.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn identity(&self) -> &Bytes {
        &self.identity
    }

    pub(super) fn properties(&self) -> &[(String, Bytes)] {
        &self.properties
    }
}

/// What a peer told in its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its socket type.
    pub socket_type: SocketType,
    /// Its identity, often empty.
    pub identity: Bytes,
    /// All properties of its READY.
    pub metadata: Metadata,
    /// The ZMTP version of its greeting.
    pub version: (u8, u8),
    /// Where it is: an IP address and port, or the endpoint.
    pub address: String,
}

impl PeerInfo {
    /// Whether the peer is one of ours.
    #[must_use]
    pub fn is_dsv2(&self) -> bool {
        self.metadata.get(DSV2_PROPERTY).is_some()
    }

    /// Whether it knows PING, and SUBSCRIBE as a command.
    #[must_use]
    pub fn speaks_3_1(&self) -> bool {
        self.version >= (3, 1)
    }
}

/// An established connection: the reading side, and the handle to its output.
///
/// Stop calling [`Connection::next_batch`] and the peer is back-pressured; nothing is read ahead. Dropping the
/// connection closes it at once; for a graceful end, [`Outbox::drain`] and [`Outbox::finished`] come first.
#[derive(Debug)]
pub struct Connection {
    peer: Arc<PeerInfo>,
    local: Arc<LocalSocket>,
    outbox: Outbox,
    read: ReadHalf,
    decoder: Decoder,
    read_bytes: usize,
    unyielded_bytes: usize,
    partial_charge_bytes: usize,
    reads: u64,
    messages_in: u64,
    reads_at_tick: u64,
    lingered: bool,
    pulse: Pulse,
    tick: Pin<Box<Sleep>>,
    _open: OpenGuard,
}

/// One connection less when dropped.
#[derive(Debug)]
pub(super) struct OpenGuard(Arc<LocalSocket>);

impl OpenGuard {
    /// `None` if `connection_cap` is reached.
    pub(super) fn try_new(local: &Arc<LocalSocket>) -> Option<Self> {
        let guard = Self(Arc::clone(local));
        let others = local.open.fetch_add(1, Ordering::Relaxed);
        (others < local.limits.connection_cap).then_some(guard)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Shakes hands over a fresh stream, within the handshake deadline, and starts the writer's task. `address` says
    /// where the peer is, for logs. The caller has checked `connection_cap`.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the stream is closed and the refusal counted.
    pub async fn establish(stream: Stream, address: String, local: &Arc<LocalSocket>) -> Result<Self, HandshakeError> {
        let open = OpenGuard(Arc::clone(local));
        local.open.fetch_add(1, Ordering::Relaxed);
        Self::establish_guarded(stream, address, open).await
    }

    pub(super) async fn establish_guarded(
        stream: Stream,
        address: String,
        open: OpenGuard,
    ) -> Result<Self, HandshakeError> {
        let local = Arc::clone(&open.0);
        let counters = &local.counters;
        counters.connections_opened.add(1);
        let (mut read, mut write) = stream.into_split();
        let mut decoder = Decoder::new(local.limits.decoder(), local.socket_type.receives_subscriptions());
        let shaken = timeout(
            local.limits.handshake_timeout,
            handshake::handshake(&mut read, &mut write, &mut decoder, &local, address),
        );
        let peer = match shaken.await.unwrap_or(Err(HandshakeError::Timeout)) {
            Ok(peer) => peer,
            Err(error) => {
                match &error {
                    HandshakeError::Timeout => counters.refused_timeout.add(1),
                    HandshakeError::Protocol(ZmtpError::IncompatibleSocket { .. }) => {
                        counters.refused_incompatible.add(1);
                    }
                    HandshakeError::Protocol(_) => counters.refused_protocol.add(1),
                    HandshakeError::PeerClosed | HandshakeError::Io(_) => counters.refused_io.add(1),
                }
                return Err(error);
            }
        };
        counters.handshakes.add(1);
        let outbox = Outbox::new(&local.limits, local.outbox_budget.clone(), Arc::clone(counters), write.direct());
        tokio::spawn(writer::write_loop(write, outbox.clone(), local.limits.stall_timeout));
        let pulse = Pulse::new(local.limits.heartbeat, local.limits.stall_timeout, peer.speaks_3_1(), Instant::now());
        Ok(Self {
            peer: Arc::new(peer),
            outbox,
            read,
            decoder,
            read_bytes: FIRST_READ_BYTES.min(local.limits.read_chunk_bytes),
            unyielded_bytes: 0,
            partial_charge_bytes: 0,
            reads: 0,
            messages_in: 0,
            reads_at_tick: 0,
            lingered: false,
            tick: Box::pin(sleep_until(local.shared_moment(pulse.period()))),
            pulse,
            local,
            _open: open,
        })
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> &Arc<PeerInfo> {
        &self.peer
    }

    /// The output queue.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Waits for traffic and replaces the contents of `batch` with it: all that one read brought, of one kind.
    /// PINGs are answered and heartbeats sent meanwhile, so a connection whose reader never comes back is given up by
    /// a peer that watches. Cancel-safe: nothing is lost.
    ///
    /// # Errors
    /// The connection is over; later calls say the same.
    pub async fn next_batch(&mut self, batch: &mut Batch) -> Result<(), CloseReason> {
        let result = self.read_batch(batch).await;
        if result.is_err() {
            batch.clear();
            self.linger().await;
        }
        result
    }

    /// After a drain: reads and drops what still comes until the peer has hung up too. If input were left unread, the
    /// system would reset the connection, and the peer might never see what was written last.
    pub(crate) async fn linger(&mut self) {
        if self.lingered || self.outbox.close_reason() != Some(CloseReason::Drained) {
            return;
        }
        let drop_all = async {
            let mut scrap = BytesMut::with_capacity(FIRST_READ_BYTES);
            while matches!(self.read.read_buf(&mut scrap).await, Ok(1..)) {
                scrap.clear();
            }
        };
        // A peer that does not hang up in time has had its chance.
        let _ = timeout(LINGER_TIMEOUT, drop_all).await;
        self.lingered = true;
    }

    async fn read_batch(&mut self, batch: &mut Batch) -> Result<(), CloseReason> {
        if self.unyielded_bytes >= YIELD_AFTER_BYTES {
            self.unyielded_bytes = 0;
            tokio::task::yield_now().await;
        }
        loop {
            if self.outbox.is_closed()
                && let Some(reason) = self.outbox.close_reason()
            {
                return Err(reason);
            }
            match self.decoder.decode(batch) {
                Ok(true) => {
                    self.obey_controls(batch)?;
                    if !batch.is_empty() {
                        let messages = if batch.has_messages() { batch.len() } else { 0 };
                        self.messages_in += messages as u64;
                        self.local.counters.messages_in.add(messages as u64);
                        return Ok(());
                    }
                }
                Ok(false) => {
                    self.charge_partial()?;
                    self.fill().await?;
                }
                Err(error) => return Err(self.end(CloseReason::Protocol(error))),
            }
        }
    }

    fn obey_controls(&mut self, batch: &mut Batch) -> Result<(), CloseReason> {
        for command in batch.drain_controls() {
            match command {
                Command::Ping { ttl_ds, context } => {
                    if self.pulse.set_peer_ttl(ttl_ds) {
                        self.tick.as_mut().reset(self.local.shared_moment(self.pulse.period()));
                    }
                    if self.outbox.push_control(&Command::Pong { context }.encode()).is_err() {
                        self.local.counters.pongs_dropped.add(1);
                    }
                }
                Command::Error(reason) => {
                    return Err(self.end(CloseReason::Protocol(ZmtpError::PeerError(reason))));
                }
                // A PONG was a read, and that is all a PONG tells.
                _ => {}
            }
        }
        Ok(())
    }

    /// Draws what an incomplete message holds beyond one chunk from the budget of all connections.
    fn charge_partial(&mut self) -> Result<(), CloseReason> {
        let held = self.decoder.pending_bytes().saturating_sub(self.local.limits.read_chunk_bytes);
        let budget = &self.local.partial_budget;
        if held < self.partial_charge_bytes {
            budget.release(self.partial_charge_bytes - held);
        } else if held > self.partial_charge_bytes && !budget.try_reserve(held - self.partial_charge_bytes) {
            return Err(self.end(CloseReason::MemoryExhausted));
        }
        self.partial_charge_bytes = held;
        Ok(())
    }

    /// One successful read, with heartbeats while waiting.
    async fn fill(&mut self) -> Result<(), CloseReason> {
        loop {
            let buffer = self.decoder.buffer();
            if buffer.capacity() - buffer.len() < self.read_bytes / 2 {
                buffer.reserve(self.read_bytes);
            }
            let spare = buffer.capacity() - buffer.len();
            tokio::select! {
                biased;
                read = self.read.read_buf(buffer) => return match read {
                    Ok(0) => Err(self.end(CloseReason::PeerClosed)),
                    Ok(n) => {
                        self.note_read(n, spare);
                        Ok(())
                    }
                    Err(error) => Err(self.end(writer::failure(&error))),
                },
                () = &mut self.tick => {}
                reason = std::future::poll_fn(|cx| self.outbox.poll_closed(cx)) => return Err(reason),
            }
            self.judge()?;
        }
    }

    fn note_read(&mut self, n: usize, spare: usize) {
        self.reads += 1;
        self.unyielded_bytes += n;
        self.local.counters.reads.add(1);
        self.local.counters.bytes_in.add(n as u64);
        if n == spare {
            self.read_bytes = (self.read_bytes * 2).min(self.local.limits.read_chunk_bytes);
        }
    }

    /// At a tick: is the peer alive, and should it be asked?
    fn judge(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        let signs = Signs {
            reads: self.reads,
            progress: self.outbox.progress(),
            messages: self.messages_in + self.outbox.messages_pushed(),
        };
        let mid_message = self.decoder.pending_bytes() > 0;
        match self.pulse.tick(now, signs, mid_message, self.outbox.queued_bytes() > 0) {
            Verdict::Alive => {}
            Verdict::Ping => {
                // No TTL: who only listens may be silent for as long as the peer is not.
                let ping = Command::Ping { ttl_ds: 0, context: Bytes::new() };
                if self.outbox.push_control(&ping.encode()).is_err() {
                    self.pulse.not_pinged();
                }
            }
            Verdict::Silent => return Err(self.end(CloseReason::HeartbeatTimeout)),
            Verdict::Stalled => return Err(self.end(CloseReason::Stalled)),
        }
        if self.reads == self.reads_at_tick && !mid_message {
            // Idle: give the read buffer back.
            self.read_bytes = FIRST_READ_BYTES.min(self.local.limits.read_chunk_bytes);
            *self.decoder.buffer() = BytesMut::new();
        }
        self.reads_at_tick = self.reads;
        self.tick.as_mut().reset(self.local.shared_moment(self.pulse.period()));
        Ok(())
    }

    /// Closes, and says why: the first reason stands.
    fn end(&self, reason: CloseReason) -> CloseReason {
        self.outbox.close(reason.clone());
        self.outbox.close_reason().unwrap_or(reason)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.outbox.close(CloseReason::Local);
        self.local.partial_budget.release(self.partial_charge_bytes);
        let counters = &self.local.counters;
        counters.connections_closed.add(1);
        match self.outbox.close_reason() {
            Some(CloseReason::Protocol(_)) => counters.protocol_errors.add(1),
            Some(CloseReason::HeartbeatTimeout) => counters.heartbeat_timeouts.add(1),
            Some(CloseReason::Stalled) => counters.stalls.add(1),
            Some(CloseReason::MemoryExhausted) => counters.memory_exhausted.add(1),
            _ => {}
        }
    }
}
