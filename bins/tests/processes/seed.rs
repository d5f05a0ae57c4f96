//! The tests of the course's assignment, part by part, on processes of their own: what `docs/course.md` shows by hand.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Place, eventually};
use crate::parts::{Part, Parts};

const SERVERS: [usize; 3] = [0, 1, 2];

/// A file in a server's data directory; empty as long as it is not there.
fn data(place: &Place, server: usize, file: &str) -> String {
    std::fs::read_to_string(place.path(&format!("{}/{file}", Part::Server(server)))).unwrap_or_default()
}

/// The lines of a JSON Lines file.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

/// The numbers that a log gives under a key, in order.
fn logged(log: &str, key: &str) -> Vec<u64> {
    let after = |line: &str| line.split(&format!(" {key}=")).nth(1)?.split_whitespace().next()?.parse().ok();
    log.lines().filter_map(after).collect()
}

#[test]
fn part_1_a_login_persists_in_users_json() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    // A person types a name, and after it a command of each service.
    let mut ana = place.start("dsv2-client", &["--user", "ana"]);
    ana.say("/create dev");
    ana.expect("dev");
    ana.say("/users");
    ana.expect("ana");
    ana.say("/channels");
    ana.expect("dev");
    for server in SERVERS {
        eventually("every server has the user and the channel", || {
            data(&place, server, "users.json").contains("\"ana\"")
                && data(&place, server, "channels.json").contains("\"dev\"")
        });
        assert_eq!(lines(&data(&place, server, "users.json")).len(), 1, "one event a line");
    }
    // Known again after everything was ended at once.
    for part in parts.running() {
        parts.kill(part);
    }
    drop(parts);
    let parts = Parts::start(&place);
    let users = place.json("dsv2-client", &["--json", "users"]);
    assert_eq!(users[0]["users"], serde_json::json!(["ana"]));
    parts.stop();
}

#[test]
fn part_2_a_bot_publishes_and_a_client_receives() {
    let place = Place::new();
    let parts = Parts::start(&place);
    let mut bot = place.start("dsv2-bot", &["--name", "robo", "--channels", "noticias", "--rate", "20", "--json"]);
    let mut bob = place.start("dsv2-client", &["--user", "bob"]);
    eventually("the bot made its channel", || {
        place.json("dsv2-client", &["--json", "channels"])[0]["channels"] == serde_json::json!(["noticias"])
    });
    bob.say("/join noticias");
    bob.expect("you follow noticias");
    bob.expect("#noticias robo: ");
    bot.signal("INT");
    let summary: Value = serde_json::from_str(&bot.expect("acknowledged")).expect("an object");
    assert!(bot.wait().success(), "{summary}");
    assert!(summary["acknowledged"].as_u64() > Some(0), "{summary}");
    // And a private message, which nobody else sees.
    place.json("dsv2-client", &["--user", "ana", "--json", "login"]);
    place.json("dsv2-client", &["--user", "ana", "--json", "message", "bob", "psiu"]);
    bob.expect("psiu");
    for server in SERVERS {
        eventually("every server has them", || {
            data(&place, server, "messages/messages.jsonl").contains("psiu")
                && lines(&data(&place, server, "messages/publishes.jsonl")).len() as u64
                    >= summary["acknowledged"].as_u64().expect("a count")
        });
    }
    drop(bob);
    parts.stop();
}

