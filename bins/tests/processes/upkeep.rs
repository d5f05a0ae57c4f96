//! Retention, compaction, snapshots, and voters that are gone for good, as an operator meets them.

use crate::harness::{Place, eventually};
use crate::parts::{Part, Parts};

const FILL: [&str; 11] =
    ["--rate", "0", "--count", "3000", "--in-flight", "200", "--channels", "dev", "--size", "128", "--json"];

#[test]
fn a_server_alone_is_compacted_and_starts_from_its_snapshot() {
    let place = Place::new();
    let start = || {
        let parts = ["dsv2-broker", "dsv2-proxy"].map(|program| place.start(program, &[]));
        let server = place.start("dsv2-server", &["--name", "s1", "--data", "s1"]);
        server.expect("ready ");
        (parts, server)
    };
    let (parts, server) = start();
    let bot = place.run("dsv2-bot", &FILL);
    assert!(bot.status.success(), "{bot:?}");
    assert!(server.stop("TERM").success());
    drop(parts);
    let before = place.json("dsv2", &["inspect", "s1", "--json"]);
    let compacted = place.json("dsv2", &["compact", "s1", "--keep-bytes", "100K", "--json"]);
    let number = |object: &serde_json::Value, key: &str| object[key].as_u64().expect("a number");
    let (left, retired) = (number(&compacted[0], "events"), number(&compacted[0], "retired"));
    assert_eq!(left + retired, number(&before[0], "events"), "{compacted:?}");
    assert!(retired > 2_000 && number(&compacted[0], "bytes") < 200 << 10, "{compacted:?}");
    let after = place.json("dsv2", &["inspect", "s1", "--json"]);
    assert_eq!((number(&after[0], "events"), &after[0]["sound"]), (left, &true.into()), "{after:?}");
    assert_eq!(number(&after[0], "retired"), retired, "{after:?}");
    assert!(after[0]["snapshot_index"].is_u64(), "{after:?}");
    let snapshot = place.json("dsv2", &["snapshot", "s1", "--json"]);
    assert_eq!(number(&snapshot[0], "events"), left, "{snapshot:?}");

    let (_parts, server) = start();
    let history = place.json("dsv2-client", &["--user", "ana", "--json", "history", "dev", "--limit", "1000"]);
    assert!(history.len() > 100 && (history.len() as u64) < left, "{} of {left}", history.len());
    place.json("dsv2-client", &["--user", "ana", "--json", "publish", "dev", "goes on"]);
    let tail = place.run("dsv2-client", &["--user", "ana", "--json", "history", "dev", "--limit", "1"]);
    assert!(tail.out.contains("goes on"), "{tail:?}");
    let running = place.run("dsv2", &["compact", "s1"]);
    assert!(!running.status.success() && running.err.contains("in use"), "{running:?}");
    assert!(server.stop("TERM").success());
    let bad = place.run("dsv2", &["compact", "s1", "--keep-age", "soon"]);
    assert!(bad.err.contains("30d"), "{bad:?}");
}

/// A voter that is gone stops retention; once an operator has said that it is gone for good, the rest goes on, and it is
/// refused when it comes back.
#[test]
fn a_voter_that_is_gone_for_good_is_waited_for_no_longer() {
    let place = Place::new();
    let mut parts = Parts::start_with(&place, 3, &["--voters", "s1,s2,s3", "--keep-bytes", "100K"]);
    parts.wait_until(3);
    parts.kill(Part::Server(2));
    let bot = place.run("dsv2-bot", &FILL);
    assert!(bot.status.success(), "{bot:?}");
    let retired = |parts: &Parts<'_>, server| parts.log(Part::Server(server)).contains("older messages are retired");
    let stable = |parts: &Parts<'_>| parts.status().iter().filter(|server| !server["stable"].is_null()).count();
    let held = || std::fs::metadata(place.path("s1/messages/publishes.jsonl")).map_or(0, |file| file.len());
    let before = held();
    assert!(before > 500_000, "{before} bytes: nothing is retired while one is waited for");
    // It is said at one server that stays.
    let stopped = parts.take(Part::Server(0));
    assert!(stopped.stop("TERM").success());
    let own = place.run("dsv2", &["retire", "s1", "s1"]);
    assert!(!own.status.success() && own.err.contains("own directory"), "{own:?}");
    let told = place.json("dsv2", &["retire", "s3", "s1", "--json"]);
    assert_eq!((&told[0]["retired"], &told[0]["new"]), (&"s3".into(), &true.into()), "{told:?}");
    parts.start_part(Part::Server(0));
    eventually("what is final is known again", || stable(&parts) == 2);
    eventually("both retire what is beyond the limit", || retired(&parts, 0) && retired(&parts, 1));
    eventually("the room is given back", || held() < 300_000);
    parts.publish("goes on");
    // It comes back, as if nothing had happened.
    parts.begin_part(Part::Server(2));
    eventually("it is refused", || parts.log(Part::Server(0)).contains("declared gone for good"));
    assert_eq!(parts.history().last().map(String::as_str), Some("goes on"));
    eventually("nothing waits for it", || stable(&parts) >= 2);
}
