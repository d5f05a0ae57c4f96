//! Snapshots: the index and the state of its owner as of some log index, so that a start need not read the whole log.
//!
//! ```text
//!   snapshot.bin   magic │ last index │ position │ files: kind, number, bytes covered, last line │ index │ state │ CRC-32
//! ```
//! A snapshot is derived: it may be removed at any time. One that is damaged, torn, or does not fit the files beside it
//! is passed over, and the whole log is read. It is made from the one before and what the log has grown by since, by
//! reading only what is durable, so that the log may be written to meanwhile; see [`make_snapshot`].

use std::sync::Arc;

use dsv2_core::{Event, EventKind, Origin, Position};

use super::note::Note;
use super::record;
use super::scan::{Known, Scan, Segment, scan, sources};
use super::stream::Loc;
use super::view::View;
use super::{LINE_CAP_BYTES, files, line, open};
use crate::bytes::{Put, Take};
use crate::disk::{Disk, OpenMode, read_exact};
use crate::error::StoreError;
use crate::index::Index;

pub(crate) const PATH: &str = "snapshot.bin";

const MAGIC: &[u8] = b"dsv2snap1";

/// What a log adds up to for its owner. The store keeps it as bytes and does not look inside.
pub trait Fold {
    /// Begins with what [`Fold::save`] gave earlier; false where it is not understood: then the log is folded from its
    /// beginning, with a new value.
    fn restore(&mut self, state: &[u8]) -> bool;

    /// Takes the next event into account.
    fn apply(&mut self, event: Event);

    /// The state as bytes.
    fn save(&self) -> Vec<u8>;
}

/// What making a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Snapshotted {
    /// It is made, and durable.
    Made {
        /// The log index up to which it goes.
        last_index: u64,
        /// The events in it.
        events: u64,
        /// The bytes it takes.
        bytes: u64,
    },
    /// There is nothing new since the last one.
    Current,
    /// The log is damaged: there is no snapshot any more, so that the next start reads and repairs all of it. Says what
    /// was found.
    Damaged(String),
}

/// A snapshot as it was read.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The log index up to which it goes.
    pub(crate) last: u64,
    /// What was held then.
    pub(crate) position: Position,
    bytes: Vec<u8>,
    files: Vec<Covered>,
    /// Where in `bytes` the index is.
    index: std::ops::Range<usize>,
    /// Where in `bytes` the state is.
    state: std::ops::Range<usize>,
    /// The internal number of each of its files, once it is known to fit.
    segments: Vec<u32>,
}

/// The part of a log file that a snapshot covers.
#[derive(Clone, Debug)]
struct Covered {
    kind: EventKind,
    /// It was sealed under this number, or would be next.
    number: u32,
    is_sealed: bool,
    bytes: u64,
    dead_bytes: u64,
    /// The last line, by which the file is recognised: where it begins, and its index.
    last_line: u64,
    last_index: u64,
}

