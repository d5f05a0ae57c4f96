//! Events of servers of the family, which replicate over the topic `replication` only: they are adopted as own events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dsv2_core::{EventBody, LogicalClock, MessageId, Mono, Now, ReplicationEvent};

use super::Server;
use super::io::{Effect, Note};
use crate::state::Lookup;

/// Foreign events that wait to be adopted. Each server waits for a while of its own, so that usually one adopts and the
/// others receive it over their links.
#[derive(Debug, Default)]
pub(super) struct Adoptions {
    due: BTreeMap<(Mono, u64), (MessageId, EventBody)>,
    ids: BTreeSet<MessageId>,
    next: u64,
    /// When the last of them is due: they are adopted in the order in which they came, a user before its messages.
    last: Mono,
}

impl Adoptions {
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

impl Server {
    /// An event stood on `replication`.
    pub(super) fn replicated(&mut self, now: Now, event: ReplicationEvent) {
        // Ours come over the links, each once and without gaps; here they are for observers.
        if event.event.is_some() || !self.config.may_write() {
            return;
        }
        self.observe(now, event.clock);
        let id = event.body.foreign_id(event.timestamp, event.message_clock);
        let full = self.adoptions.due.len() >= self.config.caps.adoptions;
        if full || !self.is_new(&id, &event.body) || !self.adoptions.ids.insert(id.clone()) {
            return;
        }
        let most = u64::try_from(self.config.timing.adopt.as_micros()).unwrap_or(u64::MAX);
        let delay = Duration::from_micros(most / 8 + self.random.below(most));
        self.adoptions.next += 1;
        self.adoptions.last = self.adoptions.last.max(now.mono + delay);
        self.adoptions.due.insert((self.adoptions.last, self.adoptions.next), (id, event.body));
    }

    fn is_new(&self, id: &MessageId, body: &EventBody) -> bool {
        match body {
            EventBody::UserLogin { user } => self.state.user(user.as_str()).is_none(),
            EventBody::ChannelCreate { channel } => self.state.channel(channel.as_str()).is_none(),
            EventBody::Publish { .. } | EventBody::Message { .. } => self.state.lookup(id, body) == Lookup::New,
        }
    }

    /// Adopts what no link has brought meanwhile. It stands in the history from now on; it is neither published nor put
    /// on `replication` again, since its own server did both.
    pub(super) fn adopt_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        // No link repairs them: they wait until they can be written.
        if self.stuck.is_some() {
            return;
        }
        while let Some(entry) = self.adoptions.due.first_entry().filter(|entry| entry.key().0 <= now.mono) {
            let (id, body) = entry.remove();
            self.adoptions.ids.remove(&id);
            if self.is_new(&id, &body) && self.config.may_write() && !self.draining {
                self.clock.tick();
                let event = self.originate(now, body, id, out);
                out.push(Effect::Log(Note::Adopted(event)));
            }
        }
    }
}
