//! The little JSON that lines need, read without copies.

use std::borrow::Cow;

use dsv2_core::json::plain_len;

/// A place in a text that is being taken apart. A method that returns `None` may have moved on: give up then, except
/// after [`Cursor::literal`].
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Passes exactly this text, or stays.
    pub(crate) fn literal(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// Passes an unsigned decimal number without leading zeros.
    pub(crate) fn number(&mut self) -> Option<u64> {
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
    pub(crate) fn signed(&mut self) -> Option<i64> {
        if self.literal("-").is_some() {
            let value = self.number().filter(|&value| value > 0)?;
            0i64.checked_sub_unsigned(value)
        } else {
            self.number()?.try_into().ok()
        }
    }

    /// Passes a string with its quotes.
    pub(crate) fn string(&mut self) -> Option<Cow<'a, str>> {
        self.literal("\"")?;
        self.string_rest()
    }

    /// Passes a string whose opening quote is already passed.
    pub(crate) fn string_rest(&mut self) -> Option<Cow<'a, str>> {
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
    use dsv2_core::json::{push_hex, push_number, push_signed, push_string};
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
