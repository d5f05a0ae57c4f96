//! A bounded campaign of the simulator: many seeds, no promise broken.

use dsv2_sync::sim::{SimConfig, SimReport, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A number from the environment, for longer campaigns.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// How many seeds; a longer campaign sets `DSV2_SIM_SEEDS`, and `DSV2_SIM_FIRST` where it begins.
#[test]
fn no_promise_is_broken() {
    let (first, runs) = (number("DSV2_SIM_FIRST", 0), number("DSV2_SIM_SEEDS", 100));
    let most_broken = number("DSV2_SIM_BROKEN", 1);
    let started = std::time::Instant::now();
    let (mut total, mut broken) = (SimReport::default(), 0);
    for seed in first..first + runs {
        let report = run(&SimConfig::swarm(seed));
        total.add(&report);
        if !report.violations.is_empty() {
            broken += 1;
            println!("seed {seed}: {:#?}\n{}", report.violations, SimConfig::swarm(seed));
        }
        assert!(broken < most_broken, "broken promises, see above");
    }
    let rate = total.steps as f64 / started.elapsed().as_secs_f64();
    println!("{:?}\n{rate:.0} events/s", total.figures());
    assert_eq!(broken, 0, "broken promises, see above");
    // A campaign in which nothing went wrong proves nothing.
    assert_eq!(total.shortfalls(runs), Vec::<String>::new());
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..number("DSV2_SIM_TWICE", 10) {
        let first = run(&SimConfig::swarm(seed));
        assert_eq!(first, run(&SimConfig::swarm(seed)));
        assert_ne!(first.trace_hash, run(&SimConfig::swarm(seed + 1_000)).trace_hash);
    }
}
