//! The state as bytes, for snapshots.
//!
//! Names and the few exceptions are MessagePack; the identities of messages, which are nearly all of it, are records of
//! one size, ascending, so that the same state is the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{ChannelName, Clock, EventId, Floors, Origin, UserName};
use serde::{Deserialize, Serialize};

use super::{Creation, Identities, Known, Origins, State, Twin};

/// Identity 16, content 8, clock 8, origin 4, kind 1, number 8 bytes, all little-endian.
const RECORD_BYTES: usize = 45;

/// All but the identities.
#[derive(Serialize, Deserialize)]
struct Rest {
    users: Vec<(UserName, Creation)>,
    channels: Vec<(ChannelName, Creation)>,
    origins: Vec<Origin>,
    twins: Vec<(EventId, Twin)>,
    conflicts: BTreeSet<String>,
    floors: Floors,
    events: u64,
    messages: u64,
    namesakes: u64,
}

impl State {
    /// Appends the state to `out`.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let rest = Rest {
            users: self.users.iter().map(|(name, creation)| (name.clone(), creation.clone())).collect(),
            channels: self.channels.iter().map(|(name, creation)| (name.clone(), creation.clone())).collect(),
            origins: self.origins.list.clone(),
            twins: self.twins.iter().map(|(id, twin)| (id.clone(), *twin)).collect(),
            conflicts: self.conflicts.clone(),
            floors: self.floors,
            events: self.events,
            messages: self.messages.len() as u64,
            namesakes: self.namesakes.len() as u64,
        };
        put(out, &rest);
        out.reserve(RECORD_BYTES * (self.messages.len() + self.namesakes.len()));
        let namesakes = self.namesakes.iter().map(|((id, _), known)| (*id, *known));
        for (id, known) in self.messages.sorted().chain(namesakes) {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&known.content.to_le_bytes());
            out.extend_from_slice(&known.clock.get().to_le_bytes());
            out.extend_from_slice(&known.origin.to_le_bytes());
            out.push(u8::from(known.is_private));
            out.extend_from_slice(&known.seq.to_le_bytes());
        }
    }

    /// Reads what [`State::save`] wrote; `None` where it is something else. What follows it stays in `bytes`.
    pub(crate) fn restore(bytes: &mut &[u8]) -> Option<Self> {
        let rest: Rest = take(bytes)?;
        let origins = rest.origins.len();
        let mut state = Self {
            users: rest.users.into_iter().collect(),
            channels: rest.channels.into_iter().collect(),
            origins: Origins::default(),
            messages: Identities::default(),
            namesakes: BTreeMap::new(),
            twins: rest.twins.into_iter().collect(),
            conflicts: rest.conflicts,
            floors: rest.floors,
            events: rest.events,
        };
        for origin in &rest.origins {
            state.origins.intern(origin);
        }
        state.messages.extend(records(bytes, rest.messages, origins)?);
        let namesakes = records(bytes, rest.namesakes, origins)?;
        state.namesakes.extend(namesakes.map(|(id, known)| ((id, known.content), known)));
        let complete = state.origins.list.len() == origins
            && state.messages.len() as u64 == rest.messages
            && state.namesakes.len() as u64 == rest.namesakes;
        complete.then_some(state)
    }
}

fn records<'a>(
    bytes: &mut &'a [u8],
    count: u64,
    origins: usize,
) -> Option<impl ExactSizeIterator<Item = (u128, Known)> + use<'a>> {
    let size = usize::try_from(count).ok()?.checked_mul(RECORD_BYTES)?;
    let (records, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    let records = records.as_chunks::<RECORD_BYTES>().0;
    let valid = records.iter().all(|record| read(record).is_some_and(|(_, known)| (known.origin as usize) < origins));
    // Each was read once already.
    let nothing = Known { content: 0, clock: Clock::ZERO, origin: 0, is_private: false, seq: 0 };
    valid.then(|| records.iter().map(move |record| read(record).unwrap_or((0, nothing))))
}

fn read(record: &[u8; RECORD_BYTES]) -> Option<(u128, Known)> {
    let number = |at: usize| record.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let id = u128::from(number(0)?) | u128::from(number(8)?) << 64;
    let origin = u32::from_le_bytes(record.get(32..36)?.try_into().ok()?);
    let (content, clock) = (number(16)?, Clock::new(number(24)?)?);
    Some((id, Known { content, clock, origin, is_private: record[36] == 1, seq: number(37)? }))
}

/// Appends a value and its length.
pub(crate) fn put<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let encoded = rmp_serde::to_vec(value);
    // Nothing that is saved can fail to serialize: keys are texts, and a vector takes every write.
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    let encoded = encoded.unwrap_or_default();
    out.extend_from_slice(&(encoded.len() as u64).to_le_bytes());
    out.extend_from_slice(&encoded);
}

/// Takes what [`put`] appended.
pub(crate) fn take<T: for<'de> Deserialize<'de>>(bytes: &mut &[u8]) -> Option<T> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    *bytes = rest;
    rmp_serde::from_slice(value).ok()
}