impl Snapshot {
    /// The snapshot there is, if it is whole. Whatever is wrong with it, the log itself has everything.
    pub(crate) fn load(disk: &dyn Disk) -> Option<Self> {
        let file = disk.open(PATH, OpenMode::Read).ok()?;
        let len = usize::try_from(file.len_bytes().ok()?).ok()?;
        let mut bytes = Vec::new();
        read_exact(&*file, 0, len, &mut bytes).ok()?;
        let whole = Self::parse(bytes);
        if whole.is_none() {
            tracing::warn!("the snapshot is damaged or of another version; the whole log is read");
        }
        whole
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let mut take = Take(body.strip_prefix(MAGIC)?);
        if crc32fast::hash(body).to_le_bytes() != *crc {
            return None;
        }
        let last = take.number()?;
        let mut position = Position::default();
        for _ in 0..take.count()? {
            let (server, incarnation) = (take.text()?.parse().ok()?, take.number()?);
            position.advance_to(&Origin { server, incarnation }, take.number()?);
        }
        let files = (0..take.count()?).map(|_| Covered::take(&mut take)).collect::<Option<_>>()?;
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            start..start + part.len()
        };
        let (index, state) = (place(take.bytes()?), place(take.bytes()?));
        take.0.is_empty().then_some(())?;
        Some(Self { last, position, files, index, state, segments: Vec::new(), bytes })
    }

    /// Whether the log's files are those that it covers; notes then in them how far.
    pub(crate) fn fit(&mut self, disk: &dyn Disk, segments: &mut [Segment]) -> bool {
        let found = self.files.iter().map(|covered| {
            let is_it = |segment: &&Segment, sealed| segment.at.kind == covered.kind && segment.at.sealed == sealed;
            let ids = || segments.iter().enumerate();
            let sealed = ids().find(|(_, segment)| is_it(segment, Some(covered.number)));
            let active = || ids().find(|(_, segment)| is_it(segment, None)).filter(|_| !covered.is_sealed);
            let (id, segment) = sealed.or_else(active)?;
            covered.is_in(disk, segment).then_some(id as u32)
        });
        let Some(found) = found.collect::<Option<Vec<u32>>>() else {
            tracing::warn!("the snapshot does not fit the log; the whole log is read");
            return false;
        };
        for (&id, covered) in found.iter().zip(&self.files) {
            let segment = &mut segments[id as usize];
            (segment.start, segment.dead_bytes) = (covered.bytes, covered.dead_bytes);
            segment.last_line = Some((covered.last_line, covered.last_index));
        }
        self.segments = found;
        true
    }

    /// Its index, with the places of the files as they are now; nothing if one of them lies outside what is covered.
    pub(crate) fn index(&self) -> Option<Index<Loc>> {
        let mut take = Take(self.bytes.get(self.index.clone())?);
        let index = Index::take(&mut take, |take| {
            let number = take.number32()? as usize;
            let (segment, covered) = (*self.segments.get(number)?, self.files.get(number)?);
            let (offset, len) = (take.number32()?, take.number32()?);
            // Whoever reads the line later makes room for it first.
            let is_covered = len as usize <= LINE_CAP_BYTES && u64::from(offset) + u64::from(len) <= covered.bytes;
            is_covered.then_some(Loc { segment, offset, len })
        });
        index.filter(|_| take.0.is_empty())
    }

    pub(crate) fn state(&self) -> &[u8] {
        self.bytes.get(self.state.clone()).unwrap_or_default()
    }
}

impl Covered {
    fn put(&self, put: &mut Put) {
        let numbers =
            [self.kind as u64, u64::from(self.number), u64::from(self.is_sealed), self.bytes, self.dead_bytes];
        numbers.into_iter().chain([self.last_line, self.last_index]).for_each(|number| put.number(number));
    }

    fn take(take: &mut Take<'_>) -> Option<Self> {
        Some(Self {
            kind: *EventKind::ALL.get(usize::try_from(take.number()?).ok()?)?,
            number: take.number32()?,
            is_sealed: take.number()? == 1,
            bytes: take.number()?,
            dead_bytes: take.number()?,
            last_line: take.number()?,
            last_index: take.number()?,
        })
    }

    /// Whether that is the file: it is long enough, and the last line covered stands where it stood.
    fn is_in(&self, disk: &dyn Disk, segment: &Segment) -> bool {
        let Some(len) = self.bytes.checked_sub(self.last_line).and_then(|len| usize::try_from(len).ok()) else {
            return false;
        };
        if segment.len < self.bytes || len > LINE_CAP_BYTES {
            return false;
        }
        let opened = segment.file.clone().map_or_else(|| files::open(disk, &segment.at.path), Ok);
        let mut bytes = Vec::new();
        let read = opened.and_then(|file| read_exact(&*file, self.last_line, len, &mut bytes));
        let line = bytes.strip_suffix(b"\n").and_then(line::unseal).and_then(line::indices);
        read.is_ok() && line.is_some_and(|(n, _)| n == self.last_index)
    }
}

