//! The laws of [`EventStore`], for whoever writes one.
//!
//! [`run`] checks a store's behaviour while it is open, [`run_durable`] also what it keeps across crashes. Both panic
//! with the law that is broken. Each law is a function of its own, too.
//!
//! ```
//! use dsv2_store::testing::conformance;
//! use dsv2_store::{MemoryStore, Meta};
//!
//! conformance::run(|| MemoryStore::new(Meta::new(1)));
//! ```

use dsv2_core::{Clock, Event, Feed, Floors, OrderKey, Position};

use super::{Model, Sampler, SplitMix64};
use crate::error::StoreError;
use crate::meta::{Meta, Vote};
use crate::store::{EventStore, FeedCursor, Limit, Page};

/// Where a durable store lives: it can be opened, crash, and be opened again.
pub trait Medium {
    /// The store under test.
    type Store: EventStore;

    /// Opens the store on what is there.
    fn open(&mut self) -> Self::Store;

    /// Ends the store as a power failure would: what it has not synced may be gone.
    fn crash(&mut self, store: Self::Store);
}

/// Checks all laws of an open store; `make` gives a new, empty one each time.
///
/// # Panics
/// Where a law is broken.
pub fn run<S: EventStore>(mut make: impl FnMut() -> S) {
    run_laws(|law| law(&mut make()));
}

/// Checks all laws of a durable store; `make` gives a new, empty medium each time.
///
/// # Panics
/// Where a law is broken.
pub fn run_durable<M: Medium>(mut make: impl FnMut() -> M) {
    run_laws(|law| {
        let mut medium = make();
        law(&mut medium.open());
    });
    for seed in 0..50 {
        what_was_synced_survives(&mut make(), seed);
    }
}

/// Has each law checked on a store of its own.
fn run_laws<S: EventStore>(mut check: impl FnMut(&dyn Fn(&mut S))) {
    for seed in 0..20 {
        check(&|store| reads_equal_the_model(store, seed));
        check(&|store| scrolling_visits_everything_once(store, seed));
        check(&|store| retired_events_are_gone(store, seed));
    }
    check(&refused_appends_change_nothing);
    check(&limits_are_kept);
    check(&late_events_are_not_missed);
    check(&skipped_numbers_are_passed_over);
    check(&metadata_is_kept);
    check(&nothing_is_an_answer);
}

/// Whatever is appended, every read gives what the definitions say, which [`Model`] follows word for word.
///
/// # Panics
/// Where the law is broken.
pub fn reads_equal_the_model(store: &mut impl EventStore, seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let mut sampler = Sampler::new(seed);
    let mut model = Model::default();
    for _ in 0..8 {
        let count = rng.index(30);
        let batch = sampler.batch(count);
        must(store.append(&batch), "append");
        model.events.extend(batch);
        if rng.chance(50) {
            must(store.sync(), "sync");
        }
        if rng.chance(30) {
            sampler.restart();
        }
        compare(store, &model, &mut rng);
    }
}

/// Compares all that a store tells with the model; `rng` chooses the questions.
///
/// # Panics
/// Where they differ.
pub fn compare(store: &impl EventStore, model: &Model, rng: &mut SplitMix64) {
    assert_eq!(store.vector(), &model.vector(), "the vector is what was appended");
    assert_eq!(store.stats().events, model.events.len() as u64, "the number of events is what was appended");
    let mut replayed = Vec::new();
    must(store.replay(&mut |event| replayed.push(event)), "replay");
    assert_eq!(replayed, model.events, "replay gives everything in the order of the log");
    for (origin, last) in model.vector().iter() {
        let (from, count) = (rng.below(last + 3), rng.index(last as usize + 2));
        let found = must(store.range(origin, from, Limit::events(count)), "range");
        assert_eq!(found, model.range(origin, from, count), "range {origin} from {from}, {count} events");
    }
    for feed in model.feeds() {
        for _ in 0..3 {
            let cursor = random_cursor(model, rng);
            let count = rng.index(12);
            let found = must(store.read(&feed, cursor.clone(), Limit::events(count)), "read");
            assert_eq!(found, model.read(&feed, &cursor, count), "read {feed:?} {cursor:?}, {count} events");
        }
    }
}

