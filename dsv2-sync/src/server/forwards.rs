//! Writes at a server that may not write: handed to a voter, and its answer back to the client.

use std::collections::BTreeSet;

use dsv2_core::{Code, Failure, LogicalClock, Mono, Now, Outcome, Reply, ReplyBody, Request, ServerName};

use super::io::{Effect, LinkId};
use super::{ReplyTo, Server};
use crate::link::LinkMessage;

/// A request that a voter is to carry out.
#[derive(Debug)]
struct Forwarding {
    to: ReplyTo,
    request: Box<Request>,
    /// The voters that were asked; all but the last refused, without carrying it out.
    tried: BTreeSet<ServerName>,
    deadline: Mono,
}

/// A request that a voter was asked to carry out, on that link.
#[derive(Debug)]
pub(super) struct Forwarded {
    forwarding: Forwarding,
    link: LinkId,
}

impl Forwarded {
    pub(super) fn deadline(&self) -> Mono {
        self.forwarding.deadline
    }
}

impl Server {
    /// Hands a write to a voter: servers that are none replicate and serve reads only.
    pub(super) fn forward(&mut self, now: Now, to: ReplyTo, request: Box<Request>, out: &mut Vec<Effect>) {
        let deadline = now.mono + self.config.timing.write + self.config.timing.silence;
        self.forward_to_next(now, Forwarding { to, request, tried: BTreeSet::new(), deadline }, None, out);
    }

    /// Hands it to the next voter; where there is none left, the last one's refusal stands.
    fn forward_to_next(&mut self, now: Now, mut forwarding: Forwarding, refusal: Option<Reply>, out: &mut Vec<Effect>) {
        let untried = |name: &&ServerName| self.config.voters.contains(*name) && !forwarding.tried.contains(*name);
        let next = self.peers.alive(now.mono, self.config.timing.silence).find(untried).cloned();
        let link = next.as_ref().and_then(|name| self.peers.by_name.get(name).and_then(super::peers::Peer::link));
        let room = self.forwarded.len() < self.config.caps.waiting;
        let (Some(name), Some(link), true) = (next, link, room) else {
            let Some(reply) = refusal else {
                let failure = Failure::rejected(Code::Minority, "no voter can be reached");
                return self.refuse(now, forwarding.to, &forwarding.request, failure, out);
            };
            return self.send_reply(forwarding.to, reply, false, out);
        };
        let ticket = self.token();
        forwarding.tried.insert(name);
        forwarding.request.clock = Some(self.link_clock());
        let (body, level) = (forwarding.request.encode(), self.config.default_level());
        self.forwarded.insert(ticket, Forwarded { forwarding, link });
        let message = LinkMessage::Forward { ticket, body, level };
        out.push(Effect::Link { to: vec![link], message, prompt: self.stuck.is_some() });
    }

    /// Another server forwarded a request.
    pub(super) fn forward_arrived(
        &mut self,
        now: Now,
        link: LinkId,
        ticket: u64,
        body: &[u8],
        level: dsv2_core::Level,
        out: &mut Vec<Effect>,
    ) {
        let to = ReplyTo::Forwarder { link, ticket };
        match Request::decode(body, &self.config.limits()) {
            Ok(mut request) if self.config.may_write() => {
                request.ext.level.get_or_insert(level);
                self.request(now, to, Box::new(request), out);
            }
            Ok(request) => {
                self.refuse(now, to, &request, Failure::rejected(Code::NotReady, "this server may not write"), out);
            }
            Err(refusal) => {
                let reply = refusal.reply(self.clock.now(), self.wall_now(now).timestamp());
                self.send_reply(to, reply, false, out);
            }
        }
    }

    /// A voter answered a forwarded request. Where it refused for a reason of its own, another is asked: nothing happened.
    pub(super) fn forward_answered(&mut self, now: Now, link: LinkId, ticket: u64, body: &[u8], out: &mut Vec<Effect>) {
        if self.forwarded.get(&ticket).is_none_or(|forwarded| forwarded.link != link) {
            return;
        }
        let Some(Forwarded { forwarding, .. }) = self.forwarded.remove(&ticket) else { return };
        match Reply::decode(forwarding.request.body.service(), body, &self.config.limits()) {
            Ok(mut reply) => {
                self.observe(now, reply.clock);
                reply.format = forwarding.request.format;
                let passes = |failure: &Failure| {
                    let own = matches!(failure.code, Code::Full | Code::NotReady | Code::Minority | Code::Behind);
                    own && failure.outcome == Outcome::Rejected
                };
                if matches!(&reply.body, ReplyBody::Failed(failure) if passes(failure)) {
                    return self.forward_to_next(now, forwarding, Some(reply), out);
                }
                self.send_reply(forwarding.to, reply, false, out);
            }
            Err(why) => {
                let failure =
                    Failure::unknown(Code::ServerLost, format!("the answer of the voter cannot be read: {why}"));
                self.refuse(now, forwarding.to, &forwarding.request, failure, out);
            }
        }
    }

    /// The link to a voter is gone: whether it carried out what was forwarded cannot be told.
    pub(super) fn forwards_lost(&mut self, now: Now, link: LinkId, out: &mut Vec<Effect>) {
        self.end_forwards(now, |forwarded| forwarded.link == link, "the voter that took the request is gone", out);
    }

    pub(super) fn expire_forwarded(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.end_forwards(now, |forwarded| forwarded.deadline() <= now.mono, "the voter did not answer in time", out);
    }

    fn end_forwards(&mut self, now: Now, ended: impl Fn(&Forwarded) -> bool, why: &str, out: &mut Vec<Effect>) {
        let tickets: Vec<u64> =
            self.forwarded.iter().filter(|(_, forwarded)| ended(forwarded)).map(|(&ticket, _)| ticket).collect();
        for forwarded in tickets.iter().filter_map(|ticket| self.forwarded.remove(ticket)).collect::<Vec<_>>() {
            let Forwarding { to, request, .. } = forwarded.forwarding;
            let reply = self.reply_to(now, &request, ReplyBody::Failed(Failure::unknown(Code::ServerLost, why)), false);
            self.send_reply(to, reply, true, out);
        }
    }
}
