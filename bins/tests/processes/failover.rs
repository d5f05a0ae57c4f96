//! Coordinators that are ended by SIGKILL, over and over: how long the servers are without one, and how long clients wait.
//!
//! `DSV2_FAILOVERS` sets how often; 20 if not told.

use std::time::{Duration, Instant};

use dsv2_core::Level;
use dsv2_net::Client;
use tokio::task::JoinSet;

use crate::campaigns::setting;
use crate::harness::{Place, eventually};
use crate::load::Load;
use crate::parts::{Part, Parts};
use crate::verdict;
use crate::watch::Watch;

const WITHIN: Duration = Duration::from_secs(3);
const SERVERS: usize = 5;
/// More than servers, so that each serves some of them.
const CLIENTS: usize = 10;

/// Whoever dies is away until another one leads, so none of its votes helps.
#[test]
fn a_killed_coordinator_is_replaced_within_three_seconds() {
    let kills = usize::try_from(setting("DSV2_FAILOVERS", 20)).expect("a count");
    let place = Place::new();
    let mut parts = Parts::start_with(&place, SERVERS, &["--voters", "s1,s2,s3,s4,s5"]);
    let mut load = Load::new();
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    let ana = load.client(&broker, &proxy, Some("ana"));
    load.block_on(ana.channel("dev").create().into_future()).expect("a channel");
    let watch = Watch::begin(&parts, SERVERS);
    let (mut led_after, mut written_after) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        parts.wait_until_ready(SERVERS);
        let (leader, epoch) = watch.wait_for_leader(SERVERS);
        // The broker spreads new connections over the servers; those of the last time are closed.
        let connect =
            |_| load.block_on(Client::builder(&broker).proxy(&proxy).user("ana").connect()).expect("a client");
        let clients: Vec<Client> = (0..CLIENTS).map(connect).collect();
        let served = clients.iter().map(|client| load.block_on(client.status()).expect("a status").name);
        let served = served.filter(|name| name.as_str() == Part::Server(leader).to_string()).count();
        assert!(served > 0, "the kill takes no client's server away");
        let killed = Instant::now();
        parts.kill(Part::Server(leader));
        written_after.push(load.block_on(all_publish(&clients, kill)).duration_since(killed));
        let mut next = None;
        eventually("another one leads", || {
            next = watch.leader_above(epoch);
            next.is_some()
        });
        let (next, _, seen) = next.expect("just seen");
        assert_ne!(next, leader, "it is dead");
        led_after.push(seen.duration_since(killed));
        parts.start_part(Part::Server(leader));
    }
    parts.wait_until(SERVERS);
    let reigns = watch.one_lease_at_a_time();
    let dirs = parts.data();
    parts.stop();
    let written = verdict::fold_equal(&dirs).channels["dev"].len();
    assert_eq!(written, kills * CLIENTS, "each message stands there once");
    println!("{kills} kills of the coordinator, {reigns} reigns");
    print("until another one led by a valid lease", &mut led_after);
    print("until every client had written at quorum", &mut written_after);
    assert!(led_after.iter().chain(&written_after).all(|time| *time <= WITHIN), "not within {WITHIN:?}");
}

/// Every client publishes once; yields when the last of them was acknowledged.
async fn all_publish(clients: &[Client], kill: usize) -> Instant {
    let mut writes = JoinSet::new();
    for (n, client) in clients.iter().enumerate() {
        writes.spawn(client.channel("dev").publish(format!("{kill}-{n}")).level(Level::Quorum).into_future());
    }
    while let Some(written) = writes.join_next().await {
        let receipt = written.expect("a task").expect("acknowledged");
        assert!(receipt.level >= Some(Level::Quorum), "{receipt:?}");
    }
    Instant::now()
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_millis();
    println!("  {what}: p50 {} ms, p99 {} ms, at most {} ms", ms(50), ms(99), ms(100));
}
