//! A bounded campaign of the simulator: many seeds, no promise broken.

use dsv2_sync::sim::{SimConfig, SimReport, run};

/// How many seeds; a longer campaign sets `DSV2_SIM_SEEDS`.
fn seeds() -> u64 {
    std::env::var("DSV2_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn no_promise_is_broken() {
    let mut total = SimReport::default();
    let first = std::env::var("DSV2_SIM_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds() {
        let report = run(&SimConfig::swarm(seed));
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}\n{:#?}", report.violations, SimConfig::swarm(seed));
        total.steps += report.steps;
        total.simulated_ms += report.simulated_ms;
        total.acknowledged += report.acknowledged;
        total.unknown += report.unknown;
        total.retries += report.retries;
        total.crashes += report.crashes;
        total.partitions += report.partitions;
        total.breaks += report.breaks;
        total.repairs += report.repairs;
        total.elections += report.elections;
    }
    println!("{total:#?}");
    // A campaign in which nothing went wrong proves nothing.
    let runs = seeds();
    assert!(
        total.acknowledged >= 20 * runs
            && total.crashes >= runs / 2
            && total.partitions >= runs / 4
            && total.repairs >= runs / 4
    );
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..10 {
        let first = run(&SimConfig::swarm(seed));
        assert_eq!(first, run(&SimConfig::swarm(seed)));
        assert_ne!(first.trace_hash, run(&SimConfig::swarm(seed + 1_000)).trace_hash);
    }
}
