//! JSON that is written and read without a serializer: for what leaves and comes thousands of times a second, in a form
//! that never changes.
//!
//! ```
//! use dsv2_core::json::{Cursor, push_number, push_string};
//! let mut line = Vec::new();
//! push_string(&mut line, "a \"quoted\" text");
//! line.push(b':');
//! push_number(&mut line, 7);
//! let text = String::from_utf8(line).expect("JSON is UTF-8");
//! let mut cursor = Cursor::new(&text);
//! assert_eq!(cursor.string().as_deref(), Some("a \"quoted\" text"));
//! assert!(cursor.literal(":").is_some() && cursor.number() == Some(7) && cursor.is_at_end());
//! ```

use std::borrow::Cow;
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

/// A place in a text that is being taken apart. A method that returns `None` may have moved on: give up then, except
/// after [`Cursor::literal`].
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// The beginning of `text`.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Passes exactly this text, or stays.
    pub fn literal(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Passes an unsigned decimal number without leading zeros.
    pub fn number(&mut self) -> Option<u64> {
        let bytes = self.rest.as_bytes();
        let mut value = 0u64;
        let mut len = 0;
        while let Some(digit @ b'0'..=b'9') = bytes.get(len) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            len += 1;
        }
        if len == 0 || (len > 1 && bytes[0] == b'0') {
            return None;
        }
        self.rest = &self.rest[len..];
        Some(value)
    }

    /// Passes a decimal number that may be negative.
    pub fn signed(&mut self) -> Option<i64> {
        if self.literal("-").is_some() {
            let value = self.number().filter(|&value| value > 0)?;
            0i64.checked_sub_unsigned(value)
        } else {
            self.number()?.try_into().ok()
        }
    }

    /// Passes a string with its quotes.
    pub fn string(&mut self) -> Option<Cow<'a, str>> {
        self.literal("\"")?;
        self.string_rest()
    }

    /// Passes a string whose opening quote is already passed.
    pub fn string_rest(&mut self) -> Option<Cow<'a, str>> {
        let (plain, rest) = self.rest.split_at(plain_len(self.rest.as_bytes()));
        if let Some(rest) = rest.strip_prefix('"') {
            self.rest = rest;
            return Some(Cow::Borrowed(plain));
        }
        self.escaped().map(Cow::Owned)
    }

    /// Passes the rest of a string that holds escapes.
    fn escaped(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let (plain, rest) = self.rest.split_at(plain_len(self.rest.as_bytes()));
            text.push_str(plain);
            self.rest = rest;
            if self.literal("\"").is_some() {
                return Some(text);
            }
            self.literal("\\")?;
            let code = *self.rest.as_bytes().first()?;
            self.rest = self.rest.get(1..)?;
            text.push(match code {
                b'"' | b'\\' | b'/' => char::from(code),
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                // We write no surrogates; whoever does is read by the other parser.
                b'u' => char::from_u32(self.hex4()?)?,
                _ => return None,
            });
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_written_as_the_standard_library_does(value: u64, signed: i64, hex: u64) {
            let mut out = Vec::new();
            push_number(&mut out, value);
            out.push(b' ');
            push_signed(&mut out, signed);
            out.push(b' ');
            push_hex(&mut out, u128::from(hex), 16);
            let text = String::from_utf8(out).expect("ASCII");
            prop_assert_eq!(&text, &format!("{value} {signed} {hex:016x}"));
            let mut cursor = Cursor::new(&text);
            prop_assert_eq!(cursor.number(), Some(value));
            prop_assert_eq!(cursor.literal(" "), Some(()));
            prop_assert_eq!(cursor.signed(), Some(signed));
        }

        #[test]
        fn strings_are_json_and_come_back(text: String) {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            let json = String::from_utf8(out).expect("UTF-8");
            prop_assert_eq!(&serde_json::from_str::<String>(&json).expect("JSON"), &text);
            let mut cursor = Cursor::new(&json);
            let back = cursor.string();
            prop_assert_eq!(back.as_deref(), Some(text.as_str()));
            prop_assert!(cursor.is_at_end());
        }

        #[test]
        fn strings_of_other_writers_are_read_as_serde_reads_them(text in r#"[ -~]{0,12}(\\[nrtbf"/\\]|\\u00[0-7][0-9a-f]|é|\\){0,4}[ -~]{0,4}"#) {
            let json = format!("\"{text}\"");
            let mut cursor = Cursor::new(&json);
            if let Some(mine) = cursor.string().filter(|_| cursor.is_at_end()) {
                let theirs = serde_json::from_str::<String>(&json);
                prop_assert_eq!(theirs.ok(), Some(mine.into_owned()));
            }
        }
    }

    #[test]
    fn numbers_of_other_forms_are_refused() {
        for text in ["", "01", "-1", "x", "18446744073709551616", "+1"] {
            assert_eq!(Cursor::new(text).number(), None, "{text}");
        }
        assert_eq!(Cursor::new("-0").signed(), None);
        assert_eq!(Cursor::new("-9223372036854775808").signed(), Some(i64::MIN));
        assert_eq!(Cursor::new("9223372036854775808").signed(), None);
    }
}
