//! Writes: from a validated request to an event, its acknowledgement, and the acknowledgement of its retries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dsv2_core::{
    Change, Code, Event, EventBody, EventId, Failure, Level, LogicalClock, MessageId, Mono, Now, Origin, Receipt,
    Reply, ReplyBody, Request, RequestBody, ServerName, SessionId,
};

use super::io::{Effect, Note, Outgoing};
use super::{ReplyTo, Server};
use crate::planted::Bug;
use crate::replication::{Offer, ReplicationLog};
use crate::state::{Creation, Lookup};

/// Writes that wait until enough servers hold their event.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_event: BTreeMap<(EventId, u64), Wait>,
    deadlines: BTreeSet<(Mono, EventId, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Wait {
    to: ReplyTo,
    level: Level,
    deadline: Mono,
    request: Box<Request>,
    id: MessageId,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.by_event.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_event.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.deadlines.first().map(|(at, _, _)| *at)
    }

    fn insert(&mut self, event: EventId, wait: Wait) {
        let number = self.next;
        self.next += 1;
        self.deadlines.insert((wait.deadline, event.clone(), number));
        self.by_event.insert((event, number), wait);
    }

    fn remove(&mut self, key: &(EventId, u64)) -> Option<Wait> {
        let wait = self.by_event.remove(key)?;
        self.deadlines.remove(&(wait.deadline, key.0.clone(), key.1));
        Some(wait)
    }

    /// The waits whose events `reached` says are safe enough.
    fn reached(
        &mut self,
        origin: &Origin,
        upto: u64,
        reached: impl Fn(&EventId, Level) -> bool,
    ) -> Vec<(EventId, Wait)> {
        let first = (EventId { origin: origin.clone(), seq: 0 }, 0);
        let last = (EventId { origin: origin.clone(), seq: upto }, u64::MAX);
        let range = self.by_event.range(first..=last);
        let ready: Vec<_> =
            range.filter(|((event, _), wait)| reached(event, wait.level)).map(|(key, _)| key.clone()).collect();
        ready.into_iter().filter_map(|key| self.remove(&key).map(|wait| (key.0, wait))).collect()
    }

    fn expired(&mut self, now: Mono) -> Vec<Wait> {
        let mut expired = Vec::new();
        while let Some((at, event, number)) = self.deadlines.first().cloned() {
            if at > now {
                break;
            }
            expired.extend(self.remove(&(event, number)));
        }
        expired
    }
}

impl Server {
    /// Carries a write out, or recognises it as a retry, or refuses it.
    ///
    /// First it is seen whether it was carried out before: whoever asks again is never told that nothing happened where it
    /// did, however this server is by now.
    pub(super) fn write(&mut self, now: Now, to: ReplyTo, mut request: Box<Request>, out: &mut Vec<Effect>) {
        let body = match self.check_level(&request).and_then(|()| self.judge(&mut request)) {
            Ok(Verdict::Write(body)) => body,
            Ok(Verdict::Known(event, id)) => return self.acknowledge(now, to, request, event, id, out),
            Err(failure) => {
                // A server that is not up to date may not know a name that others know: that may pass.
                let failure = self.accept_write(now, &request).err().unwrap_or(failure);
                return self.refuse(now, to, &request, failure, out);
            }
        };
        let id = request.message_id();
        let known = id.as_ref().filter(|_| !self.planted.has(Bug::RetryForgotten));
        match known.map_or(Lookup::New, |id| self.state.lookup(id, &body)) {
            Lookup::New => {
                let forgotten = known.is_some_and(|id| self.state.is_forgotten(id, body.kind()));
                if forgotten && !self.planted.has(Bug::ForgottenExecuted) {
                    let text =
                        "the session is older than the messages that are kept: whether this was written cannot be told";
                    return self.refuse(now, to, &request, Failure::unknown(Code::Forgotten, text), out);
                }
                if let Err(failure) = self.accept_write(now, &request) {
                    return self.refuse(now, to, &request, failure, out);
                }
                let id = id.unwrap_or_else(|| self.name_message());
                let event = self.originate(now, body, id.clone(), out);
                out.push(Effect::Publish(Outgoing::Event(event.clone())));
                self.acknowledge(now, to, request, event.id.clone(), id, out);
            }
            Lookup::Same(event) => {
                let id = id.unwrap_or_else(|| self.name_message());
                self.acknowledge(now, to, request, event, id, out);
            }
            Lookup::Other => {
                let text = "the identity of this request was used before, with another content";
                self.refuse(now, to, &request, Failure::rejected(Code::IdReused, text), out);
            }
        }
    }

    fn level_of(&self, request: &Request) -> Level {
        request.ext.level.unwrap_or(self.config.default_level())
    }

    fn check_level(&self, request: &Request) -> Result<(), Failure> {
        let level = self.level_of(request);
        if level > Level::Local && self.config.voters.is_empty() {
            let text = format!("level {level} needs voters, and none are configured");
            return Err(Failure::rejected(Code::BadField, text));
        }
        Ok(())
    }

