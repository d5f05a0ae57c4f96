//! What this server wrote, over all of its lives.

use std::collections::BTreeMap;

use dsv2_core::{Event, EventId, OrderKey, Origin, Position, Topic};

/// The ends of it.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The last event of each life.
    pub(super) last: Position,
    /// The last event on each topic.
    heads: BTreeMap<Topic, OrderKey>,
}

impl Own {
    /// Takes an own event into account; `present` is the life that writes now, if one does.
    ///
    /// A server that lost its disk gets the events of its earlier lives back from others, perhaps after it has written
    /// again. They come before what the present life wrote, whatever their clocks say: the chain of predecessors on a
    /// topic must not leave out what subscribers were sent. Between other lives the clocks decide.
    pub(super) fn note(&mut self, event: &Event, present: Option<&Origin>) {
        self.last.advance(&event.id);
        let Some(topic) = event.body.topic() else { return };
        let Some(head) = self.heads.get_mut(&topic) else {
            self.heads.insert(topic, event.key());
            return;
        };
        // Nearly always the same life goes on, whose names need not be taken anew.
        if head.id.origin == event.id.origin {
            if (event.clock, event.id.seq) > (head.clock, head.id.seq) {
                (head.clock, head.id.seq) = (event.clock, event.id.seq);
            }
            return;
        }
        let key = event.key();
        let is_present = |key: &OrderKey| Some(&key.id.origin) == present;
        if (is_present(&key), &key) > (is_present(head), head) {
            *head = key;
        }
    }

    /// The last event of each topic: whether it is a user's, its name, and the event's key.
    pub(super) fn heads(&self) -> impl Iterator<Item = (bool, String, OrderKey)> {
        let head = |(topic, key): (&Topic, &OrderKey)| {
            (matches!(topic, Topic::User(_)), topic.as_str().to_owned(), key.clone())
        };
        self.heads.iter().map(head)
    }

    /// What [`Own::heads`] and `last` told; `None` where a name is none.
    pub(super) fn restored(last: Position, heads: Vec<(bool, String, OrderKey)>) -> Option<Self> {
        let head = |(is_user, name, key): (bool, String, OrderKey)| {
            let topic = if is_user { Topic::User(name.parse().ok()?) } else { Topic::Channel(name.parse().ok()?) };
            Some((topic, key))
        };
        let heads = heads.into_iter().map(head).collect::<Option<_>>()?;
        Some(Self { last, heads })
    }

    /// The last event on a topic.
    pub(super) fn head(&self, topic: &Topic) -> Option<&EventId> {
        self.heads.get(topic).map(|key| &key.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsv2_core::{Clock, EventBody, MessageId, Timestamp};

    fn event(life: u64, seq: u64, clock: u64) -> Event {
        let origin = Origin { server: "s1".parse().expect("a name"), incarnation: life };
        Event {
            id: EventId { origin, seq },
            clock: Clock::ZERO.plus(clock),
            prev: None,
            message_id: MessageId::Foreign(1),
            timestamp: Timestamp::default(),
            body: EventBody::Publish {
                user: "ana".parse().expect("a name"),
                channel: "dev".parse().expect("a name"),
                message: "oi".into(),
            },
        }
    }

    #[test]
    fn an_earlier_life_that_comes_back_is_no_predecessor_of_what_was_written_since() {
        let (mut own, topic) = (Own::default(), event(1, 1, 0).body.topic().expect("a topic"));
        let present = event(2, 1, 0).id.origin;
        own.note(&event(1, 1, 50), None);
        own.note(&event(1, 2, 51), Some(&present));
        assert_eq!(own.head(&topic), Some(&event(1, 2, 0).id), "nothing was written since");
        own.note(&event(2, 1, 7), Some(&present));
        own.note(&event(1, 3, 52), Some(&present));
        assert_eq!(own.head(&topic), Some(&event(2, 1, 0).id));
        assert_eq!((own.last.get(&present), own.last.get(&event(1, 1, 0).id.origin)), (1, 3));
    }
}
