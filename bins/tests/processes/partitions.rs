//! Real networks that break: servers on hosts of their own, cut off from each other in both directions, in one, and again
//! and again; and a server that stands still. Afterwards all are equal, and nothing acknowledged is lost or doubled.
//!
//! Hosts are network namespaces, so this runs as root; elsewhere the tests say that they were left out, unless
//! `DSV2_NETNS=1` insists.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dsv2_sync::random::SplitMix;
use serde_json::Value;

use crate::campaigns::{seed, setting};
use crate::harness::{Place, Process, eventually, without_root};
use crate::netns::Network;
use crate::parts::{Part, Parts};
use crate::verdict;
use crate::watch::Watch;

/// Where the broker, the proxy, the reference and the clients are. Servers are on the hosts after it.
const MIDDLE: usize = 0;
const NAMESPACES: &str = "network namespaces";

/// A bot that publishes in `dev`; it also checks what it receives.
fn bot(parts: &Parts<'_>, host: usize, name: &str, more: &[&str]) -> Process {
    let args = ["--name", name, "--channels", "dev", "--json", "--timeout", "60"];
    parts.begin(host, "dsv2-bot", &[&args[..], more].concat())
}

/// What a bot says at its end. Everything that it wrote was acknowledged, and it received everything once.
fn summary(bot: &mut Process) -> Value {
    let line = bot.expect("acknowledged");
    let summary: Value = serde_json::from_str(&line).expect("an object");
    let ended = bot.wait();
    assert!(ended.success(), "{summary}\n{}", bot.log());
    for count in ["lost", "duplicates", "out_of_order", "gaps", "rejected", "unknown"] {
        assert_eq!(summary[count], 0, "{count}: {summary}");
    }
    summary
}

/// Whom these servers follow, by their own words: each is asked at its link, on its host.
fn followed(parts: &Parts<'_>, servers: &[usize]) -> BTreeSet<String> {
    let ask = |&server: &usize| {
        let (name, link) = (Part::Server(server).to_string(), parts.link(server));
        let asked = parts.run(server + 1, "dsv2", &["status", "--json", "--timeout", "1", "--broker", &link]);
        let status = asked.objects().pop().unwrap_or_default();
        let itself = status["servers"].as_array().and_then(|all| all.iter().find(|report| report["name"] == *name));
        itself.and_then(|report| report["coordinator"].as_str()).unwrap_or("none").to_owned()
    };
    servers.iter().map(ask).collect()
}

