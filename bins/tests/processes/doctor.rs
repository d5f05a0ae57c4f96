//! `dsv2 doctor` finds what is planted, and says what to do; where nothing is wrong it says so.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Finished, Place, Process, eventually, finish, without_root};
use crate::parts::{Part, Parts};

/// What the doctor says, as objects, and how it ended.
fn examine(command: Command) -> (Vec<Value>, Finished) {
    let finished = finish(command, "");
    let said = finished.objects().pop().unwrap_or_else(|| panic!("it says nothing: {finished:?}"));
    let checks = said["checks"].as_array().expect("checks").clone();
    let count = |result: &str| checks.iter().filter(|check| check["result"] == result).count();
    assert_eq!(
        (said["problems"].clone(), said["warnings"].clone()),
        (count("problem").into(), count("warning").into())
    );
    assert_eq!(finished.status.code(), Some(if count("problem") == 0 { 0 } else { 4 }), "{finished:?}");
    (checks, finished)
}

fn doctor(place: &Place, args: &[&str]) -> Command {
    place.command("dsv2", &[&["doctor", "--json"], args].concat())
}

/// A check must have found a problem, and say this of it and of what to do.
fn assert_found(command: Command, check: &str, what: &str, remedy: &str) {
    let (checks, finished) = examine(command);
    let has = |of: &Value, key: &str, text: &str| of[key].as_str().is_some_and(|said| said.contains(text));
    let is_it = |of: &Value| {
        of["check"] == check && of["result"] == "problem" && has(of, "what", what) && has(of, "remedy", remedy)
    };
    assert!(
        checks.iter().any(is_it),
        "no problem of `{check}` with {what:?} and {remedy:?} in {}",
        serde_json::to_string_pretty(&checks).expect("JSON")
    );
    assert!(finished.err.contains("found"), "{finished:?}");
}

fn start(place: &Place, program: &str, args: &[&str]) -> Process {
    let process = place.start(program, args);
    process.expect("ready ");
    process
}

/// A stopped server's directory with some events in it.
fn store(place: &Place, name: &str) {
    let users: Vec<String> = (0..50).map(|n| format!("{{\"name\": \"user{n}\"}}")).collect();
    std::fs::create_dir_all(place.path("family")).expect("a directory");
    std::fs::write(place.path("family/users.json"), format!("[{}]", users.join(","))).expect("a file");
    place.json("dsv2", &["import", "family", "--data", name, "--name", name, "--json"]);
}

#[test]
fn nothing_is_wrong_with_a_cluster_that_works() {
    let place = Place::new();
    let parts = Parts::start(&place);
    // The lead settles once all have started.
    parts.settled_coordinator();
    let args = ["--servers", "3", "--data", "s1,s2,s3", "--min-free", "1M", "--timeout", "20"];
    let (checks, finished) = examine(doctor(&place, &args));
    assert!(checks.iter().all(|check| check["result"] == "ok"), "{checks:#?}");
    for check in [
        "ports",
        "broker",
        "proxy",
        "reference",
        "servers",
        "versions",
        "coordinator",
        "voters",
        "replicas",
        "clocks",
        "disk",
        "data",
        "limits",
        "config",
        "environment",
    ] {
        assert!(checks.iter().any(|of| of["check"] == check), "nothing is said of {check}: {finished:?}");
    }
    let held = format!("is held by dsv2-server (process {})", parts.id(Part::Server(1)));
    assert!(!cfg!(target_os = "linux") || finished.out.contains(&held), "no {held:?} in {finished:?}");
    let people = place.run("dsv2", &["doctor"]);
    assert!(people.status.success() && people.out.contains("ok       ports"), "{people:?}");
    assert!(!people.out.contains('\u{1b}'), "no colours where there is no terminal: {people:?}");
}