    /// Whether a new write is taken at all now. Nothing was changed yet.
    fn accept_write(&self, now: Now, request: &Request) -> Result<(), Failure> {
        if self.draining {
            return Err(Failure::rejected(Code::NotReady, "the server is stopping"));
        }
        self.check_level(request)?;
        if self.level_of(request) > Level::Local && !self.has_majority(now.mono) {
            return Err(Failure::rejected(Code::Minority, "too few voters can be reached"));
        }
        if self.waiting.len() >= self.config.caps.waiting {
            return Err(Failure::rejected(Code::Full, "too many writes wait for the other servers"));
        }
        self.check_store()
    }

    /// What a valid write asks for: an event, which takes the text, or something that exists already.
    fn judge(&self, request: &mut Request) -> Result<Verdict, Failure> {
        let unknown_user = |name: &str| Failure::rejected(Code::UnknownUser, format!("user {name:?} is not known"));
        let taken = |name: &str, kind| Failure::rejected(Code::NameTaken, format!("{name:?} is a {kind}"));
        let known = |creation: &Creation| Verdict::Known(creation.key.id.clone(), creation.id.clone());
        let state = &self.state;
        Ok(match &mut request.body {
            RequestBody::Login { user } => match (state.user(user.as_str()), state.channel(user.as_str())) {
                (Some(creation), _) => known(creation),
                (None, Some(_)) => return Err(taken(user.as_str(), "channel")),
                (None, None) => Verdict::Write(EventBody::UserLogin { user: user.clone() }),
            },
            RequestBody::Channel { channel } => match (state.channel(channel.as_str()), state.user(channel.as_str())) {
                (Some(creation), _) => known(creation),
                (None, Some(_)) => return Err(taken(channel.as_str(), "user")),
                (None, None) => Verdict::Write(EventBody::ChannelCreate { channel: channel.clone() }),
            },
            RequestBody::Publish { user, channel, message } => {
                self.check_text(message)?;
                state.user(user.as_str()).ok_or_else(|| unknown_user(user.as_str()))?;
                if state.channel(channel.as_str()).is_none() {
                    let text = format!("channel {:?} is not known", channel.as_str());
                    return Err(Failure::rejected(Code::UnknownChannel, text));
                }
                Verdict::Write(EventBody::Publish {
                    user: user.clone(),
                    channel: channel.clone(),
                    message: std::mem::take(message),
                })
            }
            RequestBody::Message { src, dst, message } => {
                self.check_text(message)?;
                for name in [&*src, &*dst] {
                    state.user(name.as_str()).ok_or_else(|| unknown_user(name.as_str()))?;
                }
                Verdict::Write(EventBody::Message {
                    src: src.clone(),
                    dst: dst.clone(),
                    message: std::mem::take(message),
                })
            }
            _ => return Err(Failure::rejected(Code::UnknownService, "this service writes nothing")),
        })
    }

    fn check_text(&self, text: &str) -> Result<(), Failure> {
        let cap_bytes = self.config.caps.text_bytes;
        if text.len() > cap_bytes {
            let text = format!("message has {} bytes, at most {cap_bytes} are allowed", text.len());
            return Err(Failure::rejected(Code::BadField, text));
        }
        Ok(())
    }

    /// An identity for a message whose client named none.
    fn name_message(&mut self) -> MessageId {
        self.unnamed += 1;
        let random = (u128::from(self.config.incarnation) << 11) | 0x5ff;
        MessageId::Request { session: SessionId::new(self.opened, random), number: self.unnamed }
    }

    /// Writes an own event: persisted first, then streamed to the other servers.
    pub(super) fn originate(
        &mut self,
        now: Now,
        body: EventBody,
        message_id: MessageId,
        out: &mut Vec<Effect>,
    ) -> Arc<Event> {
        let seq = self.log.held().get(&self.origin) + 1;
        let id = EventId { origin: self.origin.clone(), seq };
        let prev = body.topic().and_then(|topic| self.own.head(&topic).cloned());
        let clock = self.clock.tick();
        let timestamp = self.wall_now(now).timestamp();
        let event = Arc::new(Event { id, clock, prev, message_id, timestamp, body });
        let offer = self.log.offer(&event.id);
        debug_assert_eq!(offer, Offer::Accept, "own numbers have no gaps");
        self.apply(&event, out);
        self.own.note(&event, Some(&self.origin));
        out.push(Effect::Change(Change::Append(event.clone())));
        self.turn.own.push(event.clone());
        event
    }

