//! What one origin wrote, by number, where some of it may be gone.

/// A list by ascending position in which positions may be empty. Pushing never moves more than one chunk; a chunk that
/// is mostly empty takes room only for what is in it.
#[derive(Clone, Debug)]
pub(crate) struct SeqMap<T> {
    chunks: Vec<Chunk<T>>,
    /// The next position.
    len: usize,
}

#[derive(Clone, Debug)]
enum Chunk<T> {
    /// All positions from the chunk's first on.
    Dense(Vec<T>),
    /// Some positions, ascending, as distances from the chunk's first.
    Sparse(Vec<(u16, T)>),
}

const CHUNK: usize = 1 << 10;

impl<T> Default for SeqMap<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Copy> SeqMap<T> {
    /// Puts an item at the next position.
    pub(crate) fn push(&mut self, item: T) {
        let within = self.len % CHUNK;
        if within == 0 {
            self.chunks.push(Chunk::Dense(Vec::new()));
        }
        match self.chunks.last_mut() {
            Some(Chunk::Dense(items)) => items.push(item),
            Some(Chunk::Sparse(items)) => items.push((within as u16, item)),
            // The line above made a chunk where there was none.
            None => return,
        }
        self.len += 1;
    }

    /// Leaves all positions before `len` empty that were not pushed to.
    pub(crate) fn skip_to(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        if !self.len.is_multiple_of(CHUNK)
            && let Some(chunk) = self.chunks.last_mut()
        {
            chunk.loosen();
        }
        self.chunks.resize_with(len.div_ceil(CHUNK), || Chunk::Sparse(Vec::new()));
        self.len = len;
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        match self.chunks.get(at / CHUNK)? {
            Chunk::Dense(items) => items.get(at % CHUNK),
            Chunk::Sparse(items) => {
                let found = items.binary_search_by_key(&((at % CHUNK) as u16), |(within, _)| *within);
                found.ok().map(|found| &items[found].1)
            }
        }
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        match self.chunks.get_mut(at / CHUNK)? {
            Chunk::Dense(items) => items.get_mut(at % CHUNK),
            Chunk::Sparse(items) => {
                let found = items.binary_search_by_key(&((at % CHUNK) as u16), |(within, _)| *within);
                found.ok().map(|found| &mut items[found].1)
            }
        }
    }

    /// The next position, whatever is empty before it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// What is held, from a position on, with its positions.
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &T)> {
        let chunks = self.chunks.iter().enumerate().skip(from / CHUNK);
        chunks
            .flat_map(|(at, chunk)| chunk.iter().map(move |(within, item)| (at * CHUNK + within, item)))
            .skip_while(move |(at, _)| *at < from)
    }

    /// Keeps only what `keep` says, which is asked once of all that is held.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, &T) -> bool) {
        for (at, chunk) in self.chunks.iter_mut().enumerate() {
            let kept: Vec<bool> = chunk.iter().map(|(within, item)| keep(at * CHUNK + within, item)).collect();
            if kept.iter().all(|&kept| kept) {
                continue;
            }
            chunk.loosen();
            if let Chunk::Sparse(items) = chunk {
                let mut kept = kept.into_iter();
                items.retain(|_| kept.next().unwrap_or(false));
                items.shrink_to_fit();
            }
        }
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let items = self.chunks.iter().map(|chunk| match chunk {
            Chunk::Dense(items) => items.capacity() * size_of::<T>(),
            Chunk::Sparse(items) => items.capacity() * size_of::<(u16, T)>(),
        });
        items.sum::<usize>() + self.chunks.capacity() * size_of::<Chunk<T>>()
    }
}

impl<T: Copy> Chunk<T> {
    fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let (dense, sparse): (&[T], &[(u16, T)]) = match self {
            Self::Dense(items) => (items, &[]),
            Self::Sparse(items) => (&[], items),
        };
        dense.iter().enumerate().chain(sparse.iter().map(|(within, item)| (usize::from(*within), item)))
    }

    /// Makes it a sparse one.
    fn loosen(&mut self) {
        if let Self::Dense(items) = self {
            *self = Self::Sparse(items.drain(..).enumerate().map(|(at, item)| (at as u16, item)).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Whatever is pushed, skipped and dropped: it holds what a map of all positions holds.
        #[test]
        fn it_is_a_map_of_positions(steps in proptest::collection::vec((0u8..4, 0usize..1_500), 1..30)) {
            let (mut list, mut map, mut len) = (SeqMap::default(), BTreeMap::new(), 0);
            for (step, count) in steps {
                match step {
                    0 | 1 => for _ in 0..count { list.push(len); map.insert(len, len); len += 1; },
                    2 => { len += count; list.skip_to(len); }
                    _ => {
                        let keep = |at: usize| !at.is_multiple_of(3) && at % 1_024 > count % 1_024;
                        list.retain(|at, item| { assert_eq!(at, *item); keep(at) });
                        map.retain(|&at, _| keep(at));
                    }
                }
                prop_assert_eq!(list.len(), len);
                let from = count.min(len);
                let held: Vec<_> = list.iter_from(from).map(|(at, item)| (at, *item)).collect();
                prop_assert_eq!(held, map.range(from..).map(|(&at, &item)| (at, item)).collect::<Vec<_>>());
                for at in [0, from, len.saturating_sub(1), len] {
                    prop_assert_eq!(list.get(at), map.get(&at));
                    prop_assert_eq!(list.get_mut(at).copied(), map.get(&at).copied());
                }
            }
        }
    }
}
