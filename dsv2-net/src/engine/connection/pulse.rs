use std::time::Duration;

use tokio::time::Instant;

use crate::engine::limits::Heartbeat;

/// Whether a peer is alive, judged at ticks. Between ticks nobody reads a clock.
#[derive(Debug)]
pub(super) struct Pulse {
    heartbeat: Heartbeat,
    stall_timeout: Duration,
    /// The peer greeted ≥ 3.1, so it answers PINGs.
    can_ping: bool,
    /// What the peer asked for in its last PING.
    peer_ttl: Option<Duration>,
    heard_at: Instant,
    /// When the peer was last heard, or a message of its was not half sent.
    whole_at: Instant,
    seen: Signs,
    /// The silence that is borne now.
    interval: Duration,
    pinged_at: Option<Instant>,
}

/// What is compared from tick to tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Signs {
    /// Successful reads so far.
    pub(super) reads: u64,
    /// Times that output went on after a wait.
    pub(super) progress: u64,
    /// Messages so far, in either direction. Those sent are no sign of life, but a reason to ask for one.
    pub(super) messages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Alive,
    /// Send a PING.
    Ping,
    Silent,
    Stalled,
}

impl Pulse {
    pub(super) fn new(heartbeat: Heartbeat, stall_timeout: Duration, can_ping: bool, now: Instant) -> Self {
        let can_ping = can_ping && !heartbeat.interval.is_zero();
        Self {
            heartbeat,
            stall_timeout,
            can_ping,
            peer_ttl: None,
            heard_at: now,
            whole_at: now,
            seen: Signs::default(),
            interval: heartbeat.interval,
            pinged_at: None,
        }
    }

    /// The peer's PING carried this TTL (RFC 37: zero says none). `true` if that is news: the period has changed.
    pub(super) fn set_peer_ttl(&mut self, ttl_ds: u16) -> bool {
        let ttl = (ttl_ds > 0).then(|| Duration::from_millis(u64::from(ttl_ds) * 100));
        std::mem::replace(&mut self.peer_ttl, ttl) != ttl
    }

    /// How long until the next judgement: short against every deadline in force.
    pub(super) fn period(&self) -> Duration {
        let mut period = self.stall_timeout / 4;
        if self.can_ping {
            period = period.min(self.heartbeat.interval / 2).min(self.heartbeat.timeout / 2);
        }
        if let Some(ttl) = self.peer_ttl {
            period = period.min(ttl / 4);
        }
        period.max(Duration::from_millis(5))
    }

    /// Judges. `mid_message`: a message is half received. `output_waits`: something is queued for the peer, whose
    /// acceptance the writer watches; a PING behind it cannot be answered.
    pub(super) fn tick(&mut self, now: Instant, signs: Signs, mid_message: bool, output_waits: bool) -> Verdict {
        if signs.reads != self.seen.reads || !mid_message {
            self.whole_at = now;
        }
        let seen = std::mem::replace(&mut self.seen, signs);
        let pinged_at = self.pinged_at;
        if signs.reads != seen.reads || signs.progress != seen.progress {
            self.heard_at = now;
            self.pinged_at = None;
        }
        if signs.messages != seen.messages {
            self.interval = self.heartbeat.interval;
        } else if pinged_at.is_some() && self.pinged_at.is_none() {
            self.interval = self.interval.saturating_mul(2).min(self.longest_interval());
        }
        if now.duration_since(self.whole_at) >= self.stall_timeout {
            return Verdict::Stalled;
        }
        let quiet = now.duration_since(self.heard_at);
        if self.peer_ttl.is_some_and(|ttl| quiet >= ttl) {
            return Verdict::Silent;
        }
        if !self.can_ping || quiet < self.interval {
            return Verdict::Alive;
        }
        let pinged_at = *self.pinged_at.get_or_insert(now);
        if pinged_at == now {
            Verdict::Ping
        } else if now.duration_since(pinged_at) >= self.heartbeat.timeout && !output_waits {
            Verdict::Silent
        } else {
            Verdict::Alive
        }
    }