fn random_cursor(model: &Model, rng: &mut SplitMix64) -> FeedCursor {
    let some_event = |rng: &mut SplitMix64| model.events.get(rng.index(model.events.len() + 1));
    match rng.below(4) {
        0 => FeedCursor::After(Position::default()),
        1 => FeedCursor::Before(None),
        2 => FeedCursor::Before(some_event(rng).map(Event::key)),
        _ => {
            let seqs = model.vector();
            let some = seqs.iter().map(|(origin, last)| (origin.clone(), rng.below(last + 2)));
            FeedCursor::After(some.collect())
        }
    }
}

/// Pages of any size, forward and backward, give each event of a feed exactly once and in order.
///
/// # Panics
/// Where the law is broken.
pub fn scrolling_visits_everything_once(store: &mut impl EventStore, seed: u64) {
    let events = Sampler::new(seed).batch(120);
    must(store.append(&events), "append");
    let model = Model::from(events);
    for feed in model.feeds() {
        let all = model.read(&feed, &FeedCursor::Before(None), usize::MAX);
        for size in [1, 2, 7, 1_000] {
            assert_eq!(scroll_forward(store, &feed, size), all.events, "forward by {size}");
            assert_eq!(scroll_backward(store, &feed, size), all.events, "backward by {size}");
        }
    }
}

fn scroll_forward(store: &impl EventStore, feed: &Feed, size: usize) -> Vec<Event> {
    let mut found = Vec::new();
    let mut position = Position::default();
    loop {
        let page = must(store.read(feed, FeedCursor::After(position), Limit::events(size)), "read");
        assert!(page.events.len() == size || !page.more, "a page is full, or the last");
        found.extend(page.events);
        position = page.next;
        if !page.more {
            assert_eq!(position, page.heads, "the end is where the heads are");
            return found;
        }
    }
}

fn scroll_backward(store: &impl EventStore, feed: &Feed, size: usize) -> Vec<Event> {
    let mut found: Vec<Event> = Vec::new();
    let mut key: Option<OrderKey> = None;
    loop {
        let mut page = must(store.read(feed, FeedCursor::Before(key), Limit::events(size)), "read");
        key = page.events.first().map(Event::key);
        page.events.append(&mut found);
        found = page.events;
        if !page.more {
            return found;
        }
    }
}

/// An append that does not follow changes nothing, wherever in the batch the fault is.
///
/// # Panics
/// Where the law is broken.
pub fn refused_appends_change_nothing(store: &mut impl EventStore) {
    let mut sampler = Sampler::new(1);
    let model = Model::from(sampler.batch(40));
    must(store.append(&model.events), "append");
    let good = sampler.batch(40);
    let mut rng = SplitMix64::new(1);
    for at in [0, 1, 20, 39] {
        let origin = &good[at].id.origin;
        let mut skipped = good.clone();
        skipped[at].id.seq += 1;
        let mut repeated = good.clone();
        repeated[at].id.seq -= 1;
        let mut falling = good.clone();
        falling[at].clock = Clock::ZERO;
        for (batch, is_gap) in [(&skipped, true), (&repeated, true), (&falling, false)] {
            match store.append(batch) {
                Err(StoreError::Gap { event, expected }) if is_gap => {
                    assert_eq!((&event.origin, expected), (origin, good[at].id.seq), "a gap names what would follow");
                }
                Err(StoreError::ClockOrder { event, .. }) if !is_gap => assert_eq!(event, good[at].id),
                other => panic!("an event that does not follow is refused, not {other:?}"),
            }
            compare(store, &model, &mut rng);
        }
    }
    must(store.append(&good), "append");
    let events = [model.events, good].concat();
    compare(store, &Model::from(events), &mut rng);
}

