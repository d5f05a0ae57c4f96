//! The client's side of everything: the machine behind the client SDK.
//!
//! ```text
//!   program ── Call ──►┌─────────┐── Send ───► broker ──► a server
//!           ◄─ Done ───│         │◄─ Reply ───
//!                      │ Session │
//!   program ◄─ Deliver │         │◄─ Published ── proxy ◄── all servers
//!           ─ Consumed►└─────────┘── Listen ────►
//! ```
//!
//! - **Writes** carry an identity that every retry repeats, so a retry is safe on any connection. A write that is not
//!   acknowledged ends as *unknown* wherever any attempt may have taken effect, and as *rejected* only where surely
//!   nothing changed. Writes on one topic leave in the order of the calls; one that is refused for now holds back those
//!   behind it that have not left yet.
//! - **Reads** and writes carry what the session has read and written, so any server answers from a state that covers
//!   it: a client reads its own writes.
//! - **Subscriptions** are gapless: see `track.rs`.
//! - **Servers of the family** acknowledge without a receipt. Then a write that may have happened is never repeated,
//!   history and gap repair do not exist, and [`Session::has_extensions`] says so.
//!
//! The driver must see to it that one [`Effect::Send`] is carried out at most once, and that what is sent on one
//! connection arrives in order; TCP does both.

mod calls;
mod config;
mod identity;
mod io;
mod replies;
mod requests;
mod resume;
mod seen;
mod subscriptions;
mod track;

pub use config::SessionConfig;
pub use io::{Answer, CallOptions, Command, Delivery, Effect, Input, Note, Order, Side, Written};
pub use resume::{Cursor, ResumePoint, Step};

use std::time::Duration;

use dsv2_core::{
    Clock, Code, Failure, Lamport, LogicalClock, Machine, Mono, Now, Position, RequestBody, RequestExt, SessionId,
    UserName,
};

use calls::{CallState, Calls, NEVER, Owner};
use identity::Identity;
use subscriptions::Subscriptions;

use crate::planted::Planted;

/// The state of one client. See the [module](self).
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    clock: Lamport,
    identity: Identity,
    user: Option<UserName>,
    login: LoginState,
    /// What was read and written; servers wait until they cover it.
    token: Position,
    peer: Peer,
    /// What the last server that could be judged was like.
    extensions_seen: Option<bool>,
    /// When to give up the connection to a server that is not wanted.
    leave_at: Option<Mono>,
    broker: Link,
    proxy: Link,
    calls: Calls,
    subscriptions: Subscriptions,
    closed: bool,
    planted: Planted,
}

/// Whether the user is logged in at the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LoginState {
    /// To be done as soon as there is a connection.
    Needed,
    /// Asked, by this call.
    Asked(u64),
    /// Done.
    In,
    /// Refused for good; tried again after a reconnection.
    Refused(Failure),
}

/// What is known of the server at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Nothing.
    Unknown,
    /// It has the extensions.
    Ours,
    /// It is a server of the family.
    Family,
}

/// One of the two connections.
#[derive(Debug, Default)]
struct Link {
    up: bool,
    /// The broker: since when an answer is waited for in vain, or since when it is down. The proxy: when it last brought
    /// something, or went down.
    since: Option<Mono>,
    /// It was up before.
    known: bool,
}

impl Link {
    fn up(&mut self) -> bool {
        (self.up, self.since) = (true, None);
        std::mem::replace(&mut self.known, true)
    }

    fn down(&mut self, now: Mono) {
        (self.up, self.since) = (false, Some(now));
    }

    /// Something was sent that wants an answer.
    fn expect(&mut self, now: Mono) {
        self.since.get_or_insert(now);
    }

    fn heard(&mut self) {
        self.since = None;
    }

    fn deadline(&self, silence_ms: u64) -> Option<Mono> {
        Some(self.since? + Duration::from_millis(silence_ms))
    }

    /// The proxy: whether it is up, and has brought nothing for so long.
    fn is_silent_since(&self, now: Mono, silence_ms: u64) -> bool {
        self.up && self.deadline(silence_ms).is_some_and(|at| at <= now)
    }
}

