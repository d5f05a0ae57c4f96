//! What a topic asks history, and when, and what it makes of the answers.

use std::time::Duration;

use dsv2_core::{EventId, Feed, HistoryPage, HistoryQuery, HistorySpan, Mono, Position, Publication, Subject};

use super::{Blocked, Manner, Phase, Query, Sink, Track, cost_bytes};
use crate::planted::Bug;
use crate::session::config::SessionConfig;
use crate::session::io::{Delivery, Order};
use crate::session::resume::Step;

impl Track {
    /// Connections were lost and made: what came meanwhile is compared with history, now and when the subscription must
    /// have reached the servers.
    pub(in crate::session) fn reconnected(&mut self, now: Mono) {
        self.compare_at = now;
        self.not_before = now;
        self.failures = 0;
    }

    /// When it wants to ask something.
    pub(in crate::session) fn due(&self, is_full: bool) -> Option<Mono> {
        if self.query.is_some() {
            return None;
        }
        match self.phase {
            Phase::Baseline => Some(self.not_before),
            Phase::LiveOnly => None,
            // What a page brings could not be delivered.
            _ if is_full => None,
            Phase::Replay => Some(self.not_before),
            Phase::Stable => Some(self.compare_at.max(self.not_before)),
            Phase::Live => {
                let expected = self.expected.as_ref().map(|&(at, _)| at);
                let repair = self.repair.then_some(self.not_before);
                let compares = !self.planted.has(Bug::TailNeverCompared);
                [compares.then_some(self.compare_at.max(self.not_before)), expected, repair].into_iter().flatten().min()
            }
        }
    }

    /// What it asks now, if anything, and what the answering server should know. Exactly one answer follows.
    pub(in crate::session) fn ask(
        &mut self,
        now: Mono,
        proxy_up: bool,
        room: usize,
        config: &SessionConfig,
    ) -> Option<(HistoryQuery, Option<Position>)> {
        if self.due(room == 0).is_none_or(|at| at > now) {
            return None;
        }
        if let Some((_, heads)) = self.expected.take_if(|(at, _)| *at <= now)
            && !self.resume.covers(&heads)
        {
            (self.repair, self.missed) = (true, true);
        }
        let query = match self.phase {
            Phase::Baseline => Query::End,
            Phase::Replay | Phase::Stable => Query::Read,
            _ if self.repair && self.not_before <= now => Query::Read,
            _ if self.compare_at.max(self.not_before) <= now => {
                if proxy_up {
                    Query::Compare
                } else {
                    self.repair = true;
                    Query::Read
                }
            }
            _ => return None,
        };
        self.query = Some(query);
        let limit = match query {
            Query::End | Query::Compare => 1,
            Query::Read => config.page.min(room as u64).max(1),
        };
        let span = match query {
            Query::End => HistorySpan::Before(None),
            Query::Read | Query::Compare => HistorySpan::After(self.resume.clone()),
        };
        self.asked = std::mem::take(&mut self.manner);
        let beyond = (!self.blocked.is_empty() && self.asked == Manner::Insisting).then(|| {
            let missing = self.blocked.keys().filter(|prev| !self.resume.contains(prev));
            missing.map(|prev| (prev.origin.clone(), prev.seq)).collect()
        });
        Some((HistoryQuery { subject: subject(&self.feed), span, limit }, beyond))
    }

    /// A question was not answered.
    pub(in crate::session) fn failed(&mut self, now: Mono, config: &SessionConfig) {
        self.query = None;
        self.manner = Manner::Humble;
        self.back_off(now, config);
    }

    pub(super) fn back_off(&mut self, now: Mono, config: &SessionConfig) {
        let pause_ms = (config.backoff_ms << self.failures.min(16)).min(config.backoff_cap_ms);
        self.failures += 1;
        self.not_before = now + Duration::from_millis(pause_ms);
    }

