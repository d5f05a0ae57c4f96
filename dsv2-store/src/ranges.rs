//! Sets of numbers as ranges.

use serde::{Deserialize, Serialize};

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

    /// The last number of the range that `number` is in; `None` if it is in none.
    #[must_use]
    pub fn end_of(&self, number: u64) -> Option<u64> {
        let at = self.0.partition_point(|&(_, end)| end < number);
        self.0.get(at).filter(|&&(start, _)| start <= number).map(|&(_, end)| end)
    }

    /// Whether `number` is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.end_of(number).is_some()
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
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

    /// Takes all numbers of another set in.
    pub(crate) fn union(&mut self, other: &Self) {
        if other.0.len() < 8 {
            return other.iter().for_each(|(from, to)| self.insert(from, to));
        }
        // Many single insertions would each move the rest.
        let mut all = std::mem::take(&mut self.0);
        all.extend(other.iter());
        all.sort_unstable();
        all.into_iter().for_each(|(from, to)| self.insert(from, to));
    }
}

impl FromIterator<u64> for Ranges {
    /// Numbers in ascending order are taken in quickly.
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut ranges = Self::default();
        numbers.into_iter().for_each(|number| ranges.insert(number, number));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_a_set(
            inserts in proptest::collection::vec((0u64..40, 0u64..6), 0..12),
            others in proptest::collection::vec(0u64..60, 0..40),
            (from, len) in (0u64..40, 0u64..20),
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (start, len) in inserts {
                ranges.insert(start, start + len);
                set.extend(start..=start + len);
            }
            let gaps = ranges.gaps(from, from + len).into_iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>();
            prop_assert_eq!(gaps, (from..=from + len).filter(|n| !set.contains(n)).collect::<Vec<_>>());
            ranges.union(&others.iter().copied().collect());
            set.extend(others);
            prop_assert_eq!(ranges.iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert_eq!(ranges.contains(from), set.contains(&from));
            prop_assert_eq!(ranges.end_of(from), set.contains(&from).then(|| (from..).find(|n| !set.contains(&(n + 1))).expect("an end")));
        }
    }
}
