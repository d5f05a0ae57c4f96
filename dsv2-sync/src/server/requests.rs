//! Requests: waiting for what they depend on, and reads.

use std::collections::BTreeMap;

use dsv2_core::{Code, Failure, Mono, Now, ReplyBody, Request, RequestBody, StatusReport};

use super::history::{Page, Paging};
use super::io::{Effect, LinkId, Read, ReadResult};
use super::pulls::Sure;
use super::{ReplyTo, Server};
use crate::guard::is_plausible;
use crate::link::LINK_VERSION;
use crate::planted::Bug;
use crate::replication::ReplicationLog;

/// Requests that wait for events which their client has seen elsewhere.
#[derive(Debug, Default)]
pub(super) struct Parked {
    requests: BTreeMap<(Mono, u64), (ReplyTo, Box<Request>)>,
    next: u64,
}

impl Parked {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.requests.first_key_value().map(|((at, _), _)| *at)
    }
}

/// A read of the store that is under way, and what it is for.
#[derive(Debug)]
pub(super) enum Reading {
    /// To answer a `history`.
    History(Box<Paging>),
    /// To answer a pull on a link, or to catch a peer up.
    Range(Asked),
    /// To see what may be retired.
    Floors,
}

/// A stretch of an origin's events that a peer is to get.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) link: LinkId,
    /// Whether it is what the own stream goes on with.
    pub(super) catch_up: bool,
    pub(super) origin: dsv2_core::Origin,
    pub(super) from: u64,
}

impl Server {
    /// A request arrived, from a client or from another server.
    pub(super) fn request(&mut self, now: Now, to: ReplyTo, request: Box<Request>, out: &mut Vec<Effect>) {
        self.requests += 1;
        if let Some(clock) = request.clock.filter(|&clock| !is_plausible(&self.clock, now, clock)) {
            self.observe(now, None);
            let failure =
                Failure::rejected(Code::BadClock, format!("clock {clock} is further ahead than any clock can be"));
            return self.refuse(now, to, &request, failure, out);
        }
        self.observe(now, request.clock);
        self.count_message(now, out);
        if self.is_behind(&request) && !self.planted.has(Bug::PositionIgnored) {
            self.park(now, to, request, out);
        } else {
            self.carry_out(now, to, request, out);
        }
    }

    /// Whether its client has seen what may not be shown here.
    pub(super) fn is_behind(&self, request: &Request) -> bool {
        request.ext.position.as_ref().is_some_and(|position| !self.visible().covers(position))
    }

    fn carry_out(&mut self, now: Now, to: ReplyTo, request: Box<Request>, out: &mut Vec<Effect>) {
        let body = match &request.body {
            RequestBody::Login { .. }
            | RequestBody::Channel { .. }
            | RequestBody::Publish { .. }
            | RequestBody::Message { .. } => {
                if self.config.may_write() || self.planted.has(Bug::LearnerWrites) {
                    self.write(now, to, request, out);
                } else {
                    self.forward(now, to, request, out);
                }
                return;
            }
            RequestBody::History(query) => {
                let query = query.clone();
                return self.history(now, to, request, &query, out);
            }
            RequestBody::Users => ReplyBody::Users(self.users().collect()),
            RequestBody::Channels => ReplyBody::Channels(self.channels().collect()),
            RequestBody::Status => ReplyBody::Status(Box::new(self.report(now))),
            RequestBody::Clock => ReplyBody::Time { wall: self.wall_now(now), resolution_us: 1_000 },
            RequestBody::Election => ReplyBody::Election,
            RequestBody::Rank(_) | RequestBody::List | RequestBody::Heartbeat(_) => {
                let failure = Failure::rejected(Code::UnknownService, "the reference answers this, not a server");
                return self.refuse(now, to, &request, failure, out);
            }
            _ => {
                let failure = Failure::rejected(Code::UnknownService, "this server does not know the service");
                return self.refuse(now, to, &request, failure, out);
            }
        };
        let reply = self.reply_to(now, &request, body, true);
        self.send_reply(to, reply, false, out);
    }

    fn users(&self) -> impl Iterator<Item = String> {
        let stuck = self.stuck.is_some();
        let shown = self.state.users().filter(move |name| !stuck || self.shows(self.state.user(name.as_str())));
        shown.map(ToString::to_string)
    }

    fn channels(&self) -> impl Iterator<Item = String> {
        let stuck = self.stuck.is_some();
        let shown = self.state.channels().filter(move |name| !stuck || self.shows(self.state.channel(name.as_str())));
        shown.map(ToString::to_string)
    }

