//! Subscriptions: which topics each follows, who gets a publication, and which topic may ask history next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dsv2_core::{Code, Failure, Feed, HistoryPage, Mono, Now, Publication, RequestBody};

use super::Session;
use super::calls::Owner;
use super::io::{Answer, CallOptions, Delivery, Effect, Note, Order, Side};
use super::resume::Cursor;
use super::track::{Sink, Track, TrackId};

/// How many topics one subscription may follow.
const TOPICS_CAP: usize = 10_000;

/// All subscriptions of a session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_id: BTreeMap<u64, Subscription>,
    /// Who follows a topic of the wire.
    topics: BTreeMap<String, Vec<TrackId>>,
    /// When topics want to ask history.
    timers: BTreeSet<(Mono, TrackId)>,
    /// When subscriptions that are not established yet fail.
    opening: BTreeSet<(Mono, u64)>,
    /// Questions that are not answered.
    open_queries: usize,
}

#[derive(Debug)]
struct Subscription {
    tracks: Vec<Track>,
    /// Until all of its topics are established.
    opening: Option<Opening>,
    /// Deliveries that its consumer has not taken.
    waiting: usize,
    /// The consumer is to be told of a reconnection as soon as there is room.
    reconnected: bool,
}

/// A subscription that is not established yet.
#[derive(Debug)]
struct Opening {
    /// Topics that are not established.
    missing: BTreeSet<usize>,
    until: Mono,
    /// What stood in the way last.
    obstacle: Option<Failure>,
}

impl Session {
    /// Starts a subscription.
    pub(super) fn subscribe(
        &mut self,
        now: Now,
        token: u64,
        wanted: (&[Feed], &Cursor, Order),
        options: &CallOptions,
        out: &mut Vec<Effect>,
    ) {
        let (feeds, cursor, order) = wanted;
        let feeds: BTreeSet<&Feed> = feeds.iter().collect();
        let refusal = if feeds.is_empty() || feeds.len() > TOPICS_CAP {
            Some("a subscription has 1 to 10,000 topics")
        } else if feeds.iter().any(|feed| topic(feed).is_none()) {
            Some("a conversation cannot be followed")
        } else if self.subscriptions.by_id.contains_key(&token) {
            Some("the token is in use")
        } else {
            None
        };
        if let Some(text) = refusal {
            out.push(Effect::Done { token, result: Err(Failure::rejected(Code::BadField, text)) });
            return;
        }
        let until = now.mono + Duration::from_millis(options.timeout_ms.unwrap_or(self.config.timeout_ms));
        let mut tracks = Vec::with_capacity(feeds.len());
        for (index, feed) in feeds.into_iter().enumerate() {
            let from = match cursor {
                Cursor::Last => None,
                Cursor::Beginning => Some(dsv2_core::Position::default()),
                Cursor::At(point) => point.get(feed),
            };
            tracks.push(Track::new(feed.clone(), from, order, now.mono, &self.config).with(self.planted));
            let Some(topic) = topic(feed) else { continue };
            let listeners = self.subscriptions.topics.entry(topic.to_owned()).or_default();
            if listeners.is_empty() {
                out.push(Effect::Listen(topic.to_owned()));
            }
            listeners.push(TrackId { subscription: token, index });
        }
        let opening = Some(Opening { missing: (0..tracks.len()).collect(), until, obstacle: None });
        let count = tracks.len();
        let subscription = Subscription { tracks, opening, waiting: 0, reconnected: false };
        self.subscriptions.by_id.insert(token, subscription);
        self.subscriptions.opening.insert((until, token));
        for index in 0..count {
            self.tend(now, TrackId { subscription: token, index }, out);
        }
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, id: u64, out: &mut Vec<Effect>) {
        let Some(subscription) = self.subscriptions.by_id.remove(&id) else { return };
        if let Some(opening) = subscription.opening {
            self.subscriptions.opening.remove(&(opening.until, id));
        }
        for (index, track) in subscription.tracks.iter().enumerate() {
            let id = TrackId { subscription: id, index };
            if let Some(armed) = track.armed {
                self.subscriptions.timers.remove(&(armed, id));
            }
            let Some(topic) = topic(track.feed()) else { continue };
            let Some(listeners) = self.subscriptions.topics.get_mut(topic) else { continue };
            listeners.retain(|listener| *listener != id);
            if listeners.is_empty() {
                self.subscriptions.topics.remove(topic);
                out.push(Effect::Unlisten(topic.to_owned()));
            }
        }
    }

    /// Ends all of them; those not established are answered.
    pub(super) fn end_subscriptions(&mut self, out: &mut Vec<Effect>) {
        let ids: Vec<u64> = self.subscriptions.by_id.keys().copied().collect();
        for id in ids {
            self.fail_opening(id, Failure::rejected(Code::NotReady, "the session was closed"), out);
            self.unsubscribe(id, out);
        }
    }

