//! What retention took from the log: an exact note, which is what makes it so.
//!
//! ```text
//!   retire:  all is durable ─► retired.json replaced (one rename) ─► the events are no longer served
//!   compact:                        later, a file at a time, in any order: their lines are removed
//! ```
//! From the rename on, lines of the numbers noted are passed over wherever they still stand, and numbers noted are not
//! missing wherever no line stands. So compaction can be interrupted anywhere, and does not have to note anything. Log
//! indices up to [`Note::upto`] tell nothing any more, for any may have been removed: there, an event that damage took
//! shows as a number of its origin that is neither held nor noted.

use std::collections::BTreeMap;

use dsv2_core::{Floors, Origin, Position};
use serde::{Deserialize, Serialize};

use super::record;
use super::stream::Loc;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::index::Index;
use crate::ranges::Ranges;

pub(crate) const PATH: &str = "retired.json";

/// The same once more: without it nobody could tell what is retired from what damage took.
const COPY_PATH: &str = "retired.copy.json";

/// What is retired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// All lines up to this log index were durable, and in their place, when this was written.
    pub(crate) upto: u64,
    /// Below which clocks.
    pub(crate) floors: Floors,
    /// What was held then, retired events included.
    pub(crate) held: Position,
    /// The numbers of each origin that are retired, as distances: how many are kept, how many are not, and so on.
    retired: BTreeMap<Origin, Vec<u64>>,
}

impl Note {
    /// # Errors
    /// [`StoreError::Corrupt`] where both copies are damaged; as `record::load`.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>, StoreError> {
        match record::load(disk, PATH) {
            Ok(None) | Err(StoreError::Corrupt { .. }) => record::load(disk, COPY_PATH),
            found => found,
        }
    }

    /// Notes it in both places: it counts once the second is written, or where there was none before, the first.
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing changed. [`StoreError::Io`]: old or new.
    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        record::save(disk, COPY_PATH, self)?;
        let saved = record::save(disk, PATH, self);
        if matches!(saved, Err(StoreError::Full { .. })) {
            // The old one stands alone until the next attempt.
            let failed = |source| StoreError::Io { action: "take back", path: COPY_PATH.to_owned(), source };
            disk.remove(COPY_PATH).and_then(|()| disk.sync_dir("")).map_err(failed)?;
        }
        saved
    }

    /// Notes what the index says, and `more`.
    pub(crate) fn of(upto: u64, floors: Floors, index: &Index<Loc>, more: &BTreeMap<u32, Ranges>) -> Self {
        let mut all: BTreeMap<&Origin, Ranges> =
            index.retired().map(|(origin, ranges)| (origin, ranges.clone())).collect();
        for (id, ranges) in more {
            if let Some(origin) = index.origin(*id) {
                all.entry(origin).or_default().union(ranges);
            }
        }
        let retired = all.into_iter().map(|(origin, ranges)| (origin.clone(), distances(&ranges))).collect();
        Self { upto, floors, held: index.vector().clone(), retired }
    }

    /// The numbers of each origin that are retired.
    pub(crate) fn retired(&self) -> impl Iterator<Item = (&Origin, Ranges)> {
        self.retired.iter().map(|(origin, distances)| (origin, ranges(distances)))
    }
}

fn distances(ranges: &Ranges) -> Vec<u64> {
    let mut next = 1;
    let distances = ranges.iter().flat_map(|(from, to)| {
        let pair = [from.saturating_sub(next), (to - from).saturating_add(1)];
        next = to.saturating_add(1);
        pair
    });
    distances.collect()
}

/// What is not a pair, or beyond all numbers, is nothing.
fn ranges(distances: &[u64]) -> Ranges {
    let (mut ranges, mut next) = (Ranges::default(), 1u64);
    for pair in distances.chunks_exact(2) {
        let from = next.saturating_add(pair[0]);
        next = from.saturating_add(pair[1]);
        ranges.insert(from, next - 1);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_ranges_are_the_same() {
        for seqs in [vec![], vec![1], vec![2, 3, 4], vec![1, 2, 5, 9, 10, 11], vec![7]] {
            let set: Ranges = seqs.iter().copied().collect();
            assert_eq!(ranges(&distances(&set)), set, "{seqs:?}");
        }
    }
}
