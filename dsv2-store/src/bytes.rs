//! Numbers and texts as bytes, for files that are derived and can be made again.

/// Appends to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Put(pub(crate) Vec<u8>);

impl Put {
    /// A number in base 128, the lowest seven bits first (LEB128).
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Ascending numbers, as their distances.
    pub(crate) fn ascending(&mut self, numbers: impl ExactSizeIterator<Item = u64>) {
        self.number(numbers.len() as u64);
        let mut last = 0;
        for number in numbers {
            self.number(number.saturating_sub(last));
            last = number;
        }
    }
}

/// Reads what [`Put`] wrote; everything is `None` where the bytes are something else.
#[derive(Debug)]
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |=
                u64::from(byte & 0x7f).checked_shl(shift).filter(|part| part >> shift == u64::from(byte & 0x7f))?;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }

    /// A number of things of which each takes a byte at least: never more than there are bytes, so that nobody reserves
    /// room for what cannot come.
    pub(crate) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    pub(crate) fn number32(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn ascending(&mut self) -> Option<Vec<u64>> {
        let count = self.count()?;
        let mut last = 0u64;
        let mut next = || {
            last = last.checked_add(self.number()?)?;
            Some(last)
        };
        (0..count).map(|_| next()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(numbers in proptest::collection::vec(any::<u64>(), 0..20), text in ".{0,20}") {
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            let mut put = Put::default();
            numbers.iter().for_each(|&number| put.number(number));
            put.ascending(sorted.iter().copied());
            put.text(&text);
            let mut take = Take(&put.0);
            for number in &numbers {
                prop_assert_eq!(take.number(), Some(*number));
            }
            prop_assert_eq!(take.ascending(), Some(sorted));
            prop_assert_eq!(take.text(), Some(text.as_str()));
            prop_assert!(take.0.is_empty());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (mut numbers, mut lists, mut texts) = (Take(&bytes), Take(&bytes), Take(&bytes));
            while numbers.number().is_some() {}
            while lists.ascending().is_some_and(|list| list.len() <= bytes.len()) {}
            while texts.text().is_some() {}
        }
    }
}