#[test]
fn a_place_where_nothing_runs_has_warnings_only() {
    let place = Place::new();
    let (checks, _) = examine(doctor(&place, &[]));
    let server = checks.iter().find(|of| of["check"] == "servers").expect("servers");
    assert_eq!((&server["result"], &server["what"]), (&"warning".into(), &"no server answers".into()), "{checks:#?}");
}

#[test]
fn it_changes_nothing_and_is_bounded_in_time() {
    let place = Place::new();
    store(&place, "s1");
    let read = || -> Vec<_> {
        let entries = std::fs::read_dir(place.path("s1")).expect("a directory");
        let mut all: Vec<_> = entries
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.path(), entry.metadata().expect("metadata").modified().expect("a time")))
            .collect();
        all.sort();
        all
    };
    let before = read();
    // These take connections and never answer.
    let _deaf: Vec<TcpListener> =
        (0..6).map(|port| TcpListener::bind(("127.0.0.1", place.base() + port)).expect("a free port")).collect();
    let began = std::time::Instant::now();
    examine(doctor(&place, &["--data", "s1,nowhere", "--timeout", "1"]));
    // The bound, and what starting and ending a process takes on a busy machine.
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(read(), before);
    assert!(!place.path("nowhere").exists());
}

// Planted: ports and parts.

#[test]
fn a_foreign_program_at_a_port() {
    let place = Place::new();
    let _other = TcpListener::bind(("127.0.0.1", place.base() + 4)).expect("a free port");
    let who = if cfg!(target_os = "linux") { format!("(process {})", std::process::id()) } else { String::new() };
    assert_found(doctor(&place, &[]), "ports", &who, "stop that program, or choose other ports");
}

#[test]
fn the_wrong_part_at_a_port() {
    let place = Place::new();
    let at = |offset: u16| format!("tcp://127.0.0.1:{}", place.base() + offset);
    let _broker = start(&place, "dsv2-broker", &["--clients", &at(4), "--servers", &at(1)]);
    assert_found(doctor(&place, &[]), "ports", "no list of servers", "give each its own port with --base-port");
}

#[test]
fn a_broker_that_stands_still() {
    let place = Place::new();
    let broker = start(&place, "dsv2-broker", &[]);
    broker.signal("STOP");
    let who = if cfg!(target_os = "linux") { format!("dsv2-broker (process {})", broker.id()) } else { String::new() };
    assert_found(doctor(&place, &["--timeout", "1"]), "ports", &who, "restart it");
}

#[test]
fn a_broker_that_is_missing() {
    let place = Place::new();
    let _proxy = start(&place, "dsv2-proxy", &[]);
    let remedy = format!("start it: dsv2-broker --base-port {}", place.base());
    assert_found(doctor(&place, &[]), "broker", "nobody answers", &remedy);
}

// Planted: servers.

#[test]
fn parts_without_servers() {
    let place = Place::new();
    let _parts = ["dsv2-broker", "dsv2-proxy"].map(|program| start(&place, program, &[]));
    let remedy = "dsv2-server --name server1 --data ./server1 --base-port";
    assert_found(doctor(&place, &[]), "servers", "no server answers", remedy);
}

#[test]
fn voters_that_are_listed_differently() {
    let place = Place::new();
    let at = |offset: u16| format!("tcp://127.0.0.1:{}", place.base() + offset);
    let _parts = ["dsv2-broker", "dsv2-proxy", "dsv2-reference"].map(|program| start(&place, program, &[]));
    let _servers = [("s1", at(5), "s1,s2"), ("s2", at(6), "s1,s2,s3")].map(|(name, link, voters)| {
        start(&place, "dsv2-server", &["--name", name, "--data", name, "--link", &link, "--voters", voters])
    });
    let command = || doctor(&place, &["--timeout", "20"]);
    assert_found(command(), "voters", "s2 has s1, s2, s3", "give every server the same --voters, letter by letter");
    assert_found(command(), "links", "has no link to s2", "a link was refused");
}

