//! Clients and bots against a cluster.

use serde_json::json;

use crate::harness::{Place, Process, finish};

fn up(place: &Place) -> Process {
    let up = place.start("dsv2", &["up", "--in-memory"]);
    up.expect("ready ");
    up
}

#[test]
fn single_commands_say_what_happened() {
    let place = Place::new();
    let cluster = up(&place);
    let ana = |args: &[&str]| place.json("dsv2-client", &[&["--user", "ana", "--json"], args].concat());
    assert_eq!(ana(&["login"]), [json!({"type": "ok", "command": "login"})]);
    assert_eq!(ana(&["create", "dev"])[0]["command"], "create");
    assert_eq!(ana(&["channels"]), [json!({"type": "channels", "channels": ["dev"]})]);
    let published = ana(&["publish", "dev", "olá", "mundo"]);
    assert_eq!((&published[0]["level"], &published[0]["type"]), (&"quorum".into(), &"ok".into()), "{published:?}");
    let refused = place.run("dsv2-client", &["--user", "ana", "--json", "message", "bob", "psst"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = refused.objects();
    assert_eq!(
        (&said[0]["type"], &said[0]["code"], &said[0]["outcome"]),
        (&"error".into(), &"unknown-user".into(), &"rejected".into())
    );
    place.json("dsv2-client", &["--user", "bob", "--json", "login"]);
    ana(&["message", "bob", "psst"]);
    assert_eq!(ana(&["users"]), [json!({"type": "users", "users": ["ana", "bob"]})]);
    let tail = ana(&["tail", "dev", "--from", "beginning", "--count", "1"]);
    let message = &tail[0];
    assert_eq!(
        (&message["message"], &message["user"], &message["channel"]),
        (&"olá mundo".into(), &"ana".into(), &"dev".into())
    );
    assert_eq!((&message["id"], &message["origin"]), (&published[0]["id"], &published[0]["origin"]));
    let bob = place.json("dsv2-client", &["--user", "bob", "--json", "history", "@ana"]);
    assert_eq!((bob.len(), &bob[0]["src"], &bob[0]["message"]), (1, &"ana".into(), &"psst".into()));
    let people = place.run("dsv2-client", &["history", "dev"]);
    assert!(people.out.contains("#dev ana: olá mundo"), "{people:?}");
    assert!(cluster.stop("INT").success());
}

#[test]
fn two_people_chat() {
    let place = Place::new();
    let cluster = up(&place);
    let mut ana = place.start("dsv2-client", &["--user", "ana", "--json"]);
    let mut bob = place.start("dsv2-client", &["--user", "bob"]);
    for chat in [&mut ana, &mut bob] {
        chat.say("/join dev");
        chat.expect("you follow dev");
    }
    ana.say("oi, gente");
    assert!(bob.expect("oi, gente").contains("#dev ana: oi, gente"));
    let own: serde_json::Value = serde_json::from_str(&ana.expect("oi, gente")).expect("an object");
    assert_eq!(own["channel"], "dev");
    bob.say("/msg ana psst");
    let private: serde_json::Value = serde_json::from_str(&ana.expect("psst")).expect("an object");
    assert_eq!(
        (&private["type"], &private["src"], &private["private"]),
        (&"message".into(), &"bob".into(), &true.into())
    );
    bob.say("/nonsense");
    bob.expect("there is no command /nonsense");
    bob.say("/history 1");
    bob.expect("#dev ana: oi, gente");
    for mut chat in [ana, bob] {
        chat.say("/quit");
        assert!(chat.wait().success());
    }
    assert!(cluster.stop("INT").success());
}

#[test]
fn lines_may_come_from_a_pipe() {
    let place = Place::new();
    let cluster = up(&place);
    let input = "/create dev\n/to dev\num\ndois\n//três\n/users\n";
    let finished = finish(place.command("dsv2-client", &["--user", "ana"]), input);
    assert!(finished.status.success(), "{finished:?}");
    assert!(finished.out.ends_with("ana\n"), "{finished:?}");
    let history = place.json("dsv2-client", &["--json", "history", "dev", "--limit", "2"]);
    assert_eq!(history.iter().map(|message| &message["message"]).collect::<Vec<_>>(), ["dois", "/três"]);
    assert!(cluster.stop("INT").success());
}

#[test]
fn bots_check_what_they_receive() {
    let place = Place::new();
    let cluster = up(&place);
    let other = place.start("dsv2-bot", &["--channels", "dev,ops", "--rate", "50", "--json"]);
    let summary =
        place.json("dsv2-bot", &["--name", "robo", "--channels", "dev,ops", "--count", "500", "--rate", "0", "--json"]);
    let summary = &summary[0];
    assert_eq!(
        (&summary["name"], &summary["acknowledged"], &summary["received_own"]),
        (&"robo".into(), &500.into(), &500.into()),
        "{summary}"
    );
    for count in ["lost", "duplicates", "out_of_order", "gaps", "rejected", "unknown"] {
        assert_eq!(summary[count], 0, "{count}: {summary}");
    }
    assert!(summary["messages_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{summary}");
    for latency in ["acknowledgement_us", "delivery_us"] {
        assert!(
            summary[latency]["p50"].as_u64() <= summary[latency]["p99"].as_u64() && summary[latency]["p50"] != 0,
            "{summary}"
        );
    }
    let mut other = other;
    let ended = other.interrupt();
    assert!(ended.success(), "{}", other.log());
    let said = other.rest();
    let other: serde_json::Value = serde_json::from_str(said.last().expect("a summary")).expect("an object");
    assert!(other["received"].as_u64() >= Some(500), "{other}");
    assert!(cluster.stop("INT").success());
}
