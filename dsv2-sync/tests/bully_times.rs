//! How fast a failover is, how rarely anything changes, and that quiet times are quiet.

mod bully_net;

use bully_net::{Net, Rng, name};
use dsv2_core::ServerName;
use dsv2_sync::election::{BullyConfig, ElectionEffect, ElectionInput, ElectionMessage};
use proptest::prelude::*;

const FIVE: [(&str, u64); 5] = [("alfa", 1), ("beta", 2), ("gama", 3), ("delta", 4), ("eco", 5)];

fn cluster(servers: &[(&str, u64)], seed: u64) -> Net {
    let mut net = Net::new(BullyConfig::default(), servers, seed);
    net.weather.delay_ms = (1, 20);
    for (server, _) in servers {
        net.start(&name(server));
    }
    net.run_ms(20_000);
    assert_eq!(net.agreed(&net.alive()), net.best(&net.alive()));
    net
}

/// Kills the coordinator at a random moment, and returns how long the survivors took to agree on the best of them.
fn failover_ms(net: &mut Net, visible: bool) -> u64 {
    let pause = net.rng.below(1_000);
    net.run_ms(pause);
    let old = net.agreed(&net.alive()).expect("they agree");
    net.crash(&old, visible);
    let alive = net.alive();
    let best = net.best(&alive);
    net.run_until_holds(10_000, |net| net.agreed(&alive) == best).expect("a failover")
}

#[test]
fn a_dead_coordinator_is_replaced_within_three_seconds() {
    for (visible, most_ms) in [(false, 3_000), (true, 1_000)] {
        let mut worst_ms = 0;
        for seed in 0..500 {
            let mut net = cluster(&FIVE, seed);
            // Twice in a row: in the second election the first dead one is still asked, where it died silently.
            worst_ms = worst_ms.max(failover_ms(&mut net, visible)).max(failover_ms(&mut net, visible));
        }
        println!("visible: {visible}, {worst_ms} ms at worst");
        assert!(worst_ms <= most_ms, "visible: {visible}, it took {worst_ms} ms");
    }
}

/// The coordinator and the next best die together, silently: the first election asks a dead server.
#[test]
fn the_next_best_may_die_too() {
    for seed in 0..200 {
        let mut net = cluster(&FIVE, seed);
        let pause = net.rng.below(1_000);
        net.run_ms(pause);
        net.crash(&name("eco"), false);
        net.crash(&name("delta"), false);
        let alive = net.alive();
        let took_ms = net.run_until_holds(10_000, |net| net.agreed(&alive) == Some(name("gama")));
        assert!(took_ms.is_some_and(|ms| ms <= 3_000), "seed {seed}: {took_ms:?}");
    }
}

#[test]
fn a_resignation_costs_a_few_message_delays() {
    for seed in 0..200 {
        let mut net = cluster(&FIVE, seed);
        net.feed(&name("eco"), ElectionInput::Stepdown);
        let all = net.alive();
        let took_ms = net.run_until_holds(1_000, |net| net.agreed(&all) == Some(name("delta")));
        assert!(took_ms.is_some_and(|ms| ms <= 100), "seed {seed}: {took_ms:?}");
        net.run_ms(30_000);
        assert_eq!(net.agreed(&all), Some(name("delta")), "who resigned never leads again");
    }
}

#[test]
fn nothing_is_elected_in_a_quiet_day() {
    let mut net = cluster(&FIVE[..3], 1);
    net.effects.clear();
    for _hour in 0..24 {
        net.run_ms(3_600_000);
        let noise = net.effects.iter().find(|(.., effect)| {
            let quiet = matches!(
                effect,
                ElectionEffect::Send { message: ElectionMessage::Heartbeat(_) | ElectionMessage::Ack { .. }, .. }
            );
            !quiet
        });
        assert!(noise.is_none(), "{noise:?}");
        assert_eq!(net.effects.len(), 7_200 * 4, "two heartbeats a second to two servers, each acknowledged");
        net.effects.clear();
    }
}

/// A broken link between two servers is no reason for an election, as long as a third one hears both.
#[test]
fn a_single_broken_link_changes_nothing() {
    for visible in [false, true] {
        for other in ["alfa", "beta", "gama", "delta"] {
            let mut net = cluster(&FIVE, 3);
            let before = net.changes.len();
            net.cut(&name("eco"), &name(other), visible);
            net.run_ms(60_000);
            assert_eq!(net.changes.len(), before, "{other}: {}", net.story());
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Flap {
    Crash(bool),
    Links(bool),
}

/// Lets the best server come and go, and counts how often each of the others changed its coordinator.
fn flap(flap: Flap, servers: usize, spans_ms: &[(u64, u64)], seed: u64) -> (Net, Vec<(ServerName, usize)>) {
    let mut net = cluster(&FIVE[..servers], seed);
    let best = name(FIVE[servers - 1].0);
    net.changes.clear();
    for &(away_ms, back_ms) in spans_ms {
        match flap {
            Flap::Crash(visible) => net.crash(&best, visible),
            Flap::Links(visible) => net.isolate(&best, visible),
        }
        net.run_ms(away_ms);
        match flap {
            Flap::Crash(_) => net.start(&best),
            Flap::Links(_) => net.join_all(),
        }
        net.run_ms(back_ms);
    }
    let others: Vec<ServerName> = net.alive().into_iter().filter(|server| *server != best).collect();
    let moved = |server: &ServerName| {
        let mine = net.changes.iter().filter(|change| change.server == *server);
        mine.filter(|change| change.old.as_ref().map(|who| &who.name) != change.new.as_ref().map(|who| &who.name))
            .count()
    };
    let counts = others.iter().map(|server| (server.clone(), moved(server))).collect();
    (net, counts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the best server flaps, the others see at most two changes in any hold-down: to it, and away from it.
    #[test]
    fn a_flapping_best_is_held_down(
        kind in prop_oneof![
            any::<bool>().prop_map(Flap::Crash),
            any::<bool>().prop_map(Flap::Links),
        ],
        servers in 3usize..=5,
        spans_ms in proptest::collection::vec((1u64..7_000, 1u64..7_000), 5..30),
        seed in any::<u64>(),
    ) {
        let (net, counts) = flap(kind, servers, &spans_ms, seed);
        let total_ms: u64 = spans_ms.iter().map(|(away, back)| away + back).sum();
        let most = 2 * (usize::try_from(total_ms / net.config.hold_down_ms).unwrap_or(0) + 1);
        for (server, count) in counts {
            prop_assert!(count <= most, "{} changed {} times in {} ms: {}", server, count, total_ms, net.story());
        }
    }
}

/// The sharper case: it never stays for the hold-down, so after the first loss the others never see it lead again.
#[test]
fn a_best_that_never_stays_is_never_followed_again() {
    let mut rng = Rng(11);
    for kind in [Flap::Crash(true), Flap::Crash(false), Flap::Links(true), Flap::Links(false)] {
        for seed in 0..50 {
            let spans: Vec<(u64, u64)> = (0..20).map(|_| (2_500 + rng.below(3_000), 1 + rng.below(4_500))).collect();
            let (net, counts) = flap(kind, 4, &spans, seed);
            assert!(counts.iter().all(|&(_, count)| count == 1), "{kind:?}, seed {seed}: {counts:?}{}", net.story());
        }
    }
}