    /// Folds an event into the state. A name that becomes user and channel at once by it is worth an alarm: it was made on
    /// two sides of a partition.
    pub(super) fn apply(&mut self, event: &Event, out: &mut Vec<Effect>) {
        let name = match &event.body {
            EventBody::UserLogin { user } => Some(user.as_str()),
            EventBody::ChannelCreate { channel } => Some(channel.as_str()),
            EventBody::Publish { .. } | EventBody::Message { .. } => None,
        };
        let new = name.filter(|name| !self.state.is_conflict(name));
        self.state.apply(event);
        if let Some(name) = new.filter(|name| self.state.is_conflict(name)) {
            out.push(Effect::Log(Note::NameConflict(name.to_owned())));
        }
    }

    /// Answers a write, once its event is as safe as asked for.
    fn acknowledge(
        &mut self,
        now: Now,
        to: ReplyTo,
        request: Box<Request>,
        event: EventId,
        id: MessageId,
        out: &mut Vec<Effect>,
    ) {
        let level = self.level_of(&request);
        if self.reached(&event, level) {
            return self.acknowledge_now(now, to, &request, event, id, level, out);
        }
        if self.waiting.len() >= self.config.caps.waiting {
            let failure = Failure::unknown(Code::Full, "it is written, and too many writes wait for the other servers");
            return self.refuse(now, to, &request, failure, out);
        }
        let deadline = now.mono + self.config.timing.write;
        self.waiting.insert(event, Wait { to, level, deadline, request, id });
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one receipt")]
    fn acknowledge_now(
        &mut self,
        now: Now,
        to: ReplyTo,
        request: &Request,
        event: EventId,
        id: MessageId,
        level: Level,
        out: &mut Vec<Effect>,
    ) {
        let body = ReplyBody::Done(Some(Receipt { id, event, level }));
        let reply = self.reply_to(now, request, body, false);
        self.send_reply(to, reply, false, out);
    }

    /// Whether an event is as safe as `level` asks. Ourselves count at once: the acknowledgement waits for the disk.
    fn reached(&self, event: &EventId, level: Level) -> bool {
        if self.stuck.as_ref().is_some_and(|stuck| !stuck.durable.contains(event)) {
            return false;
        }
        let voters = &self.config.voters;
        match level {
            Level::Local => true,
            Level::Quorum if self.planted.has(Bug::QuorumOfHalf) => self.log.holders(event, voters) >= voters.len() / 2,
            Level::Quorum if self.planted.has(Bug::LearnersCount) => {
                let all = self.peers.by_name.keys().chain(voters).cloned().collect();
                self.log.holders(event, &all) > voters.len() / 2
            }
            Level::Quorum => self.log.holders(event, voters) > voters.len() / 2,
            Level::All => {
                let present: BTreeSet<ServerName> = self.present_voters().cloned().collect();
                self.log.holders(event, &present) == present.len()
            }
        }
    }

    /// A server said what it holds: writes may have reached their level.
    pub(super) fn note_durable(
        &mut self,
        now: Now,
        name: &ServerName,
        durable: &dsv2_core::Position,
        out: &mut Vec<Effect>,
    ) {
        self.log.note(name, durable);
        if let Some(peer) = self.peers.get_mut(name) {
            peer.acked = peer.acked.max(durable.get(&self.origin));
            // What it has from elsewhere need not be sent.
            peer.skip_to(durable.get(&self.origin));
        }
        self.recheck_waiting(now, durable, out);
    }

    /// Acknowledges those of the waiting writes up to a position that have reached their level.
    pub(super) fn recheck_waiting(&mut self, now: Now, upto: &dsv2_core::Position, out: &mut Vec<Effect>) {
        if self.waiting.is_empty() {
            return;
        }
        for (origin, upto) in upto.iter() {
            let mut waiting = std::mem::take(&mut self.waiting);
            let reached = waiting.reached(origin, upto, |event, level| self.reached(event, level));
            self.waiting = waiting;
            for (event, wait) in reached {
                self.acknowledge_now(now, wait.to, &wait.request, event, wait.id, wait.level, out);
            }
        }
    }

    /// Answers writes whose deadline passed: they may still take effect everywhere, so nobody may say that they failed.
    pub(super) fn expire_writes(&mut self, now: Now, out: &mut Vec<Effect>) {
        for wait in self.waiting.expired(now.mono) {
            let text = format!("level {} was not reached in time", wait.level);
            let failure = match self.planted.has(Bug::TimeoutRejected) {
                true => Failure::rejected(Code::Other, text),
                false => Failure::unknown(Code::Timeout, text),
            };
            let reply = self.reply_to(now, &wait.request, ReplyBody::Failed(failure), false);
            self.send_reply(wait.to, reply, true, out);
        }
    }

    pub(super) fn refuse(&mut self, now: Now, to: ReplyTo, request: &Request, failure: Failure, out: &mut Vec<Effect>) {
        let reply: Reply = self.reply_to(now, request, ReplyBody::Failed(failure), false);
        self.send_reply(to, reply, false, out);
    }
}

enum Verdict {
    Write(EventBody),
    /// It exists; which event and which request made it.
    Known(EventId, MessageId),
}