/// A page holds no more than its limit, but never nothing while there is something.
///
/// # Panics
/// Where the law is broken.
pub fn limits_are_kept(store: &mut impl EventStore) {
    let events = Sampler::new(3).with_text_bytes(100).batch(100);
    must(store.append(&events), "append");
    let origin = &events[0].id.origin;
    let range = |events, bytes| must(store.range(origin, 1, Limit { events, bytes }), "range");
    let range = |events, bytes| range(events, bytes).events.len();
    assert_eq!(range(10, 1), 1, "one event comes whatever its size");
    assert_eq!(range(0, 1 << 20), 0, "no event comes where none is allowed");
    let few = range(100, 2_000);
    assert!((1..20).contains(&few), "2,000 bytes hold some events of more than 100 bytes, not {few}");
    let feed = Model::from(events.clone()).feeds().remove(0);
    let read = |cursor, events, bytes| must(store.read(&feed, cursor, Limit { events, bytes }), "read");
    for cursor in [FeedCursor::After(Position::default()), FeedCursor::Before(None)] {
        let page = read(cursor.clone(), 10, 1);
        assert!(page.events.len() == 1 && page.more, "one event comes whatever its size, and more is announced");
        let page = read(cursor, 0, 1 << 20);
        assert!(page.events.is_empty() && page.more, "no event comes where none is allowed, and more is announced");
    }
}

/// An event that arrives late, with a key below others that were read, is what a forward reader gets next.
///
/// # Panics
/// Where the law is broken.
pub fn late_events_are_not_missed(store: &mut impl EventStore) {
    let all = Sampler::new(11).batch(60);
    let late = all[0].id.origin.clone();
    let (held_back, first): (Vec<_>, Vec<_>) = all.into_iter().partition(|event| event.id.origin == late);
    must(store.append(&first), "append");
    let model = Model::from([first, held_back.clone()].concat());
    let read = |store: &dyn EventStore, feed: &Feed, cursor| must(store.read(feed, cursor, Limit::default()), "read");
    let pages: Vec<(Feed, Page)> =
        model.feeds().into_iter().map(|feed| (feed.clone(), read(&*store, &feed, FeedCursor::Before(None)))).collect();
    must(store.append(&held_back), "append");
    for (feed, page) in pages {
        let rest = read(&*store, &feed, FeedCursor::After(page.next.clone()));
        let expected = model.read(&feed, &FeedCursor::After(page.next), usize::MAX);
        assert_eq!(rest, expected, "following the last page of {feed:?} gives what arrived later");
        assert!(rest.events.iter().all(|event| event.id.origin == late), "and nothing else");
    }
}

/// What is below the floors is gone but for the ends of runs, and nothing else is, whatever is compacted.
///
/// # Panics
/// Where the law is broken.
pub fn retired_events_are_gone(store: &mut impl EventStore, seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let mut sampler = Sampler::new(seed);
    let mut model = Model::default();
    for _ in 0..8 {
        append_some(store, &mut model, &mut sampler, &mut rng);
        if rng.chance(30) {
            sampler.restart();
        }
        if rng.chance(60) {
            retire_some(store, &mut model, &mut rng);
        }
        while rng.chance(50) && must(store.compact(), "compact") {}
        while rng.chance(50) && must(store.pack(), "pack") {}
        compare(store, &model, &mut rng);
    }
}

fn append_some(store: &mut impl EventStore, model: &mut Model, sampler: &mut Sampler, rng: &mut SplitMix64) {
    let batch = sampler.batch(rng.index(30));
    must(store.append(&batch), "append");
    model.events.extend(batch);
}

/// Raises the floors to somewhere below the present clocks.
fn retire_some(store: &mut impl EventStore, model: &mut Model, rng: &mut SplitMix64) {
    let highest = model.events.iter().map(|event| event.clock.get()).max().unwrap_or(0);
    let mut clock = || Clock::new(rng.below(highest + 1)).unwrap_or(Clock::ZERO);
    let mut floors = Floors { publish: clock(), message: clock() };
    let hidden = model.events.iter().filter(|_| rng.chance(10)).map(|event| event.id.clone()).collect();
    must(store.retire(floors, &hidden), "retire");
    floors.merge(store.floors());
    assert_eq!(store.floors(), floors, "floors only rise");
    model.retire(floors, &hidden);
}

