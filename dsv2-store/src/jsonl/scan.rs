//! What a log holds: found by reading it, without changing anything.
//!
//! The files are merged by log index. Let *D* be the highest index known durable: by the manifest, or by any line's `d`.
//! Up to *D*, every index must be there; one that is not is *lost* to damage, unless the manifest knows it. Above *D*, a
//! crash may have taken anything: the log ends before the first index that is not there, and what stands behind it is
//! to be cut.
//!
//! Retention changes this for the indices that its note covers, see [`Note`]. A snapshot spares reading what it covers.

use std::sync::Arc;

use dsv2_core::{EventKind, Origin};

use super::files::{self, Form, LogFile};
use super::line::Line;
use super::manifest::Manifest;
use super::names::Interner;
use super::note::Note;
use super::packed::PackedFile;
use super::snapshot::Snapshot;
use super::stream::{BadBytes, Head, Loc, Merge, Source};
use crate::disk::{Disk, DiskFile, OpenMode, read_exact};
use crate::error::StoreError;
use crate::index::{Entry, Index};
use crate::ranges::Ranges;

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
    /// Origins of which less is held than the note says.
    pub(crate) short: Vec<(Origin, u64, u64)>,
    /// The snapshot that was used.
    pub(crate) snapshot: Option<Snapshot>,
}

/// A log file and how much of it stays.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) at: LogFile,
    /// Open, if it is active.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    pub(crate) len: u64,
    /// What it takes on the disk: less than `len` in compressed form.
    pub(crate) disk_bytes: u64,
    /// Lines before this byte are believed when they say what is durable.
    first_len: u64,
    /// A snapshot covers the bytes before this one.
    pub(crate) start: u64,
    /// Where the last line taken ends.
    pub(crate) end: u64,
    /// Where the last line taken begins, and its index.
    pub(crate) last_line: Option<(u64, u64)>,
    /// The bytes from here on are to be cut.
    pub(crate) kept: u64,
    /// The bytes from here on to there are not known to be durable.
    pub(crate) unsure: u64,
    /// Bytes of lines of retired events.
    pub(crate) dead_bytes: u64,
    pub(crate) lines: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Segment {
    const fn new(at: LogFile, file: Option<Arc<dyn DiskFile>>, len: u64, disk_bytes: u64) -> Self {
        Self {
            at,
            file,
            len,
            disk_bytes,
            first_len: len,
            start: 0,
            end: 0,
            last_line: None,
            kept: len,
            unsure: len,
            dead_bytes: 0,
            lines: 0,
            first: 0,
            last: 0,
        }
    }

    /// No snapshot covers any of it after all.
    fn uncover(&mut self) {
        (self.start, self.last_line, self.dead_bytes) = (0, None, 0);
    }
}

/// What is known of a log before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// `None` where it cannot be read: then nothing is known to be a crash's work, so every hole counts as damage.
    pub(crate) manifest: Option<&'a Manifest>,
    pub(crate) note: Option<&'a Note>,
}

/// Reads the log: all of it, or what the snapshot does not cover.
pub(crate) fn scan(disk: &dyn Disk, known: Known<'_>, mut snapshot: Option<Snapshot>) -> Result<Scan, StoreError> {
    let mut segments = open_segments(disk)?;
    let fits = snapshot.as_mut().is_some_and(|snapshot| snapshot.fit(disk, &mut segments));
    let index = |snapshot: &Option<Snapshot>| snapshot.as_ref().and_then(Snapshot::index);
    let covered = index(&snapshot).filter(|_| fits);
    if covered.is_none() {
        snapshot = None;
        segments.iter_mut().for_each(Segment::uncover);
    }
    let last = snapshot.as_ref().map_or(0, |snapshot| snapshot.last);
    let durable = known.manifest.map_or(u64::MAX, |manifest| manifest.durable);
    let first = Pass::new(disk, &segments, known, durable, (covered.unwrap_or_default(), last)).run()?;
    // Lines behind the first hole may know that it was once filled.
    let (cut_from, highest_d) = (first.cut_from, first.highest_d);
    if cut_from.is_none_or(|cut_from| highest_d < cut_from) {
        return Ok(first.finish(snapshot));
    }
    // An index in memory is large; there need not be two.
    drop(first);
    let covered = (index(&snapshot).unwrap_or_default(), last);
    Ok(Pass::new(disk, &segments, known, highest_d, covered).run()?.finish(snapshot))
}

/// So often the files are looked for anew, because some came or went meanwhile.
const LOOKS: usize = 1_000;