impl Session {
    /// A session that has not begun: no connection, no identity.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self {
            clock: Lamport::default(),
            identity: Identity::new(config.random),
            user: config.user.clone(),
            login: LoginState::Needed,
            token: Position::default(),
            peer: Peer::Unknown,
            extensions_seen: None,
            leave_at: None,
            broker: Link::default(),
            proxy: Link::default(),
            calls: Calls::default(),
            subscriptions: Subscriptions::default(),
            closed: false,
            planted: Planted::default(),
            config,
        }
    }

    /// Plants a bug; for the simulator's own tests.
    #[cfg(feature = "planted")]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Whether another call is welcome: fewer than the configured number of calls and bytes are under way. A driver
    /// that does not take calls from its programs otherwise gives them back-pressure.
    #[must_use]
    pub fn accepts(&self) -> bool {
        let (calls, bytes) = self.calls.load();
        calls < self.config.in_flight && bytes < self.config.in_flight_bytes
    }

    /// How many calls of the program are not answered.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.calls.load().0
    }

    /// Whether the servers have the extensions that make retries, levels, history and gapless subscriptions possible;
    /// `None` until one has answered.
    #[must_use]
    pub fn has_extensions(&self) -> Option<bool> {
        match self.peer {
            Peer::Unknown => None,
            Peer::Ours => Some(true),
            Peer::Family => Some(false),
        }
    }

    /// The session's logical clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.now()
    }

    /// The session's identity, once it is opened.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.identity.current
    }

    /// What the session has read and written.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.token
    }

    /// Whether the connection is up.
    #[must_use]
    pub fn is_up(&self, side: Side) -> bool {
        match side {
            Side::Broker => self.broker.up,
            Side::Proxy => self.proxy.up,
        }
    }

    /// Writes wait until the servers know who writes, and until it is known what kind of servers they are.
    fn writes_open(&self) -> bool {
        self.user.is_none() || self.login == LoginState::In
    }

    /// A program asks for the login of a user, who from now on writes.
    fn ask_login(&mut self, id: u64) {
        if let LoginState::Asked(other) = self.login
            && self.calls.get(other).is_some_and(|call| call.owner == Owner::Login(None))
        {
            self.calls.remove(other);
        }
        self.login = LoginState::Asked(id);
        self.calls.queue(id);
    }

    /// Logs the user in again, where that is needed.
    fn start_login(&mut self) {
        let may = self.broker.up && !self.closed;
        let (LoginState::Needed, true, Some(user)) = (&self.login, may, self.user.clone()) else { return };
        let ext = RequestExt { level: self.config.level, ..RequestExt::default() };
        let id = self.insert(Owner::Login(None), RequestBody::Login { user }, ext, NEVER);
        self.login = LoginState::Asked(id);
        self.calls.queue(id);
    }

    fn login_ended(&mut self, now: Now, id: u64, result: Result<(), Failure>, out: &mut Vec<Effect>) {
        if self.login != LoginState::Asked(id) {
            return;
        }
        match result {
            Ok(()) => self.login = LoginState::In,
            Err(failure) if replies::is_transient(&failure) => {
                self.login = LoginState::Needed;
                self.start_login();
            }
            Err(failure) => {
                self.login = LoginState::Refused(failure.clone());
                out.push(Effect::Log(Note::LoginRefused(failure.clone())));
                for id in self.calls.ids() {
                    let waits = |call: &calls::Call| {
                        call.is_write()
                            && matches!(call.owner, Owner::Caller(_))
                            && matches!(call.state, CallState::Waiting | CallState::Held)
                    };
                    if self.calls.get(id).is_some_and(waits) {
                        self.give_up(now, id, failure.clone(), out);
                    }
                }
            }
        }
    }

    fn broker_up(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.broker.up();
        if matches!(self.login, LoginState::In | LoginState::Refused(_)) {
            self.login = LoginState::Needed;
        }
        self.start_login();
        self.compare_all(now, false, out);
    }
}

impl Machine for Session {
    type Input = Input;
    type Effect = Effect;

    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        if !self.broker.up && !self.closed {
            self.broker.expect(now.mono);
        }
        match input {
            Input::Call { token, command, options } => self.call(now, token, command, &options, out),
            Input::BrokerUp => self.broker_up(now, out),
            Input::BrokerDown => self.broker_down(now, out),
            Input::Reply { request, body } => self.reply(now, request, &body, out),
            Input::ProxyUp => {
                let again = self.proxy.up();
                self.proxy.since = Some(now.mono);
                self.compare_all(now, again, out);
            }
            Input::ProxyDown => self.proxy.down(now.mono),
            Input::Published { topic, body } => self.published(now, &topic, &body, out),
            Input::Consumed { subscription, deliveries } => self.consumed(now, subscription, deliveries, out),
            Input::Unsubscribe { subscription } => {
                self.fail_opening(subscription, Failure::rejected(Code::NotReady, "not wanted any more"), out);
                self.unsubscribe(subscription, out);
            }
            Input::Close => self.close(now, out),
            Input::Wake => {
                self.look(now, out);
                self.tend_due(now, out);
            }
        }
        self.pump(now, out);
    }

    fn deadline(&self) -> Option<Mono> {
        if self.closed {
            return None;
        }
        let silence = self.broker.deadline(self.config.silence_ms);
        [self.calls.deadline(), silence, self.leave_at, self.subscriptions_deadline()].into_iter().flatten().min()
    }
}
