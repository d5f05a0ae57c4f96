//! Every planted bug is found within 1,000 schedules; how many it took is printed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dsv2_sync::sim::{Bug, SimConfig, Simulation};

/// In how many schedules a bug must show.
const SCHEDULES: u64 = 1_000;

/// The first schedule that shows the bug, and what it shows.
fn hunt(bug: Bug) -> Option<(u64, String)> {
    (0..SCHEDULES).find_map(|seed| {
        let report = Simulation::with_bug(SimConfig::swarm(seed), bug).run();
        report.violations.into_iter().next().map(|why| (seed + 1, why))
    })
}

#[test]
fn every_planted_bug_is_found() {
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match hunt(bug) {
                        Some((schedules, why)) => println!("{bug:?}: after {schedules} schedule(s): {why}"),
                        None => {
                            println!("{bug:?}: NOT FOUND");
                            missed.lock().expect("no panic").push(bug);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(missed.into_inner().expect("no panic"), Vec::<Bug>::new());
}