/// All log files and their lengths.
///
/// Somebody who only looks may look while a server writes, and lengths from different moments would show holes where
/// there are none. So it is done over if a file came or went meanwhile, and lengths are taken twice: what lines within
/// the first lengths say to be durable is within the second ones.
fn open_segments(disk: &dyn Disk) -> Result<Vec<Segment>, StoreError> {
    for _ in 0..LOOKS {
        let before = list(disk)?;
        if let Some(segments) = open_listed(disk, &before)?
            && list(disk)? == before
        {
            return Ok(segments);
        }
    }
    let source = std::io::Error::other("its files come and go all the time");
    Err(StoreError::Io { action: "list", path: "the data directory".to_owned(), source })
}

fn list(disk: &dyn Disk) -> Result<Vec<LogFile>, StoreError> {
    let mut all = Vec::new();
    for kind in EventKind::ALL {
        let failed = |source| StoreError::Io { action: "list", path: files::active_path(kind).to_owned(), source };
        all.extend(files::list(disk, kind).map_err(failed)?);
    }
    Ok(all)
}

/// The files listed and their lengths; `None` where one is not there any more.
fn open_listed(disk: &dyn Disk, listed: &[LogFile]) -> Result<Option<Vec<Segment>>, StoreError> {
    let mut segments = Vec::with_capacity(listed.len());
    for at in listed {
        let failed = |source| StoreError::Io { action: "open", path: at.path.clone(), source };
        let file = match open_form(disk, at) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let (file, disk_bytes) = file;
        let len = file.len_bytes().map_err(failed)?;
        // A log may have more sealed files than a process may open.
        segments.push(Segment::new(at.clone(), at.sealed.is_none().then_some(file), len, disk_bytes));
    }
    for segment in &mut segments {
        if let Some(file) = &segment.file {
            let failed = |source| StoreError::Io { action: "open", path: segment.at.path.clone(), source };
            segment.len = file.len_bytes().map_err(failed)?;
            (segment.kept, segment.disk_bytes) = (segment.len, segment.len);
        }
    }
    Ok(Some(segments))
}

/// Opens the file in the form it was listed in; yields the bytes that it takes, too.
fn open_form(disk: &dyn Disk, at: &LogFile) -> std::io::Result<(Arc<dyn DiskFile>, u64)> {
    let path = if at.form == Form::Packed { files::packed_path(&at.path) } else { at.path.clone() };
    let file = disk.open(&path, OpenMode::Read)?;
    let disk_bytes = file.len_bytes()?;
    if at.form != Form::Packed {
        return Ok((file, disk_bytes));
    }
    Ok((Arc::new(PackedFile::open(file)?), disk_bytes))
}

/// The sources to read segments of all kinds from, each from what a snapshot covers up to `end`.
pub(crate) fn sources(segments: &[Segment], end: impl Fn(&Segment) -> u64) -> Vec<Vec<Source>> {
    let mut kinds = vec![Vec::new(); EventKind::ALL.len()];
    for (id, segment) in segments.iter().enumerate() {
        let (path, file) = (segment.at.path.clone(), segment.file.clone());
        let (start, end) = (segment.start, end(segment));
        kinds[segment.at.kind as usize].push(Source { segment: id as u32, path, file, start, end });
    }
    kinds
}

/// One reading of the log under the assumption that indices up to `durable` were durable.
struct Pass<'a> {
    disk: &'a dyn Disk,
    segments: &'a [Segment],
    /// Indices that are known to be lost.
    known: Ranges,
    note: Option<&'a Note>,
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
    /// The file of the last event that had waited: the next one probably stands behind it.
    waiting_in: Option<(u32, Arc<dyn DiskFile>)>,
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
    last_line: Option<(u64, u64)>,
    dead_bytes: u64,
    /// Where the lines begin that no other one says to be durable, or some before them.
    unsure: u64,
}

