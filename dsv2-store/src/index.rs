//! What is held and where: the part of a store that lives in memory.
//!
//! Per event: its clock, time and place (24 bytes in the JSON Lines store) and its number in each of its feeds (4 bytes, a
//! private message has two). Message texts are not kept. Of what is retired, one range of numbers is left.

pub(crate) mod chunks;
mod merge;
mod retire;
pub(crate) mod seqmap;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use dsv2_core::{Clock, Event, EventBody, EventId, Origin, Position};

use crate::error::StoreError;
use crate::ranges::Ranges;
use crate::store::Limit;
use chunks::SeqList;
pub(crate) use merge::EventRef;
use seqmap::SeqMap;

/// Where an event's content lies.
pub(crate) trait Place: Copy {
    /// How long it is there, in bytes.
    fn bytes(&self) -> usize;
}

/// An index over events at places of type `P`.
#[derive(Debug)]
pub(crate) struct Index<P> {
    origins: Vec<OriginLog<P>>,
    by_origin: HashMap<Origin, u32>,
    names: HashMap<Box<str>, u32>,
    feeds: HashMap<FeedKey, Vec<Run>>,
    vector: Position,
    events: u64,
    waiting: u64,
}

/// The events of one origin, from number 1 on.
#[derive(Debug)]
struct OriginLog<P> {
    origin: Origin,
    held: SeqMap<Entry<P>>,
    /// The numbers that are retired: below the end of `held` nothing else is lacking.
    retired: Ranges,
    /// The highest clock it had.
    last_clock: Clock,
    /// Intact events behind a missing one, by number. They are not served.
    waiting: BTreeMap<u32, Entry<P>>,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<P> {
    pub(crate) clock: Clock,
    /// When it was written, in seconds since 1970; what lies outside that range counts as its ends.
    pub(crate) secs: u32,
    pub(crate) place: P,
}

impl<P> Entry<P> {
    pub(crate) fn new(clock: Clock, timestamp_ms: i64, place: P) -> Self {
        let secs = u32::try_from(timestamp_ms.div_euclid(1_000).max(0)).unwrap_or(u32::MAX);
        Self { clock, secs, place }
    }
}

/// A feed by the numbers of its names, the smaller first in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FeedKey {
    Channel(u32),
    Inbox(u32),
    Conversation(u32, u32),
}

/// The events that one origin wrote in one feed. Their clocks never fall, because an origin's clocks never do.
#[derive(Debug)]
struct Run {
    origin: u32,
    seqs: SeqList,
}

/// The names that put an event into feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeedNames<'a> {
    None,
    Channel(&'a str),
    Pair { src: &'a str, dst: &'a str },
}

impl<'a> FeedNames<'a> {
    pub(crate) fn of(body: &'a EventBody) -> Self {
        match body {
            EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => Self::None,
            EventBody::Publish { channel, .. } => Self::Channel(channel.as_str()),
            EventBody::Message { src, dst, .. } => Self::Pair { src: src.as_str(), dst: dst.as_str() },
        }
    }
}

impl<P> Default for Index<P> {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            by_origin: HashMap::new(),
            names: HashMap::new(),
            feeds: HashMap::new(),
            vector: Position::default(),
            events: 0,
            waiting: 0,
        }
    }
}

impl<P: Place> Index<P> {
    pub(crate) const fn vector(&self) -> &Position {
        &self.vector
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }

    /// How many intact events wait for missing ones.
    pub(crate) const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The internal number of an origin, which is given to it now if it is new.
    pub(crate) fn origin_id(&mut self, origin: &Origin) -> u32 {
        if let Some(&id) = self.by_origin.get(origin) {
            return id;
        }
        let id = self.origins.len() as u32;
        self.origins.push(OriginLog {
            origin: origin.clone(),
            held: SeqMap::default(),
            retired: Ranges::default(),
            last_clock: Clock::ZERO,
            waiting: BTreeMap::new(),
        });
        self.by_origin.insert(origin.clone(), id);
        id
    }

    pub(crate) fn find_origin(&self, origin: &Origin) -> Option<u32> {
        self.by_origin.get(origin).copied()
    }

    pub(crate) fn origin(&self, id: u32) -> Option<&Origin> {
        self.origins.get(id as usize).map(|log| &log.origin)
    }

    /// How many origins there are; their internal numbers are below.
    pub(crate) fn origins(&self) -> usize {
        self.origins.len()
    }

