//! The laws of elections with a quorum, over random schedules of crashes, cuts, pauses, loss, delay and drifting clocks.

mod quorum_net;

use dsv2_core::ServerName;
use dsv2_sync::election::{CoordinatorRank, ElectionEffect, ElectionInput, ElectionMessage, Planted};
use proptest::prelude::*;
use quorum_net::{Net, Rng, name};

const NAMES: [&str; 5] = ["alfa", "beta", "gama", "delta", "eco"];

#[derive(Clone, Debug)]
enum Fault {
    Crash { who: usize, visible: bool },
    DieInTheMiddle { who: usize, after: usize },
    Start { who: usize },
    Pause { who: usize },
    Resume { who: usize },
    Cut { a: usize, b: usize, visible: bool },
    Isolate { who: usize, visible: bool },
    Split { sides: u8, visible: bool },
    JoinAll,
    Drain { who: usize },
    Loss { permille: u64 },
    Delay { most_ms: u64 },
}

fn fault() -> impl Strategy<Value = Fault> {
    let who = 0..NAMES.len();
    prop_oneof![
        4 => (who.clone(), any::<bool>()).prop_map(|(who, visible)| Fault::Crash { who, visible }),
        2 => (who.clone(), 0usize..8).prop_map(|(who, after)| Fault::DieInTheMiddle { who, after }),
        6 => who.clone().prop_map(|who| Fault::Start { who }),
        2 => who.clone().prop_map(|who| Fault::Pause { who }),
        3 => who.clone().prop_map(|who| Fault::Resume { who }),
        3 => (who.clone(), who.clone(), any::<bool>()).prop_map(|(a, b, visible)| Fault::Cut { a, b, visible }),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, visible)| Fault::Isolate { who, visible }),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(sides, visible)| Fault::Split { sides, visible }),
        5 => Just(Fault::JoinAll),
        1 => who.prop_map(|who| Fault::Drain { who }),
        2 => (0u64..400).prop_map(|permille| Fault::Loss { permille }),
        3 => (1u64..2_500).prop_map(|most_ms| Fault::Delay { most_ms }),
    ]
}

fn apply(net: &mut Net, servers: &[ServerName], fault: &Fault) {
    let at = |index: usize| &servers[index % servers.len()];
    let lives = |net: &Net, server: &ServerName| net.nodes[server].machine.is_some();
    match *fault {
        Fault::Crash { who, visible } => net.crash(at(who), visible),
        Fault::DieInTheMiddle { who, after } => net.die_after = Some((at(who).clone(), after)),
        Fault::Start { who } if !lives(net, at(who)) => net.start(at(who)),
        Fault::Pause { who } if lives(net, at(who)) => net.pause(at(who)),
        Fault::Resume { who } => net.resume(at(who)),
        Fault::Cut { a, b, visible } if at(a) != at(b) => net.cut(at(a), at(b), visible),
        Fault::Isolate { who, visible } => net.isolate(at(who), visible),
        Fault::Split { sides, visible } => {
            let side = |index: usize| sides >> index & 1;
            for (i, j) in (0..servers.len()).flat_map(|i| (0..i).map(move |j| (i, j))) {
                if side(i) != side(j) {
                    net.cut(&servers[i], &servers[j], visible);
                }
            }
        }
        Fault::JoinAll => net.join_all(),
        Fault::Drain { who } if !net.nodes[at(who)].paused => net.feed(at(who), ElectionInput::Stepdown),
        Fault::Loss { permille } => net.loss_permille = permille,
        Fault::Delay { most_ms } => net.delay_ms = (1, most_ms),
        _ => {}
    }
}

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    servers: usize,
    learners: usize,
    lowest: bool,
    listing: bool,
    at_once: bool,
    faults: Vec<(u64, Fault)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let shape = (any::<u64>(), 1..=NAMES.len(), 0usize..=2, any::<bool>(), any::<bool>(), any::<bool>());
    let faults = proptest::collection::vec((0u64..4_000, fault()), 0..14);
    (shape, faults).prop_map(|((seed, servers, learners, lowest, listing, at_once), faults)| Plan {
        seed,
        servers,
        learners: learners.min(servers - 1),
        lowest,
        listing,
        at_once,
        faults,
    })
}

fn is_election(effect: &ElectionEffect) -> bool {
    !matches!(
        effect,
        ElectionEffect::Send { message: ElectionMessage::Lease { .. } | ElectionMessage::Renewed { .. }, .. }
    )
}

