//! Completions and manual pages: of every program and tool, and such that shells take them.

use std::collections::BTreeSet;
use std::process::Command;

use crate::command_line::PROGRAMS;
use crate::harness::{Place, finish};

/// The tools that the help of a program lists.
fn tools(place: &Place, program: &str) -> Vec<String> {
    let help = place.run(program, &["--help"]).out;
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = listed.lines().take_while(|line| !line.is_empty());
    // What goes on from the line before stands further right.
    let names = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_program_and_tool_has_completions() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let all = place.run("dsv2", &["completions", shell]);
        assert!(all.status.success() && all.err.is_empty(), "{all:?}");
        for program in PROGRAMS {
            let own = place.run("dsv2", &["completions", shell, "--program", program]);
            assert!(own.status.success(), "{own:?}");
            assert!(own.out.contains(program) && all.out.contains(own.out.trim_end()), "{shell}: {program}");
            for word in tools(&place, program).iter().map(String::as_str).chain(["base-port"]) {
                assert!(own.out.contains(word), "{shell}: nothing of {word} for {program}");
            }
        }
    }
    let unknown = place.run("dsv2", &["completions", "bash", "--program", "dsv2-nothing"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert!(unknown.err.contains("dsv2-server"), "{unknown:?}");
}

#[test]
fn bash_completes_tools_flags_and_values() {
    let place = Place::new();
    let script = place.run("dsv2", &["completions", "bash"]).out;
    std::fs::write(place.path("completions"), script).expect("a file");
    for (function, words, wanted) in [
        ("_dsv2", "dsv2 doc", "doctor"),
        ("_dsv2", "dsv2 ping --part prox", "proxy"),
        ("_dsv2__server", "dsv2-server --vot", "--voters"),
    ] {
        let text = format!(
            "set -e; source completions; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             {function} ${{COMP_WORDS[0]}} \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$((COMP_CWORD - 1))]}}\"; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &text]).current_dir(place.path(""));
        let said = finish(bash, "");
        assert!(said.status.success() && said.out.trim() == wanted, "{words}: {said:?}");
    }
}

#[test]
fn every_program_and_tool_has_a_manual_page() {
    let place = Place::new();
    // What is set here must not become a default there.
    let mut command = place.command("dsv2", &["man", "man/man1"]);
    command.env("SERDE", "msgpack");
    let written = finish(command, "");
    assert!(written.status.success(), "{written:?}");
    let mut wanted: BTreeSet<String> = PROGRAMS.iter().map(|program| format!("{program}.1")).collect();
    for program in PROGRAMS {
        wanted.extend(tools(&place, program).iter().map(|tool| format!("{program}-{tool}.1")));
    }
    let found = std::fs::read_dir(place.path("man/man1")).expect("a directory");
    let found: BTreeSet<String> =
        found.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    assert!(wanted.is_subset(&found), "{:?} are missing", wanted.difference(&found).collect::<Vec<_>>());
    // Those of a tool's own tools, such as those of `dsv2 bench`.
    assert!(found.contains("dsv2-bench-publish.1") && found.contains("dsv2-doctor.1"), "{found:?}");
    for name in &found {
        let page = std::fs::read_to_string(place.path("man/man1").join(name)).expect("a page");
        for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            assert!(page.contains(section), "{name} has no {section}:\n{page}");
        }
        assert!(!page.contains("default: msgpack"), "{name} tells of this environment:\n{page}");
    }
    let server = std::fs::read_to_string(place.path("man/man1/dsv2-server.1")).expect("a page");
    assert!(server.contains("voters") && server.contains("DSV2_SERVER_VOTERS"), "{server}");
    std::fs::write(place.path("file"), "").expect("a file");
    let refused = place.run("dsv2", &["man", "file"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
