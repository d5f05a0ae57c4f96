//! The laws of clock agreement: bounds, liars, refusals, and time that never goes back.

mod berkeley_net;

use berkeley_net::{HOUR_US, Net};
use dsv2_core::Machine as _;
use dsv2_sync::clock_sync::{BerkeleyConfig, ClockEffect, ClockInput, ClockSync, Part};
use proptest::prelude::*;

const NAMES: [&str; 5] = ["alfa", "beta", "gama", "delta", "eco"];

/// The bound of the module's documentation, from what the last round measured: for two servers that took part in it,
/// half of their round trips, and twice the drift since; two microseconds are for rounding.
fn check_bound(net: &Net, good: &[&str]) -> Result<(), TestCaseError> {
    let Some(report) = net.reports.iter().rev().find(|report| report.average_us.is_some()) else { return Ok(()) };
    let rtt = |server: &str| report.clocks.iter().find(|clock| clock.name.as_str() == server).map(|clock| clock.rtt_us);
    for (index, a) in good.iter().enumerate() {
        for b in &good[index + 1..] {
            let states = [a, b].map(|server| {
                let now = net.now(server);
                (net.clocks[&berkeley_net::name(server)].machine.status(now), now)
            });
            let differ_us = net.wall_us(a).abs_diff(net.wall_us(b));
            let [Some(bound_a), Some(bound_b)] = [&states[0].0, &states[1].0].map(|status| status.error_bound_us)
            else {
                continue;
            };
            let agreement = |index: usize| (states[index].0.epoch, states[index].0.last_round.map(|(round, _)| round));
            // Every round agrees on a time of its own; whoever missed the last one is still at the one before.
            if agreement(0) != agreement(1) {
                continue;
            }
            prop_assert!(differ_us <= bound_a + bound_b + 2, "{}, {}: {} > {} + {}", a, b, differ_us, bound_a, bound_b);
            let same_round =
                states.iter().all(|(status, _)| status.last_round.is_some_and(|(round, _)| round == report.round));
            let arrived = states.iter().all(|(status, _)| !status.slewing);
            if let (true, true, Some(rtt_a), Some(rtt_b)) = (same_round, arrived, rtt(a), rtt(b)) {
                let age_us: u64 = states
                    .iter()
                    .map(|(status, now)| now.mono.us - status.last_round.map_or(0, |(_, at)| at.us))
                    .max()
                    .unwrap_or(0);
                // A round may last as long as this before it speaks; clocks drift meanwhile.
                let age_us = age_us + net.config.round_ms * 1_000;
                let bound_us = (rtt_a + rtt_b) / 2 + 2 * age_us * u64::from(net.config.drift_ppm) / 1_000_000 + 2;
                prop_assert!(differ_us <= bound_us, "{}, {}: {} > {}", a, b, differ_us, bound_us);
            }
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    clocks: Vec<(i64, i64)>,
    liar_us: Option<i64>,
    least_delay_us: u64,
    jitter_us: u64,
    loss_permille: u64,
    leaders: Vec<usize>,
    cut: Option<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let clocks = proptest::collection::vec((-45_000i64..45_000, -90i64..90), 3..=5);
    let liar_us = proptest::option::of(prop_oneof![Just(HOUR_US), Just(-HOUR_US), 150_000i64..HOUR_US]);
    let network = (50u64..20_000, 0u64..20_000, 0u64..300);
    let rest = (proptest::collection::vec(0usize..5, 1..4), proptest::option::of(0usize..5));
    (any::<u64>(), clocks, liar_us, network, rest).prop_map(|(seed, clocks, liar_us, network, (leaders, cut))| {
        let (least_delay_us, jitter_us, loss_permille) = network;
        Plan { seed, clocks, liar_us, least_delay_us, jitter_us, loss_permille, leaders, cut }
    })
}

fn check(plan: &Plan) -> Result<(), TestCaseError> {
    let clocks: Vec<(&str, i64, i64)> =
        NAMES.iter().zip(&plan.clocks).map(|(name, &(error, drift))| (*name, error, drift)).collect();
    let mut net = Net::new(BerkeleyConfig::default(), &clocks, plan.seed);
    net.delay_us = (plan.least_delay_us, plan.least_delay_us + plan.jitter_us);
    net.loss_permille = plan.loss_permille;
    // One liar leaves a majority of honest ones; it is never the coordinator, nobody can tell a lying one.
    let liar = plan.liar_us.map(|_| clocks[clocks.len() - 1].0);
    if let (Some(liar), Some(lie_us)) = (liar, plan.liar_us) {
        net.clocks.get_mut(&berkeley_net::name(liar)).expect("known").lie_us = lie_us;
    }
    let good: Vec<&str> = clocks.iter().map(|clock| clock.0).filter(|server| Some(*server) != liar).collect();
    for (reign, leader) in plan.leaders.iter().enumerate() {
        net.lead(good[leader % good.len()], reign as u64 + 1);
        for _ in 0..40 {
            net.run_ms(2_500);
            check_bound(&net, &good)?;
        }
        if let Some(cut) = plan.cut.filter(|cut| cut % 2 == reign % 2) {
            net.cut.insert(berkeley_net::name(clocks[cut % clocks.len()].0));
        } else {
            net.cut.clear();
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn good_clocks_stay_within_the_bound(plan in plan()) {
        check(&plan)?;
    }
}

/// How many rounds the long run has; `BERKELEY_ROUNDS` may ask for more.
fn rounds() -> u64 {
    std::env::var("BERKELEY_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000)
}

/// One of five is an hour off and stays so, whatever it is told. The good ones are moved by no more than what round trips
/// and drift explain, in any round, and stay together.
#[test]
fn a_clock_that_is_an_hour_off_moves_nobody() {
    let clocks = [("alfa", 20_000, 80), ("beta", -30_000, -80), ("gama", 0, 30), ("delta", 10_000, 0), ("eco", 0, 0)];
    let mut net = Net::new(BerkeleyConfig::default(), &clocks, 1);
    net.clocks.get_mut(&berkeley_net::name("eco")).expect("known").lie_us = HOUR_US;
    net.delay_us = (100, 3_000);
    net.lead("beta", 1);
    net.run_ms(60_000);
    let (mut spread_us, mut moved_us) = (0, 0);
    for round in 0..rounds() {
        net.take();
        net.reports.clear();
        // A little more than the period, since the coordinator's clock is slow.
        net.run_ms(30_010);
        check_bound(&net, &NAMES[..4]).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let report = net.reports.first().expect("a round every thirty seconds");
        let eco = report.clocks.iter().find(|clock| clock.name.as_str() == "eco").expect("it answers");
        assert_eq!(eco.part, Part::Outlier);
        for (_, server, effect) in net.take() {
            if let ClockEffect::Adjusted { by_us, stepped, .. } = effect {
                assert!(!stepped, "round {round}: {server} was stepped");
                moved_us = moved_us.max(if server.as_str() == "eco" { 0 } else { by_us.unsigned_abs() });
            }
        }
        let walls = NAMES[..4].iter().map(|server| net.wall_us(server));
        spread_us = spread_us.max(walls.clone().max().unwrap_or(0) - walls.min().unwrap_or(0));
    }
    // Round trips of at most 6 ms: half of one for each of two. 2ρ·t for 30 s: 6 ms. A plain mean would move 720 s.
    println!("{spread_us} us apart at most, moved by {moved_us} us at most");
    assert!(spread_us <= 12_000, "{spread_us} us apart");
    assert!(moved_us <= 12_000, "moved by {moved_us} us");
}

#[test]
fn without_a_majority_nothing_changes() {
    // Five members; two are unreachable, one is off: two agree, three would have to.
    let clocks = [("alfa", 0, 0), ("beta", 3_000, 0), ("gama", HOUR_US, 0), ("delta", 1_000, 0), ("eco", 2_000, 0)];
    let mut net = Net::new(BerkeleyConfig::default(), &clocks, 1);
    net.cut = ["delta", "eco"].map(berkeley_net::name).into();
    net.lead("alfa", 1);
    net.run_ms(100_000);
    let effects = net.take();
    let refused = effects.iter().filter(|(.., effect)| matches!(effect, ClockEffect::RoundRefused { needed: 3, .. }));
    assert_eq!(refused.count(), 4, "one at the beginning, and every thirty seconds");
    let changed =
        effects.iter().find(|(.., effect)| matches!(effect, ClockEffect::Adjusted { .. } | ClockEffect::RoundDone(_)));
    assert_eq!(changed, None);
    assert!(NAMES.iter().all(|server| net.offset_us(server) == 0));
    let alfa = net.now("alfa");
    assert_eq!(net.clocks[&berkeley_net::name("alfa")].machine.status(alfa).error_bound_us, None);

    // One comes back: three of five agree, and the one that is off is told, too.
    net.cut.remove(&berkeley_net::name("delta"));
    net.run_ms(40_000);
    assert!(net.take().iter().any(|(.., effect)| matches!(effect, ClockEffect::RoundDone(_))));
    assert!(net.ahead_us("gama").abs() < 10_000, "{}", net.ahead_us("gama"));
}

/// A clock that is set by hand while it runs comes back within two seconds, in one step; the others do not move.
#[test]
fn a_system_clock_that_was_set_comes_back() {
    for by_us in [HOUR_US, -HOUR_US, 300_000] {
        for who in ["alfa", "beta"] {
            let mut net =
                Net::new(BerkeleyConfig::default(), &[("alfa", 0, 20), ("beta", 4_000, 0), ("gama", -2_000, -20)], 1);
            net.lead("alfa", 1);
            net.run_ms(45_000);
            let before_us = net.ahead_us("gama");
            net.set_system(who, by_us);
            // It notices at its next step; here that is when a client comes.
            net.feed(&berkeley_net::name(who), ClockInput::ClientRequest);
            net.run_ms(2_000);
            assert!(net.ahead_us(who).abs() < 8_000, "{who} by {by_us}: {}", net.ahead_us(who));
            assert!(net.ahead_us("gama").abs_diff(before_us) < 2_000, "{who} by {by_us}");
        }
    }
}

/// A single server has nobody to agree with: it follows its system clock, also where that is set.
#[test]
fn a_single_server_follows_its_system_clock() {
    let mut net = Net::new(BerkeleyConfig::default(), &[("alfa", 0, 0)], 1);
    net.lead("alfa", 1);
    for by_us in [0, HOUR_US, -2 * HOUR_US, 60_000] {
        net.set_system("alfa", by_us);
        net.run_ms(200_000);
        assert_eq!(net.wall_us("alfa"), net.now("alfa").wall.us, "{by_us}");
    }
}

/// A server that was away for ten minutes comes back with a clock that drifted: slowly, so that time goes on, unless
/// somebody asks for a step.
#[test]
fn a_large_correction_is_slewed_unless_a_step_is_asked_for() {
    for step in [false, true] {
        let mut net = Net::new(BerkeleyConfig::default(), &[("alfa", 0, 0), ("beta", 0, 0), ("gama", 0, 90)], 1);
        net.lead("alfa", 1);
        net.run_ms(20_000);
        net.cut.insert(berkeley_net::name("gama"));
        net.run_ms(600_000);
        assert!(net.ahead_us("gama") > 50_000, "90 ppm for ten minutes");
        net.cut.clear();
        net.take();
        net.feed(&berkeley_net::name("alfa"), ClockInput::RoundRequested { step });
        net.run_ms(1_500);
        let steps =
            net.take().into_iter().filter(|(.., effect)| matches!(effect, ClockEffect::Adjusted { stepped: true, .. }));
        let stepped: Vec<String> = steps.map(|(_, server, _)| server.to_string()).collect();
        let status = net.clocks[&berkeley_net::name("gama")].machine.status(net.now("gama"));
        if step {
            assert!(stepped.contains(&"gama".to_string()), "{stepped:?}");
            assert!(net.ahead_us("gama").abs_diff(net.ahead_us("alfa")) < 1_000, "{}", net.ahead_us("gama"));
            continue;
        }
        assert!(stepped.is_empty() && status.slewing, "{stepped:?}");
        // gama's 54 ms moved the agreed time by a third of them, since they are within gamma; both bounds say what is left.
        let both =
            ["alfa", "gama"].map(|server| net.clocks[&berkeley_net::name(server)].machine.status(net.now(server)));
        let bounds_us: u64 = both.iter().filter_map(|status| status.error_bound_us).sum();
        let apart_us = net.ahead_us("gama").abs_diff(net.ahead_us("alfa"));
        assert!((50_000..=bounds_us).contains(&apart_us), "{apart_us} us apart, {both:?}");
        net.run_ms(140_000);
        assert!(net.ahead_us("gama").abs_diff(net.ahead_us("alfa")) < 4_000, "{}", net.ahead_us("gama"));
    }
}

#[test]
fn rounds_come_after_ten_requests_and_after_thirty_seconds_and_never_twice_a_second() {
    let mut net = Net::new(BerkeleyConfig::default(), &[("alfa", 0, 0), ("beta", 0, 0)], 1);
    let alfa = berkeley_net::name("alfa");
    net.feed(&alfa, ClockInput::ClientRequest);
    net.run_ms(60_000);
    assert_eq!(net.reports.len(), 0, "nobody coordinates");
    net.lead("alfa", 1);
    net.run_ms(29_900);
    assert_eq!(net.reports.len(), 1, "at the beginning of a reign");
    net.run_ms(200);
    assert_eq!(net.reports.len(), 2, "after thirty seconds");
    for request in 1..=10 {
        net.run_ms(500);
        assert_eq!(net.reports.len(), 2, "before request {request}");
        net.feed(&alfa, ClockInput::ClientRequest);
    }
    net.run_ms(100);
    assert_eq!(net.reports.len(), 3, "after ten");
    for _ in 0..1_000 {
        net.feed(&alfa, ClockInput::ClientRequest);
        net.feed(&alfa, ClockInput::RoundRequested { step: false });
        net.run_ms(10);
    }
    assert_eq!(net.reports.len(), 13, "one a second");
    net.feed(&berkeley_net::name("beta"), ClockInput::RoundRequested { step: true });
    net.run_ms(5_000);
    assert!(net.reports.len() <= 14, "only the coordinator obeys");
    assert!(net.clocks[&alfa].machine.deadline().is_some());
}
