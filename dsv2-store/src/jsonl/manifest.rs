//! What the log's own lines cannot tell: which holes in it are known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record;
use crate::disk::Disk;
use crate::error::StoreError;

pub(crate) const PATH: &str = "manifest.json";

/// Durable notes about the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// All lines up to this log index were durable when this was written.
    pub(crate) durable: u64,
    /// Log indices that damage took. No line has them any more, and none ever will.
    #[serde(default)]
    pub(crate) lost: Ranges,
    /// Fields of other versions, kept as they are.
    #[serde(flatten)]
    pub(crate) extra: BTreeMap<String, serde_json::Value>,
}

impl Manifest {
    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>, StoreError> {
        record::load(disk, PATH)
    }

    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        record::save(disk, PATH, self)
    }
}

/// A set of numbers as ascending, disjoint, non-adjacent ranges, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The ranges, ascending, both ends included.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Whether there is no number in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.iter().fold(0, |sum, (from, to)| sum.saturating_add((to - from).saturating_add(1)))
    }

    /// The parts of a range that are not in it, ascending.
    pub(crate) fn gaps(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut next = Some(from);
        let first = self.0.partition_point(|&(_, end)| end < from);
        for &(start, end) in self.0[first..].iter().take_while(|&&(start, _)| start <= to) {
            if let Some(next) = next.filter(|&next| next < start) {
                gaps.push((next, start - 1));
            }
            next = end.checked_add(1);
        }
        gaps.extend(next.filter(|&next| next <= to).map(|next| (next, to)));
        gaps
    }

    /// Takes a range in.
    pub(crate) fn insert(&mut self, from: u64, to: u64) {
        if from > to {
            return;
        }
        let start = self.0.partition_point(|&(_, end)| end.saturating_add(1) < from);
        let end = self.0.partition_point(|&(begin, _)| begin <= to.saturating_add(1));
        let merged = self.0[start..end].iter().fold((from, to), |(a, b), &(c, d)| (a.min(c), b.max(d)));
        self.0.splice(start..end, [merged]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_a_set(inserts in proptest::collection::vec((0u64..40, 0u64..6), 0..12), from in 0u64..40, len in 0u64..20) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (start, len) in inserts {
                ranges.insert(start, start + len);
                set.extend(start..=start + len);
            }
            prop_assert_eq!(ranges.iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(ranges.count(), set.len() as u64);
            let gaps = ranges.gaps(from, from + len).into_iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>();
            prop_assert_eq!(gaps, (from..=from + len).filter(|n| !set.contains(n)).collect::<Vec<_>>());
        }
    }
}
