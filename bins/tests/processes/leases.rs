//! A coordinator whose process stands still for about as long as its lease lasts, or for longer: when it goes on it must not
//! believe in a lease that is over. The very first answers that it gives then are looked at.

use std::time::Duration;

use dsv2_core::Level;

use crate::harness::{Place, eventually};
use crate::load::{Load, Plan, WITHOUT_END};
use crate::parts::{Part, Parts};
use crate::verdict;
use crate::watch::Watch;

const SERVERS: usize = 5;
/// A lease lasts for 1,681 ms from the sending of what a majority answered, and a voter is bound for 1,750 ms: some end
/// within it, some between the two, some when another one leads, or is just being voted for.
const PAUSES_MS: [u64; 8] = [900, 1_500, 1_650, 1_700, 1_750, 1_800, 2_200, 4_000];

#[test]
fn a_coordinator_that_stood_still_does_not_believe_in_its_old_lease() {
    let place = Place::new();
    let parts = Parts::start_with(&place, SERVERS, &["--voters", "s1,s2,s3,s4,s5"]);
    let mut load = Load::new();
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    let plan = Plan { writers: 2, in_flight: 20, messages: WITHOUT_END, level: Level::Quorum, channels: &["dev"] };
    load.write("w", &broker, &proxy, plan);
    let mut watch = Watch::begin(&parts, SERVERS);
    let mut replaced = 0;
    for pause_ms in PAUSES_MS {
        let (leader, epoch) = watch.wait_for_leader(SERVERS);
        watch.pause(&parts, leader, Duration::from_millis(pause_ms));
        eventually("it is seen again", || watch.seen_since_pause());
        watch.wait_for_leader(SERVERS);
        replaced += usize::from(watch.leader_above(epoch).is_some());
    }
    load.stop();
    parts.wait_until(SERVERS);
    let (asked, reigns) = (watch.asked_in_pauses(), watch.one_lease_at_a_time());
    let dirs = parts.data();
    parts.stop();
    verdict::check_history("the folded logs", &load.ledger, &verdict::fold_equal(&dirs).channels);
    println!(
        "{} pauses, {replaced} of which cost the lead, {reigns} reigns, {asked} questions answered afterwards, {:?}",
        PAUSES_MS.len(),
        load.ledger.tally()
    );
    assert!(asked >= 10 * PAUSES_MS.len(), "only {asked} questions waited for an answer");
    assert!(replaced >= 3, "only {replaced} pauses cost the lead");
}
