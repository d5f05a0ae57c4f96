//! A sealed file in compressed form: `messages/publishes.000001.jsonl.zst`.
//!
//! ```text
//!   frame │ frame │ … │ CRC-32 of the seek table │ seek table
//! ```
//! Each frame (Zstandard, RFC 8878) holds some whole lines and a checksum, and can be read without the others; `zstd -dc`
//! prints them all. The table is that of the *Zstandard seekable format*, version 0.1.0 (`contrib/seekable_format` of
//! zstd): a skippable frame with the lengths of every frame, so that a place in the log is found with one look. It has no
//! checksum of its own, so that another skippable frame before it has one.
//!
//! Whoever reads sees the original file: the same bytes at the same places. Of a damaged frame it sees as many newlines,
//! so that what damage takes is the lines of one frame; where the table is damaged, the frames are found one by one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use zstd::bulk::{Compressor, decompress_to_buffer};
use zstd::zstd_safe::{CParameter, find_frame_compressed_size, get_frame_content_size};

use super::{FILE_CAP_BYTES, LINE_CAP_BYTES};
use crate::disk::{DiskFile, read_exact};

/// About so much of the original is in a frame: what one read of a line must decompress, and what damage may take.
const FRAME_BYTES: usize = 128 << 10;

/// The most that can be in a frame: it ends with a line, however long that is.
const FRAME_CAP_BYTES: usize = FRAME_BYTES + LINE_CAP_BYTES;

/// Zstandard's default: about 300 MB a second, and close to what higher ones reach on lines like ours.
const LEVEL: i32 = 3;

const TABLE_MAGIC: u32 = 0x184D_2A5E;
/// The frame with the checksum: any skippable one may be anybody's.
const CRC_MAGIC: u32 = 0x184D_2A5D;
const CRC_FRAME_BYTES: u64 = 12;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const SKIPPABLE_HEADER_BYTES: u64 = 8;
/// Number of frames, descriptor, magic.
const FOOTER_BYTES: u64 = 9;
const ENTRY_BYTES: u64 = 8;

/// Writes the first `len` bytes of a file in compressed form to the end of another, which is empty; yields its length.
/// Nothing is synced.
pub(crate) fn pack(from: &dyn DiskFile, len: u64, to: &dyn DiskFile) -> io::Result<u64> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    let (mut table, mut raw, mut at, mut packed_len) = (Vec::new(), Vec::new(), 0, 0u64);
    while at < len {
        read_lines(from, at, len, &mut raw)?;
        let frame = compressor.compress(&raw)?;
        to.append(&frame)?;
        for bytes in [frame.len(), raw.len()] {
            table.extend_from_slice(&(bytes as u32).to_le_bytes());
        }
        at += raw.len() as u64;
        packed_len += frame.len() as u64;
    }
    let frames = table.len() as u32 / ENTRY_BYTES as u32;
    let content_len = table.len() as u32 + FOOTER_BYTES as u32;
    let head = [TABLE_MAGIC.to_le_bytes(), content_len.to_le_bytes()].concat();
    table.extend_from_slice(&frames.to_le_bytes());
    table.push(0);
    table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    let table = [head, table].concat();
    to.append(&[crc_frame(&table), table].concat())?;
    Ok(packed_len + CRC_FRAME_BYTES + SKIPPABLE_HEADER_BYTES + u64::from(content_len))
}

fn crc_frame(table: &[u8]) -> Vec<u8> {
    [CRC_MAGIC, 4, crc32fast::hash(table)].map(u32::to_le_bytes).concat()
}

/// Reads whole lines from a byte on, about a frame's worth; the last line of the file need not end.
fn read_lines(from: &dyn DiskFile, at: u64, len: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let left = usize::try_from(len - at).unwrap_or(usize::MAX);
    let mut want = FRAME_BYTES;
    loop {
        read_exact(from, at, want.min(left), into)?;
        if want >= left {
            return Ok(());
        }
        if let Some(end) = into.iter().rposition(|&byte| byte == b'\n') {
            into.truncate(end + 1);
            return Ok(());
        }
        if want >= FRAME_CAP_BYTES {
            // No line of ours: it may be torn, for it is bad as a whole.
            return Ok(());
        }
        want = (2 * want).min(FRAME_CAP_BYTES);
    }
}

/// Where a frame begins, in the original and in the compressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    raw: u64,
    packed: u64,
}

/// A compressed file, read as the original. It cannot be written to.
#[derive(Debug)]
pub(crate) struct PackedFile {
    file: Arc<dyn DiskFile>,
    /// All frames, and their end.
    marks: Vec<Mark>,
    last: Mutex<Frame>,
}

/// The frame read last.
#[derive(Debug, Default)]
struct Frame {
    number: Option<usize>,
    bytes: Vec<u8>,
}

impl PackedFile {
    /// Whatever the file contains: what is no frame of it is not there, and what is damaged reads as newlines.
    ///
    /// # Errors
    /// Whatever the system says.
    pub(crate) fn open(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len_bytes()?;
        let marks = match table(&*file, len)? {
            Some(marks) => marks,
            None => {
                tracing::warn!("the seek table of a compressed file is damaged; its frames are looked for");
                walk(&*file, len)?
            }
        };
        Ok(Self { file, marks, last: Mutex::default() })
    }

