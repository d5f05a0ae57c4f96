use std::collections::{BTreeMap, HashMap};

/// Counted prefixes: what a peer subscribed to, or what we subscribe to.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// How often each prefix is subscribed.
    counts: HashMap<Vec<u8>, usize>,
    /// How many prefixes there are of each length: a topic is looked up once per length, not once per prefix.
    lengths: BTreeMap<usize, usize>,
    bytes: usize,
}

/// What the subscriptions of a peer may occupy, roughly.
const PEER_CAP_BYTES: usize = 64 << 20;

/// What one prefix costs besides its own bytes.
const OVERHEAD_BYTES: usize = 64;

impl Interest {
    /// Adds one; `true` if the prefix is new.
    pub(super) fn add(&mut self, prefix: &[u8]) -> bool {
        if let Some(count) = self.counts.get_mut(prefix) {
            *count += 1;
            return false;
        }
        self.counts.insert(prefix.to_vec(), 1);
        self.bytes += prefix.len() + OVERHEAD_BYTES;
        *self.lengths.entry(prefix.len()).or_default() += 1;
        true
    }

    /// Removes one; `true` if it was the last of its prefix.
    pub(super) fn remove(&mut self, prefix: &[u8]) -> bool {
        let Some(count) = self.counts.get_mut(prefix) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.counts.remove(prefix);
        self.bytes -= prefix.len() + OVERHEAD_BYTES;
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
        true
    }

    /// Whether some prefix starts `topic`.
    pub(super) fn matches(&self, topic: &[u8]) -> bool {
        self.lengths.range(..=topic.len()).any(|(&len, _)| self.counts.contains_key(&topic[..len]))
    }

    /// Whether a peer has subscribed to more than is remembered for it.
    pub(super) fn is_overfull(&self) -> bool {
        self.bytes > PEER_CAP_BYTES
    }

    /// Number of distinct prefixes.
    #[cfg(feature = "zeromq")]
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        self.counts.keys().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_stays_until_its_last_subscription_goes() {
        let mut interest = Interest::default();
        assert!(interest.add(b"an"));
        assert!(!interest.add(b"an"));
        assert!(interest.matches(b"ana") && interest.matches(b"an") && !interest.matches(b"a"));
        assert!(!interest.remove(b"an"));
        assert!(interest.matches(b"ana"));
        assert!(interest.remove(b"an"));
        assert!(!interest.remove(b"an"));
        assert!(!interest.matches(b"ana"));
        assert!(interest.add(b"") && interest.matches(b"") && interest.matches(b"x"));
    }

    proptest! {
        #[test]
        fn matching_is_what_a_list_of_prefixes_says(steps in prop::collection::vec((any::<bool>(), prop::collection::vec(0u8..3, 0..4)), 0..60), topic in prop::collection::vec(0u8..3, 0..6)) {
            let (mut interest, mut list): (Interest, Vec<Vec<u8>>) = Default::default();
            for (add, prefix) in steps {
                if add {
                    interest.add(&prefix);
                    list.push(prefix);
                } else {
                    interest.remove(&prefix);
                    if let Some(at) = list.iter().position(|p| *p == prefix) {
                        list.swap_remove(at);
                    }
                }
            }
            prop_assert_eq!(interest.matches(&topic), list.iter().any(|p| topic.starts_with(p)));
            list.sort();
            list.dedup();
            prop_assert_eq!(interest.prefixes().count(), list.len());
            prop_assert_eq!(interest.lengths.values().sum::<usize>(), list.len());
        }
    }
}
