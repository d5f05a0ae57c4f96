//! Requests on their way: who may send, what is repeated, and what a caller is told in the end.

use std::time::Duration;

use dsv2_core::{Code, Failure, LogicalClock, Mono, Now, Position, RawTimestamp, Request, RequestBody, RequestExt};

use super::calls::{ATTEMPTS, Call, CallState, Calls, NEVER, Owner, write_of};
use super::io::{Answer, CallOptions, Command, Effect, Side};
use super::{LoginState, Peer, Session};
use crate::planted::Bug;

impl Session {
    /// Takes a command in.
    pub(super) fn call(
        &mut self,
        now: Now,
        token: u64,
        command: Command,
        options: &CallOptions,
        out: &mut Vec<Effect>,
    ) {
        let refuse = |code, text: &str, out: &mut Vec<Effect>| {
            out.push(Effect::Done { token, result: Err(Failure::rejected(code, text)) });
        };
        if self.closed {
            return refuse(Code::NotReady, "the session is closed", out);
        }
        if !self.accepts() {
            return refuse(Code::Full, "too many calls are under way", out);
        }
        let is_write =
            matches!(command, Command::CreateChannel { .. } | Command::Publish { .. } | Command::Message { .. });
        if let (true, LoginState::Refused(failure)) = (is_write, &self.login) {
            out.push(Effect::Done { token, result: Err(failure.clone()) });
            return;
        }
        let mut owner = Owner::Caller(token);
        let body = match (command, self.user.clone()) {
            (Command::Login { user }, _) => {
                self.user = Some(user.clone());
                owner = Owner::Login(Some(token));
                RequestBody::Login { user }
            }
            (Command::CreateChannel { channel }, _) => RequestBody::Channel { channel },
            (Command::Publish { channel, message }, Some(user)) => RequestBody::Publish { user, channel, message },
            (Command::Message { dst, message }, Some(src)) => RequestBody::Message { src, dst, message },
            (Command::Publish { .. } | Command::Message { .. }, None) => {
                return refuse(Code::UnknownUser, "no user is logged in", out);
            }
            (Command::Users, _) => RequestBody::Users,
            (Command::Channels, _) => RequestBody::Channels,
            (Command::Status, _) => RequestBody::Status,
            (Command::History(query), _) => RequestBody::History(query),
            (Command::Subscribe { feeds, cursor, order }, _) => {
                return self.subscribe(now, token, (&feeds, &cursor, order), options, out);
            }
        };
        let timeout_ms = options.timeout_ms.unwrap_or(self.config.timeout_ms);
        let deadline = now.mono + Duration::from_millis(timeout_ms);
        let ext =
            RequestExt { id: options.key.clone(), level: options.level.or(self.config.level), ..RequestExt::default() };
        let id = self.insert(owner, body, ext, deadline);
        match owner {
            Owner::Login(_) => self.ask_login(id),
            _ => self.calls.queue(id),
        }
    }

    pub(super) fn insert(&mut self, owner: Owner, body: RequestBody, mut ext: RequestExt, deadline: Mono) -> u64 {
        if write_of(&body).is_none() {
            (ext.id, ext.level) = (None, None);
        }
        let request = Request { format: self.config.format, timestamp: None, clock: None, ext, body };
        self.calls.insert(Call::new(owner, request, deadline))
    }

    /// Asks a question of a topic. `beyond` is what the answering server should know.
    pub(super) fn ask(
        &mut self,
        now: Now,
        owner: Owner,
        body: RequestBody,
        beyond: Option<Position>,
        out: &mut Vec<Effect>,
    ) -> u64 {
        let deadline = now.mono + Duration::from_millis(self.config.timeout_ms);
        let ext = RequestExt { position: beyond, ..RequestExt::default() };
        let id = self.insert(owner, body, ext, deadline);
        self.transmit(now, id, out);
        id
    }

    /// Sends what may be sent.
    pub(super) fn pump(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.broker.up {
            return;
        }
        while let Some(id) = self.calls.next(self.writes_open()) {
            let Some(call) = self.calls.get(id) else { continue };
            if call.may_have_happened() && !self.may_repeat(call) {
                let failure = Failure::unknown(Code::ServerLost, "the connection was lost before the answer came");
                let failure = call.last.clone().unwrap_or(failure);
                self.give_up(now, id, failure, out);
            } else {
                self.transmit(now, id, out);
            }
        }
    }