/// The storm: everything up to the last fault.
fn storm(plan: &Plan, planted: Option<Planted>) -> (Net, Vec<ServerName>) {
    let members: Vec<(&str, u64)> = NAMES.iter().copied().zip(1..).take(plan.servers).collect();
    let mut net = Net::new(&members, plan.servers - plan.learners, plan.seed);
    net.config.rank = if plan.lowest { CoordinatorRank::Lowest } else { CoordinatorRank::Highest };
    (net.listing, net.planted) = (plan.listing, planted);
    net.drift();
    let servers: Vec<ServerName> = members.iter().map(|&(server, _)| name(server)).collect();
    for server in &servers {
        net.start(server);
        net.run_ms(if plan.at_once { 0 } else { 700 });
    }
    for (gap_ms, fault) in &plan.faults {
        net.run_ms(*gap_ms);
        apply(&mut net, &servers, fault);
    }
    (net, servers)
}

/// Faults, then peace: then agreement within one bound, the best rank within the other, and silence after that.
fn check(plan: &Plan) -> Result<(), TestCaseError> {
    let (mut net, servers) = storm(plan, None);
    (net.loss_permille, net.delay_ms, net.die_after) = (0, (1, 40), None);
    servers.iter().for_each(|server| net.resume(server));
    net.join_all();
    // What was sent in the storm still arrives.
    net.run_ms(2_500);
    prop_assert!(net.violations.is_empty(), "{:?}{}", net.violations, net.story());
    let (agreement_ms, best_ms) = (net.config.agreement_bound_ms(), net.config.best_rank_bound_ms());
    let alive = net.alive();
    let voters = alive.iter().filter(|server| net.config.voters.contains(*server)).count();
    let Some(best) = net.best(&alive).filter(|_| voters > net.config.voters.len() / 2) else {
        net.run_ms(10_000);
        let leads = alive.iter().any(|server| net.leads(server));
        prop_assert!(!leads || voters > net.config.voters.len() / 2, "a minority leads: {}", net.story());
        return Ok(());
    };
    let took_ms = net.run_until_holds(agreement_ms, |net| net.agreed(&alive).is_some());
    prop_assert!(took_ms.is_some(), "no agreement {} ms before {:?}: {}", agreement_ms, net.now, net.story());
    net.run_ms(best_ms - took_ms.unwrap_or(0));
    prop_assert_eq!(net.agreed(&alive), Some(best), "not the best after {} ms: {}", best_ms, net.story());
    let said = net.effects.len();
    net.run_ms(20_000);
    let noise: Vec<_> = net.effects[said..].iter().filter(|(.., effect)| is_election(effect)).collect();
    prop_assert!(noise.is_empty(), "in quiet times: {:?}", noise);
    prop_assert!(net.violations.is_empty(), "{:?}{}", net.violations, net.story());
    Ok(())
}

/// So many schedules, unless `PROPTEST_CASES` says otherwise.
fn schedules(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if asked { default } else { ProptestConfig { cases, ..default } }
}

proptest! {
    #![proptest_config(schedules(3_000))]

    /// One coordinator for each number, one lease at any time, epochs that never go back; then agreement, then the best.
    #[test]
    fn any_storm_has_one_lease_and_ends_with_the_best_leading(plan in plan()) {
        check(&plan)?;
    }
}

/// How many random storms it takes until a planted bug breaks a law about two coordinators.
fn caught_after(bug: Planted) -> Option<u64> {
    let mut rng = Rng(42);
    (1..=20_000).find(|_| {
        let mut faults = Vec::new();
        for _ in 0..12 {
            let (who, b) = (rng.below(3) as usize, rng.below(3) as usize);
            let fault = match rng.below(7) {
                0 => Fault::Crash { who, visible: true },
                1 | 2 => Fault::Start { who },
                3 => Fault::Cut { a: who, b, visible: rng.below(2) == 0 },
                4 => Fault::JoinAll,
                5 => Fault::Loss { permille: rng.below(500) },
                _ => Fault::Delay { most_ms: 1 + rng.below(900) },
            };
            faults.push((rng.below(1_500), fault));
        }
        let plan =
            Plan { seed: rng.next(), servers: 3, learners: 0, lowest: false, listing: true, at_once: true, faults };
        let (net, _) = storm(&plan, Some(bug));
        net.violations.iter().any(|what| what.contains("both led") || what.contains("two leases"))
    })
}

#[test]
fn a_grant_that_keeps_the_timer_is_caught() {
    let after = caught_after(Planted::GrantKeepsTimer);
    println!("caught after {after:?} storms");
    assert!(after.is_some());
}

#[test]
fn a_vote_that_is_not_saved_is_caught() {
    let after = caught_after(Planted::VoteNotSaved);
    println!("caught after {after:?} storms");
    assert!(after.is_some());
}