    /// A question was answered. `false` if the topic cannot be followed yet as it was asked.
    pub(in crate::session) fn page(
        &mut self,
        now: Mono,
        page: HistoryPage,
        proxy_up: bool,
        config: &SessionConfig,
        sink: &mut Sink<'_>,
    ) -> bool {
        let Some(query) = self.query.take() else { return true };
        let compare_ms = if proxy_up { config.compare_ms } else { config.poll_ms };
        match query {
            Query::End => {
                self.resume.merge(&page.heads);
                sink.advance(Step::Vector(self.feed.clone(), page.heads));
                if self.order == Order::Stable {
                    (self.phase, self.failures, self.not_before, self.compare_at) = (Phase::Stable, 0, now, now);
                    return page.stable.is_some();
                }
                self.go_live(now, config, sink);
            }
            Query::Read if self.phase == Phase::Stable => return self.read_stable(now, page, config, sink),
            Query::Compare => {
                self.compare_at = now + Duration::from_millis(compare_ms);
                let heads = page.heads.clone();
                self.read(page, false, sink);
                if !self.resume.covers(&heads) {
                    self.expected = Some((now + Duration::from_millis(config.grace_ms), heads));
                }
                self.unblock(sink);
                if self.blocked.is_empty() {
                    self.failures = 0;
                }
            }
            Query::Read => {
                self.compare_at = now + Duration::from_millis(compare_ms);
                let (more, before) = (page.more, self.resume.clone());
                if !self.read(page, self.phase == Phase::Live, sink) {
                    self.repair = true;
                } else if more {
                    self.read_on(now, &before, config);
                } else if self.phase == Phase::Replay {
                    self.go_live(now, config, sink);
                } else {
                    self.repaired(now, config, sink);
                }
            }
        }
        true
    }

    /// Delivers a page's events; `false` if there was no room for all of them.
    fn read(&mut self, page: HistoryPage, recovers: bool, sink: &mut Sink<'_>) -> bool {
        for mut publication in page.events {
            let Some(event) = &publication.event else { continue };
            if self.resume.contains(event) || !self.address(&mut publication) {
                continue;
            }
            if !self.tell_retired(&page.retired, Some(&publication), sink) || sink.is_full() {
                return false;
            }
            self.recovered += u64::from(self.take(publication, sink) && recovers);
        }
        if !self.tell_retired(&page.retired, None, sink) {
            return false;
        }
        // Events whose message counts by another event are not listed, but are passed.
        if !self.resume.covers(&page.next) {
            self.resume.merge(&page.next);
            sink.advance(Step::Vector(self.feed.clone(), page.next));
        }
        true
    }

    /// Tells of a gap where retention took the predecessor of a page's event, or of an earlier one of the same origin that
    /// the page does not list, because its message counts by another; without an event, of all that is left. `false` if
    /// there was no room.
    pub(super) fn tell_retired(
        &mut self,
        retired: &[EventId],
        before: Option<&Publication>,
        sink: &mut Sink<'_>,
    ) -> bool {
        let is_earlier = |prev: &EventId, event: &EventId| prev.origin == event.origin && prev.seq < event.seq;
        let stands = |prev: &&EventId| {
            before.is_none_or(|listed| {
                listed.prev.as_ref() == Some(prev) || listed.event.as_ref().is_some_and(|event| is_earlier(prev, event))
            })
        };
        for prev in retired.iter().filter(stands) {
            let known = self.resume.contains(prev) || self.planted.has(Bug::RetiredUntold);
            if !known && !self.tell_missing(prev, sink) {
                return false;
            }
        }
        true
    }

    /// Tells that an event, and perhaps others of its origin before it, will not be delivered, and moves over it. `false` if
    /// there was no room.
    pub(super) fn tell_missing(&mut self, last: &EventId, sink: &mut Sink<'_>) -> bool {
        if sink.is_full() {
            return false;
        }
        self.resume.advance(last);
        let step = Step::Event(self.feed.clone(), last.clone());
        sink.deliver(Delivery::Gap { feed: self.feed.clone(), missing: Some(last.clone()) }, Some(step));
        true
    }

