//! What a [`super::FaultyDisk`] consists of.

use std::io;

use super::{Call, Fault, Names};
use crate::disk::dir_of;
use crate::testing::SplitMix64;

#[derive(Clone, Debug)]
pub(super) struct State {
    rng: SplitMix64,
    pub(super) files: Vec<File>,
    /// The names as calls see them,
    pub(super) cached: Names,
    /// and as they are on the platter.
    durable: Names,
    /// The changes between the two, in their order.
    name_changes: Vec<NameChange>,
    /// Counts crashes: what was open before is dead.
    pub(super) generation: u64,
    pub(super) locked: bool,
    pub(super) off: bool,
    pub(super) changes: u64,
    pub(super) syncs: u64,
    pub(super) changes_left: Option<u64>,
    pub(super) faults: Vec<(Call, u64, Fault)>,
    pub(super) capacity: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) cached: Vec<u8>,
    durable: Vec<u8>,
    /// The changes between the two, in their order.
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    what: What,
    /// A sync that failed has given it up: it may be on the platter, but no sync will bring it there.
    given_up: bool,
}

#[derive(Clone, Debug)]
enum What {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { len: usize },
}

#[derive(Clone, Debug)]
struct NameChange {
    dir: String,
    remove: Option<String>,
    insert: Option<(String, usize)>,
}

/// How much of what was not synced a crash leaves.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    All,
    /// So many changes from the start, the last one torn.
    Prefix(usize),
    /// Any, in pieces of so many bytes.
    Subset(usize),
}

impl Survival {
    fn draw(rng: &mut SplitMix64, changes: usize) -> Self {
        match rng.below(4) {
            0 => Self::Nothing,
            1 => Self::All,
            2 => Self::Prefix(rng.index(changes + 1)),
            _ => Self::Subset([1, 7, 64, 512, 4096][rng.index(5)]),
        }
    }
}

impl State {
    pub(super) fn new(rng: SplitMix64) -> Self {
        Self {
            rng,
            files: Vec::new(),
            cached: Names::new(),
            durable: Names::new(),
            name_changes: Vec::new(),
            generation: 0,
            locked: false,
            off: false,
            changes: 0,
            syncs: 0,
            changes_left: None,
            faults: Vec::new(),
            capacity: None,
        }
    }

    pub(super) fn reset_holders(&mut self, rng: SplitMix64) {
        self.rng = rng;
        self.generation += 1;
        self.locked = false;
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }

    /// Every call that can be told to fail begins here.
    pub(super) fn call(&mut self, call: Call) -> io::Result<()> {
        self.check_power()?;
        self.planned(call).map_or(Ok(()), |fault| Err(fault.error()))
    }

    /// Counts the call; tells how it is to fail, if it is.
    fn planned(&mut self, call: Call) -> Option<Fault> {
        let mut found = None;
        self.faults.retain_mut(|(of, nth, fault)| {
            if *of == call {
                *nth = nth.saturating_sub(1);
                if *nth == 0 {
                    found = Some(*fault);
                    return false;
                }
            }
            true
        });
        found
    }

