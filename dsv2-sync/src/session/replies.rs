//! What answers tell: of the call, of the server, and of the clock.

use std::time::Duration;

use dsv2_core::{
    Clock, Code, Failure, LogicalClock, Now, Outcome, Position, Receipt, Reply, ReplyBody, RequestBody, Subject,
};

use super::calls::{ATTEMPTS, Call, CallState, Calls, Owner};
use super::identity::mix;
use super::io::{Answer, Effect, Note, Written};
use super::{LoginState, Peer, Session};

/// How many origins a session token names at most; beyond, it starts anew, and with it the promise to read what was
/// written before.
const TOKEN_CAP_ORIGINS: usize = 4_096;

impl Session {
    /// An answer arrived.
    pub(super) fn reply(&mut self, now: Now, wire: u64, body: &[u8], out: &mut Vec<Effect>) {
        self.broker.heard();
        let (id, attempt) = Calls::locate(wire);
        // The call may have been answered by another attempt.
        let Some(call) = self.calls.get(id) else { return };
        let decoded = Reply::decode(call.request.body.service(), body, &self.config.limits)
            .and_then(|reply| if is_anothers(call, &reply) { Err(STRAY.to_owned()) } else { Ok(reply) });
        match decoded {
            Ok(reply) => {
                self.learn(now, &reply, out);
                if self.is_to_be_left(now, id) {
                    return;
                }
                match reply.body {
                    ReplyBody::Failed(failure) => self.refused(now, id, attempt, failure, out),
                    body => self.answered(now, id, body, reply.clock, out),
                }
            }
            Err(why) => {
                out.push(Effect::Log(Note::UnreadableReply(why.clone())));
                self.refused(now, id, attempt, Failure::unknown(Code::Malformed, why), out);
            }
        }
    }

    /// What every reply tells, whatever it answers.
    fn learn(&mut self, now: Now, reply: &Reply, out: &mut Vec<Effect>) {
        self.observe(now, reply.clock, out);
        if let Some(position) = &reply.position {
            self.token.merge(position);
        }
        let extensions = match &reply.body {
            ReplyBody::Done(receipt) => Some(receipt.is_some()),
            ReplyBody::History(_) | ReplyBody::Status(_) => Some(true),
            // A list tells nothing where it comes without a position: there may be nothing yet that one could mean.
            ReplyBody::Users(_) | ReplyBody::Channels(_) => reply.position.as_ref().map(|_| true),
            _ => None,
        };
        if let Some(extensions) = extensions {
            self.peer = if extensions { Peer::Ours } else { Peer::Family };
            if self.extensions_seen.replace(extensions) != Some(extensions) {
                out.push(Effect::Log(Note::Extensions(extensions)));
                if extensions {
                    self.history_is_back(now, out);
                }
            }
        }
        // A failure may come from a broker, whose clock is its own.
        if self.identity.current.is_none() && !matches!(reply.body, ReplyBody::Failed(_)) {
            let session = self.identity.open(self.clock.tick());
            out.push(Effect::Log(Note::Opened(session)));
        }
    }

    /// Whether the answer to a login shows a server that is not wanted: then the login waits for another connection.
    fn is_to_be_left(&mut self, now: Now, id: u64) -> bool {
        let Some(call) = self.calls.get_mut(id) else { return false };
        let left = self.config.require_extensions && self.peer == Peer::Family && matches!(call.owner, Owner::Login(_));
        if left {
            call.note_disconnected();
            call.state = CallState::Waiting;
            let pause = Duration::from_millis(self.config.backoff_cap_ms);
            self.leave_at.get_or_insert(now.mono + pause);
        }
        left
    }

    /// Merges a received clock, unless no honest program can have it.
    pub(super) fn observe(&mut self, now: Now, clock: Option<Clock>, out: &mut Vec<Effect>) {
        match clock {
            Some(clock) if clock.get() > absurd_from(now) => out.push(Effect::Log(Note::AbsurdClock(clock))),
            Some(clock) => {
                self.clock.observe(clock);
            }
            None => {
                self.clock.tick();
            }
        }
    }

    fn answered(&mut self, now: Now, id: u64, body: ReplyBody, clock: Option<Clock>, out: &mut Vec<Effect>) {
        let answer = match body {
            ReplyBody::Done(receipt) => {
                self.note_written(receipt.as_ref());
                Answer::Written(Written { receipt, clock })
            }
            ReplyBody::Users(names) | ReplyBody::Channels(names) => Answer::Names(names),
            ReplyBody::Status(report) => Answer::Status(report),
            ReplyBody::History(page) => {
                page.events.iter().filter_map(|event| event.event.as_ref()).for_each(|event| self.token.advance(event));
                Answer::History(page)
            }
            // Answers to other services than a client asks: the decoder does not yield them.
            _ => return,
        };
        self.finish(now, id, Ok(answer), out);
    }

    fn note_written(&mut self, receipt: Option<&Receipt>) {
        if self.token.len() > TOKEN_CAP_ORIGINS {
            self.token = Position::default();
        }
        if let Some(receipt) = receipt {
            self.token.advance(&receipt.event);
        }
    }