#[test]
fn fewer_voters_than_a_majority() {
    let place = Place::new();
    let _parts = ["dsv2-broker", "dsv2-proxy"].map(|program| start(&place, program, &[]));
    let _server = start(&place, "dsv2-server", &["--name", "s1", "--data", "s1", "--voters", "s1,s2,s3"]);
    let args = ["--timeout", "20"];
    assert_found(
        doctor(&place, &args),
        "voters",
        "a majority is 2; missing: s2, s3",
        "start voters until most are there",
    );
    assert_found(doctor(&place, &args), "coordinator", "there is none", "start enough voters for a majority");
    let args = ["--timeout", "20", "--servers", "3"];
    assert_found(doctor(&place, &args), "servers", "1 of 3 answer: s1", "start the others");
}

#[test]
fn a_voter_that_is_gone_for_good_and_there() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    parts.settled_coordinator();
    assert!(parts.take(Part::Server(0)).stop("TERM").success());
    let retired = place.run("dsv2", &["retire", "s3", "s1"]);
    assert!(retired.status.success(), "{retired:?}");
    parts.start_part(Part::Server(0));
    let args = ["--timeout", "20", "--data", "s1"];
    // The others hear of it at the next link.
    eventually("it is told", || finish(doctor(&place, &args), "").out.contains("declared gone for good, and is there"));
    assert_found(
        doctor(&place, &args),
        "voters",
        "declared gone for good, and is there",
        "under another name with an empty directory",
    );
    assert_found(doctor(&place, &args), "voters", "says that s3 is gone for good, and it is there", "stop that server");
}

/// The servers' clocks are bent by a small library in C that is loaded before libc, which needs a compiler (`cc`).
#[cfg(target_os = "linux")]
#[test]
fn a_clock_that_is_an_hour_off() {
    let place = Place::new();
    let _parts = Parts::start_bent(&place, 2, &["--voters", "s1,s2"], &[(1, "clock_s", 3_600)]);
    let remedy = "keep it right by NTP";
    let args = ["--timeout", "20"];
    assert_found(doctor(&place, &args), "clocks", "s ahead of this machine's", remedy);
    assert_found(doctor(&place, &args), "clocks", "the clocks of these two are 3", remedy);
}

// Planted: data directories and disks.

#[test]
fn a_disk_without_room() {
    let place = Place::new();
    let args = ["--data", "s1", "--min-free", "1000000T"];
    assert_found(doctor(&place, &args), "disk", "below the bound of", "make room");
}

#[test]
fn a_disk_that_is_read_only() {
    if without_root("file systems") {
        return;
    }
    let place = Place::new();
    let disk = crate::mounts::Mount::memory(place.path("s1"), 768);
    disk.make_read_only();
    assert_found(doctor(&place, &["--data", "s1"]), "disk", "read-only", "mount it for writing");
}

#[test]
fn a_log_that_is_damaged() {
    let place = Place::new();
    store(&place, "s1");
    let file = place.path("s1/users.json");
    let text = std::fs::read_to_string(&file).expect("its log");
    std::fs::write(&file, text.replacen("user20", "user2O", 1)).expect("a file");
    assert_found(doctor(&place, &["--data", "s1"]), "data", "its log is damaged", "`dsv2 inspect s1` tells what");
}

#[test]
fn a_data_directory_that_is_a_file() {
    let place = Place::new();
    std::fs::write(place.path("s1"), "").expect("a file");
    assert_found(doctor(&place, &["--data", "s1"]), "data", "is no directory", "name a directory with --data");
    assert_found(doctor(&place, &["--data", "s1/data"]), "data", "is no directory", "--data");
}

#[test]
fn directories_that_hold_no_data_of_a_server() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("other/photos")).expect("a directory");
    std::fs::create_dir(place.path("empty")).expect("a directory");
    let (checks, _) = examine(doctor(&place, &["--data", "other,empty,nowhere", "--min-free", "1"]));
    let results: Vec<_> = checks.iter().filter(|of| of["check"] == "data").map(|of| of["result"].clone()).collect();
    assert_eq!(results, ["warning", "ok", "ok"], "{checks:#?}");
}

