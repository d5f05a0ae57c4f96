//! Loads, and what they tell.

use serde_json::Value;

use crate::harness::{Place, Process};

fn up(place: &Place) -> Process {
    let up = place.start("dsv2", &["up", "--in-memory", "--servers", "1"]);
    up.expect("ready ");
    up
}

fn bench(place: &Place, args: &[&str]) -> Value {
    let short = ["--seconds", "0.5", "--warm-up", "0.1", "--json"];
    place.json("dsv2", &[&["bench"], args, &short].concat()).remove(0)
}

#[test]
fn loads_tell_what_was_done_and_how_long_it_took() {
    let place = Place::new();
    let cluster = up(&place);
    let number = |report: &Value, field: &str| report[field].as_f64().unwrap_or_else(|| panic!("{field} in {report}"));

    let publish =
        bench(&place, &["publish", "--clients", "2", "--in-flight", "8", "--level", "local", "--size", "100"]);
    assert!(number(&publish, "turns") > 10.0 && number(&publish, "messages_per_second") > 10.0, "{publish}");
    let latency: Vec<u64> = ["p50", "p99", "max"].iter().filter_map(|of| publish["latency_us"][of].as_u64()).collect();
    assert!(latency.len() == 3 && latency[0] > 0 && latency.is_sorted(), "{publish}");
    assert_eq!((&publish["level"], &publish["size_bytes"]), (&"local".into(), &100.into()));

    let fanout = bench(&place, &["fanout", "--subscribers", "3", "--rate", "200"]);
    let (turns, deliveries) = (number(&fanout, "turns"), &fanout["deliveries"]);
    // All that came due is done, and everybody received all of it. The end of the warm-up is taken a moment apart.
    assert!((99.0..=101.0).contains(&turns), "{fanout}");
    assert!((number(deliveries, "deliveries") - 3.0 * turns).abs() <= 9.0, "{fanout}");
    assert_eq!(
        (&deliveries["missing"], &deliveries["gaps"], &deliveries["subscribers"]),
        (&0.into(), &0.into(), &3.into())
    );

    let request = bench(&place, &["request", "--in-flight", "4", "--serde", "msgpack"]);
    assert!(number(&request, "turns") > 10.0, "{request}");

    let replay = bench(&place, &["replay", "--channel", "old", "--messages", "250", "--page", "100"]);
    assert!(number(&replay, "messages") > number(&replay, "turns"), "{replay}");
    let stored = place.json("dsv2-client", &["--user", "ana", "--json", "history", "old", "--limit", "1000"]);
    assert_eq!(stored.len(), 250);
    assert!(cluster.stop("TERM").success());
}

#[test]
fn loads_that_make_no_sense_are_refused() {
    let place = Place::new();
    for (args, said) in [
        (vec!["bench", "publish", "--clients", "20000", "--in-flight", "100000"], "turns at once"),
        (vec!["bench", "request", "--seconds", "0"], "measures nothing"),
        (vec!["bench", "request", "--rate=-1"], "not negative"),
    ] {
        let refused = place.run("dsv2", &args);
        assert!(refused.status.code() == Some(2) && refused.err.contains(said), "{args:?}: {refused:?}");
    }
    let nobody = place.run("dsv2", &["bench", "request", "--timeout", "1"]);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
}
