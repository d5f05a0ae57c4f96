//! The log as it is read: files, and the index over them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use dsv2_core::{Event, EventId, Origin, Position};

use super::line::{self, Line};
use super::names::Interner;
use super::scan::Segment;
use super::segments::Segments;
use super::stream::{BadBytes, Loc, Merge, Source};
use crate::disk::{Disk, read_exact};
use crate::error::StoreError;
use crate::index::{EventRef, Index};

/// Lines that are at most so far apart are read together,
const GAP_BYTES: u64 = 4 << 10;
/// up to so many bytes.
const WINDOW_BYTES: u64 = 256 << 10;

/// A log of so many bytes is worth two threads.
const ALONE_BYTES: u64 = 4 << 20;
/// So many events, or so many bytes of texts, are handed over at a time,
const BATCH_EVENTS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// and so many times before they are visited.
const AHEAD_BATCHES: usize = 4;

/// A part of a file in memory.
#[derive(Default)]
struct Window {
    segment: u32,
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn line(&self, loc: Loc) -> Option<&[u8]> {
        let start = u64::from(loc.offset).checked_sub(self.offset).filter(|_| loc.segment == self.segment)?;
        let start = usize::try_from(start).ok()?;
        self.bytes.get(start..start.checked_add(loc.len as usize)?)
    }
}

/// Files, and what of them is served.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segments: Segments,
    pub(crate) index: Index<Loc>,
}

impl View {
    /// The log as a scan found it.
    pub(crate) fn read_only(disk: Arc<dyn Disk>, found: &[Segment], index: Index<Loc>) -> Self {
        let mut segments = Segments::default();
        for segment in found {
            match &segment.file {
                Some(file) => segments.add_active(segment.at.kind, Arc::clone(file)),
                None => segments.add_sealed(segment),
            };
        }
        Self { disk, segments, index }
    }

    /// Reads events in the order of the references.
    pub(crate) fn fetch(&self, found: &[EventRef<Loc>]) -> Result<Vec<Event>, StoreError> {
        let mut names = Interner::default();
        let mut window = Window::default();
        let mut events = Vec::with_capacity(found.len());
        for (at, event) in found.iter().enumerate() {
            let loc = event.entry.place;
            if window.line(loc).is_none() {
                self.fill(&mut window, &found[at..])?;
            }
            let Some(origin) = self.index.origin(event.origin) else { continue };
            events.push(self.decode(window.line(loc), loc, (origin, event.seq), &mut names)?);
        }
        Ok(events)
    }

    /// Reads the event that lies there.
    pub(crate) fn read_one(&self, id: &EventId, loc: Loc) -> Result<Event, StoreError> {
        let mut bytes = Vec::new();
        self.read_bytes(loc.segment, u64::from(loc.offset), loc.len as usize, &mut bytes)?;
        self.decode(Some(&bytes), loc, (&id.origin, id.seq), &mut Interner::default())
    }

    /// Reads the first line, and with it those that follow closely.
    fn fill(&self, window: &mut Window, found: &[EventRef<Loc>]) -> Result<(), StoreError> {
        let Some(first) = found.first().map(|event| event.entry.place) else { return Ok(()) };
        let start = u64::from(first.offset);
        let mut end = start + u64::from(first.len);
        for next in found[1..].iter().map(|event| event.entry.place) {
            let (from, to) = (u64::from(next.offset), u64::from(next.offset) + u64::from(next.len));
            let is_near = next.segment == first.segment && from >= start && from <= end + GAP_BYTES;
            if !is_near || to - start > WINDOW_BYTES {
                break;
            }
            end = end.max(to);
        }
        (window.segment, window.offset) = (first.segment, start);
        self.read_bytes(first.segment, start, (end - start) as usize, &mut window.bytes)
    }

