//! The order in which effects leave: what reveals state waits until all that was decided before it is durable.
//!
//! This is the one contract that the driver and the simulator both keep, so it stands in one place.

use std::collections::VecDeque;

/// Things to send, each with the commit it waits for. Holds as many as the machine has under way.
///
/// ```
/// use dsv2_sync::lanes::Lanes;
/// let mut lanes = Lanes::default();
/// let commit = lanes.issue();
/// assert_eq!(lanes.order("receipt"), None);
/// lanes.committed(commit);
/// assert_eq!(lanes.next(), Some("receipt"));
/// ```
#[derive(Debug)]
pub struct Lanes<T> {
    waiting: VecDeque<(u64, T)>,
    issued: u64,
    committed: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), issued: 0, committed: 0 }
    }
}

impl<T> Lanes<T> {
    /// The number of a new commit; everything put in from now on waits for it.
    pub fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// Takes a thing that reveals state. Yields it at once where nothing has to be waited for.
    pub fn order(&mut self, thing: T) -> Option<T> {
        if self.waiting.is_empty() && self.issued <= self.committed {
            return Some(thing);
        }
        self.waiting.push_back((self.issued, thing));
        None
    }

    /// Everything up to this commit is durable.
    pub fn committed(&mut self, commit: u64) {
        self.committed = self.committed.max(commit);
    }

    /// The next thing that need not wait any longer.
    #[allow(clippy::should_implement_trait, reason = "it ends where something still waits, and goes on later")]
    pub fn next(&mut self) -> Option<T> {
        let (commit, _) = self.waiting.front()?;
        if *commit > self.committed {
            return None;
        }
        self.waiting.pop_front().map(|(_, thing)| thing)
    }

    /// Takes those that `picked` names out of what waits: they will be answered otherwise. The rest keeps its order.
    pub fn pick(&mut self, mut picked: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for _ in 0..self.waiting.len() {
            match self.waiting.pop_front() {
                Some((_, thing)) if picked(&thing) => taken.push(thing),
                other => self.waiting.extend(other),
            }
        }
        taken
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many things wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overtakes_a_commit_or_another_thing() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.order("free"), Some("free"));
        let first = lanes.issue();
        assert_eq!(lanes.order("a"), None);
        let second = lanes.issue();
        assert_eq!(lanes.order("b"), None);
        assert_eq!(lanes.next(), None);
        lanes.committed(first);
        assert_eq!(lanes.next(), Some("a"));
        assert_eq!(lanes.next(), None);
        lanes.committed(second);
        assert_eq!(lanes.order("c"), None, "b has not left yet");
        assert_eq!((lanes.next(), lanes.next(), lanes.next()), (Some("b"), Some("c"), None));
        assert_eq!(lanes.order("d"), Some("d"));
    }

    #[test]
    fn what_is_picked_leaves_the_rest_in_order() {
        let mut lanes = Lanes::default();
        let commit = lanes.issue();
        (0..6).for_each(|n| assert_eq!(lanes.order(n), None));
        assert_eq!(lanes.pick(|n| n % 2 == 0), [0, 2, 4]);
        lanes.committed(commit);
        assert_eq!(std::iter::from_fn(|| lanes.next()).collect::<Vec<_>>(), [1, 3, 5]);
    }
}
