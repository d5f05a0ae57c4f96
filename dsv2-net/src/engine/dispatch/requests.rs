//! The requests that the broker answers for, in two queues ordered by time: those that wait here,
//! and those that a server has.

use crate::zmtp::Message;

use super::slab::{Key, Slab};
use super::{ClientId, ServerId};

/// One request, from its acceptance until it is answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) client: ClientId,
    /// Kept for the broker's own answer. `None` once that answer was given ([`Place::Overdue`]).
    pub(super) message: Option<Message>,
    pub(super) bytes: usize,
    /// When it was accepted ([`Place::Waiting`]) or handed over (otherwise).
    pub(super) since_ms: u64,
    pub(super) place: Place,
    before: Option<Key>,
    after: Option<Key>,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the broker.
    Waiting,
    /// With this server, unanswered.
    Handed(ServerId),
    /// Answered by the broker, but this lock-step server still owes its reply.
    Overdue(ServerId),
}

#[derive(Debug, Default)]
struct Queue {
    first: Option<Key>,
    last: Option<Key>,
    len: usize,
}

/// All requests. Bounded by its owner.
#[derive(Debug, Default)]
pub(super) struct Requests {
    slab: Slab<Request>,
    waiting: Queue,
    handed: Queue,
}

impl Requests {
    /// A new request at the end of the queue that `place` belongs to.
    pub(super) fn insert(&mut self, client: ClientId, message: Message, place: Place, now_ms: u64) -> Key {
        let bytes = message.wire().len();
        let key = self.slab.insert(Request {
            client,
            message: Some(message),
            bytes,
            since_ms: now_ms,
            place,
            before: None,
            after: None,
        });
        self.append(key);
        key
    }

    /// Moves a request to the end of another queue, or to none ([`Place::Overdue`]).
    pub(super) fn relocate(&mut self, key: Key, place: Place, now_ms: u64) {
        self.detach(key);
        if let Some(request) = self.slab.get_mut(key) {
            request.place = place;
            request.since_ms = now_ms;
            self.append(key);
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Request> {
        self.detach(key);
        self.slab.remove(key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Request> {
        self.slab.get(key)
    }

    /// Ends the broker's own duty towards the client and returns what it is answered with.
    pub(super) fn take_message(&mut self, key: Key) -> Option<Message> {
        self.slab.get_mut(key)?.message.take()
    }

    pub(super) fn oldest_waiting(&self) -> Option<(Key, &Request)> {
        let key = self.waiting.first?;
        Some((key, self.slab.get(key)?))
    }

    pub(super) fn oldest_handed(&self) -> Option<(Key, &Request)> {
        let key = self.handed.first?;
        Some((key, self.slab.get(key)?))
    }

    /// What `server` has and has not answered, oldest first.
    pub(super) fn handed_to(&self, server: ServerId) -> Vec<Key> {
        let mut found = Vec::new();
        let mut next = self.handed.first;
        while let Some(key) = next
            && let Some(request) = self.slab.get(key)
        {
            if request.place == Place::Handed(server) {
                found.push(key);
            }
            next = request.after;
        }
        found
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len
    }

    pub(super) fn handed_count(&self) -> usize {
        self.handed.len
    }

    /// Requests in memory, overdue ones included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    fn append(&mut self, key: Key) {
        let Some(request) = self.slab.get(key) else {
            return;
        };
        let queue = match request.place {
            Place::Waiting => &mut self.waiting,
            Place::Handed(_) => &mut self.handed,
            Place::Overdue(_) => return,
        };
        let before = queue.last.replace(key);
        queue.first.get_or_insert(key);
        queue.len += 1;
        if let Some(request) = self.slab.get_mut(key) {
            request.before = before;
            request.after = None;
        }
        if let Some(previous) = before.and_then(|before| self.slab.get_mut(before)) {
            previous.after = Some(key);
        }
    }

    fn detach(&mut self, key: Key) {
        let Some(request) = self.slab.get_mut(key) else {
            return;
        };
        let (before, after) = (request.before.take(), request.after.take());
        let queue = match request.place {
            Place::Waiting => &mut self.waiting,
            Place::Handed(_) => &mut self.handed,
            Place::Overdue(_) => return,
        };
        queue.len -= 1;
        match before.and_then(|before| self.slab.get_mut(before)) {
            Some(previous) => previous.after = after,
            None => queue.first = after,
        }
        match after.and_then(|after| self.slab.get_mut(after)) {
            Some(following) => following.before = before,
            None => queue.last = before,
        }
    }
}
