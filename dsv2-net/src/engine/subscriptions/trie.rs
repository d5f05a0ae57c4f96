//! A compressed trie (radix tree) from topic to topic number.
//!
//! Finding every stored prefix of a message's topic walks at most one byte of label per byte of
//! the topic, whatever is stored, so no set of subscriptions can make unrelated topics slow.

/// Nodes live in one vector and name each other by position; freed positions are reused.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Node {
    /// Bytes on the edge that leads here; empty only at the root.
    label: Box<[u8]>,
    value: Option<u32>,
    /// Sorted by the first byte of the child's label.
    children: Vec<(u8, u32)>,
}

const ROOT: u32 = 0;

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new() }
    }
}

impl Trie {
    /// Stores `value` under `key`, in place of what was there.
    pub(super) fn insert(&mut self, key: &[u8], value: u32) {
        let mut at = ROOT;
        let mut rest = key;
        while let Some(&first) = rest.first() {
            match self.child(at, first) {
                Err(place) => {
                    let leaf = self.alloc(Node { label: rest.into(), value: Some(value), children: Vec::new() });
                    self.node_mut(at).children.insert(place, (first, leaf));
                    return;
                }
                Ok(place) => {
                    let child = self.node(at).children[place].1;
                    let common = common_prefix(&self.node(child).label, rest);
                    if common < self.node(child).label.len() {
                        self.split(child, common);
                    }
                    at = child;
                    rest = &rest[common..];
                }
            }
        }
        self.node_mut(at).value = Some(value);
    }

    /// Forgets `key`; nothing happens if it is not stored.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let mut parent = ROOT;
        let mut place_in_parent = 0;
        let mut at = ROOT;
        let mut rest = key;
        while let Some(&first) = rest.first() {
            let Ok(place) = self.child(at, first) else {
                return;
            };
            let child = self.node(at).children[place].1;
            let Some(after) = rest.strip_prefix(&*self.node(child).label) else {
                return;
            };
            (parent, place_in_parent, at, rest) = (at, place, child, after);
        }
        self.node_mut(at).value = None;
        if at == ROOT {
            return;
        }
        if self.node(at).children.is_empty() {
            self.node_mut(parent).children.remove(place_in_parent);
            self.release(at);
            self.merge_if_single(parent);
        } else {
            self.merge_if_single(at);
        }
    }

    /// Calls `visit` with the value of every stored key that is a prefix of `topic`.
    #[inline]
    pub(super) fn visit_prefixes(&self, topic: &[u8], mut visit: impl FnMut(u32)) {
        let mut at = ROOT;
        let mut rest = topic;
        loop {
            let node = self.node(at);
            if let Some(value) = node.value {
                visit(value);
            }
            let Some(first) = rest.first() else { return };
            let Ok(place) = self.child(at, *first) else {
                return;
            };
            let child = node.children[place].1;
            let Some(after) = rest.strip_prefix(&*self.node(child).label) else {
                return;
            };
            (at, rest) = (child, after);
        }
    }

    fn child(&self, at: u32, first: u8) -> Result<usize, usize> {
        self.node(at).children.binary_search_by_key(&first, |(byte, _)| *byte)
    }

    /// Cuts the label of `at` after `length` bytes; the rest, with all it held, becomes its only
    /// child. `at` keeps its number, so its parent needs no change.
    fn split(&mut self, at: u32, length: usize) {
        let lower = std::mem::take(self.node_mut(at));
        let first = lower.label[length];
        let label = lower.label[..length].into();
        let lower = self.alloc(Node { label: lower.label[length..].into(), ..lower });
        *self.node_mut(at) = Node { label, value: None, children: vec![(first, lower)] };
    }

    /// Restores compression: a node without a value and with one child is joined with it.
    fn merge_if_single(&mut self, at: u32) {
        let node = self.node(at);
        if at == ROOT || node.value.is_some() {
            return;
        }
        let &[(_, child)] = node.children.as_slice() else {
            return;
        };
        let lower = std::mem::take(self.node_mut(child));
        let label = [&*self.node(at).label, &*lower.label].concat().into();
        *self.node_mut(at) = Node { label, ..lower };
        self.free.push(child);
    }

    fn alloc(&mut self, node: Node) -> u32 {
        if let Some(at) = self.free.pop() {
            *self.node_mut(at) = node;
            return at;
        }
        // Two nodes a key at most, and keys are numbered by u32 far below half its range.
        let at = self.nodes.len() as u32;
        self.nodes.push(node);
        at
    }

    fn release(&mut self, at: u32) {
        *self.node_mut(at) = Node::default();
        self.free.push(at);
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// Number of nodes in use, the root included.
    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
