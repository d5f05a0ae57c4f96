//! Help, versions, configuration, exit codes.

use crate::harness::{Place, bare, finish};

pub(crate) const PROGRAMS: [&str; 7] =
    ["dsv2", "dsv2-broker", "dsv2-proxy", "dsv2-server", "dsv2-reference", "dsv2-client", "dsv2-bot"];

fn say(program: &str, args: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = bare(program, dir.path());
    command.args(args);
    let finished = finish(command, "");
    assert!(finished.status.success(), "{program} {args:?}: {finished:?}");
    finished.out
}

#[test]
fn every_program_teaches_and_tells_its_version() {
    for program in PROGRAMS {
        let help = say(program, &["--help"]);
        for needle in ["Usage:", "--config", "DSV2_CONFIG", "Configuration:", "Exit codes:"] {
            assert!(help.contains(needle), "{program}: no {needle} in\n{help}");
        }
        assert_eq!(say(program, &["--version"]).trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn help_shows_the_ports_of_the_seed() {
    for (program, args, ports) in [
        ("dsv2-broker", vec!["--help"], vec![5555, 5556]),
        ("dsv2-proxy", vec!["--help"], vec![5557, 5558]),
        ("dsv2-reference", vec!["--help"], vec![5559]),
        ("dsv2-server", vec!["--help"], vec![5556, 5557, 5558, 5559, 5560]),
        ("dsv2-client", vec!["--help"], vec![5555, 5558]),
        ("dsv2-bot", vec!["--help"], vec![5555, 5558]),
        ("dsv2", vec!["up", "--help"], vec![5555]),
    ] {
        let help = say(program, &args);
        for port in ports {
            assert!(help.contains(&port.to_string()), "{program}: no {port} in\n{help}");
        }
    }
}

#[test]
fn every_flag_has_a_variable() {
    let tools = ["up", "status", "ping", "doctor", "inspect", "import", "completions"]
        .map(|tool| ("dsv2", vec![tool, "--help"]));
    let loads = ["publish", "fanout", "request", "replay"].map(|work| ("dsv2", vec!["bench", work, "--help"]));
    let programs = PROGRAMS.iter().map(|program| (*program, vec!["--help"])).chain(tools).chain(loads);
    for (program, args) in programs {
        let help = say(program, &args);
        let flags = help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(|line| {
            let flag = line.split("--").nth(1)?.split([' ', '\n']).next()?;
            (flag != "help" && flag != "version").then_some(flag)
        });
        for flag in flags {
            let variable = format!("{}=", flag.replace('-', "_").to_uppercase());
            assert!(help.contains(&variable), "{program} {args:?}: --{flag} has no variable in\n{help}");
        }
    }
    for (program, variable) in [("dsv2-server", "SERVER_NAME"), ("dsv2-server", "SERDE"), ("dsv2-client", "SERDE")] {
        let help = say(program, &["--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(&format!("of the family: {variable}")), "{program}: no {variable} in\n{help}");
    }
}

#[test]
fn a_flag_wins_over_the_variable_and_that_over_the_file() {
    let place = Place::new();
    let file = place.path("dsv2.toml");
    let base = place.base();
    std::fs::write(&file, format!("base-port = {}\n[server]\nname = 'x'", base + 8)).expect("a file");
    let file = file.display().to_string();
    let ready = |args: &[&str], variable: Option<u16>| {
        let mut command = bare("dsv2-reference", &place.path(""));
        command.args(args);
        if let Some(port) = variable {
            command.env("DSV2_BASE_PORT", port.to_string());
        }
        let process = crate::harness::Process::start(command, &place.path("log"));
        let line = process.expect("ready reference");
        assert!(process.stop("TERM").success());
        line
    };
    let at = |port: u16| format!("ready reference reference=tcp://127.0.0.1:{}", port + 4);
    assert_eq!(ready(&["--config", &file], None), at(base + 8));
    assert_eq!(ready(&["--config", &file], Some(base + 4)), at(base + 4));
    assert_eq!(ready(&["--config", &file, "--base-port", &base.to_string()], Some(base + 4)), at(base));
}

#[test]
fn the_variables_of_the_seed_are_known() {
    let place = Place::new();
    let mut command = place.command("dsv2-server", &["--data", "data"]);
    command.env("SERVER_NAME", "sete").env("SERDE", "MSGPACK");
    let server = crate::harness::Process::start(command, &place.path("log"));
    assert!(server.expect("ready server").contains("name=sete"));
    assert!(server.stop("INT").success());
    let mut wrong = place.command("dsv2-server", &["--data", "data"]);
    wrong.env("SERDE", "XML");
    let finished = finish(wrong, "");
    assert_eq!(finished.status.code(), Some(2), "{finished:?}");
    assert!(finished.err.contains("SERDE"), "{finished:?}");
}

#[test]
fn what_goes_wrong_has_a_code_and_a_reason() {
    let place = Place::new();
    std::fs::write(place.path("bad.toml"), "[servr]\nname = 'x'").expect("a file");
    for (program, args, code, reason) in [
        ("dsv2-broker", vec!["--nonsense"], 2, "--nonsense"),
        ("dsv2-broker", vec!["--config", "bad.toml"], 2, "[servr]"),
        ("dsv2-broker", vec!["--config", "none.toml"], 2, "none.toml"),
        ("dsv2-broker", vec!["--base-port", "65535"], 2, "65535"),
        ("dsv2-client", vec!["publish", "dev", "oi"], 2, "--user"),
        ("dsv2-client", vec!["--user", "a/b", "users"], 2, "a/b"),
        ("dsv2-client", vec!["--timeout", "1", "users"], 3, "nobody answered"),
        ("dsv2", vec!["inspect", "nowhere"], 1, "nowhere"),
        ("dsv2", vec!["up", "--base-port", "65530"], 2, "65536"),
    ] {
        let finished = place.run(program, &args);
        assert_eq!(finished.status.code(), Some(code), "{program} {args:?}: {finished:?}");
        assert!(finished.err.contains(reason), "{program} {args:?}: {finished:?}");
        assert!(finished.out.is_empty(), "{program} {args:?}: {finished:?}");
    }
}

#[test]
fn logs_may_be_json() {
    let place = Place::new();
    let broker = place.start("dsv2-broker", &["--log-format", "json"]);
    broker.expect("ready broker");
    let path = place.log("dsv2-broker", &["--log-format", "json"]);
    assert!(broker.stop("TERM").success());
    let log = std::fs::read_to_string(path).expect("a log");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{line:?}: {why}"))).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["level"].is_string() && line["message"].is_string()));
}

#[test]
fn settings_are_shown_with_their_origin() {
    let place = Place::new();
    std::fs::write(
        place.path("dsv2.toml"),
        "log-format = 'json'\n[server]\nname = 'x'\nvoters = ['a', 'b']\nlevel = 'local'",
    )
    .expect("a file");
    let args = ["config", "show", "--json", "--config", "dsv2.toml", "dsv2-server", "--name", "y"];
    let mut command = place.command("dsv2", &args);
    command.env("SERDE", "msgpack").env("DSV2_SERVER_LEVEL", "quorum");
    let shown = finish(command, "");
    assert!(shown.status.success(), "{shown:?}");
    let settings = shown.objects();
    for (flag, value, from) in [
        ("name", Some("y"), "flag"),
        ("voters", Some("a,b"), "file"),
        ("log-format", Some("json"), "file"),
        ("level", Some("quorum"), "environment DSV2_SERVER_LEVEL"),
        ("serde", Some("msgpack"), "environment SERDE"),
        ("base-port", Some(place.base().to_string().as_str()), "environment DSV2_BASE_PORT"),
        ("data", Some("data"), "default"),
        ("link", None, "default"),
    ] {
        let wanted = serde_json::json!({"flag": flag, "value": value, "from": from});
        assert!(settings.contains(&wanted), "no {wanted} in {settings:?}");
    }
    let people = place.run("dsv2", &["config", "show", "dsv2", "up", "--servers", "5"]);
    let has = |line: &str| people.out.lines().any(|of| of.split_whitespace().collect::<Vec<_>>().join(" ") == line);
    assert!(has("servers 5 flag") && has("bots 0 default"), "{people:?}");
    let unknown = place.run("dsv2", &["config", "show", "dsv2-servr"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(unknown.err.contains("did you mean `dsv2-server`"), "{unknown:?}");
}

#[test]
fn the_configuration_file_is_checked_for_all_programs() {
    let place = Place::new();
    std::fs::write(place.path("bad.toml"), "[server]\ndatta = 'x'\n[bot]\nrate = -1\n[servr]").expect("a file");
    let bad = place.run("dsv2", &["config", "check", "--config", "bad.toml"]);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    for needle in ["did you mean `data`", "did you mean `server`", "--rate"] {
        assert!(bad.out.contains(needle), "no {needle} in {bad:?}");
    }
    std::fs::write(place.path("good.toml"), "base-port = 7000\n[server]\nname = 'x'").expect("a file");
    let good = place.run("dsv2", &["config", "check", "--config", "good.toml"]);
    assert!(good.status.success() && good.out.contains("every key is known"), "{good:?}");
    assert_eq!(place.run("dsv2", &["config", "check"]).status.code(), Some(2));
}
