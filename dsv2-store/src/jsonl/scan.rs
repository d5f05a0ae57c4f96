//! What a log holds: found by reading it, without changing anything.
//!
//! The files are merged by log index. Let *D* be the highest index known durable: by the manifest, or by any line's `d`.
//! Up to *D*, every index must be there; one that is not is *lost* to damage, unless the manifest knows it. Above *D*, a
//! crash may have taken anything: the log ends before the first index that is not there, and what stands behind it is
//! to be cut.

use std::sync::Arc;

use dsv2_core::{EventKind, Origin};

use super::files::{self, LogFile};
use super::line::Line;
use super::manifest::{Manifest, Ranges};
use super::names::Interner;
use super::stream::{BadBytes, Head, Loc, Merge, Source};
use crate::disk::{Disk, DiskFile, OpenMode, read_exact};
use crate::error::StoreError;
use crate::index::{Entry, Index};

/// What a log holds.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) segments: Vec<Segment>,
    pub(crate) index: Index<Loc>,
    /// The last log index that was given out.
    pub(crate) last: u64,
    /// Indices that damage took and the manifest does not know.
    pub(crate) lost: Ranges,
    /// The first index that is to be cut, where intact lines are.
    pub(crate) cut_from: Option<u64>,
    /// What is no intact line.
    pub(crate) bad: Vec<BadBytes>,
    /// Intact lines of events that other lines hold.
    pub(crate) repeated: u64,
}

/// A log file and how much of it stays.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) at: LogFile,
    /// Open, if it is active.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) len: u64,
    /// Lines before this byte are believed when they say what is durable.
    first_len: u64,
    /// The bytes from here on are to be cut.
    pub(crate) kept: u64,
    pub(crate) lines: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Segment {
    const fn new(at: LogFile, file: Option<Arc<dyn DiskFile>>, len: u64) -> Self {
        Self { at, file, len, first_len: len, kept: len, lines: 0, first: 0, last: 0 }
    }
}

/// Reads the whole log. `manifest` is `None` where it cannot be read: then nothing is known to be a crash's work, so
/// every hole counts as damage.
pub(crate) fn scan(disk: &dyn Disk, manifest: Option<&Manifest>) -> Result<Scan, StoreError> {
    let segments = open_segments(disk)?;
    let known = manifest.map_or_else(Ranges::default, |manifest| manifest.lost.clone());
    let durable = manifest.map_or(u64::MAX, |manifest| manifest.durable);
    let first = Pass::new(disk, &segments, &known, durable).run()?;
    // Lines behind the first hole may know that it was once filled.
    let (cut_from, highest_d) = (first.cut_from, first.highest_d);
    if cut_from.is_none_or(|cut_from| highest_d < cut_from) {
        return Ok(first.finish());
    }
    // An index in memory is large; there need not be two.
    drop(first);
    Ok(Pass::new(disk, &segments, &known, highest_d).run()?.finish())
}

/// All log files and their lengths.
///
/// Somebody who only looks may look while a server writes, and lengths from different moments would show holes where
/// there are none. So the order matters: an active file is opened before the sealed ones are listed, so that none is
/// overlooked when it is sealed meanwhile; and lengths are taken twice. What lines within the first lengths say to be
/// durable is within the second ones.
fn open_segments(disk: &dyn Disk) -> Result<Vec<Segment>, StoreError> {
    let mut segments = Vec::new();
    for kind in EventKind::ALL {
        let path = files::active_path(kind);
        let active = match disk.open(path, OpenMode::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(StoreError::Io { action: "open", path: path.to_owned(), source }),
        };
        let listed = files::list(disk, kind);
        let listed = listed.map_err(|source| StoreError::Io { action: "list", path: path.to_owned(), source })?;
        for at in listed.into_iter().filter(|at| at.sealed.is_some()) {
            let failed = |source| StoreError::Io { action: "open", path: at.path.clone(), source };
            let len = disk.open(&at.path, OpenMode::Read).and_then(|file| file.len_bytes()).map_err(failed)?;
            segments.push(Segment::new(at, None, len));
        }
        if let Some(file) = active {
            let failed = |source| StoreError::Io { action: "open", path: path.to_owned(), source };
            let len = file.len_bytes().map_err(failed)?;
            segments.push(Segment::new(LogFile { path: path.to_owned(), kind, sealed: None }, Some(file), len));
        }
    }
    for segment in &mut segments {
        if let Some(file) = &segment.file {
            let failed = |source| StoreError::Io { action: "open", path: segment.at.path.clone(), source };
            segment.len = file.len_bytes().map_err(failed)?;
            segment.kept = segment.len;
        }
    }
    Ok(segments)
}

