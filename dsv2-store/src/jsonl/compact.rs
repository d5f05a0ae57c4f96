//! Retirement and compaction; see `note` for why they can be interrupted anywhere.

use std::collections::BTreeSet;

use dsv2_core::{EventId, EventKind, Floors};

use super::files::packed_path;
use super::line::Line;
use super::names::Interner;
use super::note::Note;
use super::pack::{remove, remove_twin};
use super::stream::{Loc, Merge, Source};
use super::{JsonlStore, record, remove_snapshot};
use crate::error::StoreError;

/// An active file smaller than this is not worth sealing to be compacted.
const SEAL_BYTES: u64 = 64 << 10;

impl JsonlStore {
    pub(super) fn retire_below(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) -> Result<(), StoreError> {
        self.check_unfenced()?;
        self.finish_repair()?;
        let mut all = self.floors;
        all.merge(floors);
        let gone = self.view.index.below(all, hidden);
        if all == self.floors && gone.is_empty() {
            return Ok(());
        }
        // What the note covers must be durable, whatever line numbers tell later.
        self.sync_files().map_err(|error| self.fence(error))?;
        let note = Note::of(self.last, all, &self.view.index, &gone);
        note.save(&*self.view.disk).map_err(|error| self.fence_unless_clean(error))?;
        self.floors = all;
        let segments = &mut self.view.segments;
        for (id, ranges) in &gone {
            self.view.index.retire(*id, ranges, |entry| {
                segments.add_dead(entry.place.segment, u64::from(entry.place.len));
            });
        }
        self.view.index.tidy_feeds();
        Ok(())
    }

    /// Removes the dead lines of one file, if some file is worth it.
    pub(super) fn compact_one(&mut self) -> Result<bool, StoreError> {
        self.check_unfenced()?;
        self.finish_repair()?;
        let floor = SEAL_BYTES.min(self.config.segment_bytes);
        for kind in EventKind::ALL {
            let active = &self.active[kind as usize];
            let dead = self.view.segments.dead_bytes(active.segment);
            if active.file.is_some() && active.len >= floor && 2 * dead >= active.len {
                self.sync_files().map_err(|error| self.fence(error))?;
                self.seal(kind).map_err(|error| self.fence_unless_clean(error))?;
            }
        }
        let worth = |&(segment, _, _, bytes): &(u32, &str, EventKind, u64)| {
            // One without any line that can be read is left to people.
            bytes > 0 && 2 * self.view.segments.dead_bytes(segment) >= bytes
        };
        let found = self.view.segments.sealed().find(worth);
        let Some((segment, path, bytes)) = found.map(|(segment, path, _, bytes)| (segment, path.to_owned(), bytes))
        else {
            return Ok(false);
        };
        self.rewrite(segment, &path, bytes).map_err(|error| self.fence_unless_clean(error))?;
        Ok(true)
    }

    /// The event that a line holds, if the index knows it at that place.
    fn live_at(&self, covered: &[u8], loc: Loc, names: &mut Interner) -> Option<(u32, u64)> {
        let index = &self.view.index;
        let line = Line::parse(covered)?;
        let origin = names.origin(&line.origin.server, line.origin.incarnation)?;
        let id = index.find_origin(&origin)?;
        let entry = index.entry(id, line.seq).or_else(|| index.waiting_at(id, line.seq))?;
        (entry.place == loc).then_some((id, line.seq))
    }

    /// Writes a sealed file anew without its dead lines, which the note explains; or removes it.
    fn rewrite(&mut self, segment: u32, path: &str, bytes: u64) -> Result<(), StoreError> {
        let disk = &*self.view.disk;
        let source = Source { segment, path: path.to_owned(), file: None, start: 0, end: bytes };
        let mut merge = Merge::open(disk, vec![vec![source]])?;
        let (mut kept, mut moved, mut names) = (Vec::new(), Vec::new(), Interner::default());
        while let Some((_, head)) = merge.next()? {
            let Some((id, seq)) = self.live_at(merge.covered(), head.loc, &mut names) else { continue };
            let start = kept.len();
            moved.push((id, seq, start as u32));
            kept.extend_from_slice(merge.covered());
            super::line::seal(&mut kept, start);
            kept.push(b'\n');
            debug_assert_eq!(kept.len() - start, head.loc.len as usize, "a line is copied as it is");
        }
        // Places in the file change: a snapshot would not know.
        self.snapshot = None;
        remove_snapshot(disk)?;
        if kept.is_empty() {
            remove(disk, path)?;
            remove(disk, &packed_path(path))?;
        } else {
            record::replace(disk, path, &kept)?;
        }
        // From here on the plain file counts, and nothing may keep the index from knowing it.
        for (id, seq, offset) in moved {
            self.view.index.relocate(id, seq, |place| place.offset = offset);
        }
        self.view.segments.replaced(segment, kept.len() as u64);
        remove_twin(&*self.view.disk, path);
        Ok(())
    }
}
