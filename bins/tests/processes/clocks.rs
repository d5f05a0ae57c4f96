//! Servers whose time of day is an hour off, from the start or of a sudden: they are corrected towards the others, nobody
//! else's clock moves, no election comes of it, and what is written meanwhile is stamped rightly.
//!
//! Their clocks are bent by a small library in C that is loaded before libc, which needs a compiler (`cc`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dsv2_core::Level;

use crate::harness::{Place, eventually};
use crate::load::{Fate, Ledger, Load, Plan, WITHOUT_END};
use crate::parts::{Part, Parts};
use crate::verdict;
use crate::watch::Watch;

const SERVERS: usize = 5;
const HOUR_S: i64 = 3_600;
/// The system clocks of the good servers are one and the same. What they move is the error of their measurements.
const GOOD_WITHIN_US: u64 = 20_000;
/// How far off a message may be stamped, and a bent server be corrected: γ of the agreement.
const STAMPED_WITHIN_MS: i64 = 100;

/// When a server may have stamped wrongly: from the bending until it was seen corrected.
type Bent = (usize, Instant, Instant);

#[test]
fn a_clock_an_hour_off_is_corrected_and_moves_nobody() {
    let place = Place::new();
    let started = Instant::now();
    // s2 is an hour fast from its start.
    let parts = Parts::start_bent(&place, SERVERS, &["--voters", "s1,s2,s3,s4,s5"], &[(1, "clock_s", HOUR_S)]);
    let watch = Watch::begin(&parts, SERVERS);
    eventually("the best leads", || watch.leader(SERVERS).is_some_and(|(leader, _)| leader == 4));
    let (_, epoch) = watch.wait_for_leader(SERVERS);
    let mut load = Load::new();
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    // Two writers for each server.
    let plan =
        Plan { writers: 2 * SERVERS, in_flight: 20, messages: WITHOUT_END, level: Level::Quorum, channels: &["dev"] };
    load.write("w", &broker, &proxy, plan);
    let mut bent = vec![(1, started, until_corrected(&watch, 1, HOUR_S))];
    // The coordinator's clock is set back as it runs, and the other one is put right.
    for (server, by_s) in [(4, -HOUR_S), (1, 0)] {
        let from = Instant::now();
        parts.bend(server, "clock_s", by_s);
        bent.push((server, from, until_corrected(&watch, server, by_s)));
    }
    let (now, so_far) = (Instant::now(), load.ledger.tally_so_far().acknowledged);
    eventually("all write on", || load.ledger.tally_so_far().acknowledged > so_far + 500);
    assert_eq!(watch.wait_for_leader(SERVERS), (4, epoch), "no election came of it");
    load.stop();
    parts.wait_until(SERVERS);
    let moved_us = good_clocks_moved(&watch);
    watch.one_lease_at_a_time();
    let dirs = parts.data();
    parts.stop();
    verdict::check_history("the folded logs", &load.ledger, &verdict::fold_equal(&dirs).channels);
    let (right, wrong) = check_stamps(&load.ledger, &verdict::timestamps(&dirs[0]), &bent);
    let corrected: Vec<Duration> = bent.iter().map(|(_, from, until)| *until - *from).collect();
    println!(
        "corrected after {corrected:.1?}, the first since the start of all; good clocks moved by {moved_us} µs at most; \
        {right:?} messages of each server stamped rightly, {wrong} before a correction off; in all {:.1?}",
        now.duration_since(started)
    );
    assert!(moved_us <= GOOD_WITHIN_US, "a good clock was moved by {moved_us} µs");
    assert!(right.len() == SERVERS && right.values().all(|count| *count > 20), "not all wrote: {right:?}");
}

/// Waits until a server's agreed clock is what the others have, and yields when that was seen.
fn until_corrected(watch: &Watch, server: usize, by_s: i64) -> Instant {
    let mut corrected = None;
    eventually("its clock is corrected", || {
        let seen = watch.seen();
        let right = |offset_us: i64| (offset_us + by_s * 1_000_000).abs() <= STAMPED_WITHIN_MS * 1_000;
        corrected = seen[&server].last().filter(|last| right(last.report.wall.offset_us)).map(|last| last.answered);
        corrected.is_some()
    });
    corrected.expect("just seen")
}

/// The largest correction that a good server was ever seen to carry.
fn good_clocks_moved(watch: &Watch) -> u64 {
    let seen = watch.seen();
    let good = [0, 2, 3].iter().flat_map(|server| &seen[server]);
    good.map(|sighting| sighting.report.wall.offset_us.unsigned_abs()).max().expect("sightings")
}

/// Every acknowledged message carries a time between its beginning and its end, unless its server was bent then. Yields how
/// many did, by server, and how many did not.
fn check_stamps(
    ledger: &Ledger,
    stamps: &BTreeMap<dsv2_core::EventId, i64>,
    bent: &[Bent],
) -> (BTreeMap<String, usize>, usize) {
    let (now, today) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"));
    let ms = |at: Instant| (today - now.duration_since(at)).as_millis() as i64;
    let (mut right, mut wrong): (BTreeMap<String, usize>, usize) = Default::default();
    for (text, attempt) in &*ledger.attempts() {
        let (Some(Fate::Acknowledged(event)), Some(ended)) = (&attempt.fate, attempt.ended) else { continue };
        let (server, stamp) = (event.origin.server.to_string(), stamps[event]);
        if (ms(attempt.begun) - STAMPED_WITHIN_MS..=ms(ended) + STAMPED_WITHIN_MS).contains(&stamp) {
            *right.entry(server).or_default() += 1;
            continue;
        }
        let excused = |(who, from, until): &Bent| {
            Part::Server(*who).to_string() == server && attempt.begun <= *until && ended >= *from
        };
        assert!(bent.iter().any(excused), "{text} of {server}: {} ms off", stamp - ms(attempt.begun));
        wrong += 1;
    }
    (right, wrong)
}
