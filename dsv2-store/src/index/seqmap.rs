//! What one origin wrote, by number, where some of it may be gone.

/// A list by ascending position in which positions may be empty. Pushing never moves more than one chunk; a chunk that
/// is mostly empty takes room only for what is in it, and one that is all empty takes none.
#[derive(Clone, Debug)]
pub(crate) struct SeqMap<T> {
    /// By ascending number. Where nothing is empty yet, a chunk stands at the place of its number.
    chunks: Vec<(u32, Chunk<T>)>,
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
        let (number, within) = ((self.len / CHUNK) as u32, self.len % CHUNK);
        let last = self.chunks.last_mut().filter(|(last, _)| *last == number);
        match last {
            Some((_, Chunk::Dense(items))) => items.push(item),
            Some((_, Chunk::Sparse(items))) => items.push((within as u16, item)),
            None if within == 0 => self.chunks.push((number, Chunk::Dense(vec![item]))),
            None => self.chunks.push((number, Chunk::Sparse(vec![(within as u16, item)]))),
        }
        self.len += 1;
    }

    /// Leaves all positions before `len` empty that were not pushed to.
    pub(crate) fn skip_to(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        let number = (self.len / CHUNK) as u32;
        if let Some((_, chunk)) = self.chunks.last_mut().filter(|(last, _)| *last == number) {
            chunk.loosen();
        }
        self.len = len;
    }

    /// Where the chunk with that number stands.
    fn find(&self, number: usize) -> Option<usize> {
        let number = u32::try_from(number).ok()?;
        if self.chunks.get(number as usize).is_some_and(|(there, _)| *there == number) {
            return Some(number as usize);
        }
        self.chunks.binary_search_by_key(&number, |(there, _)| *there).ok()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        match &self.chunks[self.find(at / CHUNK)?].1 {
            Chunk::Dense(items) => items.get(at % CHUNK),
            Chunk::Sparse(items) => {
                let found = items.binary_search_by_key(&((at % CHUNK) as u16), |(within, _)| *within);
                found.ok().map(|found| &items[found].1)
            }
        }
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let found = self.find(at / CHUNK)?;
        match &mut self.chunks[found].1 {
            Chunk::Dense(items) => items.get_mut(at % CHUNK),
            Chunk::Sparse(items) => {
                let found = items.binary_search_by_key(&((at % CHUNK) as u16), |(within, _)| *within);
                found.ok().map(|found| &mut items[found].1)
            }
        }
    }

    /// The position of the first item of which `is_behind` says true, where it says so of all behind that, too.
    pub(crate) fn first_where(&self, is_behind: impl Fn(&T) -> bool) -> Option<usize> {
        let chunk = self.chunks.partition_point(|(_, chunk)| chunk.last().is_none_or(|last| !is_behind(last)));
        let (number, chunk) = self.chunks.get(chunk)?;
        chunk.iter().find(|(_, item)| is_behind(item)).map(|(within, _)| *number as usize * CHUNK + within)
    }

    /// The next position, whatever is empty before it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// What is held, from a position on, with its positions.
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &T)> {
        let first = self.chunks.partition_point(|(number, _)| (*number as usize) < from / CHUNK);
        let items = self.chunks[first..].iter().flat_map(|(number, chunk)| {
            let base = *number as usize * CHUNK;
            chunk.iter().map(move |(within, item)| (base + within, item))
        });
        items.skip_while(move |(at, _)| *at < from)
    }

    /// Keeps only what `keep` says, which is asked once of all that is held.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize, &T) -> bool) {
        self.chunks.retain_mut(|(number, chunk)| {
            let base = *number as usize * CHUNK;
            let kept: Vec<bool> = chunk.iter().map(|(within, item)| keep(base + within, item)).collect();
            if kept.iter().all(|&kept| kept) {
                return true;
            }
            chunk.loosen();
            let Chunk::Sparse(items) = chunk else { return true };
            let mut kept = kept.into_iter();
            items.retain(|_| kept.next().unwrap_or(false));
            items.shrink_to_fit();
            !items.is_empty()
        });
    }

    /// Memory outside the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let items = self.chunks.iter().map(|(_, chunk)| match chunk {
            Chunk::Dense(items) => items.capacity() * size_of::<T>(),
            Chunk::Sparse(items) => items.capacity() * size_of::<(u16, T)>(),
        });
        items.sum::<usize>() + self.chunks.capacity() * size_of::<(u32, Chunk<T>)>()
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

    /// Its last item. None is without.
    fn last(&self) -> Option<&T> {
        match self {
            Self::Dense(items) => items.last(),
            Self::Sparse(items) => items.last().map(|(_, item)| item),
        }
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