    /// Counts a change; true if the power fails in its course.
    fn power_fails(&mut self) -> bool {
        self.changes += 1;
        match &mut self.changes_left {
            Some(0) => self.off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.off
    }

    pub(super) fn used(&self) -> u64 {
        self.cached.values().map(|&id| self.files[id].cached.len() as u64).sum()
    }

    pub(super) fn create(&mut self, path: &str) -> io::Result<usize> {
        let fails = self.power_fails();
        if fails && self.rng.chance(50) {
            return Err(power_is_off());
        }
        self.files.push(File::default());
        let id = self.files.len() - 1;
        self.change_name(path, None, Some((path.to_owned(), id)));
        if fails { Err(power_is_off()) } else { Ok(id) }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let id = *self.cached.get(from).ok_or(io::ErrorKind::NotFound)?;
        if dir_of(from) != dir_of(to) {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let fails = self.power_fails();
        if !fails || self.rng.chance(50) {
            self.change_name(from, Some(from.to_owned()), Some((to.to_owned(), id)));
        }
        if fails { Err(power_is_off()) } else { Ok(()) }
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.check_power()?;
        if !self.cached.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let fails = self.power_fails();
        if !fails || self.rng.chance(50) {
            self.change_name(path, Some(path.to_owned()), None);
        }
        if fails { Err(power_is_off()) } else { Ok(()) }
    }

    fn change_name(&mut self, path: &str, remove: Option<String>, insert: Option<(String, usize)>) {
        let change = NameChange { dir: dir_of(path).to_owned(), remove, insert };
        change.apply(&mut self.cached);
        self.name_changes.push(change);
    }

    pub(super) fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        let fails = self.power_fails();
        if !fails || self.rng.chance(50) {
            let durable = &mut self.durable;
            self.name_changes.retain(|change| {
                if change.dir == dir {
                    change.apply(durable);
                }
                change.dir != dir
            });
        }
        if fails { Err(power_is_off()) } else { Ok(()) }
    }

    pub(super) fn append(&mut self, id: usize, bytes: &[u8]) -> io::Result<()> {
        let error = match self.planned(Call::Append) {
            Some(fault) => Some(fault.error()),
            None => self.power_fails().then(power_is_off),
        };
        let mut bytes = bytes;
        if error.is_some() {
            bytes = &bytes[..self.rng.index(bytes.len() + 1)];
        }
        let room = self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()));
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let error = error.or_else(|| (fits < bytes.len()).then(|| Fault::Full.error()));
        if fits > 0 {
            let file = &mut self.files[id];
            file.change(What::Write { offset: file.cached.len(), bytes: bytes[..fits].to_vec() });
        }
        error.map_or(Ok(()), Err)
    }

    pub(super) fn rewrite(&mut self, path: &str, from: u64, to: u64) -> io::Result<()> {
        self.call(Call::Open)?;
        let id = *self.cached.get(path).ok_or(io::ErrorKind::NotFound)?;
        let file = &mut self.files[id];
        let range = usize::try_from(from).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(usize::MAX);
        let bytes = file.cached.get(range.clone()).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec();
        file.change(What::Truncate { len: file.cached.len() });
        if !bytes.is_empty() {
            file.change(What::Write { offset: range.start, bytes });
        }
        self.sync(id)
    }

    pub(super) fn truncate(&mut self, id: usize, len: u64) -> io::Result<()> {
        let fails = self.power_fails();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len < self.files[id].cached.len() && (!fails || self.rng.chance(50)) {
            self.files[id].change(What::Truncate { len });
        }
        if fails { Err(power_is_off()) } else { Ok(()) }
    }

    pub(super) fn sync(&mut self, id: usize) -> io::Result<()> {
        self.syncs += 1;
        if let Some(fault) = self.planned(Call::Sync) {
            for change in &mut self.files[id].changes {
                change.given_up = true;
            }
            return Err(fault.error());
        }
        let fails = self.power_fails();
        if !fails || self.rng.chance(50) {
            self.files[id].sync(&mut self.rng);
        }
        if fails { Err(power_is_off()) } else { Ok(()) }
    }

    pub(super) fn flip_bit(&mut self, path: &str, bit: u64) -> bool {
        let Some(&id) = self.cached.get(path) else { return false };
        let (byte, mask) = ((bit / 8) as usize, 1u8 << (bit % 8));
        let file = &mut self.files[id];
        let Some(cached) = file.cached.get_mut(byte) else { return false };
        *cached ^= mask;
        if let Some(durable) = file.durable.get_mut(byte) {
            *durable ^= mask;
        }
        true
    }

    pub(super) fn put(&mut self, path: &str, content: &[u8]) {
        self.files.push(File { cached: content.to_vec(), durable: content.to_vec(), changes: Vec::new() });
        self.cached.insert(path.to_owned(), self.files.len() - 1);
        self.durable.insert(path.to_owned(), self.files.len() - 1);
    }

    pub(super) fn crash(&mut self) {
        for file in &mut self.files {
            file.crash(&mut self.rng);
        }
        let changes = std::mem::take(&mut self.name_changes);
        let survival = Survival::draw(&mut self.rng, changes.len());
        for (at, change) in changes.iter().enumerate() {
            let survives = match survival {
                Survival::Nothing => false,
                Survival::All => true,
                Survival::Prefix(count) => at < count,
                Survival::Subset(_) => self.rng.chance(50),
            };
            if survives {
                change.apply(&mut self.durable);
            }
        }
        self.cached = self.durable.clone();
        self.generation += 1;
        (self.locked, self.off, self.changes_left) = (false, false, None);
        self.faults.clear();
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        if let Some(path) = &self.remove {
            names.remove(path);
        }
        if let Some((path, id)) = &self.insert {
            names.insert(path.clone(), *id);
        }
    }
}

impl File {
    fn change(&mut self, what: What) {
        what.apply(&mut self.cached);
        self.changes.push(Change { what, given_up: false });
    }

    /// What was given up survives in part, or not, *below* what came later and is synced now.
    fn sync(&mut self, rng: &mut SplitMix64) {
        for change in std::mem::take(&mut self.changes) {
            match change.what {
                what if !change.given_up => what.apply(&mut self.durable),
                What::Write { offset, bytes } => {
                    let piece = if rng.chance(50) { usize::MAX } else { 512 };
                    self.crash_write(rng, piece, offset, &bytes);
                }
                what if rng.chance(50) => what.apply(&mut self.durable),
                What::Truncate { .. } => {}
            }
        }
    }

    fn crash(&mut self, rng: &mut SplitMix64) {
        let changes = std::mem::take(&mut self.changes);
        let survival = Survival::draw(rng, changes.len());
        for (at, change) in changes.into_iter().enumerate() {
            match (survival, change.what) {
                (Survival::Nothing, _) => {}
                (Survival::All, what) => what.apply(&mut self.durable),
                (Survival::Prefix(count), what) if at + 1 < count => what.apply(&mut self.durable),
                (Survival::Prefix(count), What::Write { offset, mut bytes }) if at + 1 == count => {
                    bytes.truncate(rng.index(bytes.len() + 1));
                    What::Write { offset, bytes }.apply(&mut self.durable);
                }
                (Survival::Prefix(count), what) if at + 1 == count => what.apply(&mut self.durable),
                (Survival::Prefix(_), _) => {}
                (Survival::Subset(piece), What::Write { offset, bytes }) => {
                    self.crash_write(rng, piece, offset, &bytes);
                }
                (Survival::Subset(_), what) if rng.chance(50) => what.apply(&mut self.durable),
                (Survival::Subset(_), _) => {}
            }
        }
        self.cached = self.durable.clone();
    }

    /// Some pieces survive; where others do not, the file may nevertheless have grown.
    fn crash_write(&mut self, rng: &mut SplitMix64, piece: usize, offset: usize, bytes: &[u8]) {
        for (at, bytes) in bytes.chunks(piece).enumerate() {
            let offset = offset + at * piece;
            if rng.chance(50) {
                What::Write { offset, bytes: bytes.to_vec() }.apply(&mut self.durable);
            } else if rng.chance(25) && self.durable.len() < offset + bytes.len() {
                self.durable.resize(offset + bytes.len(), 0);
            }
        }
    }
}

impl What {
    /// Holes read as zeros.
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Truncate { len } => content.truncate(*len),
        }
    }
}
