//! Reading log files from start to end: lines, whether they are intact, and their order.

use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

use super::{LINE_CAP_BYTES, files, line};
use crate::disk::{Disk, DiskFile};
use crate::error::StoreError;
use crate::index::Place;

/// Where a line lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loc {
    /// The internal number of its file.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// With its newline.
    pub(crate) len: u32,
}

impl Place for Loc {
    fn bytes(&self) -> usize {
        self.len as usize
    }
}

/// A file to read, from byte `start` up to byte `end`. If it is not open, it is opened when its turn comes: a log may have more files than
/// a process may open.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) segment: u32,
    pub(crate) path: String,
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    /// Where to begin: at a line.
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Bytes that are not an intact line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBytes {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// An intact line, not yet taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) n: u64,
    pub(crate) d: u64,
    pub(crate) loc: Loc,
}

/// The intact lines of all kinds, merged by log index; lines of one file keep their order.
#[derive(Debug)]
pub(crate) struct Merge<'a> {
    streams: Vec<Stream<'a>>,
    current: Option<usize>,
}

impl<'a> Merge<'a> {
    /// Each kind's files, the oldest first.
    pub(crate) fn open(disk: &'a dyn Disk, kinds: Vec<Vec<Source>>) -> Result<Self, StoreError> {
        let mut streams: Vec<_> = kinds.into_iter().map(|sources| Stream::new(disk, sources)).collect();
        streams.iter_mut().try_for_each(Stream::advance)?;
        Ok(Self { streams, current: None })
    }

    /// The next line, with which of the kinds it is of.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Head)>, StoreError> {
        if let Some(at) = self.current.take() {
            self.streams[at].advance()?;
        }
        let heads = self.streams.iter().enumerate().filter_map(|(at, stream)| Some((at, stream.head?)));
        let least = heads.min_by_key(|(_, head)| head.n);
        self.current = least.map(|(at, _)| at);
        Ok(least)
    }

    /// The part of the line last returned that its checksum covers.
    pub(crate) fn covered(&self) -> &[u8] {
        self.current.map_or(&[], |at| self.streams[at].covered())
    }

    /// All that was passed and is not an intact line.
    pub(crate) fn into_bad_bytes(self) -> Vec<BadBytes> {
        self.streams.into_iter().flat_map(|stream| stream.bad).collect()
    }
}

/// The intact lines of one kind.
#[derive(Debug)]
struct Stream<'a> {
    disk: &'a dyn Disk,
    waiting: std::vec::IntoIter<Source>,
    reader: Option<Reader>,
    head: Option<Head>,
    covered: Range<usize>,
    bad: Vec<BadBytes>,
}

impl<'a> Stream<'a> {
    fn new(disk: &'a dyn Disk, sources: Vec<Source>) -> Self {
        Self { disk, waiting: sources.into_iter(), reader: None, head: None, covered: 0..0, bad: Vec::new() }
    }

    fn covered(&self) -> &[u8] {
        self.reader.as_ref().map_or(&[], |reader| &reader.buffer[self.covered.clone()])
    }

    /// Goes to the next intact line.
    fn advance(&mut self) -> Result<(), StoreError> {
        self.head = None;
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(source) = self.waiting.next() else { return Ok(()) };
                let file = source.file.clone().map_or_else(|| files::open(self.disk, &source.path), Ok);
                let file = file.map_err(|e| StoreError::Io { action: "open", path: source.path.clone(), source: e })?;
                self.reader = Some(Reader::new(source, file));
                continue;
            };
            let next = reader.next();
            let next =
                next.map_err(|e| StoreError::Io { action: "read", path: reader.source.path.clone(), source: e })?;
            let Some((offset, len, line)) = next else {
                self.reader = None;
                continue;
            };
            let segment = reader.source.segment;
            let intact = line.and_then(|line| {
                let covered = line::unseal(&reader.buffer[line.clone()])?;
                let (n, d) = line::indices(covered)?;
                Some((n, d, line.start..line.start + covered.len()))
            });
            let Some((n, d, covered)) = intact else {
                self.note_bad(BadBytes { segment, offset, len });
                continue;
            };
            let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(len)) else {
                let reason = "it is larger than a segment can be".to_owned();
                return Err(StoreError::Unreadable { path: reader.source.path.clone(), reason });
            };
            self.covered = covered;
            self.head = Some(Head { n, d, loc: Loc { segment, offset, len } });
            return Ok(());
        }
    }

    /// Neighbours are joined, so that much garbage takes little memory.
    fn note_bad(&mut self, bad: BadBytes) {
        match self.bad.last_mut() {
            Some(last) if last.segment == bad.segment && last.offset + last.len == bad.offset => last.len += bad.len,
            _ => self.bad.push(bad),
        }
    }
}