    fn raw_len(&self) -> u64 {
        self.marks.last().map_or(0, |end| end.raw)
    }

    /// Makes a frame the last one read.
    fn load(&self, number: usize, frame: &mut Frame) -> io::Result<()> {
        if frame.number == Some(number) {
            return Ok(());
        }
        frame.number = None;
        let (start, end) = (self.marks[number], self.marks[number + 1]);
        let (raw_len, packed_len) = ((end.raw - start.raw) as usize, (end.packed - start.packed) as usize);
        let mut packed = Vec::new();
        read_exact(&*self.file, start.packed, packed_len, &mut packed)?;
        frame.bytes.clear();
        frame.bytes.resize(raw_len, b'\n');
        if decompress_to_buffer(&packed, &mut frame.bytes).ok() != Some(raw_len) {
            tracing::warn!(frame = number, "a frame of a compressed file is damaged");
            frame.bytes.fill(b'\n');
        }
        frame.number = Some(number);
        Ok(())
    }
}

impl DiskFile for PackedFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut frame = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut filled) = (offset, 0);
        while filled < into.len() && at < self.raw_len() {
            let number = self.marks.partition_point(|mark| mark.raw <= at) - 1;
            self.load(number, &mut frame)?;
            let rest = &frame.bytes[(at - self.marks[number].raw) as usize..];
            let taken = rest.len().min(into.len() - filled);
            into[filled..filled + taken].copy_from_slice(&rest[..taken]);
            (at, filled) = (at + taken as u64, filled + taken);
        }
        Ok(filled)
    }

    fn append(&self, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.raw_len())
    }

    fn truncate(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Adds a frame of these lengths, if they may be those of one.
fn add(marks: &mut Vec<Mark>, raw: u64, packed: u64) -> Option<()> {
    let last = *marks.last()?;
    let next = Mark { raw: last.raw.checked_add(raw)?, packed: last.packed.checked_add(packed)? };
    let may_be = raw > 0 && raw <= FRAME_CAP_BYTES as u64 && packed > 0 && next.raw <= FILE_CAP_BYTES;
    may_be.then(|| marks.push(next))
}

/// The frames by the seek table; `None` where it is damaged, or somebody else's: then the frames tell.
fn table(file: &dyn DiskFile, len: u64) -> io::Result<Option<Vec<Mark>>> {
    let mut bytes = Vec::new();
    let Some(footer_at) = len.checked_sub(FOOTER_BYTES) else { return Ok(None) };
    read_exact(file, footer_at, FOOTER_BYTES as usize, &mut bytes)?;
    let (frames, magic) = (number(&bytes, 0), number(&bytes, 5));
    if magic != SEEKABLE_MAGIC {
        return Ok(None);
    }
    let entries_bytes = u64::from(frames) * ENTRY_BYTES;
    let before = CRC_FRAME_BYTES + SKIPPABLE_HEADER_BYTES + entries_bytes;
    let Some(crc_at) = footer_at.checked_sub(before) else { return Ok(None) };
    read_exact(file, crc_at, (before + FOOTER_BYTES) as usize, &mut bytes)?;
    let (crc, table) = bytes.split_at(CRC_FRAME_BYTES as usize);
    if crc != crc_frame(table) || number(table, 0) != TABLE_MAGIC {
        return Ok(None);
    }
    let entries = &table[SKIPPABLE_HEADER_BYTES as usize..][..entries_bytes as usize];
    let mut marks = vec![Mark { raw: 0, packed: 0 }];
    for entry in entries.chunks_exact(ENTRY_BYTES as usize) {
        if add(&mut marks, number(entry, 4).into(), number(entry, 0).into()).is_none() {
            return Ok(None);
        }
    }
    Ok(marks.last().is_some_and(|end| end.packed == crc_at).then_some(marks))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The frames by their own headers, up to the first one that cannot be told.
fn walk(file: &dyn DiskFile, len: u64) -> io::Result<Vec<Mark>> {
    let mut marks = vec![Mark { raw: 0, packed: 0 }];
    let mut bytes = Vec::new();
    while let Some(at) = marks.last().map(|end| end.packed).filter(|&at| at < len) {
        let left = usize::try_from(len - at).unwrap_or(usize::MAX);
        let mut want = FRAME_BYTES;
        let found = loop {
            read_exact(file, at, want.min(left), &mut bytes)?;
            let found = find_frame_compressed_size(&bytes).ok();
            if found.is_some() || want >= left.min(2 * FRAME_CAP_BYTES) {
                break found;
            }
            want *= 2;
        };
        let Some(packed) = found else { break };
        let Ok(Some(raw)) = get_frame_content_size(&bytes) else { break };
        if add(&mut marks, raw, packed as u64).is_none() {
            break;
        }
    }
    Ok(marks)
}

#[cfg(test)]
mod tests;
