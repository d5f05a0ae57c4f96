//! Version vectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{EventId, Origin};

/// A version vector: for every origin, the highest number up to which *all* of its events are meant.
///
/// It serves two uses that are never mixed. A *session token* is the maximum of what a client read and wrote; servers
/// wait until they cover it. A *resume point* advances only over deliveries that were proven complete on one topic.
///
/// ```
/// use dsv2_core::Position;
/// let mut held = Position::default();
/// held.advance(&"s1/00000000000000ff#1".parse()?);
/// let mut wanted = held.clone();
/// wanted.advance(&"s1/00000000000000ff#2".parse()?);
/// assert!(wanted.covers(&held) && !held.covers(&wanted));
/// # Ok::<(), dsv2_core::IdError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(BTreeMap<Origin, u64>);

impl Position {
    /// The highest number meant of `origin`; 0 for none.
    #[must_use]
    pub fn get(&self, origin: &Origin) -> u64 {
        self.0.get(origin).copied().unwrap_or(0)
    }

    /// Whether `event` is meant.
    #[must_use]
    pub fn contains(&self, event: &EventId) -> bool {
        event.seq <= self.get(&event.origin)
    }

    /// Whether everything that `other` means is meant here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(origin, seq)| seq <= self.get(origin))
    }

    /// Means all of the event's origin up to the event; never goes back.
    pub fn advance(&mut self, event: &EventId) {
        self.advance_to(&event.origin, event.seq);
    }

    /// Means all of `origin` up to `seq`; never goes back.
    pub fn advance_to(&mut self, origin: &Origin, seq: u64) {
        match self.0.get_mut(origin) {
            Some(held) => *held = (*held).max(seq),
            None if seq > 0 => {
                self.0.insert(origin.clone(), seq);
            }
            None => {}
        }
    }

    /// Means also all that `other` means: the pointwise maximum.
    pub fn merge(&mut self, other: &Self) {
        for (origin, seq) in other.iter() {
            self.advance_to(origin, seq);
        }
    }

    /// The pointwise minimum of the two: what both mean.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let both = self.iter().map(|(origin, seq)| (origin.clone(), seq.min(other.get(origin))));
        Self(both.filter(|&(_, seq)| seq > 0).collect())
    }

    /// Every origin with its number, in the order of origins.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, u64)> {
        self.0.iter().map(|(origin, &seq)| (origin, seq))
    }

    /// How many origins it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it means nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many events it means in all.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.values().sum()
    }
}

impl FromIterator<(Origin, u64)> for Position {
    fn from_iter<I: IntoIterator<Item = (Origin, u64)>>(pairs: I) -> Self {
        let mut position = Self::default();
        for (origin, seq) in pairs {
            position.advance_to(&origin, seq);
        }
        position
    }
}