/// The lines of one file.
#[derive(Debug)]
struct Reader {
    source: Source,
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    base: u64,
    /// The part of the buffer that is filled and not yet passed.
    live: Range<usize>,
    /// In a line longer than any of ours: how much of it is dropped so far.
    dropped: u64,
}

const BUFFER_BYTES: usize = 256 << 10;

impl Reader {
    fn new(source: Source, file: Arc<dyn DiskFile>) -> Self {
        let size =
            usize::try_from(source.end.saturating_sub(source.start)).unwrap_or(BUFFER_BYTES).clamp(1, BUFFER_BYTES);
        let base = source.start;
        Self { source, file, buffer: vec![0; size], base, live: 0..0, dropped: 0 }
    }

    /// The next line: where it begins in the file, its length with its newline, and where it lies in the buffer without
    /// it; `None` for that in a line too long or without its newline.
    #[allow(clippy::type_complexity, reason = "a name would say less than the three words above")]
    fn next(&mut self) -> io::Result<Option<(u64, u64, Option<Range<usize>>)>> {
        let mut searched = 0;
        loop {
            let mut rest = &self.buffer[self.live.start + searched..self.live.end];
            let passed = rest.skip_until(b'\n')?;
            let end = self.live.start + searched + passed;
            if passed > 0 && self.buffer[end - 1] == b'\n' {
                return Ok(Some(self.pass(end, Some(self.live.start..end - 1))));
            }
            searched = self.live.len();
            if searched >= LINE_CAP_BYTES {
                self.dropped += searched as u64;
                self.live.start = self.live.end;
                searched = 0;
            }
            if self.fill()? == 0 {
                let torn = self.dropped + self.live.len() as u64 > 0;
                return Ok(torn.then(|| self.pass(self.live.end, None)));
            }
        }
    }

    /// Passes the buffer up to `end`.
    fn pass(&mut self, end: usize, line: Option<Range<usize>>) -> (u64, u64, Option<Range<usize>>) {
        let offset = self.base + self.live.start as u64 - self.dropped;
        let len = self.dropped + (end - self.live.start) as u64;
        let line = line.filter(|_| self.dropped == 0);
        self.live.start = end;
        self.dropped = 0;
        (offset, len, line)
    }

    /// Reads more behind what is live; 0 at the end of the file.
    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.live.clone(), 0);
        self.base += self.live.start as u64;
        self.live = 0..self.live.len();
        if self.live.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        let at = self.base + self.live.end as u64;
        let room = self.buffer.len() - self.live.end;
        let left = usize::try_from(self.source.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let into = &mut self.buffer[self.live.end..][..room.min(left)];
        let read = self.file.read_at(at, into)?;
        self.live.end += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemDisk, OpenMode};

    fn reader(content: &[u8], end: u64) -> Reader {
        let disk = MemDisk::new();
        disk.put("f", content);
        let file = disk.open("f", OpenMode::Read).expect("there");
        Reader::new(Source { segment: 0, path: "f".to_owned(), file: None, start: 0, end }, file)
    }

    #[test]
    fn lines_are_found_whatever_their_length() {
        let lens = [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES, 5, LINE_CAP_BYTES + BUFFER_BYTES, 7];
        let content: Vec<u8> = lens.iter().flat_map(|&len| [vec![b'x'; len], vec![b'\n']].concat()).collect();
        let mut reader = reader(&content, content.len() as u64 - 3);
        let mut offset = 0;
        for len in lens {
            let (at, with_newline, line) = reader.next().expect("read").expect("a line");
            let torn = len == 7;
            assert_eq!((at, with_newline), (offset, len as u64 + 1 - 3 * u64::from(torn)));
            assert_eq!(line.is_some(), len <= 3 * BUFFER_BYTES && !torn);
            assert!(
                line.is_none_or(|line| reader.buffer[line.clone()].iter().all(|&b| b == b'x') && line.len() == len)
            );
            offset += len as u64 + 1;
        }
        assert!(reader.next().expect("read").is_none());
    }
}