/// The sources to read segments of all kinds from, each up to `end`.
pub(crate) fn sources(segments: &[Segment], end: impl Fn(&Segment) -> u64) -> Vec<Vec<Source>> {
    let mut kinds = vec![Vec::new(); EventKind::ALL.len()];
    for (id, segment) in segments.iter().enumerate() {
        let (path, file) = (segment.at.path.clone(), segment.file.clone());
        kinds[segment.at.kind as usize].push(Source { segment: id as u32, path, file, end: end(segment) });
    }
    kinds
}

/// One reading of the log under the assumption that indices up to `durable` were durable.
struct Pass<'a> {
    disk: &'a dyn Disk,
    segments: &'a [Segment],
    known: &'a Ranges,
    durable: u64,
    expected: u64,
    highest_d: u64,
    lost: Ranges,
    cut_from: Option<u64>,
    /// Per kind, whether intact lines are cut.
    cuts: [bool; EventKind::ALL.len()],
    tallies: Vec<Tally>,
    index: Index<Loc>,
    names: Interner,
    /// The origin of the last line.
    origin: Option<(Origin, u32)>,
    bad: Vec<BadBytes>,
    repeated: u64,
}

/// What of a segment is kept.
#[derive(Clone, Copy, Default)]
struct Tally {
    end: u64,
    lines: u64,
    first: u64,
    last: u64,
}

impl<'a> Pass<'a> {
    fn new(disk: &'a dyn Disk, segments: &'a [Segment], known: &'a Ranges, durable: u64) -> Self {
        Self {
            disk,
            segments,
            known,
            durable,
            expected: 1,
            highest_d: 0,
            lost: Ranges::default(),
            cut_from: None,
            cuts: [false; EventKind::ALL.len()],
            tallies: vec![Tally::default(); segments.len()],
            index: Index::default(),
            names: Interner::default(),
            origin: None,
            bad: Vec::new(),
            repeated: 0,
        }
    }

    fn run(mut self) -> Result<Self, StoreError> {
        let mut merge = Merge::open(self.disk, sources(self.segments, |segment| segment.len))?;
        while let Some((kind, head)) = merge.next()? {
            if u64::from(head.loc.offset) < self.segments[head.loc.segment as usize].first_len {
                self.highest_d = self.highest_d.max(head.d);
            }
            if self.cut_from.is_none() {
                self.durable = self.durable.max(self.highest_d);
            }
            if self.cut_from.is_none() && head.n > self.expected {
                self.judge_hole(head.n - 1);
            }
            if self.cut_from.is_some() {
                self.cuts[kind] = true;
                continue;
            }
            self.take(head, merge.covered())?;
        }
        if self.cut_from.is_none() {
            // The manifest's own word is missing where it is damaged; lines still tell.
            let durable = if self.durable == u64::MAX { self.highest_d } else { self.durable.max(self.highest_d) };
            self.durable = durable;
            self.judge_hole(durable);
        }
        self.bad = merge.into_bad_bytes();
        Ok(self)
    }

    /// The indices from the expected one to `to` are not there.
    fn judge_hole(&mut self, to: u64) {
        for (from, to) in self.known.gaps(self.expected, to) {
            if from > self.durable {
                self.cut_from = Some(from);
                self.expected = from;
                return;
            }
            self.lost.insert(from, to.min(self.durable));
            if to > self.durable {
                self.cut_from = Some(self.durable + 1);
                self.expected = self.durable + 1;
                return;
            }
        }
        self.expected = self.expected.max(to.saturating_add(1));
    }