    /// Keeps a request until the events it depends on have arrived, and asks for them.
    pub(super) fn park(&mut self, now: Now, to: ReplyTo, request: Box<Request>, out: &mut Vec<Effect>) {
        if self.parked.requests.len() >= self.config.caps.parked {
            let failure = Failure::rejected(Code::Full, "too many requests wait for events of other servers");
            return self.refuse(now, to, &request, failure, out);
        }
        if let Some(position) = &request.ext.position {
            for (origin, from) in self.log.missing(position) {
                self.pull(now, &origin, from, (None, Sure::Yes), out);
            }
        }
        self.parked.next += 1;
        let deadline = now.mono + self.config.timing.catch_up;
        self.parked.requests.insert((deadline, self.parked.next), (to, request));
    }

    /// Events arrived: carries out what waited for them.
    pub(super) fn unpark(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.parked.requests.is_empty() {
            return;
        }
        let held = self.visible();
        let covered = |request: &Request| request.ext.position.as_ref().is_none_or(|position| held.covers(position));
        let ready: Vec<_> =
            self.parked.requests.iter().filter(|(_, (_, request))| covered(request)).map(|(key, _)| *key).collect();
        for key in ready {
            if let Some((to, request)) = self.parked.requests.remove(&key) {
                self.carry_out(now, to, request, out);
            }
        }
    }

    pub(super) fn expire_parked(&mut self, now: Now, out: &mut Vec<Effect>) {
        while let Some(entry) = self.parked.requests.first_entry().filter(|entry| entry.key().0 <= now.mono) {
            let (to, request) = entry.remove();
            let failure =
                Failure::rejected(Code::Behind, "this server has not yet received what the client has seen elsewhere");
            self.refuse(now, to, &request, failure, out);
        }
    }

    pub(super) fn start_range(
        &mut self,
        link: LinkId,
        catch_up: bool,
        origin: dsv2_core::Origin,
        from: u64,
        out: &mut Vec<Effect>,
    ) {
        let token = self.token();
        self.reads.insert(token, Reading::Range(Asked { link, catch_up, origin: origin.clone(), from }));
        out.push(Effect::Read { token, read: Read::Range { origin, from, limit: self.config.caps.batch } });
    }

    /// How many reads of ranges are under way for a link.
    pub(super) fn ranges_for(&self, link: LinkId) -> usize {
        let ranges = self.reads.values().filter(|read| matches!(read, Reading::Range(asked) if asked.link == link));
        ranges.count()
    }

    /// The store answered.
    pub(super) fn read_done(
        &mut self,
        now: Now,
        token: u64,
        result: Result<ReadResult, String>,
        out: &mut Vec<Effect>,
    ) {
        match (self.reads.remove(&token), result) {
            (Some(Reading::History(paging)), Ok(ReadResult::Page { events, next, heads, more, retired })) => {
                self.page_read(now, *paging, Page { events, next, heads, more, retired }, out);
            }
            (Some(Reading::History(paging)), result) => {
                let why = result.err().unwrap_or_else(|| "the store answered something else".to_owned());
                self.refuse(now, paging.to, &paging.request, Failure::rejected(Code::NotReady, why), out);
            }
            (Some(Reading::Floors), result) => {
                let floors = match result {
                    Ok(ReadResult::Floors(retirement)) => Some(retirement),
                    _ => None,
                };
                self.floors_read(floors, out);
            }
            (Some(Reading::Range(asked)), Ok(ReadResult::Range { events, upto })) => {
                self.range_read(asked, upto, events, out);
            }
            (Some(Reading::Range(asked)), result) => {
                self.range_failed(asked.link);
                let why = result.err().unwrap_or_else(|| "the store answered something else".to_owned());
                out.push(Effect::Log(super::Note::Trouble(format!(
                    "events could not be read for another server: {why}"
                ))));
            }
            (None, _) => {}
        }
    }

    /// How this server is.
    #[must_use]
    pub fn report(&self, now: Now) -> StatusReport {
        let mut report = StatusReport::new(self.config.name.clone(), format!("{:032x}", self.config.node.0));
        report.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        report.link_version = Some(LINK_VERSION);
        let own = self.visible().get(&self.origin);
        report.origin = (own > 0).then(|| self.origin.to_string());
        report.ready = self.is_ready();
        report.trouble = self.trouble(now.mono);
        report.rank = self.registry.rank;
        report.coordinator = self.election.coordinator().map(|coordinator| coordinator.name.clone());
        report.epoch = self.election.epoch().number;
        report.lease_ms = self.lease_ms(now.mono);
        report.clock = self.shown_clock();
        report.wall = self.wall_report(now);
        report.voters = self.config.voters.iter().cloned().collect();
        report.departed = self.asked.departed.iter().cloned().collect();
        report.position = self.visible().clone();
        report.stable = self.stable();
        report.peers = self.peer_reports(now.mono);
        report.users = self.users().count() as u64;
        report.channels = self.channels().count() as u64;
        report.events = self.visible().events();
        report.requests = self.requests;
        report.conflicts = self.state.conflicts().map(str::to_owned).collect();
        report
    }
}
