//! The laws of elections, over random schedules of crashes, cuts, loss and delay.

mod bully_net;

use bully_net::{Net, name};
use dsv2_core::ServerName;
use dsv2_sync::election::{BullyConfig, CoordinatorRank, ElectionEffect, ElectionInput, ElectionMessage};
use proptest::prelude::*;

const NAMES: [&str; 5] = ["alfa", "beta", "gama", "delta", "eco"];

#[derive(Clone, Debug)]
enum Fault {
    Crash { who: usize, visible: bool },
    DieInTheMiddle { who: usize, after: usize },
    Start { who: usize },
    Cut { a: usize, b: usize, visible: bool },
    Isolate { who: usize, visible: bool },
    Split { sides: u8, visible: bool },
    JoinAll,
    Drain { who: usize },
    Loss { permille: u64 },
    Delay { most_ms: u64 },
    ReferenceLost,
}

fn fault() -> impl Strategy<Value = Fault> {
    let who = 0..NAMES.len();
    prop_oneof![
        4 => (who.clone(), any::<bool>()).prop_map(|(who, visible)| Fault::Crash { who, visible }),
        2 => (who.clone(), 0usize..8).prop_map(|(who, after)| Fault::DieInTheMiddle { who, after }),
        6 => who.clone().prop_map(|who| Fault::Start { who }),
        3 => (who.clone(), who.clone(), any::<bool>()).prop_map(|(a, b, visible)| Fault::Cut { a, b, visible }),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, visible)| Fault::Isolate { who, visible }),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(sides, visible)| Fault::Split { sides, visible }),
        5 => Just(Fault::JoinAll),
        1 => who.prop_map(|who| Fault::Drain { who }),
        2 => (0u64..400).prop_map(|permille| Fault::Loss { permille }),
        2 => (1u64..900).prop_map(|most_ms| Fault::Delay { most_ms }),
        1 => Just(Fault::ReferenceLost),
    ]
}

fn apply(net: &mut Net, servers: &[ServerName], fault: &Fault) {
    let at = |index: usize| &servers[index % servers.len()];
    let lives = |net: &Net, server: &ServerName| net.nodes[server].machine.is_some();
    match *fault {
        Fault::Crash { who, visible } => net.crash(at(who), visible),
        Fault::DieInTheMiddle { who, after } => net.die_after = Some((at(who).clone(), after)),
        Fault::Start { who } if !lives(net, at(who)) => net.start(at(who)),
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
        Fault::Drain { who } => net.feed(at(who), ElectionInput::Stepdown),
        Fault::Loss { permille } => net.weather.loss_permille = permille,
        Fault::Delay { most_ms } => net.weather.delay_ms = (1, most_ms),
        Fault::ReferenceLost => net.feed(at(0), ElectionInput::ReferenceLost),
        Fault::Start { .. } | Fault::Cut { .. } => {}
    }
}

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    servers: usize,
    lowest: bool,
    listing: bool,
    at_once: bool,
    faults: Vec<(u64, Fault)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let shape = (any::<u64>(), 2..=NAMES.len(), any::<bool>(), any::<bool>(), any::<bool>());
    let faults = proptest::collection::vec((0u64..4_000, fault()), 0..14);
    (shape, faults).prop_map(|((seed, servers, lowest, listing, at_once), faults)| Plan {
        seed,
        servers,
        lowest,
        listing,
        at_once,
        faults,
    })
}

fn is_election(effect: &ElectionEffect) -> bool {
    matches!(
        effect,
        ElectionEffect::Send { message: ElectionMessage::Election { .. }, .. }
            | ElectionEffect::Save(_)
            | ElectionEffect::Changed { .. }
            | ElectionEffect::Announce(_)
    )
}

/// Faults, then peace: then agreement within one bound, the best rank within the other, and silence after that.
fn check(plan: &Plan) -> Result<(), TestCaseError> {
    let rank = if plan.lowest { CoordinatorRank::Lowest } else { CoordinatorRank::Highest };
    let config = BullyConfig { rank, ..BullyConfig::default() };
    let (agreement_ms, best_ms) = (config.agreement_bound_ms(), config.best_rank_bound_ms());
    let members: Vec<(&str, u64)> = NAMES.iter().copied().zip(1..).take(plan.servers).collect();
    let mut net = Net::new(config, &members, plan.seed);
    net.listing = plan.listing;
    let servers: Vec<ServerName> = members.iter().map(|&(server, _)| name(server)).collect();
    for server in &servers {
        net.start(server);
        net.run_ms(if plan.at_once { 0 } else { 700 });
    }
    for (gap_ms, fault) in &plan.faults {
        net.run_ms(*gap_ms);
        apply(&mut net, &servers, fault);
    }
    (net.weather.loss_permille, net.weather.delay_ms, net.die_after) = (0, (1, 40), None);
    net.join_all();
    // What was sent in the storm still arrives.
    net.run_ms(1_000);
    let alive = net.alive();
    let Some(best) = net.best(&alive) else { return Ok(()) };
    let took_ms = net.run_until_holds(agreement_ms, |net| net.agreed(&alive).is_some());
    prop_assert!(took_ms.is_some(), "no agreement {} ms before {:?}: {}", agreement_ms, net.now, net.story());
    net.run_ms(best_ms - took_ms.unwrap_or(0));
    prop_assert_eq!(net.agreed(&alive), Some(best), "not the best after {} ms: {}", best_ms, net.story());
    let said = net.effects.len();
    net.run_ms(20_000);
    let noise: Vec<_> = net.effects[said..].iter().filter(|(.., effect)| is_election(effect)).collect();
    prop_assert!(noise.is_empty(), "in quiet times: {:?}", noise);
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

    #[test]
    fn any_storm_ends_with_the_best_leading(plan in plan()) {
        check(&plan)?;
    }
}