    /// The number that the origin's next event must have, and the clock it must not go below.
    pub(crate) fn tail(&self, id: u32) -> (u64, Clock) {
        self.origins.get(id as usize).map_or((1, Clock::ZERO), |log| (log.held.len() as u64 + 1, log.last_clock))
    }

    pub(crate) fn entry(&self, id: u32, seq: u64) -> Option<Entry<P>> {
        self.origins.get(id as usize)?.held.get(usize::try_from(seq).ok()?.checked_sub(1)?).copied()
    }

    /// The first number from `from` on of which an event is held.
    pub(crate) fn next_live(&self, id: u32, from: u64) -> Option<u64> {
        let held = &self.origins.get(id as usize)?.held;
        let from = usize::try_from(from.max(1) - 1).ok()?;
        if held.get(from).is_some() {
            return Some(from as u64 + 1);
        }
        held.iter_from(from).next().map(|(at, _)| at as u64 + 1)
    }

    /// Whether each event is the next one of its origin, with a clock that does not fall.
    pub(crate) fn check_follows(&self, events: &[Event]) -> Result<(), StoreError> {
        let mut tails: HashMap<&Origin, (u64, Clock)> = HashMap::new();
        let mut current: Option<(&Origin, u64, Clock)> = None;
        for event in events {
            let origin = &event.id.origin;
            let (expected, last) = match current {
                Some((same, next, last)) if same == origin => (next, last),
                other => {
                    if let Some((earlier, next, last)) = other {
                        tails.insert(earlier, (next, last));
                    }
                    let held = || self.find_origin(origin).map_or((1, Clock::ZERO), |id| self.tail(id));
                    tails.get(origin).copied().unwrap_or_else(held)
                }
            };
            if event.id.seq != expected {
                return Err(StoreError::Gap { event: event.id.clone(), expected });
            }
            if event.clock < last {
                return Err(StoreError::ClockOrder { event: event.id.clone(), clock: event.clock, last });
            }
            if u32::try_from(expected).is_err() {
                let cap_bytes = u64::from(u32::MAX);
                return Err(StoreError::TooLarge { what: "an event number", bytes: expected, cap_bytes });
            }
            current = Some((origin, expected + 1, event.clock));
        }
        Ok(())
    }

    /// Takes the next event of an origin.
    pub(crate) fn push(&mut self, id: u32, entry: Entry<P>, names: FeedNames<'_>) {
        let Some(log) = self.origins.get_mut(id as usize) else { return };
        log.held.push(entry);
        log.last_clock = log.last_clock.max(entry.clock);
        let seq = log.held.len() as u32;
        self.waiting -= u64::from(log.waiting.remove(&seq).is_some());
        self.events += 1;
        self.pass_retired(id);
        match names {
            FeedNames::None => {}
            FeedNames::Channel(channel) => {
                let channel = self.name_id(channel);
                self.push_feed(FeedKey::Channel(channel), id, seq);
            }
            FeedNames::Pair { src, dst } => {
                let (src, dst) = (self.name_id(src), self.name_id(dst));
                self.push_feed(FeedKey::Inbox(dst), id, seq);
                self.push_feed(FeedKey::Conversation(src.min(dst), src.max(dst)), id, seq);
            }
        }
    }

    fn name_id(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.names.get(name) {
            return id;
        }
        let id = self.names.len() as u32;
        self.names.insert(name.into(), id);
        id
    }

    fn push_feed(&mut self, key: FeedKey, origin: u32, seq: u32) {
        let runs = self.feeds.entry(key).or_insert_with(|| Vec::with_capacity(1));
        match runs.binary_search_by_key(&origin, |run| run.origin) {
            Ok(at) => runs[at].seqs.push(seq),
            Err(at) => runs.insert(at, Run { origin, seqs: SeqList::of(seq) }),
        }
    }

    /// Notes an intact event that cannot be served before those that it follows; false if its number is taken.
    pub(crate) fn wait(&mut self, id: u32, seq: u64, entry: Entry<P>) -> bool {
        let (Some(log), Ok(seq)) = (self.origins.get_mut(id as usize), u32::try_from(seq)) else { return false };
        if seq as usize <= log.held.len() || log.waiting.contains_key(&seq) {
            return false;
        }
        log.waiting.insert(seq, entry);
        self.waiting += 1;
        true
    }

