//! Limits of the system, the configuration file, and the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::finding::{Finding, Found};
use super::system;
use crate::catalog;
use crate::cli::{FAMILY, Flag};
use crate::config::{self, ConfigFile};
use crate::nearest::nearest;

/// What a part has open besides connections: files of the log, listening sockets, the runtime's own.
const OWN_DESCRIPTORS: u64 = 200;
/// Variables that no flag knows, and compose.yaml does.
const OTHERS: [&str; 1] = ["DSV2_PUBLISH_AT"];

pub(super) async fn look(config: Option<PathBuf>, connections: u64) -> Vec<Finding> {
    let flags = catalog::flags();
    let mut findings = vec![limits(connections)];
    findings.extend(configuration(config, &flags));
    findings.extend(environment(&flags));
    findings
}

fn limits(connections: u64) -> Finding {
    let wanted = connections.saturating_add(OWN_DESCRIPTORS);
    let found = match system::descriptors() {
        None => Found::ok("this system has no limit of open files"),
        Some((soft, _)) if soft >= wanted => {
            Found::ok(format!("{soft} open files are allowed, {wanted} may be wanted for {connections} connections"))
        }
        Some((soft, hard)) => {
            let what = format!("{soft} open files are allowed, {wanted} may be wanted for {connections} connections");
            let remedy = match hard.is_none_or(|hard| hard >= wanted) {
                true => format!(
                    "ulimit -n {wanted} in the shell that starts the parts, or LimitNOFILE={wanted} in their units"
                ),
                false => format!(
                    "raise the hard limit as root (LimitNOFILE={wanted} in the units, or /etc/security/limits.conf), or expect \
                     fewer connections: --connections"
                ),
            };
            Found::problem(what, remedy)
        }
    };
    Finding::new("limits", "open files", found)
}

fn configuration(path: Option<PathBuf>, flags: &[Flag]) -> Vec<Finding> {
    let Some(path) = path else {
        return vec![Finding::new("config", "", Found::ok("no configuration file is named"))];
    };
    let subject = path.display().to_string();
    let file = match ConfigFile::load(path) {
        Ok(file) => file,
        Err(error) => {
            let remedy = "correct it; it is TOML, and its keys are the long flags; or name another one with --config";
            return vec![Finding::new("config", &subject, Found::problem(error.to_string(), remedy))];
        }
    };
    let problems = file.problems(flags);
    if problems.is_empty() {
        return vec![Finding::new("config", &subject, Found::ok("every key is known, and takes its value"))];
    }
    let remedy = "correct or remove it there; programs refuse to start with this file";
    problems.into_iter().map(|what| Finding::new("config", &subject, Found::problem(what, remedy))).collect()
}

fn environment(flags: &[Flag]) -> Vec<Finding> {
    let known: BTreeMap<String, &Flag> = flags.iter().map(|flag| (flag.variable(), flag)).collect();
    let family: BTreeMap<&str, &Flag> = FAMILY
        .iter()
        .filter_map(|(_, long, name)| Some((*name, flags.iter().find(|flag| flag.long == *long)?)))
        .collect();
    let mut findings = Vec::new();
    let variables = std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value)));
    for (name, value) in variables.filter(|(_, value)| !value.is_empty()) {
        let found = match known.get(&name).or_else(|| family.get(name.as_str())) {
            Some(flag) => wrong_value(&name, &value, flag),
            None if name.starts_with("DSV2_") && !OTHERS.contains(&name.as_str()) => Some(unknown(&name, &known)),
            None => None,
        };
        findings.extend(found.map(|found| Finding::new("environment", &name, found)));
    }
    if findings.is_empty() {
        let text = "SERDE and all variables that begin with DSV2_ are known, and have values that are";
        findings.push(Finding::new("environment", "", Found::ok(text)));
    }
    findings
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

fn wrong_value(name: &str, value: &str, flag: &Flag) -> Option<Found> {
    let why = config::refused(&flag.arg, &[value.to_owned()])?;
    let remedy = match flag.long.as_str() {
        "serde" => format!("set {name} to json or msgpack, or unset it"),
        long => format!("set {name} to what --{long} takes, or unset it"),
    };
    Some(Found::problem(format!("has a value that no program takes: {why}"), remedy))
}

fn unknown(name: &str, known: &BTreeMap<String, &Flag>) -> Found {
    match nearest(name, known.keys().map(String::as_str)) {
        Some(meant) => Found::problem(
            "no flag knows this variable, so it does nothing",
            format!("rename it to {meant}, if that was meant, or unset it"),
        ),
        None => Found::warning("no flag knows this variable, so it does nothing", format!("unset {name}")),
    }
}
