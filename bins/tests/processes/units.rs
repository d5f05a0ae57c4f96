//! The units for systemd in docs/operations/systemd, where its `systemd-analyze` is installed.

use std::path::Path;
use std::process::Command;

use crate::command_line::PROGRAMS;
use crate::harness::{Place, bare, finish};

/// Each unit, under the name that it is started by.
const UNITS: [(&str, &str); 4] = [
    ("dsv2-broker.service", "dsv2-broker.service"),
    ("dsv2-proxy.service", "dsv2-proxy.service"),
    ("dsv2-reference.service", "dsv2-reference.service"),
    ("dsv2-server@.service", "dsv2-server@server1.service"),
];
/// Where the units expect the programs.
const INSTALLED: &str = "/usr/local/bin/";
/// How exposed a unit may be, of 100: systemd calls up to 49 fine, and a unit without any hardening has 96.
const EXPOSURE: &str = "25";

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations/systemd").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn value<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn units_start_our_programs_with_flags_that_they_have() {
    let place = Place::new();
    for (name, _) in UNITS {
        let unit = unit(name);
        let start = value(&unit, "ExecStart").expect("a command");
        let mut words = start.strip_prefix(INSTALLED).expect("an installed program").split(' ');
        let program = words.next().expect("a program");
        assert!(PROGRAMS.contains(&program), "{name}: {start}");
        let help = place.run(program, &["--help"]).out;
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "{name}: {program} has no {flag}");
        }
        assert_eq!((value(&unit, "Type"), value(&unit, "Restart")), (Some("exec"), Some("on-failure")), "{name}");
        let keeps = start.contains("--data");
        assert_eq!(value(&unit, "StateDirectory").is_some(), keeps, "{name}");
    }
}

#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("left out: systemd-analyze is not installed");
        return;
    }
    let place = Place::new();
    for (file, name) in UNITS {
        let unit = unit(file);
        let program = value(&unit, "ExecStart").expect("a command").split(' ').next().expect("a program");
        // A program that is not installed would be an error.
        let built = bare(&program[INSTALLED.len()..], Path::new("/")).get_program().to_owned();
        let here = unit.replace(program, built.to_str().expect("a path of our own"));
        std::fs::write(place.path(name), here).expect("a file");
        // Manual pages need not be installed.
        let said = analyze(&place, &["verify", "--man=no", &format!("./{name}")]);
        // It looks at the units that ours depends on, too, and those are the machine's.
        let about_ours = |text: &str| text.lines().any(|line| line.contains(name));
        assert!(!about_ours(&said.err) && !about_ours(&said.out), "{name}: {said:?}");
        let exposed = analyze(&place, &["security", "--offline=true", "--threshold", EXPOSURE, &format!("./{name}")]);
        // Older ones cannot judge a file.
        let is_older = exposed.err.contains("unrecognized option");
        assert!(exposed.status.success() || is_older, "{name}: {}", exposed.out);
    }
}

fn analyze(place: &Place, args: &[&str]) -> crate::harness::Finished {
    let mut command = Command::new("systemd-analyze");
    command.args(args).current_dir(place.path("")).env("SYSTEMD_COLORS", "0");
    finish(command, "")
}
