//! JSON that is written without a serializer: for what leaves thousands of times a second, in a form that never changes.

use std::fmt;

use crate::id::Sink;

/// Appends a number in decimal.
pub fn push_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a signed number in decimal.
pub fn push_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_number(out, value.unsigned_abs());
}

/// Appends the low `digits` hex digits of a number, with leading zeros.
pub fn push_hex(out: &mut Vec<u8>, value: u128, digits: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend((0..digits).rev().map(|place| DIGITS[(value >> (4 * place) & 15) as usize]));
}

/// Appends a string with its quotes.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Appends a string's characters, escaped where JSON demands it: RFC 8259, section 7.
pub fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_len(rest));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u");
                push_hex(out, u128::from(byte), 4);
            }
        }
        rest = after;
    }
}

/// How many bytes at the start stand for themselves in a JSON string. Blocks of fixed size, each looked at as a whole,
/// are what compilers turn into vector instructions.
#[must_use]
pub fn plain_len(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let is_special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    let is_plain = |block: &&[u8; BLOCK]| !block.iter().fold(false, |special, &byte| special | is_special(byte));
    let blocks = bytes.as_chunks().0.iter().take_while(is_plain).count();
    let rest = &bytes[blocks * BLOCK..];
    let words = rest.as_chunks().0.iter().take_while(|word| !has_special(u64::from_le_bytes(**word))).count();
    let (at, rest) = (blocks * BLOCK + words * 8, &rest[words * 8..]);
    at + rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len())
}

/// Whether any of eight bytes is special, by the borrow that a subtraction leaves in its highest bit. It may say so of a
/// byte above a special one too, and then a closer look follows.
const fn has_special(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = word ^ (ONES * b'"' as u64);
    let slashes = word ^ (ONES * b'\\' as u64);
    let is_quote = quotes.wrapping_sub(ONES) & !quotes;
    let is_slash = slashes.wrapping_sub(ONES) & !slashes;
    (below_space | is_quote | is_slash) & HIGH != 0
}

/// An identity within a string, escaped where somebody chose a part of it.
impl Sink for Vec<u8> {
    fn plain(&mut self, ascii: &[u8]) -> fmt::Result {
        self.extend_from_slice(ascii);
        Ok(())
    }
    fn chosen(&mut self, text: &str) -> fmt::Result {
        push_escaped(self, text);
        Ok(())
    }
}
