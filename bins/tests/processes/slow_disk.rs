//! One server of three has a disk whose every sync takes most of a second, as a failing or overloaded one does: whether it
//! follows or coordinates, no election comes of it, the clients of the others notice nothing, and it holds all in the end.
//!
//! Its syncs are delayed by a small library in C that is loaded before libc, which needs a compiler (`cc`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dsv2_core::Level;

use crate::harness::{Place, eventually};
use crate::load::{Fate, Ledger, Load, Plan, WITHOUT_END};
use crate::parts::{Part, Parts};
use crate::verdict;
use crate::watch::Watch;

const SERVERS: usize = 3;
const SYNC_MS: i64 = 700;
/// Several leases, and elections if there were any.
const SLOW_FOR: Duration = Duration::from_secs(6);
/// The median of the others, on a busy machine: whoever waited for the slow disk would wait for a whole sync.
const OTHERS_WITHIN: Duration = Duration::from_millis(200);

#[test]
fn a_follower_with_a_slow_disk_holds_nobody_up() {
    one_slow_disk(0);
}

#[test]
fn a_coordinator_with_a_slow_disk_holds_nobody_up() {
    one_slow_disk(2);
}

fn one_slow_disk(slow: usize) {
    let place = Place::new();
    let parts = Parts::start_bent(&place, SERVERS, &["--voters", "s1,s2,s3"], &[]);
    let watch = Watch::begin(&parts, SERVERS);
    eventually("the best leads", || watch.leader(SERVERS).is_some_and(|(leader, _)| leader == 2));
    let (_, epoch) = watch.wait_for_leader(SERVERS);
    let mut load = Load::new();
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    // Two writers for each server.
    let (writers, channels) = (2 * SERVERS, &["dev"]);
    load.write(
        "w",
        &broker,
        &proxy,
        Plan { writers, in_flight: 24, messages: WITHOUT_END, level: Level::Quorum, channels },
    );
    let begun = Instant::now();
    eventually("all write", || load.ledger.tally_so_far().acknowledged > 1_000);
    let bent = Instant::now();
    parts.bend(slow, "sync_ms", SYNC_MS);
    std::thread::sleep(SLOW_FOR);
    let straight = Instant::now();
    // It catches up with its disk as slow as it is.
    load.stop();
    parts.wait_until(SERVERS);
    let caught_up = straight.elapsed();
    assert_eq!(watch.wait_for_leader(SERVERS), (2, epoch), "an election came of it");
    watch.one_lease_at_a_time();
    let (before, meanwhile) = (waits(&load.ledger, begun, bent), waits(&load.ledger, bent, straight));
    parts.bend(slow, "sync_ms", 0);
    let dirs = parts.data();
    parts.stop();
    verdict::check_history("the folded logs", &load.ledger, &verdict::fold_equal(&dirs).channels);
    println!(
        "s{}: each sync takes {SYNC_MS} ms more; all were equal {caught_up:.1?} after the end of the load",
        slow + 1
    );
    for server in (0..SERVERS).map(|server| Part::Server(server).to_string()) {
        println!("  clients of {server}: {}, then {}", described(&before, &server), described(&meanwhile, &server));
    }
    for server in (0..SERVERS).filter(|server| *server != slow).map(|server| Part::Server(server).to_string()) {
        let median = median(&meanwhile, &server).expect("it was written to");
        assert!(median <= OTHERS_WITHIN, "the clients of {server} waited for {median:?}");
    }
    let slowed = median(&meanwhile, &Part::Server(slow).to_string()).expect("its clients write, though slowly");
    assert!(slowed >= Duration::from_millis(SYNC_MS.unsigned_abs()), "its disk was not slow: {slowed:?}");
}

/// How long the clients of each server waited for the acknowledgements that came in a time, in order.
fn waits(ledger: &Ledger, from: Instant, until: Instant) -> BTreeMap<String, Vec<Duration>> {
    let mut waits: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for attempt in ledger.attempts().values() {
        if let (Some(Fate::Acknowledged(event)), Some(ended)) = (&attempt.fate, attempt.ended)
            && attempt.begun >= from
            && ended < until
        {
            waits.entry(event.origin.server.to_string()).or_default().push(ended - attempt.begun);
        }
    }
    waits.values_mut().for_each(|waits| waits.sort());
    waits
}

fn median(waits: &BTreeMap<String, Vec<Duration>>, server: &str) -> Option<Duration> {
    waits.get(server).map(|waits| waits[waits.len() / 2])
}

fn described(waits: &BTreeMap<String, Vec<Duration>>, server: &str) -> String {
    let Some(waits) = waits.get(server) else { return "none".to_owned() };
    let (median, p99) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    format!("{} writes, p50 {median:.1?}, p99 {p99:.1?}", waits.len())
}
