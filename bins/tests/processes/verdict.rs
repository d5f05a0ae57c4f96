//! What must hold when all is quiet again: on every server's own disk, over every server's own `history`, and of what the
//! subscribers saw.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dsv2_core::{EventBody, EventId, Position};
use dsv2_net::Client;
use dsv2_store::{EventStore, JsonlConfig, JsonlStore};
use dsv2_sync::state::State;

use crate::load::{Fate, Ledger, Subscriber};

/// What the events of a data directory add up to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) position: Position,
    digest: u64,
    /// Of every channel: text and event, in the total order, twins left out.
    pub(crate) channels: BTreeMap<String, Vec<(String, EventId)>>,
    /// Events that are left out because their message counts by another one.
    pub(crate) twins: usize,
}

/// Reads the data directory of a server that has ended, by the store, and folds it.
pub(crate) fn fold(dir: &Path) -> Folded {
    let store = JsonlStore::open_dir(dir, JsonlConfig::default()).unwrap_or_else(|why| panic!("{dir:?}: {why}"));
    assert!(store.missing().is_empty(), "{dir:?} lost {:?}", store.missing());
    let (mut state, mut events) = (State::default(), Vec::new());
    let read = store.replay(&mut |event| {
        state.apply(&event);
        events.push(event);
    });
    read.unwrap_or_else(|why| panic!("{dir:?}: {why}"));
    events.sort_by_key(dsv2_core::Event::key);
    let all = events.len();
    events.retain(|event| !state.is_twin(&event.id));
    let twins = all - events.len();
    let mut channels: BTreeMap<String, Vec<(String, EventId)>> = BTreeMap::new();
    for event in events {
        if let EventBody::Publish { channel, message, .. } = event.body {
            channels.entry(channel.to_string()).or_default().push((message, event.id));
        }
    }
    let position = store.vector().clone();
    Folded { digest: state.digest(&position), position, channels, twins }
}

/// The time of day that every event of a data directory carries, in milliseconds since 1970.
pub(crate) fn timestamps(dir: &Path) -> BTreeMap<EventId, i64> {
    let store = JsonlStore::open_dir(dir, JsonlConfig::default()).unwrap_or_else(|why| panic!("{dir:?}: {why}"));
    let mut times = BTreeMap::new();
    let read = store.replay(&mut |event| {
        times.insert(event.id, event.timestamp.ms);
    });
    read.unwrap_or_else(|why| panic!("{dir:?}: {why}"));
    times
}

/// Folds all of them; they must be equal. Yields the one that they all are.
pub(crate) fn fold_equal(dirs: &[impl AsRef<Path>]) -> Folded {
    let mut folded = dirs.iter().map(|dir| (dir.as_ref(), fold(dir.as_ref())));
    let (_, first) = folded.next().expect("a server");
    for (dir, other) in folded {
        assert_eq!(other.position, first.position, "{dir:?} holds other events");
        assert!(other == first, "{dir:?}: equal positions, and another state");
    }
    first
}

/// Reads a channel to its end by the `history` of the server that the client talks to.
pub(crate) async fn history(client: &Client, channel: &str) -> Vec<(String, EventId)> {
    let (mut texts, mut position) = (Vec::new(), Position::default());
    loop {
        let page = client.channel(channel).history().after(position).limit(1_000).await.expect("a page");
        let rows = page.messages.iter().map(|message| {
            let event = message.event.clone().expect("our servers tell it");
            (message.body.text().to_owned(), event)
        });
        texts.extend(rows);
        position = page.next;
        if !page.more {
            return texts;
        }
    }
}

/// Every acknowledged message stands there exactly once, an unknown one at most once, a rejected one never, and nothing
/// that nobody wrote.
pub(crate) fn check_history(who: &str, ledger: &Ledger, channels: &BTreeMap<String, Vec<(String, EventId)>>) {
    let mut times: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (channel, messages) in channels {
        messages.iter().for_each(|(text, _)| *times.entry((channel, text)).or_default() += 1);
    }
    let attempts = ledger.attempts();
    let mut wrong = Vec::new();
    for (text, attempt) in &*attempts {
        let count = times.remove(&(attempt.channel.as_str(), text.as_str())).unwrap_or(0);
        let right = match &attempt.fate {
            Some(Fate::Acknowledged(_)) => count == 1,
            Some(Fate::Unknown(_)) | None => count <= 1,
            Some(Fate::Rejected(_)) => count == 0,
        };
        if !right {
            wrong.push(format!("{text} stands there {count} times, and is {:?}", attempt.fate));
        }
    }
    wrong.extend(times.keys().map(|(channel, text)| format!("{text} in {channel} was written by nobody")));
    assert!(wrong.is_empty(), "{who}: {} wrong, the first: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
}

/// Whether a subscriber has all that it must see: every acknowledged message that was begun after it had joined, or every
/// one at all where it reads from the beginning.
pub(crate) fn has_all(subscriber: &Subscriber, ledger: &Ledger) -> bool {
    subscriber.seen().since.is_some() && missing(subscriber, ledger).is_empty()
}

fn missing(subscriber: &Subscriber, ledger: &Ledger) -> Vec<String> {
    let seen = subscriber.seen();
    let texts: BTreeSet<&str> = seen.messages.iter().map(|(_, text, _)| text.as_str()).collect();
    let attempts = ledger.attempts();
    let due = attempts.iter().filter(|(_, attempt)| {
        let joined = subscriber.from_beginning || seen.since.is_some_and(|since| attempt.begun > since);
        joined && matches!(attempt.fate, Some(Fate::Acknowledged(_)))
    });
    due.filter(|(text, _)| !texts.contains(text.as_str())).map(|(text, _)| text.clone()).collect()
}

/// It saw all that it must, each message once, nothing that does not stand in the history, every server's messages in
/// the order in which that server wrote them, and was told of no gap.
pub(crate) fn check_subscriber(subscriber: &Subscriber, ledger: &Ledger, folded: &Folded) {
    let name = subscriber.name;
    let lacks = missing(subscriber, ledger);
    assert!(lacks.is_empty(), "{name} did not see {} messages: {:?}", lacks.len(), &lacks[..lacks.len().min(10)]);
    let seen = subscriber.seen();
    assert!(seen.gaps.is_empty(), "{name} was told of gaps: {:?}", seen.gaps);
    let stands: BTreeSet<(&str, &str)> = folded
        .channels
        .iter()
        .flat_map(|(channel, messages)| messages.iter().map(move |(text, _)| (channel.as_str(), text.as_str())))
        .collect();
    let mut once = BTreeSet::new();
    let mut last: BTreeMap<_, u64> = BTreeMap::new();
    for (channel, text, event) in &seen.messages {
        assert!(once.insert(text), "{name} saw {text} twice");
        assert!(stands.contains(&(channel.as_str(), text.as_str())), "{name} saw {text}, which no server has");
        let before = last.insert((channel, &event.origin), event.seq).unwrap_or(0);
        assert!(before < event.seq, "{name} saw {event} in {channel} after #{before} of the same origin");
    }
    if subscriber.from_beginning {
        assert_eq!(once.len(), stands.len(), "{name} lacks messages of unknown outcome that stand in the history");
    }
}