/// Numbers that were skipped count as held, and the next event follows them.
///
/// # Panics
/// Where the law is broken.
pub fn skipped_numbers_are_passed_over(store: &mut impl EventStore) {
    let mut rng = SplitMix64::new(0);
    let mut events = Sampler::new(4).batch(60);
    let mut model = Model::default();
    let origin = events[0].id.origin.clone();
    events.retain(|event| event.id.origin != origin || event.id.seq % 3 != 0);
    for event in events {
        if event.id.origin == origin {
            store.skip(&origin, event.id.seq - 1);
            model.passed.advance_to(&origin, event.id.seq - 1);
        }
        must(store.append(std::slice::from_ref(&event)), "append");
        model.events.push(event);
        compare(store, &model, &mut rng);
    }
    let last = model.vector().get(&origin);
    store.skip(&origin, last - 1);
    assert_eq!(store.vector().get(&origin), last, "what is held is not skipped");
    store.skip(&origin, last + 5);
    model.passed.advance_to(&origin, last + 5);
    compare(store, &model, &mut rng);
}

/// Metadata are what was saved last, and are not mixed with events.
///
/// # Panics
/// Where the law is broken.
pub fn metadata_is_kept(store: &mut impl EventStore) {
    let meta = some_meta(store.meta(), 7);
    must(store.save_meta(&meta), "save_meta");
    assert_eq!(store.meta(), &meta, "metadata are what was saved");
    assert!(store.vector().is_empty(), "metadata are no events");
    must(store.append(&Sampler::new(5).batch(5)), "append");
    must(store.sync(), "sync");
    assert_eq!(store.meta(), &meta, "events are no metadata");
}

fn some_meta(meta: &Meta, epoch: u64) -> Meta {
    Meta {
        name: "server7".parse().ok(),
        clock_limit: meta.clock_limit.plus(1_000),
        epoch,
        epoch_owner: Some(u128::MAX - u128::from(epoch)),
        vote: Some(Vote { epoch, candidate: 3 }),
        ..meta.clone()
    }
}

/// An empty append, a sync without an append, questions about what is not there: no errors, nothing found.
///
/// # Panics
/// Where the law is broken.
pub fn nothing_is_an_answer(store: &mut impl EventStore) {
    must(store.append(&[]), "append of nothing");
    must(store.sync(), "sync of nothing");
    let mut rng = SplitMix64::new(0);
    compare(store, &Model::default(), &mut rng);
    let stranger = Sampler::new(9).event();
    let range = must(store.range(&stranger.id.origin, 0, Limit::default()), "range");
    assert_eq!(range.events, [], "no such origin");
    must(store.close(), "close");
    must(store.append(&[stranger]), "append after close");
}

/// Everything synced is there after any crash; of the rest, a prefix of the log.
///
/// # Panics
/// Where the law is broken.
pub fn what_was_synced_survives<M: Medium>(medium: &mut M, seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let mut sampler = Sampler::new(seed);
    let mut model = Model::default();
    let mut meta: Option<Meta> = None;
    for life in 0..6 {
        let mut store = medium.open();
        compare(&store, &model, &mut rng);
        if let Some(meta) = &meta {
            assert_eq!(store.meta(), meta, "metadata are durable once saved");
        }
        let mut synced = model.events.len();
        for _ in 0..rng.below(6) {
            let count = rng.index(12);
            let batch = sampler.batch(count);
            must(store.append(&batch), "append");
            model.events.extend(batch);
            if rng.chance(40) {
                must(store.sync(), "sync");
                synced = model.events.len();
            }
            if rng.chance(20) {
                must(store.sync(), "sync");
                retire_some(&mut store, &mut model, &mut rng);
                synced = model.events.len();
            }
            if rng.chance(20) {
                must(store.compact(), "compact");
            }
            if rng.chance(20) {
                must(store.pack(), "pack");
            }
            if rng.chance(20) {
                let saved = some_meta(store.meta(), life);
                must(store.save_meta(&saved), "save_meta");
                meta = Some(saved);
            }
        }
        medium.crash(store);
        let store = medium.open();
        let survived = usize::try_from(store.stats().events).unwrap_or(usize::MAX);
        assert!(survived >= synced, "{synced} events were synced, {survived} survived");
        assert!(survived <= model.events.len(), "no event comes from nowhere");
        model.events.truncate(survived);
        compare(&store, &model, &mut rng);
        sampler.resume(store.vector());
        sampler.restart();
        medium.crash(store);
    }
}

fn must<T>(result: Result<T, StoreError>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what} must succeed here, but: {error:?}"),
    }
}