    fn read_bytes(&self, segment: u32, offset: u64, len: usize, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let file = self.segments.file(&*self.disk, segment);
        let read = file.and_then(|file| read_exact(&*file, offset, len, into));
        read.map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt(segment, offset, "the file ends too early"),
            _ => StoreError::Io { action: "read", path: self.segments.path(segment).to_owned(), source },
        })
    }

    fn corrupt(&self, segment: u32, offset: u64, reason: &'static str) -> StoreError {
        StoreError::Corrupt { path: self.segments.path(segment).to_owned(), offset, reason }
    }

    /// The event in a line, which must be the one expected there.
    fn decode(
        &self,
        line: Option<&[u8]>,
        loc: Loc,
        (origin, seq): (&Origin, u64),
        names: &mut Interner,
    ) -> Result<Event, StoreError> {
        let covered = line.and_then(|line| line.strip_suffix(b"\n")).and_then(line::unseal);
        let event = covered.and_then(Line::parse).and_then(|line| line.to_event(names));
        let event = event.filter(|event| event.id.seq == seq && event.id.origin == *origin);
        event.ok_or_else(|| self.corrupt(loc.segment, u64::from(loc.offset), "it is no longer the line written there"))
    }

    /// Hands all served events that `after` does not mean to `visit`, in log order, except that one that had to wait for
    /// another comes after it. `sources` must hold them all. Of a long log, one thread reads what this one visits.
    pub(crate) fn replay(
        &self,
        sources: Vec<Vec<Source>>,
        after: &Position,
        visit: &mut dyn FnMut(Event),
    ) -> Result<(), StoreError> {
        let bytes: u64 = sources.iter().flatten().map(|source| source.end.saturating_sub(source.start)).sum();
        if bytes < ALONE_BYTES {
            return self.read(sources, after, visit);
        }
        std::thread::scope(|scope| {
            let (sender, batches) = sync_channel::<Vec<Event>>(AHEAD_BATCHES);
            let wanted = sources.clone();
            let reading = move || {
                let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_EVENTS), 0);
                let read = self.read(wanted, after, &mut |event| {
                    bytes += event.body.text_bytes();
                    batch.push(event);
                    if batch.len() == BATCH_EVENTS || bytes >= BATCH_BYTES {
                        // A visitor that is gone has panicked, which the other thread tells.
                        let _ = sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_EVENTS)));
                        bytes = 0;
                    }
                });
                let _ = sender.send(batch);
                read
            };
            let Ok(reading) = std::thread::Builder::new().spawn_scoped(scope, reading) else {
                return self.read(sources, after, visit);
            };
            batches.into_iter().flatten().for_each(visit);
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`View::replay`], by this thread alone.
    pub(crate) fn read(
        &self,
        sources: Vec<Vec<Source>>,
        after: &Position,
        visit: &mut dyn FnMut(Event),
    ) -> Result<(), StoreError> {
        let mut merge = Merge::open(&*self.disk, sources)?;
        let mut names = Interner::default();
        let index = &self.index;
        let next_live = |id: u32, from: u64| index.next_live(id, from).unwrap_or(u64::MAX);
        let origins = 0..index.origins() as u32;
        let mut next: Vec<u64> =
            origins.map(|id| next_live(id, index.origin(id).map_or(0, |origin| after.get(origin)) + 1)).collect();
        let mut passed: HashSet<(u32, u64)> = HashSet::new();
        let mut current: Option<(Origin, u32)> = None;
        let mut visited = 0;
        while let Some((_, head)) = merge.next()? {
            if visited >= BATCH_EVENTS {
                // Two threads that count the same names' owners up and down would wait for each other.
                (names, visited) = (Interner::default(), 0);
            }
            let garbled = || self.corrupt(head.loc.segment, u64::from(head.loc.offset), "the line holds no event");
            let event = Line::parse(merge.covered()).and_then(|line| line.to_event(&mut names)).ok_or_else(garbled)?;
            let id = match &current {
                Some((origin, id)) if *origin == event.id.origin => *id,
                _ => {
                    let Some(id) = index.find_origin(&event.id.origin) else { continue };
                    current = Some((event.id.origin.clone(), id));
                    id
                }
            };
            // What waits is not served, even where it stands in its place.
            let is_served = index.entry(id, event.id.seq).is_some();
            if !is_served || event.id.seq != next[id as usize] {
                if is_served && event.id.seq > next[id as usize] {
                    passed.insert((id, event.id.seq));
                }
                continue;
            }
            next[id as usize] = next_live(id, event.id.seq + 1);
            visit(event);
            visited += 1;
            while passed.remove(&(id, next[id as usize])) {
                let seq = next[id as usize];
                let Some(entry) = index.entry(id, seq) else { break };
                self.fetch(&[EventRef { origin: id, seq, entry }])?.into_iter().for_each(&mut *visit);
                next[id as usize] = next_live(id, seq + 1);
            }
        }
        if next.iter().all(|&next| next == u64::MAX) {
            Ok(())
        } else {
            Err(self.lost_since_open(&merge.into_bad_bytes()))
        }
    }

    fn lost_since_open(&self, bad: &[BadBytes]) -> StoreError {
        let (segment, offset) = bad.last().map_or((0, 0), |bad| (bad.segment, bad.offset));
        self.corrupt(segment, offset, "an event that was here when the store was opened is gone")
    }
}