    /// Asks for the next page; at once, unless this one brought nothing although it said there is more.
    fn read_on(&mut self, now: Mono, before: &Position, config: &SessionConfig) {
        (self.repair, self.manner) = (self.phase == Phase::Live, Manner::ReadingOn);
        if self.resume != *before {
            (self.failures, self.not_before) = (0, now);
        } else {
            self.back_off(now, config);
        }
    }

    fn go_live(&mut self, now: Mono, config: &SessionConfig, sink: &mut Sink<'_>) {
        self.phase = Phase::Live;
        (self.repair, self.failures, self.not_before) = (false, 0, now);
        // The subscription may have reached the publishers only after the page was read.
        self.compare_at = now + Duration::from_millis(config.grace_ms);
        self.unblock(sink);
        self.release(now, config, sink);
        self.recovered = 0;
    }

    /// History was read to its end: what is still blocked, no server that was asked has.
    fn repaired(&mut self, now: Mono, config: &SessionConfig, sink: &mut Sink<'_>) {
        self.repair = false;
        self.expected = None;
        self.discard_known();
        self.unblock(sink);
        if self.asked == Manner::ReadingOn && !self.blocked.is_empty() {
            // Nobody was asked for what is missing yet.
            (self.repair, self.not_before) = (true, now);
            return;
        }
        if let Some(patience_ms) = config.patience_ms {
            self.skip_missing(now, Duration::from_millis(patience_ms), sink);
        }
        if self.blocked.is_empty() {
            (self.failures, self.not_before) = (0, now);
        } else {
            self.repair = true;
            self.back_off(now, config);
        }
        self.report_recovery(sink);
    }

    /// Forgets blocked events that history has delivered.
    fn discard_known(&mut self) {
        let resume = &self.resume;
        let mut freed = 0;
        self.blocked.retain(|_, blocked| {
            let known = blocked.publication.event.as_ref().is_none_or(|event| resume.contains(event));
            freed += if known { cost_bytes(&blocked.publication) } else { 0 };
            !known
        });
        self.kept_bytes -= freed;
    }

    /// Gives up what has been missing for too long: tells of the gap, and goes on behind it.
    fn skip_missing(&mut self, now: Mono, patience: Duration, sink: &mut Sink<'_>) {
        let is_over = |(_, blocked): &(&EventId, &Blocked)| blocked.since + patience <= now;
        let overdue: Vec<EventId> = self.blocked.iter().filter(is_over).map(|(prev, _)| prev.clone()).collect();
        for missing in overdue {
            // Behind another blocked event it is not itself what is missing.
            let is_blocked = self.blocked.values().any(|blocked| blocked.publication.event.as_ref() == Some(&missing));
            if is_blocked || sink.is_full() || !self.blocked.contains_key(&missing) {
                continue;
            }
            self.resume.advance(&missing);
            let step = Step::Event(self.feed.clone(), missing.clone());
            sink.deliver(Delivery::Gap { feed: self.feed.clone(), missing: Some(missing.clone()) }, Some(step));
            self.follow(missing, sink);
        }
    }

    pub(super) fn report_recovery(&mut self, sink: &mut Sink<'_>) {
        if self.recovered > 0 && self.blocked.is_empty() && !self.repair && !sink.is_full() {
            let messages = std::mem::take(&mut self.recovered);
            sink.deliver(Delivery::Recovered { feed: self.feed.clone(), messages }, None);
        }
    }
}

fn subject(feed: &Feed) -> Subject {
    match feed {
        Feed::Channel(channel) => Subject::Channel(channel.clone()),
        Feed::Inbox(user) => Subject::Inbox(user.clone()),
        Feed::Conversation(a, b) => Subject::Conversation { user: a.clone(), with: b.clone() },
    }
}