/// Makes a snapshot of what is durable in a log. The log may be written to meanwhile by whoever holds it, but not
/// compacted; two snapshots must not be made at once. With `whole`, all of the log is read and checked, else only what has
/// been written since the snapshot before.
///
/// `new` gives the fold of an empty log.
///
/// # Errors
/// [`StoreError::Full`]: the old snapshot stands. [`StoreError::Io`], [`StoreError::Corrupt`] and
/// [`StoreError::Unreadable`]: the old one stands, or none. In no case is the log touched.
pub fn make_snapshot<F: Fold>(
    disk: &Arc<dyn Disk>,
    new: impl Fn() -> F,
    whole: bool,
) -> Result<Snapshotted, StoreError> {
    let manifest = open::load_manifest(&**disk)?;
    let note = Note::load(&**disk)?;
    let known = Known { manifest: manifest.as_ref(), note: note.as_ref() };
    let before = if whole { None } else { Snapshot::load(&**disk) };
    let found = scan(&**disk, known, before)?;
    if let Some(damage) = damage_of(&found, manifest.is_none()) {
        remove_snapshot(&**disk)?;
        return Ok(Snapshotted::Damaged(damage));
    }
    if found.snapshot.as_ref().is_some_and(|snapshot| snapshot.last == found.last) {
        return Ok(Snapshotted::Current);
    }
    let Scan { segments, index, last, snapshot, .. } = found;
    let mut fold = new();
    let after = match &snapshot {
        Some(snapshot) if fold.restore(snapshot.state()) => Some(snapshot.position.clone()),
        Some(_) => None,
        None => Some(Position::default()),
    };
    let Some(after) = after else { return make_snapshot(disk, new, true) };
    let sources = sources(&segments, |segment| segment.kept);
    let view = View::read_only(Arc::clone(disk), &segments, index);
    // Nobody waits for it, so one thread is enough.
    view.read(sources, &after, &mut |event| fold.apply(event))?;
    let bytes = encode(&segments, &view.index, last, &fold.save());
    record::replace(&**disk, PATH, &bytes)?;
    Ok(Snapshotted::Made { last_index: last, events: view.index.events(), bytes: bytes.len() as u64 })
}

/// Removes the snapshot, so that the next start reads, checks and repairs the whole log: for whoever found damage.
///
/// # Errors
/// [`StoreError::Io`]; it may still be there.
pub fn remove_snapshot(disk: &dyn Disk) -> Result<(), StoreError> {
    match disk.remove(PATH) {
        Ok(()) => disk.sync_dir("").map_err(|e| StoreError::io("sync the directory of", PATH, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("remove", PATH, e)),
    }
}

/// What is wrong with a log, in words.
fn damage_of(found: &Scan, manifest_damaged: bool) -> Option<String> {
    let missing = found.index.missing().len() + found.short.len();
    let lost = found.lost.count();
    let sound = !manifest_damaged && missing == 0 && lost == 0 && found.index.waiting() == 0;
    (!sound).then(|| {
        let waiting = found.index.waiting();
        format!("{lost} lines are lost, {missing} ranges of events are missing, {waiting} events wait for them")
    })
}

fn encode(segments: &[Segment], index: &Index<Loc>, last: u64, state: &[u8]) -> Vec<u8> {
    let mut put = Put(MAGIC.to_vec());
    put.number(last);
    put.number(index.vector().len() as u64);
    for (origin, seq) in index.vector().iter() {
        put.text(origin.server.as_str());
        put.number(origin.incarnation);
        put.number(seq);
    }
    let mut covered = Vec::new();
    // Places name files by their place in the list of those that are covered.
    let mut numbers = vec![0u64; segments.len()];
    for (id, segment) in segments.iter().enumerate() {
        let Some((last_line, last_index)) = segment.last_line else { continue };
        let sealed =
            segments.iter().filter(|other| other.at.kind == segment.at.kind).filter_map(|other| other.at.sealed);
        numbers[id] = covered.len() as u64;
        covered.push(Covered {
            kind: segment.at.kind,
            number: segment.at.sealed.unwrap_or_else(|| sealed.max().map_or(1, |number| number + 1)),
            is_sealed: segment.at.sealed.is_some(),
            bytes: segment.end,
            dead_bytes: segment.dead_bytes,
            last_line,
            last_index,
        });
    }
    put.number(covered.len() as u64);
    covered.iter().for_each(|covered| covered.put(&mut put));
    let mut table = Put::default();
    index.put(&mut table, |put, loc: &Loc| {
        put.number(numbers[loc.segment as usize]);
        put.number(u64::from(loc.offset));
        put.number(u64::from(loc.len));
    });
    put.bytes(&table.0);
    put.bytes(state);
    let crc = crc32fast::hash(&put.0);
    put.0.extend_from_slice(&crc.to_le_bytes());
    put.0
}