#[test]
fn part_3_the_same_in_messagepack() {
    let place = Place::new();
    // `SERDE=MSGPACK`, as in the assignment, for every process.
    let parts = Parts::start_in(&place, None, 3, &["--voters", "s1,s2,s3"], &[("SERDE", "MSGPACK")]);
    for user in ["ana", "bob"] {
        let logged_in = parts.json(0, "dsv2-client", &["--user", user, "--json", "login"]);
        assert_eq!(logged_in[0]["type"], "ok");
    }
    parts.json(0, "dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    let mut tail = parts.begin(0, "dsv2-client", &["--json", "tail", "dev", "--from", "beginning", "--count", "1"]);
    parts.publish("olá");
    let message: Value = serde_json::from_str(&tail.expect("olá")).expect("an object");
    assert_eq!((&message["user"], &message["channel"]), (&"ana".into(), &"dev".into()));
    // The files are JSON Lines whatever the wire is.
    assert_eq!(lines(&data(&place, 0, "users.json")).len(), 2);
    assert!(tail.wait().success());
    parts.stop();
}

#[test]
fn part_4_clocks_grow_and_a_stopped_coordinator_is_followed_by_another() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    parts.json(0, "dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    (0..5).for_each(|n| parts.publish(&format!("{n}")));
    parts.wait_until(3);
    parts.settled_coordinator();
    for server in SERVERS {
        let clocks = logged(&parts.log(Part::Server(server)), "clock");
        assert!(clocks.len() > 1 && clocks.is_sorted() && clocks.first() < clocks.last(), "{clocks:?}");
    }
    // Stopping the reference: the log says `coordinator`, and that it stays.
    assert!(parts.take(Part::Reference).stop("TERM").success());
    for server in SERVERS {
        eventually("the log tells of the coordinator", || {
            parts.log(Part::Server(server)).lines().any(|line| line.contains("the coordinator stays"))
        });
    }
    // Stopping the coordinator: another is elected, and the logs of both others name it.
    let coordinator = parts.settled_coordinator();
    let index = SERVERS.into_iter().find(|&server| Part::Server(server).to_string() == coordinator).expect("a server");
    let others: Vec<usize> = SERVERS.into_iter().filter(|&server| server != index).collect();
    let before: BTreeMap<usize, usize> =
        others.iter().map(|&server| (server, parts.log(Part::Server(server)).len())).collect();
    assert!(parts.take(Part::Server(index)).stop("TERM").success());
    for &server in &others {
        eventually("another coordinator", || {
            let log = parts.log(Part::Server(server));
            log[before[&server]..].lines().any(|line| {
                line.contains("the coordinator changed") && !line.contains(&format!("coordinator={coordinator}"))
            })
        });
    }
    parts.publish("goes on");
}

/// Where the events of this test stand.
const FILES: [&str; 3] = ["users.json", "channels.json", "messages/publishes.jsonl"];

#[test]
fn part_5_every_write_is_replicated_and_survives_a_stopped_server() {
    let place = Place::new();
    let mut parts = Parts::start(&place);
    parts.json(0, "dsv2-client", &["--user", "ana", "--json", "create", "dev"]);
    (0..20).for_each(|n| parts.publish(&format!("texto {n}")));
    parts.wait_until(3);
    // What is written and replicated is told a tenth of a second later, many at a time.
    for server in SERVERS {
        let held = || FILES.iter().map(|file| lines(&data(&place, server, file)).len() as u64).sum::<u64>();
        let told = || logged(&parts.log(Part::Server(server)), "count").iter().sum::<u64>();
        eventually("all is told", || told() == held());
    }
    // `grep replicad`: what a server did not write itself it took from others, one line a batch, with count and range.
    for server in SERVERS {
        let log = parts.log(Part::Server(server));
        let own = format!("origin={}/", Part::Server(server));
        let batches: Vec<&str> = log.lines().filter(|line| line.contains("replicad")).collect();
        assert!(batches.iter().all(|line| !line.contains(&own)), "its own events come from nobody: {batches:?}");
        let all = batches.join("\n") + "\n";
        let (first, last, count) = (logged(&all, "first"), logged(&all, "last"), logged(&all, "count"));
        assert_eq!((first.len(), last.len(), count.len()), (batches.len(), batches.len(), batches.len()), "{all}");
        for ((first, last), count) in first.iter().zip(&last).zip(&count) {
            assert_eq!(last - first + 1, *count, "{all}");
        }
        let events = FILES.map(|file| data(&place, server, file));
        let own = format!("{}/", Part::Server(server));
        let foreign = events.iter().flat_map(|text| lines(text)).filter(|line| {
            let event = line["ev"].as_str().expect("every line names its event");
            !event.starts_with(&own)
        });
        assert_eq!(count.iter().sum::<u64>(), foreign.count() as u64, "every event of others is told once: {all}");
    }
    // Stop a server: the others have the data.
    assert!(parts.take(Part::Server(0)).stop("TERM").success());
    let wanted: Vec<String> = (0..20).map(|n| format!("texto {n}")).collect();
    eventually("the others serve it", || parts.history() == wanted);
    for server in [1, 2] {
        let log = data(&place, server, "messages/publishes.jsonl");
        wanted.iter().for_each(|text| assert_eq!(log.matches(&format!("\"{text}\"")).count(), 1, "{text}"));
    }
    parts.stop();
}
