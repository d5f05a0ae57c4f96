//! A store that takes no more writes: its disk is full, or failed.
//!
//! The machine has decided more than the disk holds by then. What it decided stays, and is held back by the lanes until
//! there is room; meanwhile it decides nothing more that would have to be written, and everything it says, which is about
//! what is durable only, leaves at once. So reads, links, elections and clock rounds go on, and memory does not grow.

use dsv2_core::{Code, Failure, LogicalClock, Now, Position, Reply, ReplyBody};

use super::Server;
use super::io::{Effect, Stuck};
use crate::planted::Bug;
use crate::replication::ReplicationLog;
use crate::state::Creation;

/// The store takes no more writes.
#[derive(Debug)]
pub(super) struct Standstill {
    /// What is on the disk.
    pub(super) durable: Position,
    pub(super) why: Stuck,
}

impl Server {
    /// What may be shown and told: what is held, or what is durable of it where the rest cannot become so.
    pub(super) fn visible(&self) -> &Position {
        let stuck = self.stuck.as_ref().filter(|_| !self.planted.has(Bug::StuckShowsAll));
        stuck.map_or(self.log.held(), |stuck| &stuck.durable)
    }

    /// Whether a user or a channel may be shown. One that was created twice is hidden where the disk lacks the creation
    /// that counts.
    pub(super) fn shows(&self, creation: Option<&Creation>) -> bool {
        let durable =
            |creation: &Creation| self.stuck.as_ref().is_none_or(|stuck| stuck.durable.contains(&creation.key.id));
        creation.is_some_and(durable)
    }

    /// Turns an answer that waits for a disk into one that leaves now: its outcome is open, and it shows nothing that is not
    /// durable, the reservation of its clock included.
    pub fn stop_waiting(&self, reply: &mut Reply) {
        let text = "the disk did not take it in time; it may be written yet";
        reply.body = ReplyBody::Failed(Failure::unknown(Code::Timeout, text));
        reply.position = None;
        reply.clock = Some(self.shown_clock());
    }

    /// Why a write is refused, where the store takes none.
    pub(super) fn check_store(&self) -> Result<(), Failure> {
        match self.stuck.as_ref().map(|stuck| &stuck.why) {
            None => Ok(()),
            Some(why @ Stuck::Full) => Err(Failure::rejected(Code::Full, why.to_string())),
            Some(why) => Err(Failure::rejected(Code::NotReady, why.to_string())),
        }
    }

    /// The clock of a message on a link: an unwritten reservation of clocks covers only what waits for it.
    pub(super) fn link_clock(&mut self) -> dsv2_core::Clock {
        if self.stuck.is_some() { self.prompt_clock() } else { self.clock.tick() }
    }

    /// There is room again. What other servers sent meanwhile is asked for by the next exchange of vectors.
    pub(super) fn unstuck(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.stuck.take().is_some() {
            // What the disk holds now may have been all that a retry waited for.
            let held = self.log.held().clone();
            self.recheck_waiting(now, &held, out);
            self.unpark(now, out);
            self.adopt_due(now, out);
            self.raise_floors(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use dsv2_core::{
        ChannelName, Clock, HistoryQuery, HistorySpan, Machine, Request, RequestBody, RequestExt, Subject,
    };

    use super::*;
    use crate::election::NodeId;
    use crate::server::{Input, ReadResult, ServerConfig};

    const NOW: Now = Now { mono: dsv2_core::Mono::ZERO, wall: dsv2_core::Wall { us: 1_700_000_000_000_000 } };

    fn ask(server: &mut Server, clock: Option<Clock>, ext: RequestExt, body: RequestBody) -> Vec<Effect> {
        let request = Request { format: dsv2_core::Format::Json, timestamp: None, clock, ext, body };
        let mut out = Vec::new();
        server.step(NOW, Input::Request { from: 1, request: Ok(request) }, &mut out);
        out
    }

    /// The disk runs full between a question and its answer: the page may not be shown to who has seen more.
    #[test]
    fn a_page_that_lacks_what_its_reader_has_seen_is_not_shown() {
        let mut server = Server::start(ServerConfig::new("s1".parse().expect("a name"), NodeId(1), 1), NOW, []);
        let channel: ChannelName = "dev".parse().expect("a name");
        ask(&mut server, None, RequestExt::default(), RequestBody::Channel { channel: channel.clone() });
        let seen = Position::from_iter([(server.origin().clone(), 1)]);
        for lost in [false, true] {
            let query =
                HistoryQuery { subject: Subject::Channel(channel.clone()), span: HistorySpan::Before(None), limit: 9 };
            let ext = RequestExt { position: Some(seen.clone()), ..RequestExt::default() };
            let out = ask(&mut server, None, ext, RequestBody::History(query));
            let token = out.iter().find_map(|effect| match effect {
                Effect::Read { token, .. } => Some(*token),
                _ => None,
            });
            let durable = if lost { Position::default() } else { seen.clone() };
            let mut out = Vec::new();
            server.step(NOW, Input::Stuck { durable, why: Stuck::Full }, &mut out);
            let page = ReadResult::Page {
                events: Vec::new(),
                next: Position::default(),
                heads: Position::default(),
                more: false,
                retired: Vec::new(),
            };
            server.step(NOW, Input::Read { token: token.expect("a read"), result: Ok(page) }, &mut out);
            assert_eq!(out.iter().any(|effect| matches!(effect, Effect::Reply { .. })), !lost);
            server.step(NOW, Input::Unstuck, &mut Vec::new());
        }
    }

    /// A restart goes back behind a clock whose reservation the disk did not take: nobody may have seen it.
    #[test]
    fn an_answer_that_waits_no_longer_shows_no_clock_that_is_not_reserved() {
        let limit = Clock::new(100).expect("in range");
        let mut config = ServerConfig::new("s1".parse().expect("a name"), NodeId(1), 1);
        config.clock_limit = limit;
        let mut server = Server::start(config, NOW, []);
        let mut out = ask(&mut server, Clock::new(5_000), RequestExt::default(), RequestBody::Users);
        let reply = out.iter_mut().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply),
            _ => None,
        });
        let reply = reply.expect("an answer");
        assert!(reply.clock > Some(limit), "it waits for the reservation");
        server.stop_waiting(reply);
        assert!(reply.clock <= Some(limit) && reply.position.is_none());
    }
}
