//! Pages of history: what of a feed is shown, and what stands behind an event that counts.

use dsv2_core::{
    Clock, Code, Event, EventId, Failure, Feed, Floors, HistoryPage, HistoryQuery, HistorySpan, Now, OrderKey,
    Position, ReplyBody, Request, Subject,
};

use super::io::{Effect, Read};
use super::requests::Reading;
use super::{ReplyTo, Server};
use crate::planted::Bug;

/// A page of history that is being read.
#[derive(Debug)]
pub(super) struct Paging {
    pub(super) to: ReplyTo,
    pub(super) request: Box<Request>,
    feed: Feed,
    limit: usize,
    backward: bool,
    /// As it was when the read was asked for: what became stable meanwhile, the read may not have found.
    stable: Option<Clock>,
    /// Where to read on forward, and the heads, as the first read told it where another had to follow.
    follow: Option<(Position, Position)>,
    /// What the reads before found to be retired.
    retired: Vec<EventId>,
    /// What is read now, and below which floors messages were forgotten then.
    reading: Option<(Read, Floors)>,
}

/// What the store read.
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    pub(super) next: Position,
    pub(super) heads: Position,
    pub(super) more: bool,
    pub(super) retired: Vec<EventId>,
}

impl Server {
    pub(super) fn history(
        &mut self,
        now: Now,
        to: ReplyTo,
        request: Box<Request>,
        query: &HistoryQuery,
        out: &mut Vec<Effect>,
    ) {
        let feed = match &query.subject {
            Subject::Topic(topic) => {
                let shown = self.shows(self.state.channel(topic)) || self.shows(self.state.user(topic));
                self.state.feed(topic).filter(|_| shown)
            }
            subject => subject.feed(),
        };
        let Some(feed) = feed else {
            let failure = Failure::rejected(Code::UnknownChannel, "topic is neither a channel nor a user");
            return self.refuse(now, to, &request, failure, out);
        };
        if self.reads.len() >= self.config.caps.parked {
            return self.refuse(now, to, &request, Failure::rejected(Code::Full, "too many reads are under way"), out);
        }
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).min(self.config.caps.page);
        let stable = self.stable();
        let mut paging = Paging {
            to,
            request,
            feed,
            limit,
            backward: true,
            stable,
            follow: None,
            retired: Vec::new(),
            reading: None,
        };
        match &query.span {
            HistorySpan::Before(key) => self.read_before(paging, key.clone(), out),
            HistorySpan::After(position) => {
                paging.backward = false;
                let read = Read::After { feed: paging.feed.clone(), position: position.clone(), limit };
                self.read_page(paging, read, out);
            }
        }
    }

    fn read_before(&mut self, paging: Paging, key: Option<OrderKey>, out: &mut Vec<Effect>) {
        let read = Read::Before { feed: paging.feed.clone(), key, limit: paging.limit };
        self.read_page(paging, read, out);
    }

    fn read_page(&mut self, mut paging: Paging, read: Read, out: &mut Vec<Effect>) {
        let token = self.token();
        paging.reading = Some((read.clone(), self.state.floors()));
        self.reads.insert(token, Reading::History(Box::new(paging)));
        out.push(Effect::Read { token, read });
    }

    /// A page was read. Twins are left out; where nothing else was in a page that is read backward, the one before it is
    /// read: who pages goes on from its first event, and could not go on from none.
    pub(super) fn page_read(&mut self, now: Now, mut paging: Paging, page: Page, out: &mut Vec<Effect>) {
        // What was held when the question came, the disk did not take: the page lacks what the client has seen.
        if self.stuck.is_some() && self.is_behind(&paging.request) {
            return self.park(now, paging.to, paging.request, out);
        }
        // Which of the events were twins was forgotten together with what retention took: without that they are read again.
        if let Some((read, _)) = paging.reading.take_if(|(_, floors)| *floors != self.state.floors()) {
            return self.read_page(paging, read, out);
        }
        let Page { mut events, next, heads, more, retired } = page;
        let first = events.first().map(Event::key);
        // The event that counts may have come after the page was read, of which the heads are given: then the message is
        // shown where it counted before.
        events.retain(|event| self.planted.has(Bug::TwinShown) || self.state.counts_within(event, &heads));
        paging.retired.extend(retired);
        let (next, heads) = paging.follow.take().unwrap_or((next, heads));
        match first {
            Some(first) if paging.backward && events.is_empty() && more => {
                paging.follow = Some((next, heads));
                self.read_before(paging, Some(first), out);
            }
            _ => {
                let Paging { to, request, stable, retired, .. } = paging;
                let stable = stable.filter(|_| self.stuck.is_none());
                let events = HistoryPage::publications(&events);
                let page = HistoryPage { events, next, heads, more, stable, retired };
                let reply = self.reply_to(now, &request, ReplyBody::History(page), true);
                self.send_reply(to, reply, false, out);
            }
        }
    }
}
