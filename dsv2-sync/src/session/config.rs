//! How a session behaves.

use dsv2_core::{Format, Level, Limits, UserName};

/// How a [`Session`](super::Session) behaves. The defaults suit a client on a LAN.
///
/// Memory of a session is bounded by `in_flight_bytes` for its requests, and for each topic of each subscription by
/// `held_bytes`, one page of history, and about 50 bytes for each of the `remembered` identities.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionConfig {
    /// Who writes; logged in at the start, and again whenever the broker was lost.
    pub user: Option<UserName>,
    /// The serialization of requests.
    pub format: Format,
    /// How safe a write must be before it is acknowledged; `None` leaves it to the server.
    pub level: Option<Level>,
    /// Random bits: they make the session's identity unique, and spread retries. Must differ for every session ever.
    pub random: u128,
    /// How long a call may take before it is answered *unknown* or *failed*.
    pub timeout_ms: u64,
    /// How long the first attempt may stay unanswered before a second one is made; doubles with each, up to four times.
    pub attempt_ms: u64,
    /// The pause before a refused request is repeated; doubles with each refusal.
    pub backoff_ms: u64,
    /// The longest such pause.
    pub backoff_cap_ms: u64,
    /// How many calls may be begun and unanswered. See [`Session::accepts`](super::Session::accepts).
    pub in_flight: usize,
    /// How many bytes of names and texts they may hold together.
    pub in_flight_bytes: usize,
    /// How long a broker may answer nothing at all, or stay away, before another connection is tried.
    pub silence_ms: u64,
    /// Whether to leave a server that lacks the extensions for another connection, rather than to work with less.
    pub require_extensions: bool,
    /// What is accepted of replies and publications.
    pub limits: Limits,
    /// How many events a page of history asks for; servers give at most 1,000.
    pub page: u64,
    /// How many deliveries of a subscription may wait for its consumer.
    pub window: usize,
    /// How many publications a topic of a subscription may hold back while something before them is missing; beyond,
    /// they are forgotten, and read back by history.
    pub held: usize,
    /// How many bytes of text they may hold together.
    pub held_bytes: usize,
    /// How often a topic is compared with history, even when nothing seems to be missing.
    pub compare_ms: u64,
    /// How long what a comparison found may still be on its way; only then it is missing.
    pub grace_ms: u64,
    /// How often history is read while there is no connection to a proxy.
    pub poll_ms: u64,
    /// How long a missing event may hold back later ones of its server while no server can supply it. Then the
    /// subscription tells of the gap and goes on. `None`: forever.
    pub patience_ms: Option<u64>,
    /// How many questions of subscriptions may be open at a time.
    pub queries: usize,
    /// How many identities of messages a topic remembers, to drop duplicates that were written twice; the consecutive
    /// messages of one client count as one.
    pub remembered: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            user: None,
            format: Format::Json,
            level: None,
            random: 0,
            timeout_ms: 10_000,
            attempt_ms: 2_000,
            backoff_ms: 50,
            backoff_cap_ms: 1_000,
            in_flight: 4_096,
            in_flight_bytes: 16 << 20,
            silence_ms: 5_000,
            require_extensions: false,
            limits: Limits { body_bytes: 8 << 20, depth: 32, items: 400_000 },
            page: 256,
            window: 1_024,
            held: 4_096,
            held_bytes: 4 << 20,
            compare_ms: 1_500,
            grace_ms: 200,
            poll_ms: 250,
            patience_ms: Some(60_000),
            queries: 32,
            remembered: 65_536,
        }
    }
}
