//! The index as bytes, for snapshots.

use std::collections::{BTreeMap, HashMap};

use dsv2_core::{Clock, Origin};

use super::seqmap::SeqMap;
use super::{Entry, FeedKey, Index, OriginLog, Place, Run};
use crate::bytes::{Put, Take};
use crate::index::chunks::SeqList;
use crate::ranges::Ranges;

impl<P: Place> Index<P> {
    /// Writes all but what waits; `place` writes a place.
    pub(crate) fn put(&self, put: &mut Put, place: impl Fn(&mut Put, &P)) {
        put.number(self.origins.len() as u64);
        for log in &self.origins {
            put_log(put, log, &place);
        }
        let mut names: Vec<(&str, u32)> = self.names.iter().map(|(name, &id)| (&**name, id)).collect();
        names.sort_unstable_by_key(|(_, id)| *id);
        put.number(names.len() as u64);
        names.iter().for_each(|(name, _)| put.text(name));
        let mut feeds: Vec<(&FeedKey, &Vec<Run>)> = self.feeds.iter().collect();
        feeds.sort_unstable_by_key(|(key, _)| key.parts());
        put.number(feeds.len() as u64);
        for (key, runs) in feeds {
            let (tag, a, b) = key.parts();
            [tag, a, b].into_iter().for_each(|part| put.number(u64::from(part)));
            put.number(runs.len() as u64);
            for run in runs {
                put.number(u64::from(run.origin));
                put.ascending(run.seqs.iter().map(u64::from).collect::<Vec<_>>().into_iter());
            }
        }
    }

    /// Reads what [`Index::put`] wrote; `None` where it does not fit together.
    pub(crate) fn take(take: &mut Take<'_>, place: impl Fn(&mut Take<'_>) -> Option<P>) -> Option<Self> {
        let mut index = Self::default();
        for _ in 0..take.count()? {
            let log = take_log(take, &place)?;
            let id = index.origins.len() as u32;
            if index.by_origin.insert(log.origin.clone(), id).is_some() {
                return None;
            }
            index.vector.advance_to(&log.origin, log.held.len() as u64);
            index.events += log.held.iter_from(0).count() as u64;
            index.origins.push(log);
        }
        for id in 0..take.count()? {
            index.names.insert(take.text()?.into(), u32::try_from(id).ok()?);
        }
        let names = u32::try_from(index.names.len()).ok()?;
        let feeds = take.count()?;
        index.feeds = HashMap::with_capacity(feeds);
        for _ in 0..feeds {
            let key = FeedKey::of_parts(take.number32()?, take.number32()?, take.number32()?, names)?;
            let runs = (0..take.count()?).map(|_| take_run(take, &index.origins)).collect::<Option<Vec<_>>>()?;
            if !runs.is_sorted_by_key(|run| run.origin) || index.feeds.insert(key, runs).is_some() {
                return None;
            }
        }
        Some(index)
    }
}

impl FeedKey {
    const fn parts(&self) -> (u32, u32, u32) {
        match *self {
            Self::Channel(name) => (0, name, name),
            Self::Inbox(name) => (1, name, name),
            Self::Conversation(a, b) => (2, a, b),
        }
    }

    fn of_parts(tag: u32, a: u32, b: u32, names: u32) -> Option<Self> {
        let key = match tag {
            0 => Self::Channel(a),
            1 => Self::Inbox(a),
            2 => Self::Conversation(a, b),
            _ => return None,
        };
        (a < names && b < names).then_some(key)
    }
}

fn put_log<P: Place>(put: &mut Put, log: &OriginLog<P>, place: &impl Fn(&mut Put, &P)) {
    put.text(log.origin.server.as_str());
    put.number(log.origin.incarnation);
    put.number(log.last_clock.get());
    put.ascending(log.retired.iter().flat_map(|(from, to)| [from, to]).collect::<Vec<_>>().into_iter());
    put.number(log.held.len() as u64);
    put.number(log.held.iter_from(0).count() as u64);
    let (mut next, mut clock) = (0, 0);
    for (at, entry) in log.held.iter_from(0) {
        put.number((at - next) as u64);
        put.number(entry.clock.get() - clock);
        put.number(u64::from(entry.secs));
        place(put, &entry.place);
        (next, clock) = (at + 1, entry.clock.get());
    }
}

fn take_log<P: Place>(take: &mut Take<'_>, place: &impl Fn(&mut Take<'_>) -> Option<P>) -> Option<OriginLog<P>> {
    let server = take.text()?.parse().ok()?;
    let origin = Origin { server, incarnation: take.number()? };
    let last_clock = Clock::new(take.number()?)?;
    let mut retired = Ranges::default();
    for pair in take.ascending()?.chunks(2) {
        let &[from, to] = pair else { return None };
        retired.insert(from, to);
    }
    let len = usize::try_from(take.number32()?).ok()?;
    let mut held = SeqMap::default();
    let mut clock = 0u64;
    for _ in 0..take.count()? {
        held.skip_to(held.len().checked_add(usize::try_from(take.number()?).ok()?).filter(|&at| at < len)?);
        clock = clock.checked_add(take.number()?)?;
        let secs = take.number32()?;
        held.push(Entry { clock: Clock::new(clock)?, secs, place: place(take)? });
    }
    held.skip_to(len);
    Some(OriginLog { origin, held, retired, last_clock, waiting: BTreeMap::new() })
}

fn take_run<P: Place>(take: &mut Take<'_>, origins: &[OriginLog<P>]) -> Option<Run> {
    let origin = take.number32()?;
    let log = origins.get(origin as usize)?;
    let seqs = take.ascending()?;
    let held =
        |&seq: &u64| usize::try_from(seq).ok()?.checked_sub(1).and_then(|at| log.held.get(at)).map(|_| seq as u32);
    let seqs: Vec<u32> = seqs.iter().map(held).collect::<Option<_>>()?;
    let ascends = seqs.is_sorted_by(|a, b| a < b);
    Some(Run { origin, seqs: SeqList::from_ascending(seqs)? }).filter(|_| ascends)
}