    fn take(&mut self, head: Head, covered: &[u8]) -> Result<(), StoreError> {
        let Some(line) = Line::parse(covered) else { return Err(self.unreadable(head.loc)) };
        self.expected = self.expected.max(head.n.saturating_add(1));
        let tally = &mut self.tallies[head.loc.segment as usize];
        tally.end = tally.end.max(u64::from(head.loc.offset) + u64::from(head.loc.len));
        tally.first = if tally.lines == 0 { head.n } else { tally.first.min(head.n) };
        tally.last = tally.last.max(head.n);
        tally.lines += 1;
        let id = match &self.origin {
            Some((origin, id)) if line.origin.is(origin) => *id,
            _ => {
                let origin = self.names.origin(&line.origin.server, line.origin.incarnation);
                let origin = origin.ok_or_else(|| self.unreadable(head.loc))?;
                let id = self.index.origin_id(&origin);
                self.origin = Some((origin, id));
                id
            }
        };
        let entry = Entry { clock: line.clock, place: head.loc };
        let (next, last_clock) = self.index.tail(id);
        if line.seq == next && line.clock >= last_clock {
            self.index.push(id, entry, line.feed_names());
            self.take_waiting(id)?;
        } else if !self.index.wait(id, line.seq, entry) {
            self.repeated += 1;
        }
        Ok(())
    }

    /// Takes the events that waited for the one just taken.
    fn take_waiting(&mut self, id: u32) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        loop {
            let (next, last_clock) = self.index.tail(id);
            let waiting = self.index.waiting_at(id, next).filter(|entry| entry.clock >= last_clock);
            let Some(entry) = waiting else { return Ok(()) };
            let segment = &self.segments[entry.place.segment as usize];
            let failed = |source| StoreError::Io { action: "read", path: segment.at.path.clone(), source };
            let file = self.disk.open(&segment.at.path, OpenMode::Read).map_err(failed)?;
            let offset = u64::from(entry.place.offset);
            read_exact(&*file, offset, entry.place.len as usize, &mut buffer).map_err(failed)?;
            let covered = buffer.strip_suffix(b"\n").and_then(super::line::unseal);
            let line = covered.and_then(Line::parse).ok_or_else(|| self.unreadable(entry.place))?;
            self.index.push(id, entry, line.feed_names());
        }
    }

    /// The line's checksum fits, so it is what somebody wrote; only not we.
    fn unreadable(&self, loc: Loc) -> StoreError {
        let path = self.segments[loc.segment as usize].at.path.clone();
        StoreError::Unreadable {
            path,
            reason: format!("the line at byte {} is intact, but of another form", loc.offset),
        }
    }

    fn finish(self) -> Scan {
        let mut segments = self.segments.to_vec();
        for kind in EventKind::ALL {
            let cut = self.cuts[kind as usize];
            let of_kind = |id: &usize| segments[*id].at.kind == kind;
            let ids: Vec<usize> = (0..segments.len()).filter(of_kind).collect();
            let last_kept = ids.iter().rev().copied().find(|&id| self.tallies[id].lines > 0);
            for id in ids {
                // What is bad at the end of the active file must go, or the next line would continue it.
                let is_end = last_kept.is_none_or(|last| id >= last) && (cut || segments[id].at.sealed.is_none());
                if is_end {
                    segments[id].kept = self.tallies[id].end;
                }
            }
        }
        for (segment, tally) in segments.iter_mut().zip(&self.tallies) {
            (segment.lines, segment.first, segment.last) = (tally.lines, tally.first, tally.last);
        }
        let (index, lost, cut_from) = (self.index, self.lost, self.cut_from);
        Scan { segments, index, last: self.expected - 1, lost, cut_from, bad: self.bad, repeated: self.repeated }
    }
}
