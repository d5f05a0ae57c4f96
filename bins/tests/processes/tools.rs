//! Import, inspection, simulation.

use std::fs;

use crate::harness::Place;

#[test]
fn what_the_family_stored_is_imported_and_served() {
    let place = Place::new();
    fs::create_dir_all(place.path("family/messages")).expect("a directory");
    let files = [
        (
            "users.json",
            r#"[{"name": "ana", "login_timestamp": 1795407353.9}, {"name": "bob"}, {"name": "ana"}, {"nome": "x"}]"#,
        ),
        ("channels.json", r#"[{"name": "dev", "created_timestamp": 1795407353.9}]"#),
        (
            "messages/publishs.jsonl",
            "{\"user\":\"ana\",\"channel\":\"dev\",\"message\":\"oi\",\"timestamp\":1795407353.9,\"clock\":7}\n\
            {\"user\":\"rui\",\"channel\":\"ops\",\"message\":\"novo\"}\n",
        ),
        ("messages/messages.jsonl", "{\"src\":\"ana\",\"dst\":\"bob\",\"message\":\"psst\"}\n"),
    ];
    for (file, text) in files {
        fs::write(place.path(&format!("family/{file}")), text).expect("a file");
    }
    let imported = place.json("dsv2", &["import", "family", "--data", "s1", "--name", "s1", "--json"]);
    let counts = ["users", "channels", "publishes", "messages", "added", "repeated", "passed_over"];
    let counted: Vec<_> = counts.iter().map(|count| imported[0][count].as_u64().expect("a number")).collect();
    assert_eq!(counted, [2, 1, 2, 1, 2, 1, 1], "{imported:?}");
    let again = place.run("dsv2", &["import", "family", "--data", "s1", "--name", "s1"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let inspected = place.json("dsv2", &["inspect", "s1", "--json"]);
    assert_eq!((&inspected[0]["events"], &inspected[0]["sound"]), (&8.into(), &true.into()), "{inspected:?}");

    let parts =
        [("dsv2-broker", vec![]), ("dsv2-proxy", vec![]), ("dsv2-server", vec!["--name", "s1", "--data", "s1"])];
    let parts = parts.map(|(program, args)| {
        let part = place.start(program, &args);
        part.expect("ready ");
        part
    });
    let history = place.json("dsv2-client", &["--json", "--timeout", "30", "history", "dev"]);
    assert_eq!((history.len(), &history[0]["message"]), (1, &"oi".into()), "{history:?}");
    place.json("dsv2-client", &["--user", "ana", "--json", "--timeout", "30", "publish", "dev", "de novo"]);
    let history = place.json("dsv2-client", &["--user", "bob", "--json", "--timeout", "30", "history", "@ana"]);
    assert_eq!(history[0]["message"], "psst");
    for part in parts.into_iter().rev() {
        assert!(part.stop("TERM").success());
    }
}

#[test]
fn damage_is_found_and_told() {
    let place = Place::new();
    fs::create_dir_all(place.path("family")).expect("a directory");
    let users: Vec<String> = (0..50).map(|n| format!("{{\"name\": \"user{n}\"}}")).collect();
    fs::write(place.path("family/users.json"), format!("[{}]", users.join(","))).expect("a file");
    place.json("dsv2", &["import", "family", "--data", "s1", "--name", "s1", "--json"]);
    let file = place.path("s1/users.json");
    let text = fs::read_to_string(&file).expect("its log");
    fs::write(&file, text.replacen("user20", "user2O", 1)).expect("a file");
    let inspected = place.run("dsv2", &["inspect", "s1"]);
    assert_eq!(inspected.status.code(), Some(4), "{inspected:?}");
    assert!(inspected.out.contains("NOT SOUND") && inspected.err.contains("not sound: s1"), "{inspected:?}");
}

#[test]
fn simulations_keep_their_promises_and_repeat_themselves() {
    let place = Place::new();
    let campaign = place.json("dsv2", &["sim", "run", "--seeds", "1..3", "--json"]);
    assert_eq!(campaign.iter().map(|seed| seed["seed"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let replayed = place.json("dsv2", &["sim", "replay", "--seed", "2", "--json"]);
    assert_eq!(replayed[0], campaign[1]);
    let table = place.run("dsv2", &["sim", "run", "--seeds", "4"]);
    assert!(table.status.success() && table.out.contains("acknowledged") && table.out.contains("none"), "{table:?}");
    assert!(table.err.is_empty(), "no progress bar where there is no terminal: {table:?}");
}

#[test]
fn a_history_is_written_and_judged() {
    let place = Place::new();
    let replayed = place.run("dsv2", &["sim", "replay", "--seed", "2", "--trace", "--history", "seen.jsonl"]);
    assert!(replayed.status.success() && replayed.out.contains("publishes on"), "{replayed:?}");
    let judged = place.run("dsv2", &["check", "seen.jsonl"]);
    assert!(judged.status.success() && judged.out.contains("no promise broken"), "{judged:?}");

    let text = fs::read_to_string(place.path("seen.jsonl")).expect("the history");
    let mut lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| line.contains(r#""op":"deliver""#)).expect("a delivery");
    lines.insert(first, lines[first]);
    fs::write(place.path("doubled.jsonl"), lines.join("\n")).expect("a file");
    let judged = place.run("dsv2", &["check", "doubled.jsonl"]);
    assert_eq!(judged.status.code(), Some(4), "{judged:?}");
    assert!(judged.out.contains(&format!("line {}: Duplicate", first + 2)), "{judged:?}");
}
