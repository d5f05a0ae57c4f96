//! `dsv2 up`, and the same from single parts that are killed and started again.

use crate::harness::{Place, Process, eventually};
use crate::parts::{Part, Parts};

fn up(place: &Place, more: &[&str]) -> Process {
    let args: Vec<&str> = ["up", "--data", "data"].iter().chain(more).copied().collect();
    let up = place.start("dsv2", &args);
    assert!(up.expect("ready ").starts_with("ready clients=tcp://"));
    up
}

#[test]
fn up_says_ready_keeps_users_and_ends_cleanly() {
    let place = Place::new();
    let cluster = up(&place, &["--servers", "3", "--bots", "1"]);
    place.json("dsv2-client", &["--user", "ana", "--json", "login"]);
    for server in ["server1", "server2", "server3"] {
        let users = place.path(&format!("data/{server}/users.json"));
        eventually("the login reaches every server's users.json", || {
            std::fs::read_to_string(&users).is_ok_and(|text| text.lines().any(|line| line.contains("\"ana\"")))
        });
    }
    let taken = place.run("dsv2", &["up", "--data", "other"]);
    assert_eq!(taken.status.code(), Some(1), "{taken:?}");
    assert!(taken.err.contains("taken") && taken.err.contains("--base-port"), "{taken:?}");
    // What is written and replicated is told a tenth of a second later, many at a time.
    for needle in ["clock=", "coordinator=", "replicado"] {
        eventually(needle, || cluster.log().contains(needle));
    }
    assert!(cluster.stop("INT").success());
    let inspected = place.json("dsv2", &["inspect", "data", "--json"]);
    assert_eq!(inspected.len(), 3, "{inspected:?}");
    assert!(inspected.iter().all(|server| server["sound"] == true), "{inspected:?}");
}

#[test]
fn up_goes_on_where_it_was() {
    let place = Place::new();
    let cluster = up(&place, &["--serde", "msgpack"]);
    place.json("dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    place.json("dsv2-client", &["--user", "ana", "--json", "publish", "dev", "antes"]);
    assert!(cluster.stop("TERM").success());
    let again = up(&place, &[]);
    let history = place.json("dsv2-client", &["--user", "ana", "--json", "history", "dev"]);
    assert_eq!(history.iter().map(|message| &message["message"]).collect::<Vec<_>>(), ["antes"]);
    assert!(again.stop("INT").success());
}

#[test]
fn servers_are_killed_and_started_again_and_nothing_is_lost() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    place.json("dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    let mut told = Vec::new();
    for index in 0..3 {
        for when in ["before", "while down", "after"] {
            match when {
                "while down" => parts.kill(Part::Server(index)),
                "after" => parts.start_part(Part::Server(index)),
                _ => {}
            }
            let text = format!("{when} s{}", index + 1);
            parts.publish(&text);
            told.push(text);
        }
        parts.wait_until(3);
    }
    assert_eq!(parts.history(), told);
    parts.stop();
    for server in ["s1", "s2", "s3"] {
        let inspected = place.json("dsv2", &["inspect", server, "--json"]);
        assert_eq!((&inspected[0]["sound"], &inspected[0]["server"]), (&true.into(), &server.into()), "{inspected:?}");
        let log = std::fs::read_to_string(place.path(&format!("{server}/messages/publishes.jsonl"))).expect("its log");
        told.iter().for_each(|text| assert_eq!(log.matches(&format!("\"{text}\"")).count(), 1, "{server}: {text}"));
    }
}

#[test]
fn a_data_directory_serves_one_server_at_a_time() {
    let place = Place::new();
    let first = place.start("dsv2-server", &["--name", "s1", "--data", "s1", "--link", "tcp://127.0.0.1:0"]);
    first.expect("ready server");
    let second = place.run("dsv2-server", &["--name", "s2", "--data", "s1", "--link", "tcp://127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(second.err.contains("data directory") && second.out.is_empty(), "{second:?}");
    first.kill();
    let after = place.start("dsv2-server", &["--name", "s2", "--data", "s1", "--link", "tcp://127.0.0.1:0"]);
    assert!(after.expect("ready server").contains("name=s1"), "the directory's name wins");
    assert!(after.stop("TERM").success());
}

#[test]
fn a_stopped_coordinator_is_followed_by_another_and_a_stopped_reference_by_nothing() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    place.json("dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    let coordinator = parts.settled_coordinator();
    let index = coordinator.trim_start_matches('s').parse::<usize>().expect("a number") - 1;
    assert!(parts.take(Part::Reference).stop("TERM").success());
    parts.publish("without a reference");
    eventually("the servers notice that the reference is gone", || {
        parts.log(Part::Server(index)).contains("the coordinator stays")
    });
    assert_eq!(parts.status()[0]["coordinator"], coordinator.as_str());
    parts.kill(Part::Server(index));
    eventually("another coordinator", || {
        let status = parts.status();
        let others =
            status.iter().filter(|server| server["coordinator"].as_str().is_some_and(|name| name != coordinator));
        others.count() == 2
    });
    parts.publish("without the first coordinator");
    assert_eq!(parts.history(), ["without a reference", "without the first coordinator"]);
}

#[test]
fn broker_and_proxy_are_killed_and_started_again_under_a_client() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    place.json("dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    let tail = place.start("dsv2-client", &["--json", "tail", "dev", "--from", "beginning", "--count", "3"]);
    parts.publish("one");
    tail.expect("\"one\"");
    for (part, text) in [(Part::Proxy, "two"), (Part::Broker, "three")] {
        parts.kill(part);
        parts.start_part(part);
        parts.publish(text);
        tail.expect(&format!("\"{text}\""));
    }
    parts.stop();
}
