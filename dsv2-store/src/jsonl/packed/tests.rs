use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, MemDisk, OpenMode};

/// Lines of these lengths, newlines included, that differ.
fn lines(lens: &[usize]) -> Vec<u8> {
    let line = |(at, &len): (usize, &usize)| {
        let text = (0..len.max(1) - 1).map(move |n| b'a' + ((n * n + 7 * at) % 23) as u8);
        text.chain([b'\n']).collect::<Vec<u8>>()
    };
    lens.iter().enumerate().flat_map(line).collect()
}

fn packed(raw: &[u8]) -> Vec<u8> {
    let disk = MemDisk::new();
    disk.put("raw", raw);
    let (from, to) = (disk.open("raw", OpenMode::Read), disk.open("packed", OpenMode::Append));
    let len = pack(&*from.expect("there"), raw.len() as u64, &*to.expect("made")).expect("packs");
    let packed = disk.content("packed").expect("there");
    assert_eq!(len, packed.len() as u64);
    packed
}

fn opened(packed: &[u8]) -> PackedFile {
    let disk = MemDisk::new();
    disk.put("packed", packed);
    PackedFile::open(disk.open("packed", OpenMode::Read).expect("there")).expect("opens")
}

fn content(packed: &[u8]) -> Vec<u8> {
    let file = opened(packed);
    let mut raw = Vec::new();
    read_exact(&file, 0, file.raw_len() as usize, &mut raw).expect("reads");
    raw
}

/// More than four frames, of which one is a long line.
fn sample() -> Vec<u8> {
    lines(&[vec![350; 1_000], vec![3 * FRAME_BYTES], vec![350; 400]].concat())
}

#[test]
fn frames_hold_whole_lines_and_read_as_the_original_from_anywhere() {
    let raw = sample();
    let packed = packed(&raw);
    assert!(packed.len() * 2 < raw.len());
    let file = opened(&packed);
    assert_eq!(file.len_bytes().expect("known"), raw.len() as u64);
    assert!(file.marks.len() > 5, "{} marks", file.marks.len());
    assert!(file.marks[1..].iter().all(|mark| raw[mark.raw as usize - 1] == b'\n'));
    for (offset, len) in
        [(0, 10), (FRAME_BYTES - 5, 10), (349_990, 3 * FRAME_BYTES), (raw.len() - 3, 10), (raw.len(), 1)]
    {
        let mut into = vec![0; len];
        let read = file.read_at(offset as u64, &mut into).expect("reads");
        assert_eq!(&into[..read], &raw[offset..(offset + len).min(raw.len())], "{len} bytes at {offset}");
    }
    assert_eq!(content(&super::tests::packed(b"")), b"");
    assert_eq!(content(&super::tests::packed(b"torn")), b"torn");
}

#[test]
fn other_tools_read_it_as_one_stream() {
    let raw = sample();
    assert!(zstd::decode_all(&packed(&raw)[..]).expect("frames, one after the other") == raw);
}

#[test]
fn without_the_table_frames_are_found_by_their_headers() {
    let raw = sample();
    let mut packed = packed(&raw);
    *packed.last_mut().expect("bytes") ^= 1;
    assert!(content(&packed) == raw);
    // A torn end: what is before it is there.
    packed.truncate(packed.len() / 2);
    let rest = content(&packed);
    assert!(!rest.is_empty() && raw.starts_with(&rest));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Of whatever is not read as it was, only newlines are left, or it is the end that is missing.
    #[test]
    fn a_flipped_bit_takes_the_lines_of_one_frame(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let raw = sample();
        let mut packed = packed(&raw);
        let marks = opened(&packed).marks;
        let at = at.index(packed.len());
        packed[at] ^= 1 << bit;
        let found = content(&packed);
        let end = marks.last().expect("an end");
        if at as u64 >= end.packed {
            prop_assert!(found == raw, "the table can be done without");
            return Ok(());
        }
        let hit = marks.partition_point(|mark| mark.packed <= at as u64);
        let (from, to) = (marks[hit - 1].raw as usize, marks[hit].raw as usize);
        prop_assert_eq!(found.len(), raw.len());
        prop_assert!(found[..from] == raw[..from] && found[to..] == raw[to..]);
        let frame = &found[from..to];
        prop_assert!(*frame == raw[from..to] || frame.iter().all(|&byte| byte == b'\n'));
    }

    #[test]
    fn any_bytes_are_read_within_bounds(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        frames in any::<u32>(),
        few in 0..20u32,
    ) {
        let footed = [&bytes, &frames.to_le_bytes()[..], &[0], &SEEKABLE_MAGIC.to_le_bytes()[..]].concat();
        let table = [&bytes, &few.to_le_bytes()[..], &[0], &SEEKABLE_MAGIC.to_le_bytes()[..]].concat();
        let sealed = [crc_frame(&table), table].concat();
        for packed in [bytes, footed, sealed] {
            let file = opened(&packed);
            let mut into = [0; 64];
            let read = file.read_at(0, &mut into).expect("reads");
            prop_assert!(read as u64 <= file.raw_len());
        }
    }
}
