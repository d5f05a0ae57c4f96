//! Values under small keys that are never mistaken for one another: a key names a place and the
//! place's generation, so a key of something that is gone finds nothing.

/// Key of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn slot(self) -> usize {
        self.index as usize
    }

    /// Eight bytes, big-endian: place, then generation.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.index) << 32 | u64::from(self.generation)).to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 8]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self {
            index: (both >> 32) as u32,
            generation: both as u32, // the low half, on purpose
        }
    }
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    /// The generation of new places.
    first: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::starting_at(0)
    }
}

impl<T> Slab<T> {
    /// An empty one whose places begin with that generation.
    pub(super) const fn starting_at(generation: u32) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), first: generation }
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return Key { index, generation: entry.generation };
        }
        let index = self.entries.len() as u32; // every user bounds its slab far below 2^32
        self.entries.push(Entry { generation: self.first, value: Some(value) });
        Key { index, generation: self.first }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation).then_some(entry.value.as_ref()).flatten()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.generation == key.generation).then_some(entry.value.as_mut()).flatten()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// In order of place, which is stable from run to run.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let key = Key { index: index as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing_in_a_reused_place() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(first.index, second.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(Key::from_bytes(second.to_bytes()), second);
        assert_eq!(slab.len(), 1);
    }
}