    /// A publication arrived.
    pub(super) fn published(&mut self, now: Now, topic: &[u8], body: &[u8], out: &mut Vec<Effect>) {
        // A SUB socket matches by prefix: what was sent to `ana` also reaches who follows `an`.
        let Some(listeners) = std::str::from_utf8(topic).ok().and_then(|topic| self.subscriptions.topics.get(topic))
        else {
            return;
        };
        let publication = match Publication::decode(body, &self.config.limits) {
            Ok(publication) => publication,
            Err(why) => return out.push(Effect::Log(Note::UnreadablePublication(why))),
        };
        self.proxy.since = Some(now.mono);
        let [first, rest @ ..] = listeners.as_slice() else { return };
        let (first, rest) = (*first, rest.to_vec());
        self.observe(now, publication.clock, out);
        for id in rest {
            self.live(now, id, publication.clone(), out);
        }
        self.live(now, first, publication, out);
    }

    fn live(&mut self, now: Now, id: TrackId, publication: Publication, out: &mut Vec<Effect>) {
        self.with_track(id, out, |track, config, sink, _| track.live(now.mono, publication, config, sink));
        self.tend(now, id, out);
    }

    /// A consumer took deliveries.
    pub(super) fn consumed(&mut self, now: Now, id: u64, deliveries: usize, out: &mut Vec<Effect>) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        let was_full = subscription.waiting >= self.config.window;
        subscription.waiting = subscription.waiting.saturating_sub(deliveries);
        if !was_full || subscription.waiting >= self.config.window {
            return;
        }
        if std::mem::take(&mut subscription.reconnected) {
            subscription.waiting += 1;
            out.push(Effect::Deliver { subscription: id, delivery: Delivery::Reconnected, step: None });
        }
        for index in 0..subscription.tracks.len() {
            let id = TrackId { subscription: id, index };
            self.with_track(id, out, |track, config, sink, _| track.resume_delivery(now.mono, config, sink));
            self.tend(now, id, out);
        }
    }

    /// A connection was made: everything is compared with history.
    pub(super) fn compare_all(&mut self, now: Now, reconnected: bool, out: &mut Vec<Effect>) {
        let ids: Vec<(u64, usize)> = self.subscriptions.by_id.iter().map(|(&id, s)| (id, s.tracks.len())).collect();
        for (id, count) in ids {
            if reconnected && let Some(subscription) = self.subscriptions.by_id.get_mut(&id) {
                if subscription.waiting < self.config.window {
                    subscription.waiting += 1;
                    out.push(Effect::Deliver { subscription: id, delivery: Delivery::Reconnected, step: None });
                } else {
                    subscription.reconnected = true;
                }
            }
            for index in 0..count {
                let id = TrackId { subscription: id, index };
                self.with_track(id, out, |track, _, _, _| track.reconnected(now.mono));
                self.tend(now, id, out);
            }
        }
    }

    /// Servers with history are there again.
    pub(super) fn history_is_back(&mut self, now: Now, out: &mut Vec<Effect>) {
        let ids: Vec<TrackId> = self.subscriptions.topics.values().flatten().copied().collect();
        for id in ids {
            self.with_track(id, out, |track, _, _, _| track.go_with_history(now.mono));
            self.tend(now, id, out);
        }
    }

    /// A topic's question was answered, or will not be.
    pub(super) fn track_answered(
        &mut self,
        now: Now,
        id: TrackId,
        result: Result<HistoryPage, Failure>,
        out: &mut Vec<Effect>,
    ) {
        self.subscriptions.open_queries -= 1;
        let is_opening = self.subscriptions.is_opening(id);
        let established = match result {
            Ok(page) => {
                let mut usable = true;
                self.with_track(id, out, |track, config, sink, proxy_up| {
                    usable = track.page(now.mono, page, proxy_up, config, sink);
                });
                if is_opening && !usable {
                    let text = "there is no stable order: the cluster has no voters, or not all have been heard";
                    self.note_obstacle(id.subscription, Failure::rejected(Code::NotReady, text));
                }
                usable
            }
            Err(failure) => {
                let no_history = matches!(failure.code, Code::UnknownService | Code::Other);
                let mut alone = false;
                self.with_track(id, out, |track, config, sink, _| {
                    track.failed(now.mono, config);
                    alone = no_history && track.needs_no_past();
                    if alone {
                        track.go_without_history(now.mono, config, sink);
                    }
                });
                let is_final = matches!(failure.code, Code::UnknownChannel | Code::UnknownUser | Code::BadField);
                if is_opening && !alone && (no_history || is_final) {
                    self.fail_opening(id.subscription, failure, out);
                    self.unsubscribe(id.subscription, out);
                } else if is_opening {
                    self.note_obstacle(id.subscription, failure);
                }
                alone
            }
        };
        if established && is_opening {
            self.established(id, out);
        }
        self.tend(now, id, out);
        self.tend_due(now, out);
    }

    fn established(&mut self, id: TrackId, out: &mut Vec<Effect>) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id.subscription) else { return };
        let Some(opening) = &mut subscription.opening else { return };
        opening.missing.remove(&id.index);
        if opening.missing.is_empty() {
            self.subscriptions.opening.remove(&(opening.until, id.subscription));
            subscription.opening = None;
            let gapless = subscription.tracks.iter().all(Track::is_gapless);
            out.push(Effect::Done { token: id.subscription, result: Ok(Answer::Subscribed { gapless }) });
        }
    }

    fn note_obstacle(&mut self, id: u64, failure: Failure) {
        if let Some(opening) = self.subscriptions.by_id.get_mut(&id).and_then(|s| s.opening.as_mut()) {
            opening.obstacle = Some(failure);
        }
    }

    pub(super) fn fail_opening(&mut self, id: u64, failure: Failure, out: &mut Vec<Effect>) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id) else { return };
        if let Some(opening) = subscription.opening.take() {
            self.subscriptions.opening.remove(&(opening.until, id));
            out.push(Effect::Done { token: id, result: Err(failure) });
        }
    }

    /// Lets subscriptions fail that were not established in time, and topics ask whose moment has come.
    pub(super) fn tend_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        while let Some(&(until, id)) = self.subscriptions.opening.first()
            && until <= now.mono
        {
            let opening = self.subscriptions.by_id.get_mut(&id).and_then(|subscription| subscription.opening.as_mut());
            let obstacle = opening.and_then(|opening| opening.obstacle.take());
            let silence = || Failure::rejected(Code::Timeout, "no server answered in time");
            self.fail_opening(id, obstacle.unwrap_or_else(silence), out);
            self.unsubscribe(id, out);
        }
        while self.may_ask()
            && let Some(&(at, id)) = self.subscriptions.timers.first()
            && at <= now.mono
        {
            self.tend(now, id, out);
        }
    }

    fn may_ask(&self) -> bool {
        self.broker.up && self.subscriptions.open_queries < self.config.queries.max(1)
    }

    /// Lets a topic ask if it wants to, and sets its timer.
    fn tend(&mut self, now: Now, id: TrackId, out: &mut Vec<Effect>) {
        let (may_ask, proxy_up) = (self.may_ask(), self.proxy.up);
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id.subscription) else { return };
        let room = self.config.window.saturating_sub(subscription.waiting);
        let Some(track) = subscription.tracks.get_mut(id.index) else { return };
        let question = if may_ask { track.ask(now.mono, proxy_up, room, &self.config) } else { None };
        let missed = track.take_missed();
        let due = track.due(room == 0);
        if due != track.armed {
            let timers = &mut self.subscriptions.timers;
            if let Some(at) = track.armed {
                timers.remove(&(at, id));
            }
            timers.extend(due.map(|at| (at, id)));
            track.armed = due;
        }
        if missed && self.proxy.is_silent_since(now.mono, self.config.silence_ms) {
            self.proxy.since = Some(now.mono);
            out.push(Effect::Reconnect(Side::Proxy));
        }
        if let Some((query, beyond)) = question {
            self.subscriptions.open_queries += 1;
            self.ask(now, Owner::Track(id), RequestBody::History(query), beyond, out);
        }
    }

    fn with_track(
        &mut self,
        id: TrackId,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Track, &super::SessionConfig, &mut Sink<'_>, bool),
    ) {
        let Some(subscription) = self.subscriptions.by_id.get_mut(&id.subscription) else { return };
        let Some(track) = subscription.tracks.get_mut(id.index) else { return };
        let mut sink = Sink {
            subscription: id.subscription,
            waiting: &mut subscription.waiting,
            window: self.config.window.max(1),
            token: &mut self.token,
            out,
        };
        act(track, &self.config, &mut sink, self.proxy.up);
    }

    /// When a subscription wants to be woken.
    pub(super) fn subscriptions_deadline(&self) -> Option<Mono> {
        let opening = self.subscriptions.opening.first().map(|&(at, _)| at);
        let timer = if self.may_ask() { self.subscriptions.timers.first().map(|&(at, _)| at) } else { None };
        [opening, timer].into_iter().flatten().min()
    }
}

impl Subscriptions {
    fn is_opening(&self, id: TrackId) -> bool {
        let subscription = self.by_id.get(&id.subscription);
        subscription.and_then(|s| s.opening.as_ref()).is_some_and(|opening| opening.missing.contains(&id.index))
    }
}

/// The topic of the wire.
fn topic(feed: &Feed) -> Option<&str> {
    match feed {
        Feed::Channel(channel) => Some(channel.as_str()),
        Feed::Inbox(user) => Some(user.as_str()),
        Feed::Conversation(..) => None,
    }
}
