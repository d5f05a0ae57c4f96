//! Where a subscription stands, and where a new one starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use dsv2_core::{ChannelName, EventId, Feed, Position, UserName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// From where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// Only what is written from now on.
    #[default]
    Last,
    /// All that was ever written, oldest first, and then what comes.
    Beginning,
    /// All that an earlier subscription had not delivered yet. A topic that it did not follow starts at its end.
    At(ResumePoint),
}

/// How far a subscription got: on each of its topics, all deliveries up to here were made, and none beyond.
///
/// It is opaque, and can be serialized and stored. A subscription that starts at it delivers exactly the rest: never
/// something twice, never something skipped. (One exception is left: if a client repeated a write while servers could
/// not reach each other, the message stands in two events; a subscription that was restarted between the first and the
/// second can see it twice, because the first may by then have lost to the second.)
///
/// Cloning costs two reference counts.
#[derive(Clone, Debug, Default)]
pub struct ResumePoint {
    base: Arc<Vectors>,
    /// Steps that the points of one batch share; the first `taken` count.
    steps: Arc<[Step]>,
    taken: usize,
}

type Vectors = BTreeMap<Feed, Position>;

/// One step of a [`ResumePoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Over one event of a feed.
    Event(Feed, EventId),
    /// Over many.
    Vector(Feed, Position),
}

impl Step {
    fn apply(&self, vectors: &mut Vectors) {
        match self {
            Self::Event(feed, event) => match vectors.get_mut(feed) {
                Some(position) => position.advance(event),
                None => vectors.entry(feed.clone()).or_default().advance(event),
            },
            Self::Vector(feed, position) => vectors.entry(feed.clone()).or_default().merge(position),
        }
    }
}

impl ResumePoint {
    /// Goes one step further.
    pub fn advance(&mut self, step: &Step) {
        self.settle();
        step.apply(Arc::make_mut(&mut self.base));
    }

    /// Prepares steps that will be taken one after the other by [`ResumePoint::take`]: the points between them share
    /// their memory.
    pub fn prepare(&mut self, steps: Arc<[Step]>) {
        self.settle();
        self.steps = steps;
    }

    /// Takes the next prepared step, if there is one.
    pub fn take(&mut self) {
        self.taken = self.steps.len().min(self.taken + 1);
    }

    /// How far it got on one feed; `None` where that is not followed, or not yet known.
    #[must_use]
    pub fn get(&self, feed: &Feed) -> Option<Position> {
        let mut settled = self.clone();
        settled.settle();
        settled.base.get(feed).cloned()
    }

    /// Keeps only what concerns these feeds.
    #[must_use]
    pub fn restricted(&self, feeds: &[Feed]) -> Self {
        let vectors = feeds.iter().filter_map(|feed| Some((feed.clone(), self.get(feed)?))).collect();
        Self { base: Arc::new(vectors), ..Self::default() }
    }

    /// The start of all of these feeds.
    #[must_use]
    pub fn beginning(feeds: &[Feed]) -> Self {
        let vectors = feeds.iter().map(|feed| (feed.clone(), Position::default())).collect();
        Self { base: Arc::new(vectors), ..Self::default() }
    }

    /// Folds the steps taken into the base; what was prepared and not taken is dropped.
    fn settle(&mut self) {
        if self.taken > 0 {
            let vectors = Arc::make_mut(&mut self.base);
            self.steps[..self.taken].iter().for_each(|step| step.apply(vectors));
            self.taken = 0;
        }
        if !self.steps.is_empty() {
            self.steps = Arc::default();
        }
    }
}

impl PartialEq for ResumePoint {
    fn eq(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.clone(), other.clone());
        a.settle();
        b.settle();
        a.base == b.base
    }
}

impl Eq for ResumePoint {}

/// The stored form: names as keys, which every serialization can write.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    channels: BTreeMap<ChannelName, Position>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    inboxes: BTreeMap<UserName, Position>,
}

impl Serialize for ResumePoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut settled = self.clone();
        settled.settle();
        let mut stored = Stored { channels: BTreeMap::new(), inboxes: BTreeMap::new() };
        for (feed, position) in settled.base.iter() {
            match feed {
                Feed::Channel(channel) => drop(stored.channels.insert(channel.clone(), position.clone())),
                Feed::Inbox(user) => drop(stored.inboxes.insert(user.clone(), position.clone())),
                // Cannot be followed, so no point has one.
                Feed::Conversation(..) => {}
            }
        }
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ResumePoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        let channels = stored.channels.into_iter().map(|(name, position)| (Feed::Channel(name), position));
        let inboxes = stored.inboxes.into_iter().map(|(name, position)| (Feed::Inbox(name), position));
        Ok(Self { base: Arc::new(channels.chain(inboxes).collect()), ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(name: &str) -> Feed {
        Feed::Channel(name.parse().expect("a name"))
    }

    fn event(seq: u64) -> EventId {
        format!("s1/00000000000000ff#{seq}").parse().expect("an id")
    }

    #[test]
    fn shared_steps_give_the_same_points_as_single_ones() {
        let steps: Vec<Step> = (1..=3).map(|seq| Step::Event(feed("dev"), event(seq))).collect();
        let (mut shared, mut single) = (ResumePoint::default(), ResumePoint::default());
        let mut points = Vec::new();
        shared.prepare(steps.clone().into());
        for step in &steps {
            shared.take();
            single.advance(step);
            points.push((shared.clone(), single.clone()));
        }
        shared.prepare(Arc::default());
        assert_eq!(shared, single);
        for (a, b) in points {
            assert_eq!(a, b);
            let stored = rmp_serde::to_vec_named(&a).expect("serializable");
            assert_eq!(rmp_serde::from_slice::<ResumePoint>(&stored).expect("its own form"), b);
        }
    }

    #[test]
    fn a_point_keeps_only_the_feeds_asked_for() {
        let point = ResumePoint::beginning(&[feed("dev"), feed("ops")]);
        let kept = point.restricted(&[feed("ops"), feed("new")]);
        assert_eq!(kept.get(&feed("ops")), Some(Position::default()));
        assert_eq!((kept.get(&feed("dev")), kept.get(&feed("new"))), (None, None));
    }
}