/// Root may do everything: it is run as another user there.
#[test]
fn a_data_directory_that_must_not_be_written() {
    let place = Place::new();
    store(&place, "s1");
    assert!(Command::new("chmod").args(["-R", "a-w"]).arg(place.path("s1")).status().expect("chmod runs").success());
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
    let mut command = doctor(&place, &["--data", "s1"]);
    if is_root {
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::process::CommandExt;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.path(""), open).expect("a directory of our own");
        // The program itself may stand where only root comes to.
        let copy = place.path("dsv2-copy");
        std::fs::copy(command.get_program(), &copy).expect("a copy");
        let mut other = Command::new(&copy);
        other.args(command.get_args()).env_clear().current_dir(place.path("")).uid(65_534).gid(65_534);
        other.env("DSV2_BASE_PORT", place.base().to_string());
        command = other;
    }
    assert_found(command, "data", "cannot be written by this user", "chown -R");
    assert!(Command::new("chmod").args(["-R", "u+w"]).arg(place.path("s1")).status().expect("chmod runs").success());
}

#[test]
fn one_data_directory_for_two_servers() {
    let place = Place::new();
    store(&place, "s1");
    std::os::unix::fs::symlink(place.path("s1"), place.path("s2")).expect("a link");
    assert_found(
        doctor(&place, &["--data", "s1,s2"]),
        "data",
        "is the same directory as",
        "a --data directory of its own",
    );
}

#[test]
fn a_copy_as_a_new_server() {
    let place = Place::new();
    store(&place, "s1");
    let copied = Command::new("cp").arg("-r").args([place.path("s1"), place.path("s2")]).status().expect("cp runs");
    assert!(copied.success());
    let args = ["--data", "s1,s2"];
    assert_found(
        doctor(&place, &args),
        "names",
        "one is a copy of the other",
        "a name of its own and an empty directory",
    );
}

// Planted: what is around.

#[test]
fn too_few_open_files() {
    let place = Place::new();
    let plain = doctor(&place, &["--connections", "1000"]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 300; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    command.env("DSV2_BASE_PORT", place.base().to_string());
    assert_found(command, "limits", "300 open files are allowed, 1200 may be wanted", "LimitNOFILE=1200");
}

#[test]
fn mistakes_in_the_configuration_file() {
    let place = Place::new();
    for (text, what) in [
        ("[server]\ndatta = 'x'", "[server] has no `datta` (did you mean `data`?)"),
        ("[servr]\n", "did you mean `server`?"),
        ("base-prt = 1", "did you mean `base-port`?"),
        ("[bot]\nrate = -1", "the configuration file"),
        ("base-port = ", "cannot be used"),
    ] {
        std::fs::write(place.path("dsv2.toml"), text).expect("a file");
        assert_found(doctor(&place, &["--config", "dsv2.toml"]), "config", what, "correct");
    }
    assert_found(doctor(&place, &["--config", "none.toml"]), "config", "none.toml", "--config");
}

#[test]
fn mistakes_in_the_environment() {
    let place = Place::new();
    for (name, value, what, remedy) in [
        ("DSV2_SERVER_DATTA", "x", "no flag knows this variable", "rename it to DSV2_SERVER_DATA"),
        ("SERDE", "XML", "neither json nor msgpack", "set SERDE to json or msgpack"),
        ("DSV2_BOT_RATE", "-1", "not negative", "what --rate takes"),
        ("DSV2_DOCTOR_TIMEOUT", "soon", "soon", "what --timeout takes"),
    ] {
        let mut command = doctor(&place, &[]);
        command.env(name, value);
        assert_found(command, "environment", what, remedy);
    }
}