    /// An attempt was answered by a failure.
    fn refused(&mut self, now: Now, id: u64, attempt: u32, failure: Failure, out: &mut Vec<Effect>) {
        if failure.code == Code::Forgotten && self.renew(id, attempt, out) {
            self.calls.queue(id);
            return;
        }
        if failure.code == Code::Behind {
            self.go_without(id, out);
        }
        let relogin = failure.code == Code::UnknownUser && self.is_own_user_unknown(id);
        let repeat = relogin || is_transient(&failure);
        let Some(call) = self.calls.get_mut(id) else { return };
        call.note_failure(attempt, &failure);
        if repeat && !matches!(call.state, CallState::Sent { .. }) {
            // A late answer to an earlier attempt; the next one is already planned.
            return;
        }
        if relogin {
            call.refusals += 1;
            let waits = call.waits_for_login();
            if self.login == LoginState::In {
                self.login = LoginState::Needed;
            }
            if waits {
                self.calls.queue(id);
            } else {
                self.pause(now, id);
            }
            self.start_login();
            return;
        }
        let Some(call) = self.calls.get(id) else { return };
        if repeat && (!call.may_have_happened() || self.may_repeat(call)) && self.is_repeated(call) {
            if failure.code == Code::Behind && call.refusals == 0 {
                self.repeat(id);
            } else {
                self.pause(now, id);
            }
        } else if call.is_alive() {
            // Another attempt may still be answered better; its deadline stands.
        } else {
            self.give_up(now, id, failure, out);
        }
    }

    /// No server that can be reached has all that the session has seen: it may be on one that is gone. Rather than to
    /// stand still, the session goes on without the promise to read that again.
    ///
    /// A question that named more than the session has seen (a topic's, whose predecessor is missing) says nothing about
    /// that: the topic itself asks again without it.
    fn go_without(&mut self, id: u64, out: &mut Vec<Effect>) {
        let carried = self.calls.get(id).and_then(|call| call.request.ext.position.as_ref());
        if carried.is_some_and(|position| self.token.covers(position)) && !self.token.is_empty() {
            let forgotten = std::mem::take(&mut self.token);
            out.push(Effect::Log(Note::Behind(forgotten)));
        }
    }

    fn repeat(&mut self, id: u64) {
        if let Some(call) = self.calls.get_mut(id) {
            call.refusals += 1;
            self.calls.queue(id);
        }
    }

    /// Questions of topics are asked anew by the topics themselves.
    fn is_repeated(&self, call: &Call) -> bool {
        !matches!(call.owner, Owner::Track(_)) && (call.is_idempotent() || call.sent < ATTEMPTS)
    }

    /// A session that is too old for the server can be replaced where the refused attempt was the only one: nothing
    /// happened then.
    fn renew(&mut self, id: u64, attempt: u32, out: &mut Vec<Effect>) -> bool {
        let Some(call) = self.calls.get_mut(id) else { return false };
        let named_by_session = call.request.ext.session.is_some() && call.request.ext.id.is_none();
        if !call.is_only_attempt(attempt) || !named_by_session {
            return false;
        }
        call.refusals += 1;
        let refused = call.request.ext.session;
        call.forget_attempts();
        if self.identity.current == refused {
            let session = self.identity.open(self.clock.tick());
            out.push(Effect::Log(Note::Renewed(session)));
        }
        true
    }

    /// A server does not know who writes, though the login was answered: the connection moved to another server.
    fn is_own_user_unknown(&self, id: u64) -> bool {
        let Some(call) = self.calls.get(id) else { return false };
        let author = match &call.request.body {
            RequestBody::Publish { user, .. } | RequestBody::Message { src: user, .. } => Some(user),
            RequestBody::History(query) => match &query.subject {
                Subject::Inbox(user) | Subject::Conversation { user, .. } => Some(user),
                _ => None,
            },
            _ => None,
        };
        let may_help = !matches!(self.login, LoginState::Refused(_));
        call.refusals < 2 && author.is_some() && author == self.user.as_ref() && may_help
    }

    fn pause(&mut self, now: Now, id: u64) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let step = call.refusals.min(16);
        call.refusals += 1;
        let pause_ms = (self.config.backoff_ms << step).min(self.config.backoff_cap_ms).max(1);
        // Between half and all of it, so that clients that were refused together do not come back together.
        let jitter =
            mix(self.config.random as u64 ^ id.rotate_left(32) ^ u64::from(call.refusals)) % (pause_ms / 2 + 1);
        self.calls.pause(id, now.mono + Duration::from_millis(pause_ms - jitter));
    }
}

const STRAY: &str = "the receipt is for another message";

/// Whether a receipt names another message than the call's: something between here and there has mixed up replies.
fn is_anothers(call: &Call, reply: &Reply) -> bool {
    let ReplyBody::Done(Some(receipt)) = &reply.body else { return false };
    // A user or a channel may have been made by somebody else.
    let named = matches!(call.request.body, RequestBody::Publish { .. } | RequestBody::Message { .. });
    named && call.request.message_id().is_some_and(|id| id != receipt.id)
}

/// Whether the same request may do better later, or elsewhere.
pub(super) fn is_transient(failure: &Failure) -> bool {
    let may_pass = matches!(
        failure.code,
        Code::Minority | Code::NotReady | Code::Behind | Code::Full | Code::Timeout | Code::NoServer | Code::ServerLost
    );
    may_pass || (failure.outcome == Outcome::Unknown && failure.code != Code::Forgotten)
}

/// Servers refuse clocks beyond 10^6 a second since 1970; a client that merged one would be refused everywhere.
fn absurd_from(now: Now) -> u64 {
    let seconds = u64::try_from(now.wall.us / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1_000_000).max(1_000_000_000_000)
}