    fn longest_interval(&self) -> Duration {
        self.heartbeat.interval.max(self.heartbeat.idle_interval)
    }

    /// The PING could not be queued, so nobody will answer it.
    pub(super) fn not_pinged(&mut self) {
        self.pinged_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pulse(can_ping: bool) -> (Pulse, Instant) {
        let now = Instant::now();
        let heartbeat = Heartbeat::every(10 * SECOND, 20 * SECOND);
        (Pulse::new(heartbeat, 60 * SECOND, can_ping, now), now)
    }

    #[test]
    fn silence_is_pinged_once_then_ended() {
        let (mut pulse, start) = pulse(true);
        let quiet = Signs::default();
        assert_eq!(pulse.tick(start + 9 * SECOND, quiet, false, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 10 * SECOND, quiet, false, false), Verdict::Ping);
        assert_eq!(pulse.tick(start + 29 * SECOND, quiet, false, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 30 * SECOND, quiet, false, true), Verdict::Alive);
        assert_eq!(pulse.tick(start + 31 * SECOND, quiet, false, false), Verdict::Silent);
    }

    #[test]
    fn any_sign_of_life_starts_over() {
        let (mut pulse, start) = pulse(true);
        assert_eq!(pulse.tick(start + 10 * SECOND, Signs::default(), false, false), Verdict::Ping);
        let read = Signs { reads: 1, ..Signs::default() };
        assert_eq!(pulse.tick(start + 29 * SECOND, read, false, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 39 * SECOND, read, false, false), Verdict::Ping);
        let wrote = Signs { progress: 1, ..read };
        assert_eq!(pulse.tick(start + 60 * SECOND, wrote, false, false), Verdict::Alive);
    }

    #[test]
    fn old_peers_are_never_pinged_but_may_not_stall_within_a_message() {
        let (mut pulse, start) = pulse(false);
        assert_eq!(pulse.tick(start + 1000 * SECOND, Signs::default(), false, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 1059 * SECOND, Signs::default(), true, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 1060 * SECOND, Signs::default(), true, false), Verdict::Stalled);
    }

    #[test]
    fn an_idle_peer_is_asked_less_often_until_a_message_crosses() {
        let start = Instant::now();
        let heartbeat = Heartbeat { interval: SECOND, idle_interval: 5 * SECOND, timeout: 2 * SECOND };
        let mut pulse = Pulse::new(heartbeat, 60 * SECOND, true, start);
        let mut signs = Signs::default();
        let mut pings = Vec::new();
        for halves in 1..=44 {
            if pulse.tick(start + halves * SECOND / 2, signs, false, false) == Verdict::Ping {
                pings.push(halves);
                signs.reads += 1;
            }
        }
        // Answers are seen half a second later: pauses of 1, 2, 4, 5, 5 seconds from there.
        assert_eq!(pings, [2, 7, 16, 27, 38]);

        signs.messages += 1;
        assert_eq!(pulse.tick(start + 45 * SECOND / 2, signs, false, false), Verdict::Ping, "3 s of silence");
        assert_eq!(pulse.tick(start + 46 * SECOND / 2, signs, false, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 49 * SECOND / 2, signs, false, false), Verdict::Silent);
    }

    #[test]
    fn the_peers_ttl_is_kept() {
        let (mut pulse, start) = pulse(false);
        assert!(pulse.set_peer_ttl(30));
        assert!(!pulse.set_peer_ttl(30));
        assert!(pulse.period() <= SECOND);
        assert_eq!(pulse.tick(start + 2 * SECOND, Signs::default(), false, false), Verdict::Alive);
        assert_eq!(pulse.tick(start + 3 * SECOND, Signs::default(), false, false), Verdict::Silent);
    }
}