    /// The waiting event with that identity.
    pub(crate) fn find_waiting(&self, event: &EventId) -> Option<Entry<P>> {
        if self.waiting == 0 {
            return None;
        }
        self.waiting_at(self.find_origin(&event.origin)?, event.seq)
    }

    /// The waiting event of that origin and number.
    pub(crate) fn waiting_at(&self, id: u32, seq: u64) -> Option<Entry<P>> {
        self.origins.get(id as usize)?.waiting.get(&u32::try_from(seq).ok()?).copied()
    }

    /// An event lies elsewhere now.
    pub(crate) fn relocate(&mut self, id: u32, seq: u64, to: impl FnOnce(&mut P)) {
        let (Some(log), Ok(at)) = (self.origins.get_mut(id as usize), usize::try_from(seq)) else { return };
        let waits = log.waiting.get_mut(&(seq as u32)).map(|entry| &mut entry.place);
        let held = at.checked_sub(1).and_then(|at| log.held.get_mut(at)).map(|entry| &mut entry.place);
        if let Some(place) = held.or(waits) {
            to(place);
        }
    }

    /// The first waiting event of an origin.
    pub(crate) fn first_waiting(&self, id: u32) -> Option<(u64, Entry<P>)> {
        let (&seq, &entry) = self.origins.get(id as usize)?.waiting.first_key_value()?;
        Some((u64::from(seq), entry))
    }

    /// All waiting events.
    pub(crate) fn waiting_refs(&self) -> impl Iterator<Item = EventRef<P>> {
        let refs = |(origin, log): (usize, &'_ OriginLog<P>)| {
            let waiting = log.waiting.iter();
            waiting.map(|(&seq, &entry)| EventRef { origin: origin as u32, seq: seq.into(), entry }).collect::<Vec<_>>()
        };
        self.origins.iter().enumerate().flat_map(refs)
    }

    /// The events known to be missing, as ranges of numbers, both ends included.
    pub(crate) fn missing(&self) -> Vec<(Origin, u64, u64)> {
        let mut missing = Vec::new();
        for log in &self.origins {
            let mut next = log.held.len() as u64 + 1;
            for seq in log.waiting.keys().copied().map(u64::from) {
                let gaps = if seq > next { log.retired.gaps(next, seq - 1) } else { Vec::new() };
                missing.extend(gaps.into_iter().map(|(first, last)| (log.origin.clone(), first, last)));
                next = seq + 1;
            }
        }
        missing
    }

    /// References to the events of an origin from a number on, and the number up to which these are all.
    pub(crate) fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> (Vec<EventRef<P>>, u64) {
        let Some((id, log)) = self.find_origin(origin).and_then(|id| Some((id, self.origins.get(id as usize)?))) else {
            return (Vec::new(), 0);
        };
        let (mut budget, mut found) = (Budget::new(limit), Vec::new());
        let from = usize::try_from(from_seq.max(1) - 1).unwrap_or(usize::MAX);
        for (at, &entry) in log.held.iter_from(from.min(log.held.len())) {
            if !budget.admits(entry.place.bytes()) {
                return (found, at as u64);
            }
            found.push(EventRef { origin: id, seq: at as u64 + 1, entry });
        }
        (found, log.held.len() as u64)
    }

    /// Approximate memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let origins: usize = self
            .origins
            .iter()
            .map(|log| size_of::<OriginLog<P>>() + log.held.heap_bytes() + 16 * log.retired.len())
            .sum();
        let feeds: usize = self.feeds.values().flatten().map(|run| size_of::<Run>() + run.seqs.heap_bytes()).sum();
        let tables = self.feeds.capacity() * (size_of::<(FeedKey, Vec<Run>)>() + 1)
            + self.names.capacity() * (size_of::<(Box<str>, u32)>() + 1)
            + self.names.keys().map(|name| name.len()).sum::<usize>();
        (origins + feeds + tables) as u64
    }
}

/// Counts down a [`Limit`].
struct Budget {
    events: usize,
    bytes: usize,
    first: bool,
}

impl Budget {
    const fn new(limit: Limit) -> Self {
        Self { events: limit.events, bytes: limit.bytes, first: true }
    }

    /// Whether one more event, of so many bytes, is allowed; the first one always is.
    fn admits(&mut self, bytes: usize) -> bool {
        if self.events == 0 || (!self.first && bytes > self.bytes) {
            return false;
        }
        self.first = false;
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}
