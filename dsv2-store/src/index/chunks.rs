//! Vectors that never move what they hold.

/// A vector in chunks: pushing never copies more than one chunk, however long it gets, so that no append pays for the
/// whole log at once.
#[derive(Clone, Debug)]
pub(crate) struct ChunkVec<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

const CHUNK: usize = 1 << 10;

impl<T> Default for ChunkVec<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> ChunkVec<T> {
    pub(crate) fn push(&mut self, item: T) {
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::new());
        }
        // The line above made a chunk where there was none.
        if let Some(last) = self.chunks.last_mut() {
            last.push(item);
            self.len += 1;
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let items: usize = self.chunks.iter().map(Vec::capacity).sum();
        items * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

/// An ascending list of event numbers. Most feeds are short, so short lists live in place.
#[derive(Clone, Debug)]
pub(crate) enum SeqList {
    Short { len: u8, seqs: [u32; SHORT] },
    Long(Box<ChunkVec<u32>>),
}

const SHORT: usize = 5;

impl SeqList {
    pub(crate) const fn of(seq: u32) -> Self {
        Self::Short { len: 1, seqs: [seq, 0, 0, 0, 0] }
    }

    pub(crate) fn push(&mut self, seq: u32) {
        match self {
            Self::Short { len, seqs } if usize::from(*len) < SHORT => {
                seqs[usize::from(*len)] = seq;
                *len += 1;
            }
            Self::Short { seqs, .. } => {
                let mut long = ChunkVec::default();
                seqs.iter().for_each(|&seq| long.push(seq));
                long.push(seq);
                *self = Self::Long(Box::new(long));
            }
            Self::Long(list) => list.push(seq),
        }
    }

    /// The list of those numbers, which must ascend; `None` of none.
    pub(crate) fn from_ascending(seqs: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut seqs = seqs.into_iter();
        let mut list = Self::of(seqs.next()?);
        seqs.for_each(|seq| list.push(seq));
        Some(list)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = u32> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Short { len, .. } => usize::from(*len),
            Self::Long(list) => list.len(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<u32> {
        match self {
            Self::Short { len, seqs } => seqs[..usize::from(*len)].get(at).copied(),
            Self::Long(list) => list.get(at).copied(),
        }
    }

    /// How many of the first numbers fulfil `low`, which must hold up to some place and not after it.
    pub(crate) fn partition_point(&self, mut low: impl FnMut(u32) -> bool) -> usize {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            if self.get(middle).is_some_and(&mut low) { from = middle + 1 } else { to = middle }
        }
        from
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(list) => size_of::<ChunkVec<u32>>() + list.heap_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_what_was_pushed_at_every_length() {
        let mut list = SeqList::of(10);
        for n in 1..3 * CHUNK {
            assert_eq!((list.len(), list.get(n - 1), list.get(n)), (n, Some(n as u32 * 10), None));
            assert_eq!(list.partition_point(|seq| seq <= 10 * (n as u32 / 2)), n / 2);
            list.push((n as u32 + 1) * 10);
        }
    }
}