    /// Makes an attempt.
    fn transmit(&mut self, now: Now, id: u64, out: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let renamed = self.planted.has(Bug::RetryRenamed);
        if call.is_write() && (call.request.ext.number.is_none() || renamed) {
            // Its identity from now on, whatever happens to it.
            if let Some(session) = self.identity.current {
                self.identity.numbers += 1;
                call.request.ext.session = Some(session);
                call.request.ext.number = Some(self.identity.numbers);
            }
        }
        let mut position = self.token.clone();
        if let (Owner::Track(_), Some(beyond)) = (call.owner, &call.request.ext.position) {
            position.merge(beyond);
        }
        call.request.ext.position = (!position.is_empty()).then_some(position);
        call.request.clock = Some(self.clock.tick());
        call.request.timestamp = Some(RawTimestamp::from(now.wall.timestamp()));
        let attempt = call.note_sent();
        let patience_ms = self.config.attempt_ms << call.sent.saturating_sub(1).min(2);
        let expires = now.mono + Duration::from_millis(patience_ms);
        call.state = CallState::Sent { expires };
        let due = call.due();
        out.push(Effect::Send { request: Calls::wire(id, attempt), body: call.request.encode() });
        self.calls.look_at(due);
        self.broker.expect(now.mono);
    }

    /// Repeating can do no harm: nothing happens twice, or the server knows the write again.
    pub(super) fn may_repeat(&self, call: &Call) -> bool {
        call.is_idempotent() || (self.peer == Peer::Ours && call.sent < ATTEMPTS)
    }

    /// Ends a call without success.
    pub(super) fn give_up(&mut self, now: Now, id: u64, failure: Failure, out: &mut Vec<Effect>) {
        let Some(call) = self.calls.get(id) else { return };
        let failure = call.settle(failure);
        self.finish(now, id, Err(failure), out);
    }

    pub(super) fn finish(&mut self, now: Now, id: u64, result: Result<Answer, Failure>, out: &mut Vec<Effect>) {
        let Some(call) = self.calls.remove(id) else { return };
        match call.owner {
            Owner::Caller(token) => out.push(Effect::Done { token, result }),
            Owner::Login(token) => {
                self.login_ended(now, id, result.as_ref().map(|_| ()).map_err(Clone::clone), out);
                if let Some(token) = token {
                    out.push(Effect::Done { token, result });
                }
            }
            Owner::Track(track) => {
                let result = result.and_then(|answer| match answer {
                    Answer::History(page) => Ok(page),
                    _ => Err(Failure::rejected(Code::Malformed, "no page of history")),
                });
                self.track_answered(now, track, result, out);
            }
        }
    }

    /// Looks after calls whose moment has come.
    pub(super) fn look(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mut again = Vec::new();
        for id in self.calls.due(now.mono) {
            let Some(call) = self.calls.get(id) else { continue };
            if call.deadline <= now.mono {
                let failure = call.last.clone().unwrap_or_else(|| match call.sent {
                    0 => Failure::rejected(Code::NoServer, "the deadline passed before the request could be sent"),
                    _ => Failure::unknown(Code::Timeout, "the deadline passed before an answer came"),
                });
                self.give_up(now, id, failure, out);
                continue;
            }
            match call.state {
                CallState::Sent { .. } if self.may_repeat(call) && self.broker.up => again.push(id),
                CallState::Paused { .. } => again.push(id),
                // To be sent when it can be, or too risky to repeat: its deadline decides.
                _ => {
                    let deadline = call.deadline;
                    if let Some(call) = self.calls.get_mut(id)
                        && matches!(call.state, CallState::Sent { .. })
                    {
                        call.state = CallState::Sent { expires: deadline };
                    }
                    self.calls.look_at(deadline);
                }
            }
        }
        for id in again {
            self.calls.queue(id);
            let due = self.calls.get(id).map_or(NEVER, Call::due);
            self.calls.look_at(due);
        }
        let silent = self.broker.deadline(self.config.silence_ms).is_some_and(|at| at <= now.mono);
        if silent || self.leave_at.is_some_and(|at| at <= now.mono) {
            self.leave_at = None;
            // While it is down, it is tried again after the same span; while it is up, after something was sent.
            self.broker.since = (!self.broker.up).then_some(now.mono);
            out.push(Effect::Reconnect(Side::Broker));
        }
    }

    /// The connection to the broker is gone.
    pub(super) fn broker_down(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.broker.down(now.mono);
        self.leave_at = None;
        self.peer = Peer::Unknown;
        if self.login == LoginState::In {
            self.login = LoginState::Needed;
        }
        for (id, owner) in self.calls.disconnected() {
            match owner {
                Owner::Track(track) => {
                    self.calls.remove(id);
                    let failure = Failure::rejected(Code::NoServer, "the connection to the broker was lost");
                    self.track_answered(now, track, Err(failure), out);
                }
                Owner::Login(None) => drop(self.calls.remove(id)),
                Owner::Login(Some(_)) | Owner::Caller(_) => {}
            }
        }
        if matches!(self.login, LoginState::Asked(id) if self.calls.get(id).is_none()) {
            self.login = LoginState::Needed;
        }
    }

    /// Ends every call as well as what is known of it allows.
    pub(super) fn close(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.closed = true;
        self.end_subscriptions(out);
        for id in self.calls.ids() {
            let Some(call) = self.calls.get(id) else { continue };
            let failure =
                call.last.clone().unwrap_or_else(|| Failure::rejected(Code::NotReady, "the session was closed"));
            self.give_up(now, id, failure, out);
        }
    }
}
