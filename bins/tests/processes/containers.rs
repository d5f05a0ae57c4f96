//! What containers ask of the programs: replicas that are started alike, and health checks.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Place, Process};

/// Where a server that claims stands, by what it says when it is ready.
fn name(server: &Process) -> String {
    let line = server.expect("ready server");
    let name = line.split("name=").nth(1).and_then(|rest| rest.split_whitespace().next());
    name.unwrap_or_else(|| panic!("no name in {line:?}")).to_owned()
}

fn claiming(place: &Place, data: &str) -> Process {
    place.start("dsv2-server", &["--claim", "volume", "--data", data, "--link", "tcp://127.0.0.1:0"])
}

/// The random identity of a data directory, which makes it another server's than any other.
fn node(place: &Place, dir: &str) -> Value {
    let text = fs::read_to_string(place.path(&format!("{dir}/meta.json"))).expect("a data directory");
    let meta: Value = serde_json::from_str(&text).expect("an object");
    meta["node"].clone()
}

#[test]
fn servers_that_are_started_alike_have_names_and_data_of_their_own() {
    let place = Place::new();
    let servers: Vec<Process> = ["a", "b", "c"].iter().map(|data| claiming(&place, data)).collect();
    let mut names: Vec<String> = servers.iter().map(name).collect();
    for (data, name) in ["a", "b", "c"].iter().zip(&names) {
        let target: PathBuf = fs::read_link(place.path(data)).expect("a link");
        assert_eq!(target, fs::canonicalize(place.path("volume")).expect("a directory").join(name));
        assert!(fs::exists(place.path(&format!("{data}/meta.json"))).expect("a link that leads somewhere"));
    }
    let nodes = ["server1", "server2", "server3"].map(|name| node(&place, &format!("volume/{name}")));
    // Ended in any way, and started in any order: the same three, and the link in the old place points to what is held now.
    let mut servers = servers.into_iter();
    servers.next().expect("three").kill();
    servers.for_each(|server| assert!(server.stop("TERM").success()));
    let servers: Vec<Process> = ["c", "b", "a"].iter().map(|data| claiming(&place, data)).collect();
    let mut again: Vec<String> = servers.iter().map(name).collect();
    assert!(fs::read_link(place.path("c")).expect("a link").ends_with(&again[0]));
    names.sort();
    again.sort();
    assert_eq!((&names, &again), (&vec!["server1".to_owned(), "server2".to_owned(), "server3".to_owned()], &names));
    assert_eq!(nodes, ["server1", "server2", "server3"].map(|name| node(&place, &format!("volume/{name}"))));
    // One more is the next number, and a name that is given is what stands before it.
    assert_eq!(name(&claiming(&place, "d")), "server4");
    let args = ["--claim", "volume", "--data", "e", "--link", "tcp://127.0.0.1:0", "--name", "ilha"];
    assert_eq!(name(&place.start("dsv2-server", &args)), "ilha1");
}

#[test]
fn a_claim_replaces_nothing_and_passes_no_damage_over() {
    let place = Place::new();
    let args = ["--claim", "volume", "--data", "mine", "--link", "tcp://127.0.0.1:0"];
    fs::create_dir(place.path("mine")).expect("a directory");
    let refused = place.run("dsv2-server", &args);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.err.contains("mine") && !place.path("volume").exists(), "{refused:?}");
    fs::remove_dir(place.path("mine")).expect("an empty directory");

    let server = claiming(&place, "mine");
    assert_eq!(name(&server), "server1");
    assert!(server.stop("TERM").success());
    fs::write(place.path("volume/server1/meta.json"), "{").expect("a file");
    let refused = place.run("dsv2-server", &args);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.err.contains("volume/server1") && !place.path("volume/server2").exists(), "{refused:?}");
}

#[test]
fn a_ping_tells_whether_a_part_answers() {
    let place = Place::new();
    let parts = [
        ("broker", vec![]),
        ("proxy", vec![]),
        ("reference", vec![]),
        ("server", vec!["--name", "s1", "--data", "s1"]),
    ];
    for (part, args) in parts {
        let ping = || place.run("dsv2", &["ping", "--part", part]);
        let nobody = ping();
        assert_eq!(nobody.status.code(), Some(3), "{part}: {nobody:?}");
        let process = place.start(&format!("dsv2-{part}"), &args);
        process.expect("ready ");
        let answered = ping();
        assert!(answered.status.success() && answered.out.contains(&format!("the {part} answers")), "{answered:?}");
        // The system still takes connections for a process that stands still.
        process.signal("STOP");
        let still = ping();
        process.signal("CONT");
        assert_eq!(still.status.code(), Some(3), "{part}: {still:?}");
        assert!(ping().status.success(), "{part}");
        assert!(process.stop("TERM").success());
    }
    let elsewhere = format!("tcp://127.0.0.1:{}", place.base());
    let broker = place.start("dsv2-broker", &[]);
    broker.expect("ready ");
    assert!(place.run("dsv2", &["ping", "--base-port", "1", "--at", &elsewhere]).status.success());
}