/// Five servers, each other's voters, on hosts of their own, and the channel `dev`.
fn five_voters<'a>(place: &'a Place, net: &'a Network) -> Parts<'a> {
    let parts = Parts::start_on(place, Some(net), 5, &["--voters", "s1,s2,s3,s4,s5"]);
    parts.json(MIDDLE, "dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    parts
}

fn until_the_best_leads(parts: &Parts<'_>) {
    eventually("the best leads", || followed(parts, &[0, 1, 2, 3, 4]) == BTreeSet::from(["s5".to_owned()]));
}

/// How many messages of `dev` all servers hold, each once.
fn equal(parts: Parts<'_>) -> usize {
    let dirs = parts.data();
    parts.stop();
    let folded = verdict::fold_equal(&dirs);
    let texts: BTreeSet<&String> = folded.channels["dev"].iter().map(|(text, _)| text).collect();
    assert_eq!(texts.len(), folded.channels["dev"].len(), "a message stands there twice");
    texts.len()
}

#[test]
fn two_sides_of_a_partition_write_on_and_heal_to_equal_state() {
    if without_root(NAMESPACES) {
        return;
    }
    let (place, net) = (Place::new(), Network::new(5));
    let parts = Parts::start_on(&place, Some(&net), 4, &[]);
    parts.json(MIDDLE, "dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    parts.wait_until(4);
    net.cut(&[1, 2], &[3, 4]);
    let sides: [&[usize]; 2] = [&[0, 1], &[2, 3]];
    for side in sides {
        let own: BTreeSet<String> = side.iter().map(|&server| Part::Server(server).to_string()).collect();
        eventually("a side has a coordinator of its own", || {
            let followed = followed(&parts, side);
            followed.len() == 1 && followed.is_subset(&own)
        });
    }
    // Each talks to one server of its side, directly. The same names are made on both sides, and one as user and channel.
    let (a, b) = (parts.link(0), parts.link(2));
    for (host, link, login, create) in [(1, &a, "bea", "ops"), (3, &b, "caio", "ops"), (1, &a, "caio", "bea2")] {
        let args = ["--broker", link, "--user", login, "--json", "--level", "local"];
        parts.json(host, "dsv2-client", &[&args[..], &["create", create]].concat());
    }
    let count = ["--count", "300", "--rate", "0", "--level", "local", "--broker"];
    let mut bots = [
        bot(&parts, MIDDLE, "leste", &[&count[..], &[&a]].concat()),
        bot(&parts, MIDDLE, "oeste", &[&count[..], &[&b]].concat()),
    ];
    bots.iter_mut().for_each(|bot| assert_eq!(summary(bot)["acknowledged"], 300));
    net.join();
    parts.wait_until(4);
    let users = parts.json(MIDDLE, "dsv2-client", &["--user", "ana", "--json", "users"]);
    let names: BTreeSet<&str> = users[0]["users"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    assert!(["ana", "bea", "caio", "leste", "oeste"].iter().all(|name| names.contains(name)), "{names:?}");
    let channels = parts.json(MIDDLE, "dsv2-client", &["--user", "ana", "--json", "channels"]);
    assert_eq!(channels[0]["channels"], serde_json::json!(["bea2", "dev", "ops"]));
    assert_eq!(equal(parts), 600);
}

#[test]
fn a_minority_refuses_and_the_majority_goes_on() {
    if without_root(NAMESPACES) {
        return;
    }
    let (place, net) = (Place::new(), Network::new(6));
    let parts = five_voters(&place, &net);
    until_the_best_leads(&parts);
    let watch = Watch::begin(&parts, 5);
    // The coordinator is in the minority.
    net.cut(&[5, 1], &[2, 3, 4]);
    eventually("the majority has another coordinator", || {
        let followed = followed(&parts, &[1, 2, 3]);
        followed.len() == 1 && ["s2", "s3", "s4"].iter().any(|name| followed.contains(*name))
    });
    eventually("the minority has none", || followed(&parts, &[0, 4]) == BTreeSet::from(["none".to_owned()]));
    let link = parts.link(4);
    let args = ["--broker", &link, "--user", "ana", "--json", "--timeout", "3", "publish", "dev", "refused"];
    let refused = parts.run(5, "dsv2-client", &args);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(refused.objects()[0]["outcome"], "rejected", "{refused:?}");
    let mut bot = bot(&parts, MIDDLE, "robo", &["--count", "500", "--rate", "0"]);
    assert_eq!(summary(&mut bot)["acknowledged"], 500);
    net.join();
    parts.wait_until(5);
    until_the_best_leads(&parts);
    watch.one_lease_at_a_time();
    assert_eq!(equal(parts), 500, "what was refused stands nowhere");
}

#[test]
fn a_coordinator_that_hears_nobody_is_replaced() {
    if without_root(NAMESPACES) {
        return;
    }
    let (place, net) = (Place::new(), Network::new(6));
    let parts = five_voters(&place, &net);
    until_the_best_leads(&parts);
    let watch = Watch::begin(&parts, 5);
    (1..5).for_each(|server| net.cut_one_way(server, 5));
    eventually("another leads those that hear each other", || {
        let followed = followed(&parts, &[0, 1, 2, 3]);
        followed.len() == 1 && !followed.contains("s5") && !followed.contains("none")
    });
    let mut bot = bot(&parts, MIDDLE, "robo", &["--count", "300", "--rate", "0"]);
    assert_eq!(summary(&mut bot)["acknowledged"], 300);
    net.join();
    parts.wait_until(5);
    until_the_best_leads(&parts);
    watch.one_lease_at_a_time();
    assert_eq!(equal(parts), 300);
}

/// `DSV2_FLAP_SECONDS` sets for how long, `DSV2_FLAP_SEED` repeats the choices of a run.
#[test]
fn a_flapping_network_loses_nothing() {
    if without_root(NAMESPACES) {
        return;
    }
    let (place, net) = (Place::new(), Network::new(6));
    let parts = five_voters(&place, &net);
    let watch = Watch::begin(&parts, 5);
    let mut random = SplitMix::new(seed("DSV2_FLAP_SEED"));
    let until = Instant::now() + Duration::from_secs(setting("DSV2_FLAP_SECONDS", 20));
    let mut bots = [bot(&parts, MIDDLE, "um", &["--rate", "100"]), bot(&parts, MIDDLE, "dois", &["--rate", "100"])];
    let mut flaps = 0;
    while Instant::now() < until {
        // A random side, of any size, and sometimes one direction only; the middle stays in reach.
        let (side, other): (Vec<usize>, Vec<usize>) = (1..6).partition(|_| random.chance(1, 2));
        if random.chance(1, 3) {
            side.iter().for_each(|&from| other.iter().for_each(|&to| net.cut_one_way(from, to)));
        } else {
            net.cut(&side, &other);
        }
        std::thread::sleep(Duration::from_millis(200 + random.below(1_300)));
        net.join();
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        flaps += 1;
    }
    parts.wait_until_ready(5);
    let mut acknowledged = 0;
    for bot in &mut bots {
        bot.signal("INT");
        acknowledged += summary(bot)["acknowledged"].as_u64().expect("a count");
    }
    parts.wait_until(5);
    let reigns = watch.one_lease_at_a_time();
    let stands = equal(parts) as u64;
    println!("{flaps} flaps, {reigns} reigns, {acknowledged} acknowledged");
    assert_eq!(stands, acknowledged);
}

/// A process that stands still holds its lease, its connections and its place at the broker, and says nothing.
#[test]
fn a_server_that_stands_still_is_replaced_and_comes_back() {
    let place = Place::new();
    let parts = Parts::start(&place);
    parts.json(MIDDLE, "dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    eventually("the best leads", || parts.status().iter().all(|server| server["coordinator"] == "s3"));
    let mut bot = bot(&parts, MIDDLE, "robo", &["--rate", "200"]);
    let leads = |name: &str| parts.status().iter().filter(|server| server["coordinator"] == name).count();
    parts.signal(Part::Server(2), "STOP");
    eventually("another leads", || leads("s2") == 2);
    parts.signal(Part::Server(2), "CONT");
    eventually("it leads again", || leads("s3") == 3);
    parts.wait_until(3);
    bot.signal("INT");
    let acknowledged = summary(&mut bot)["acknowledged"].as_u64().expect("a count");
    parts.wait_until(3);
    assert_eq!(equal(parts) as u64, acknowledged);
}
