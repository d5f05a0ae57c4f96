//! Servers on file systems that fail: disks that lose their power.
//!
//! `DSV2_POWER_CUTS` sets how often the power is cut (5 if not told), `DSV2_POWER_SEED` repeats the choices of a run. All
//! of it needs root, and power cuts need loop devices and Python; where these are missing the tests say so.

use std::time::{Duration, Instant};

use dsv2_core::Level;
use dsv2_net::client::Cursor;
use dsv2_sync::random::SplitMix;

use crate::campaigns::{seed, setting};
use crate::harness::{Place, eventually, without_root};
use crate::load::{Load, Plan, WITHOUT_END};
use crate::mounts::{Mount, without_loop_devices};
use crate::parts::{Part, Parts};
use crate::verdict;

static CHANNELS: [&str; 2] = ["dev", "ops"];
/// What a server logs when recovery cuts an unsynced end off.
const CUT_OFF: &str = "the end of the log was incomplete";

/// What one server acknowledged is on its disk.
#[test]
fn a_power_cut_takes_nothing_that_one_server_acknowledged() {
    power_cuts(1, &[], Level::Local);
}

/// The power of all three fails at once: each must have synced what it promised to the others.
#[test]
fn a_power_cut_of_all_servers_takes_nothing_that_a_majority_acknowledged() {
    power_cuts(3, &["--voters", "s1,s2,s3"], Level::Quorum);
}

fn power_cuts(servers: usize, flags: &[&str], level: Level) {
    if without_root("loop devices") || without_loop_devices() {
        return;
    }
    let (cuts, mut random) = (setting("DSV2_POWER_CUTS", 5), SplitMix::new(seed("DSV2_POWER_SEED")));
    let place = Place::new();
    let all: Vec<Part> = (0..servers).map(Part::Server).collect();
    let disks: Vec<Mount> = all.iter().map(|part| Mount::disk(place.path(&part.to_string()), 64)).collect();
    let mut parts = Parts::start_with(&place, servers, flags);
    let mut load = Load::new();
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    let plan = Plan { writers: 2, in_flight: 100, messages: WITHOUT_END, level, channels: &CHANNELS };
    load.write("w", &broker, &proxy, plan);
    let subscriber = load.subscribe("from the beginning", &broker, &proxy, &CHANNELS, Cursor::Beginning);
    let mut slowest = Duration::ZERO;
    for cut in 0..cuts {
        // After every restart the load must go on.
        let due = load.ledger.tally_so_far().acknowledged + 100 + random.below(300) as usize;
        eventually("writes are acknowledged", || load.ledger.tally_so_far().acknowledged >= due);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        let unsynced: Vec<_> = disks.iter().map(|disk| disk.path(&format!("unsynced{cut}"))).collect();
        unsynced.iter().for_each(|path| std::fs::write(path, b"never synced").expect("a file"));
        Mount::cut_power(&all.iter().map(|&server| parts.id(server)).collect::<Vec<_>>(), &disks);
        all.iter().for_each(|&server| parts.kill(server));
        disks.iter().for_each(Mount::restore_power);
        for path in unsynced {
            assert_ne!(std::fs::read(&path).unwrap_or_default(), b"never synced", "{path:?}: the power was not cut");
        }
        let began = Instant::now();
        all.iter().for_each(|&server| parts.start_part(server));
        slowest = slowest.max(began.elapsed());
    }
    load.stop();
    parts.wait_until(servers);
    eventually("the subscriber has all", || verdict::has_all(&subscriber, &load.ledger));
    let cut_off: usize = all.iter().map(|&server| parts.log(server).matches(CUT_OFF).count()).sum();
    let dirs = parts.data();
    parts.stop();
    let folded = verdict::fold_equal(&dirs);
    verdict::check_history("the log", &load.ledger, &folded.channels);
    verdict::check_subscriber(&subscriber, &load.ledger, &folded);
    println!(
        "{servers} servers at {level:?}: {cuts} power cuts, {cut_off} logs with an unsynced end, {:?}, the slowest start \
        {:.2} s, {} twins",
        load.ledger.tally(),
        slowest.as_secs_f32(),
        folded.twins
    );
}
