//! The calls that are under way: each with its attempts, its deadline, and what is known of its effect.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{ChannelName, Failure, Feed, Mono, Outcome, Request, RequestBody, UserName};

use super::track::TrackId;

/// How many attempts of one call are told apart; a call that may have an effect is not tried more often.
pub(super) const ATTEMPTS: u32 = 64;
const ATTEMPT_BITS: u32 = ATTEMPTS.trailing_zeros();

/// The deadline of what has none.
pub(super) const NEVER: Mono = Mono { us: u64::MAX };

/// A call that is not answered yet.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) owner: Owner,
    pub(super) request: Request,
    pub(super) deadline: Mono,
    pub(super) state: CallState,
    /// Attempts made so far. A number of the wire carries the attempt's index, so that answers are told apart.
    pub(super) sent: u32,
    /// Attempts that may still be answered, one bit each.
    alive: u64,
    /// Attempts that will never be answered, or whose answer was *unknown*: each may have taken effect.
    lost: u64,
    /// How often it was refused and is to be repeated, for the pause.
    pub(super) refusals: u32,
    /// The last refusal.
    pub(super) last: Option<Failure>,
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The program.
    Caller(u64),
    /// The session itself; and the program too, where it asked.
    Login(Option<u64>),
    /// A topic of a subscription.
    Track(TrackId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallState {
    /// To be sent as soon as it is its turn.
    Waiting,
    /// Sent; if there is no answer by then, another attempt is made.
    Sent { expires: Mono },
    /// Refused; to be sent again then. Only reads: writes are held together with what follows them.
    Paused { until: Mono },
    /// Refused, or behind one that was, on the same topic.
    Held,
}

impl Call {
    pub(super) fn new(owner: Owner, request: Request, deadline: Mono) -> Self {
        let state = CallState::Waiting;
        Self { owner, request, deadline, state, sent: 0, alive: 0, lost: 0, refusals: 0, last: None }
    }

    /// Whether it may change something.
    pub(super) fn is_write(&self) -> bool {
        write_of(&self.request.body).is_some()
    }

    /// Whether it waits until it is settled who writes.
    pub(super) fn waits_for_login(&self) -> bool {
        self.is_write() && !matches!(self.owner, Owner::Login(_))
    }

    /// Whether repeating it can do no harm even where servers do not know it again.
    pub(super) fn is_idempotent(&self) -> bool {
        !matches!(self.request.body, RequestBody::Publish { .. } | RequestBody::Message { .. })
    }

    /// Whether something may have happened already.
    pub(super) fn may_have_happened(&self) -> bool {
        self.alive != 0 || self.lost != 0
    }

    /// Whether an answer can still come.
    pub(super) fn is_alive(&self) -> bool {
        self.alive != 0
    }

    /// Notes an attempt; yields its index.
    pub(super) fn note_sent(&mut self) -> u32 {
        let attempt = self.sent % ATTEMPTS;
        self.sent += 1;
        self.alive |= 1 << attempt;
        attempt
    }

    /// Notes how an attempt was answered by a failure. An answer that comes twice is counted once.
    pub(super) fn note_failure(&mut self, attempt: u32, failure: &Failure) {
        self.alive &= !(1 << attempt);
        match failure.outcome {
            Outcome::Unknown => self.lost |= 1 << attempt,
            // The connection may have been given up meanwhile, and the answer have come after all.
            Outcome::Rejected => self.lost &= !(1 << attempt),
        }
        self.last = Some(failure.clone());
    }

    /// Whether no attempt but `attempt` was ever made.
    pub(super) fn is_only_attempt(&self, attempt: u32) -> bool {
        self.sent == 1 && attempt == 0
    }

    /// Starts anew under another identity, after it is certain that nothing happened.
    pub(super) fn forget_attempts(&mut self) {
        (self.alive, self.lost) = (0, 0);
        self.request.ext.session = None;
        self.request.ext.number = None;
    }

    /// The connection is gone: no attempt will be answered.
    pub(super) fn note_disconnected(&mut self) {
        self.lost |= self.alive;
        self.alive = 0;
    }

    /// What the caller is told in the end: *unknown* wherever something may have happened.
    pub(super) fn settle(&self, mut failure: Failure) -> Failure {
        failure.outcome =
            if self.is_write() && self.may_have_happened() { Outcome::Unknown } else { Outcome::Rejected };
        failure
    }

    /// When it wants to be looked at.
    pub(super) fn due(&self) -> Mono {
        match self.state {
            CallState::Sent { expires: at } | CallState::Paused { until: at } => at.min(self.deadline),
            CallState::Waiting | CallState::Held => self.deadline,
        }
    }

    /// How much memory it counts for.
    pub(super) fn cost_bytes(&self) -> usize {
        match &self.request.body {
            RequestBody::Publish { message, .. } | RequestBody::Message { message, .. } => 256 + message.len(),
            _ => 256,
        }
    }
}

/// Where a write goes: writes of one topic keep their order.
pub(super) fn write_of(body: &RequestBody) -> Option<WriteTo<'_>> {
    match body {
        RequestBody::Login { .. } => Some(WriteTo::Server),
        RequestBody::Channel { channel } | RequestBody::Publish { channel, .. } => Some(WriteTo::Channel(channel)),
        RequestBody::Message { dst, .. } => Some(WriteTo::Inbox(dst)),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum WriteTo<'a> {
    Server,
    Channel(&'a ChannelName),
    Inbox(&'a UserName),
}

impl WriteTo<'_> {
    fn feed(self) -> Option<Feed> {
        match self {
            Self::Server => None,
            Self::Channel(channel) => Some(Feed::Channel(channel.clone())),
            Self::Inbox(user) => Some(Feed::Inbox(user.clone())),
        }
    }
}

/// All calls under way, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Boxed, because a map moves its values about.
    table: BTreeMap<u64, Box<Call>>,
    last_id: u64,
    /// What is to be sent, in the order of the calls, whatever happened to them. Calls that ended or changed meanwhile
    /// are skipped.
    writes: BTreeSet<u64>,
    /// Reads, and logins: neither waits for a login.
    free: BTreeSet<u64>,
    /// Writes that wait for their topic, and until when.
    holds: BTreeMap<Feed, Hold>,
    callers: usize,
    bytes: usize,
    /// No call wants to be looked at before.
    next_look: Option<Mono>,
}

#[derive(Debug)]
struct Hold {
    until: Mono,
    calls: BTreeSet<u64>,
}

impl Calls {
    /// How many calls of the program are under way, and how many bytes they count for.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.callers, self.bytes)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Call> {
        self.table.get(&id).map(|call| &**call)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Call> {
        self.table.get_mut(&id).map(|call| &mut **call)
    }

    /// The call and the attempt's index that a number of the wire means.
    pub(super) fn locate(wire: u64) -> (u64, u32) {
        (wire >> ATTEMPT_BITS, (wire % u64::from(ATTEMPTS)) as u32)
    }

    /// The number of the wire for an attempt.
    pub(super) fn wire(id: u64, attempt: u32) -> u64 {
        (id << ATTEMPT_BITS) | u64::from(attempt)
    }

    /// Takes a call in; it is not queued yet.
    pub(super) fn insert(&mut self, call: Call) -> u64 {
        self.last_id += 1;
        if matches!(call.owner, Owner::Caller(_)) {
            self.callers += 1;
            self.bytes += call.cost_bytes();
        }
        self.look_at(call.due());
        self.table.insert(self.last_id, Box::new(call));
        self.last_id
    }

    /// Takes a call out.
    pub(super) fn remove(&mut self, id: u64) -> Option<Box<Call>> {
        let call = self.table.remove(&id)?;
        if matches!(call.owner, Owner::Caller(_)) {
            self.callers -= 1;
            self.bytes -= call.cost_bytes();
        }
        if call.state == CallState::Held
            && let Some(feed) = write_of(&call.request.body).and_then(WriteTo::feed)
            && let Some(hold) = self.holds.get_mut(&feed)
        {
            hold.calls.remove(&id);
            if hold.calls.is_empty() {
                self.holds.remove(&feed);
            }
        }
        Some(call)
    }

    /// Has a call sent when it is its turn: the oldest call goes first.
    pub(super) fn queue(&mut self, id: u64) {
        let Some(call) = self.table.get_mut(&id) else { return };
        call.state = CallState::Waiting;
        let queue = if call.waits_for_login() { &mut self.writes } else { &mut self.free };
        queue.insert(id);
    }

    /// The next call to send. A write behind one that is held on its topic is held with it.
    pub(super) fn next(&mut self, writes_open: bool) -> Option<u64> {
        while let Some(id) = self.free.pop_first() {
            if self.table.get(&id).is_some_and(|call| call.state == CallState::Waiting) {
                return Some(id);
            }
        }
        if !writes_open {
            return None;
        }
        loop {
            let id = self.writes.pop_first()?;
            let Some(call) = self.table.get_mut(&id).filter(|call| call.state == CallState::Waiting) else { continue };
            if !self.holds.is_empty()
                && let Some(feed) = write_of(&call.request.body).and_then(WriteTo::feed)
                && let Some(hold) = self.holds.get_mut(&feed)
            {
                call.state = CallState::Held;
                hold.calls.insert(id);
                continue;
            }
            return Some(id);
        }
    }

    /// Has a refused call wait until then; with a write all later ones on its topic wait.
    pub(super) fn pause(&mut self, id: u64, until: Mono) {
        let Some(call) = self.table.get_mut(&id) else { return };
        match write_of(&call.request.body).and_then(WriteTo::feed) {
            None => call.state = CallState::Paused { until },
            Some(feed) => {
                call.state = CallState::Held;
                let hold = self.holds.entry(feed).or_insert_with(|| Hold { until, calls: BTreeSet::new() });
                hold.until = hold.until.max(until);
                hold.calls.insert(id);
            }
        }
        self.look_at(until);
    }

    /// The connection is gone: every call that was sent is to be sent again, in its order.
    pub(super) fn disconnected(&mut self) -> Vec<(u64, Owner)> {
        let mut orphans = Vec::new();
        self.writes.clear();
        self.free.clear();
        for (&id, call) in &mut self.table {
            call.note_disconnected();
            match call.owner {
                Owner::Caller(_) => {}
                Owner::Login(_) | Owner::Track(_) => orphans.push((id, call.owner)),
            }
            if matches!(call.state, CallState::Sent { .. }) {
                call.state = CallState::Waiting;
            }
            if call.state == CallState::Waiting {
                let queue = if call.waits_for_login() { &mut self.writes } else { &mut self.free };
                queue.insert(id);
            }
        }
        orphans
    }

    /// All of them, in their order.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.table.keys().copied().collect()
    }

    /// Asks to be looked at by then.
    pub(super) fn look_at(&mut self, at: Mono) {
        if at == NEVER {
            return;
        }
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    /// When a call wants to be looked at; early rather than late.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.next_look
    }

    /// Which calls want to be looked at now, in their order; and frees topics whose pause is over. The whole table is
    /// walked, but only when the earliest of its moments has come, which with calls answered in time is once an attempt's
    /// patience.
    pub(super) fn due(&mut self, now: Mono) -> Vec<u64> {
        if self.next_look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_look = None;
        self.free_holds(now);
        let mut due = Vec::new();
        let mut next: Option<Mono> = self.holds.values().map(|hold| hold.until).min();
        for (&id, call) in &self.table {
            let at = call.due();
            if at <= now {
                due.push(id);
            } else if at != NEVER {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        self.next_look = next;
        due
    }

    fn free_holds(&mut self, now: Mono) {
        let over: Vec<Feed> =
            self.holds.iter().filter(|(_, hold)| hold.until <= now).map(|(feed, _)| feed.clone()).collect();
        for feed in over {
            let Some(hold) = self.holds.remove(&feed) else { continue };
            hold.calls.into_iter().for_each(|id| self.queue(id));
        }
    }
}
