//! Every message by the digest of its identity: by far the largest thing in a server's memory.

use std::collections::HashMap;

use dsv2_core::Clock;

use super::Known;

/// How many tables share the identities. Each grows by itself, so that nobody ever waits for all of them to move.
const TABLES: usize = 64;

/// A map from digests to what is known, in many tables.
///
/// A table that is full doubles, and then half of it is empty. Were all tables alike, all of them would be full at one time, and half empty at
/// another; so the digests are dealt out unevenly, the last table getting twice as much as the first, and at any time a
/// few of them have just grown.
///
/// Memory: 45 bytes a place, two fifths of which are empty: about 75 bytes an identity.
#[derive(Debug)]
pub(super) struct Identities {
    /// By ascending digests: all in one table are smaller than all in the next.
    tables: Box<[HashMap<[u32; 4], Packed>]>,
    len: usize,
}

/// [`Known`] without the gaps that alignment makes.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
struct Packed {
    content: u64,
    /// Twice the clock, and one more where it is private.
    clock_and_kind: u64,
    seq: u64,
    origin: u32,
}

impl Packed {
    fn new(known: Known) -> Self {
        let clock_and_kind = known.clock.get() << 1 | u64::from(known.is_private);
        Self { content: known.content, clock_and_kind, seq: known.seq, origin: known.origin }
    }

    fn known(self) -> Known {
        let clock = Clock::ZERO.plus(self.clock_and_kind >> 1);
        let is_private = self.clock_and_kind & 1 == 1;
        Known { content: self.content, clock, origin: self.origin, is_private, seq: self.seq }
    }
}

fn key(identity: u128) -> [u32; 4] {
    [identity as u32, (identity >> 32) as u32, (identity >> 64) as u32, (identity >> 96) as u32]
}

fn identity(key: &[u32; 4]) -> u128 {
    key.iter().rev().fold(0, |identity, &part| identity << 32 | u128::from(part))
}

/// Which table a digest belongs to. Between 0 and 1, x (4 − x) / 3 is nearly the logarithm of 1 + x to the base 2.
fn table(identity: u128) -> usize {
    let x = (identity >> 112) as u64;
    ((x * (4 * 65_536 - x) / 3) >> 26) as usize
}

impl Default for Identities {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| HashMap::new()).collect(), len: 0 }
    }
}

impl Identities {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, identity: u128) -> Option<Known> {
        self.tables[table(identity)].get(&key(identity)).map(|packed| packed.known())
    }

    /// Puts in what is known, in place of what was.
    pub(super) fn insert(&mut self, identity: u128, known: Known) {
        let before = self.tables[table(identity)].insert(key(identity), Packed::new(known));
        self.len += usize::from(before.is_none());
    }

    /// Keeps only what `keep` says.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Known) -> bool) {
        for table in &mut self.tables {
            #[allow(clippy::disallowed_methods, reason = "what is dropped does not depend on the order")]
            table.retain(|_, packed| keep(&packed.known()));
            table.shrink_to(2 * table.len());
        }
        self.len = self.tables.iter().map(HashMap::len).sum();
    }

    /// All of them, ascending.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (u128, Known)> {
        self.tables.iter().flat_map(|table| {
            #[allow(clippy::disallowed_methods, reason = "they are sorted")]
            let mut sorted: Vec<(u128, Known)> =
                table.iter().map(|(key, packed)| (identity(key), packed.known())).collect();
            sorted.sort_unstable_by_key(|(identity, _)| *identity);
            sorted
        })
    }
}

impl Extend<(u128, Known)> for Identities {
    fn extend<I: IntoIterator<Item = (u128, Known)>>(&mut self, all: I) {
        all.into_iter().for_each(|(identity, known)| self.insert(identity, known));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(content: u64) -> Known {
        let clock = Clock::ZERO.plus(content & Clock::MAX.get());
        Known { content, clock, origin: content as u32, is_private: content.is_multiple_of(2), seq: content ^ 7 }
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_order(all in proptest::collection::btree_map(any::<u128>(), any::<u64>(), 0..300)) {
            let mut identities = Identities::default();
            identities.extend(all.iter().map(|(&identity, &content)| (identity, known(content))));
            identities.extend(all.iter().map(|(&identity, &content)| (identity, known(content))));
            prop_assert_eq!(identities.len(), all.len());
            let sorted: Vec<(u128, u64)> = identities.sorted().map(|(identity, known)| (identity, known.content)).collect();
            prop_assert_eq!(&sorted, &all.clone().into_iter().collect::<Vec<_>>());
            for (&identity, &content) in &all {
                let found = identities.get(identity).expect("it was put in");
                prop_assert_eq!((found.content, found.clock, found.origin), (content, known(content).clock, content as u32));
                prop_assert_eq!((found.is_private, found.seq), (content.is_multiple_of(2), content ^ 7));
            }
            identities.retain(|known| known.is_private);
            prop_assert_eq!(identities.len(), all.values().filter(|content| content.is_multiple_of(2)).count());
        }
    }

    #[test]
    fn tables_are_full_at_different_times() {
        let mut counts = [0usize; TABLES];
        let all = 1 << 16;
        (0..all).for_each(|x| counts[table(x << 112)] += 1);
        let even = all as f64 / TABLES as f64;
        assert!(counts.iter().all(|&count| count as f64 > 0.6 * even && (count as f64) < 1.5 * even), "{counts:?}");
        assert!(counts[TABLES - 1] as f64 > 1.8 * counts[0] as f64, "{counts:?}");
        assert!(counts.is_sorted_by(|one, next| *next as f64 > *one as f64 * 0.99), "{counts:?}");
    }
}