impl<'a> Pass<'a> {
    fn new(
        disk: &'a dyn Disk,
        segments: &'a [Segment],
        known: Known<'a>,
        durable: u64,
        (mut index, covered): (Index<Loc>, u64),
    ) -> Self {
        let tally = |segment: &Segment| Tally {
            end: segment.start,
            unsure: segment.start,
            last_line: segment.last_line,
            dead_bytes: segment.dead_bytes,
            ..Tally::default()
        };
        let mut tallies: Vec<Tally> = segments.iter().map(tally).collect();
        for (origin, ranges) in known.note.into_iter().flat_map(Note::retired) {
            let id = index.origin_id(origin);
            index.retire(id, &ranges, |entry| {
                tallies[entry.place.segment as usize].dead_bytes += u64::from(entry.place.len);
            });
        }
        index.tidy_feeds();
        Self {
            disk,
            segments,
            known: known.manifest.map_or_else(Ranges::default, |manifest| manifest.lost.clone()),
            note: known.note,
            durable,
            // What the note or the snapshot covers was all there, and tells nothing any more.
            expected: covered.max(known.note.map_or(0, |note| note.upto)) + 1,
            highest_d: covered,
            lost: Ranges::default(),
            cut_from: None,
            cuts: [false; EventKind::ALL.len()],
            tallies,
            index,
            names: Interner::default(),
            origin: None,
            waiting_in: None,
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
        let bytes = u64::from(head.loc.len);
        let tally = &mut self.tallies[head.loc.segment as usize];
        if tally.last <= self.highest_d {
            tally.unsure = u64::from(head.loc.offset);
        }
        tally.end = tally.end.max(u64::from(head.loc.offset) + u64::from(head.loc.len));
        tally.first = if tally.lines == 0 { head.n } else { tally.first.min(head.n) };
        tally.last = tally.last.max(head.n);
        tally.last_line = Some((u64::from(head.loc.offset), head.n));
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
        if self.index.is_retired(id, line.seq) {
            self.tallies[head.loc.segment as usize].dead_bytes += bytes;
            return Ok(());
        }
        let entry = Entry::new(line.clock, line.timestamp_ms(), head.loc);
        self.skip_before(id, &line);
        let (next, last_clock) = self.index.tail(id);
        if line.seq == next && line.clock >= last_clock {
            self.index.push(id, entry, line.feed_names());
            self.take_waiting(id)?;
        } else if !self.index.wait(id, line.seq, entry) {
            self.repeated += 1;
        }
        Ok(())
    }

    /// The numbers that a line says were retired when it was written need not be waited for.
    fn skip_before(&mut self, id: u32, line: &Line<'_>) {
        let (next, _) = self.index.tail(id);
        if line.seq > next && line.after.is_some_and(|after| after < next) {
            self.index.skip(id, line.seq - 1, |_| ());
        }
    }

    /// Takes the events that waited for the one just taken.
    fn take_waiting(&mut self, id: u32) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        loop {
            let (_, last_clock) = self.index.tail(id);
            let waiting = self.index.first_waiting(id).filter(|(_, entry)| entry.clock >= last_clock);
            let Some((seq, entry)) = waiting else { return Ok(()) };
            let segment = &self.segments[entry.place.segment as usize];
            let failed = |source| StoreError::Io { action: "read", path: segment.at.path.clone(), source };
            let file = match &self.waiting_in {
                Some((id, file)) if *id == entry.place.segment => Arc::clone(file),
                _ => files::open(self.disk, &segment.at.path).map_err(failed)?,
            };
            self.waiting_in = Some((entry.place.segment, Arc::clone(&file)));
            let offset = u64::from(entry.place.offset);
            read_exact(&*file, offset, entry.place.len as usize, &mut buffer).map_err(failed)?;
            let covered = buffer.strip_suffix(b"\n").and_then(super::line::unseal);
            let line = covered.and_then(Line::parse).ok_or_else(|| self.unreadable(entry.place))?;
            self.skip_before(id, &line);
            if self.index.tail(id).0 != seq {
                return Ok(());
            }
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

    fn finish(self, snapshot: Option<Snapshot>) -> Scan {
        let short = self.short();
        let mut segments = self.segments.to_vec();
        for kind in EventKind::ALL {
            let cut = self.cuts[kind as usize];
            let of_kind = |id: &usize| segments[*id].at.kind == kind;
            let ids: Vec<usize> = (0..segments.len()).filter(of_kind).collect();
            let last_kept = ids.iter().rev().copied().find(|&id| self.tallies[id].last_line.is_some());
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
            (segment.end, segment.last_line, segment.dead_bytes) = (tally.end, tally.last_line, tally.dead_bytes);
            segment.unsure = if tally.last <= self.highest_d { segment.kept } else { tally.unsure };
        }
        let (index, lost, cut_from) = (self.index, self.lost, self.cut_from);
        let (last, bad, repeated) = (self.expected - 1, self.bad, self.repeated);
        Scan { segments, index, last, lost, cut_from, bad, repeated, short, snapshot }
    }

    /// What the note says was held and is not there; what waits tells of its own gaps.
    fn short(&self) -> Vec<(Origin, u64, u64)> {
        let held = self.note.into_iter().flat_map(|note| note.held.iter());
        let short = held.filter_map(|(origin, held)| {
            let id = self.index.find_origin(origin);
            let next = id.map_or(1, |id| self.index.tail(id).0);
            let waits = id.and_then(|id| self.index.first_waiting(id)).is_some();
            (next <= held && !waits).then(|| (origin.clone(), next, held))
        });
        short.collect()
    }
}
