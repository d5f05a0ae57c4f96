//! What several tests of the store share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use dsv2_core::{Event, Position};
use dsv2_store::testing::FaultyDisk;
use dsv2_store::{Disk, EventStore, JsonlConfig, JsonlStore, MemDisk, StoreError};

/// The log files of a store that never sealed one.
pub(crate) const LOG_FILES: [&str; 4] =
    ["users.json", "channels.json", "messages/publishes.jsonl", "messages/messages.jsonl"];

pub(crate) fn try_open(disk: impl Disk + 'static, segment_bytes: u64) -> Result<JsonlStore, StoreError> {
    JsonlStore::open(Arc::new(disk), JsonlConfig { segment_bytes, node: 9 })
}

pub(crate) fn open(disk: &FaultyDisk, segment_bytes: u64) -> JsonlStore {
    try_open(disk.clone(), segment_bytes).expect("opens")
}

pub(crate) fn open_mem(disk: &MemDisk) -> JsonlStore {
    try_open(disk.clone(), u64::MAX).expect("opens")
}

/// All events in log order.
pub(crate) fn events(store: &impl EventStore) -> Vec<Event> {
    let mut events = Vec::new();
    store.replay(&mut |event| events.push(event)).expect("replays");
    events
}

/// The intact events that wait for missing ones.
pub(crate) fn waiting(store: &JsonlStore) -> Vec<Event> {
    let mut events = Vec::new();
    store.waiting(&mut |event| events.push(event)).expect("reads");
    events
}

pub(crate) fn vector(events: &[Event]) -> Position {
    events.iter().map(|event| (event.id.origin.clone(), event.id.seq)).collect()
}

/// All that can be told apart in two stores after recovery.
#[derive(Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) events: Vec<Event>,
    pub(crate) waiting: Vec<Event>,
    pub(crate) meta: dsv2_store::Meta,
    pub(crate) last_index: u64,
    pub(crate) lost_indices: u64,
}

pub(crate) fn state(store: &JsonlStore) -> State {
    let stats = store.stats();
    let (last_index, lost_indices) = (stats.last_index, stats.lost_indices);
    assert_eq!(stats.durable_index, last_index, "after recovery everything is durable");
    State { events: events(store), waiting: waiting(store), meta: store.meta().clone(), last_index, lost_indices }
}
