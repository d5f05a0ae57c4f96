//! What is wrong with servers, by what they tell of themselves and of each other.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{ServerName, StatusReport};

use super::{Seen, Server};
use crate::tool::doctor::finding::{Finding, Found};

/// Clocks that differ by more are wrong, whatever the network took.
const CLOCKS_WITHIN_US: i64 = 1_000_000;

pub(super) fn judge(seen: &Seen, wanted: Option<u16>) -> Vec<Finding> {
    let mut findings = vec![count(seen, wanted)];
    findings.extend(seen.servers.iter().filter_map(trouble));
    findings.extend(silent(seen));
    findings.extend(names(&seen.servers));
    findings.extend(links(&seen.servers));
    findings.extend(versions(&seen.servers));
    findings.push(coordinator(&seen.servers));
    findings.extend(voters(seen));
    findings.extend(departed(&seen.servers));
    findings.extend(replicas(seen));
    findings.extend(clocks(&seen.servers));
    findings
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn count(seen: &Seen, wanted: Option<u16>) -> Finding {
    let found = seen.servers.len();
    let names = list(seen.servers.iter().map(|server| &server.report.name));
    let told = match wanted.map(usize::from) {
        Some(wanted) if found < wanted => Found::problem(
            format!("{found} of {wanted} answer: {names}"),
            "start the others, each with a name, a data directory and a link of its own",
        ),
        _ => Found::ok(format!("{found} answer: {names}")),
    };
    Finding::new("servers", "", told)
}

fn trouble(server: &Server) -> Option<Finding> {
    let report = &server.report;
    if report.ready && report.trouble.is_none() {
        return None;
    }
    let why = report.trouble.as_deref().unwrap_or("it is not ready, and does not say why");
    let remedy = "`dsv2 status` tells more, and its log says since when; see \"What happens when something dies\" in \
                  docs/operations.md";
    Some(Finding::new("servers", &report.name, Found::problem(format!("takes no writes: {why}"), remedy)))
}

/// Whether others have a link to it.
fn is_linked(seen: &Seen, name: &ServerName) -> bool {
    seen.servers.iter().any(|server| server.report.peers.iter().any(|peer| peer.name == *name && peer.connected))
}

fn is_departed(seen: &Seen, name: &ServerName) -> bool {
    seen.servers.iter().any(|server| server.report.departed.contains(name))
}

fn silent(seen: &Seen) -> Vec<Finding> {
    let silent = seen.silent.iter().filter(|(name, _)| !is_departed(seen, name));
    let tell = |(name, why): (&ServerName, &String)| {
        let is_voter = seen.servers.iter().any(|server| server.report.voters.contains(name));
        let start = format!(
            "start it again; if it is gone for good, say `dsv2 retire {name} DATA-DIR` in the stopped directory of one that stays"
        );
        let found = if is_linked(seen, name) {
            let here = "run this where the servers' links can be reached";
            Found::warning(format!("the others have links to it, but it cannot be asked from here: {why}"), here)
        } else if is_voter {
            Found::problem(format!("a voter that does not answer: {why}"), start)
        } else {
            Found::warning(
                format!("the others know of it, but it does not answer: {why}"),
                "start it again, if it is missed",
            )
        };
        Finding::new("servers", name, found)
    };
    silent.map(tell).collect()
}

fn names(servers: &[Server]) -> Vec<Finding> {
    let twins = servers.windows(2).filter(|pair| pair[0].report.name == pair[1].report.name);
    let tell = |pair: &[Server]| {
        let what = format!("two servers have this name: at {} and at {}", pair[0].at, pair[1].at);
        let remedy = "stop one of them, and start it with a --name and an empty --data directory of its own";
        Finding::new("names", &pair[0].report.name, Found::problem(what, remedy))
    };
    twins.map(tell).collect()
}

fn links(servers: &[Server]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in servers {
        let others = servers.iter().map(|other| &other.report.name).filter(|name| **name != server.report.name);
        let is_connected =
            |name: &ServerName| server.report.peers.iter().any(|peer| peer.name == *name && peer.connected);
        let missing: Vec<&ServerName> = others.filter(|name| !is_connected(name)).collect();
        if !missing.is_empty() {
            let remedy = "look for `a link was refused` in both logs: voters, versions and names must fit; else see that \
                          the address which --link or --advertise gives can be reached from the others";
            let what = format!("has no link to {}", list(missing));
            findings.push(Finding::new("links", &server.report.name, Found::problem(what, remedy)));
        }
    }
    findings
}

fn versions(servers: &[Server]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let by = |version: &dyn Fn(&StatusReport) -> String| {
        let mut by = BTreeMap::<String, Vec<&ServerName>>::new();
        servers.iter().for_each(|server| by.entry(version(&server.report)).or_default().push(&server.report.name));
        by
    };
    let tell = |by: &BTreeMap<String, Vec<&ServerName>>| {
        by.iter().map(|(version, names)| format!("{version}: {}", list(names))).collect::<Vec<_>>().join("; ")
    };
    let links = by(&|report| report.link_version.map_or_else(|| "not told".to_owned(), |version| version.to_string()));
    let programs = by(&|report| report.version.clone().unwrap_or_else(|| "not told".to_owned()));
    if links.len() > 1 {
        let remedy = "servers of different link protocols exchange nothing: run the same release everywhere";
        let what = format!("the servers' link protocols differ ({})", tell(&links));
        findings.push(Finding::new("versions", "", Found::problem(what, remedy)));
    }
    if programs.len() > 1 {
        let what = format!("the servers are of different releases ({})", tell(&programs));
        findings.push(Finding::new("versions", "", Found::warning(what, "finish the update")));
    }
    if findings.is_empty() {
        findings.push(Finding::new(
            "versions",
            "",
            Found::ok(format!("the same everywhere: {}", list(programs.keys()))),
        ));
    }
    findings
}

fn coordinator(servers: &[Server]) -> Finding {
    let mut by = BTreeMap::<&ServerName, Vec<&ServerName>>::new();
    let mut without = Vec::new();
    for Server { report, .. } in servers {
        match &report.coordinator {
            Some(coordinator) => by.entry(coordinator).or_default().push(&report.name),
            None => without.push(&report.name),
        }
    }
    let found = match (by.len(), without.as_slice()) {
        (0, _) => Found::problem(
            "there is none",
            "an election takes about 2 s; if none ends it, start enough voters for a majority, and look at the links",
        ),
        (1, []) => Found::ok(format!("{} leads", list(by.keys()))),
        (1, without) => Found::problem(
            format!("{} leads, and these do not follow: {}", list(by.keys()), list(without)),
            "look at their links to the coordinator; a server that has just started follows after about 2 s",
        ),
        _ => {
            let camps: Vec<String> =
                by.iter().map(|(leader, names)| format!("{leader} is followed by {}", list(names))).collect();
            Found::problem(
                format!("there is more than one: {}", camps.join("; ")),
                "look at the links between these groups, and give all servers the same --voters, --election and --coordinator-rank",
            )
        }
    };
    Finding::new("coordinator", "", found)
}

fn voters(seen: &Seen) -> Vec<Finding> {
    let mut lists = BTreeMap::<BTreeSet<&ServerName>, Vec<&ServerName>>::new();
    for Server { report, .. } in &seen.servers {
        lists.entry(report.voters.iter().collect()).or_default().push(&report.name);
    }
    let mut findings = Vec::new();
    if lists.len() > 1 {
        let told = |(voters, names): (&BTreeSet<&ServerName>, &Vec<&ServerName>)| match voters.is_empty() {
            true => format!("{} has none", list(names)),
            false => format!("{} has {}", list(names), list(voters)),
        };
        let lists: Vec<String> = lists.iter().map(told).collect();
        let what = format!("the lists of voters differ: {}", lists.join("; "));
        let remedy = "give every server the same --voters, letter by letter, and restart those that had another list";
        findings.push(Finding::new("voters", "", Found::problem(what, remedy)));
    }
    findings.extend(lists.keys().filter(|voters| !voters.is_empty()).map(|voters| majority(seen, voters)));
    findings
}

/// Whether enough of the voters are there. Those that are gone for good still count where a majority is needed.
fn majority(seen: &Seen, voters: &BTreeSet<&ServerName>) -> Finding {
    let answers = |name: &ServerName| seen.servers.iter().any(|server| server.report.name == *name);
    let (there, missing): (Vec<_>, Vec<_>) =
        voters.iter().copied().partition(|name| answers(name) || is_linked(seen, name));
    let needed = voters.len() / 2 + 1;
    let found = if there.len() < needed {
        Found::problem(
            format!(
                "{} of {} are there, a majority is {needed}; missing: {}",
                there.len(),
                voters.len(),
                list(missing)
            ),
            "start voters until most are there: writes at level quorum are refused until then",
        )
    } else if !missing.is_empty() {
        Found::warning(
            format!("{} of {} are there; missing: {}", there.len(), voters.len(), list(missing)),
            "start the missing ones before another one fails; see that names are spelt as in --voters",
        )
    } else if voters.len().is_multiple_of(2) {
        Found::warning(
            format!("there are {}, and an even number survives no more losses than one less", voters.len()),
            "use an odd number of voters",
        )
    } else {
        Found::ok(format!("all {} are there", voters.len()))
    };
    Finding::new("voters", &list(voters), found)
}

fn departed(servers: &[Server]) -> Vec<Finding> {
    let gone: BTreeSet<&ServerName> = servers.iter().flat_map(|server| &server.report.departed).collect();
    let there = servers.iter().filter(|server| gone.contains(&server.report.name));
    let tell = |server: &Server| {
        let what = format!("declared gone for good, and is there, at {}", server.at);
        let remedy =
            "stop it: the others refuse it for ever; it may come back under another name with an empty directory";
        Finding::new("voters", &server.report.name, Found::problem(what, remedy))
    };
    there.map(tell).collect()
}

fn replicas(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for late in &seen.again {
        let others = seen.servers.iter().filter(|server| server.report.name != late.name);
        let behind = others.map(|server| (lacks(&server.report, late), server)).max_by_key(|(lacks, _)| *lacks);
        let Some((lacks, server)) = behind.filter(|(lacks, _)| *lacks > 0) else { continue };
        let peer = &server.report.name;
        let found = if has_forgotten(&server.report, late) {
            Found::problem(
                format!("does not hold what it had acknowledged to {peer}"),
                "its disk seems to have gone back in time: stop it, look at the disk, and give it an empty data directory",
            )
        } else {
            Found::warning(
                format!("lacks {lacks} events that {peer} holds, and did not get them between two looks"),
                "wait while it catches up: `lag` of `dsv2 status` must fall; if it does not, look at the link between them",
            )
        };
        findings.push(Finding::new("replicas", &late.name, found));
    }
    if findings.is_empty() {
        findings.push(Finding::new("replicas", "", Found::ok("the servers hold the same, up to what is on its way")));
    }
    findings
}

/// How many events a server did not hold at the second look that another one held at the first.
fn lacks(first: &StatusReport, second: &StatusReport) -> u64 {
    first.position.iter().map(|(origin, held)| held.saturating_sub(second.position.get(origin))).sum()
}

/// Whether it holds less of the other's own events than it had acknowledged.
fn has_forgotten(first: &StatusReport, second: &StatusReport) -> bool {
    let own = first.position.iter().find(|(origin, _)| Some(origin.to_string()) == first.origin);
    let lag = first.peers.iter().find(|peer| peer.name == second.name && peer.connected).map(|peer| peer.lag);
    own.zip(lag).is_some_and(|((origin, held), lag)| second.position.get(origin) < held.saturating_sub(lag))
}

fn clocks(servers: &[Server]) -> Vec<Finding> {
    let told: Vec<(&ServerName, (i64, i64))> =
        servers.iter().filter_map(|server| Some((&server.report.name, server.ahead_us?))).collect();
    let remedy = "set the clock of the machine that is wrong, and keep it right by NTP (chrony, systemd-timesyncd)";
    let mut findings = Vec::new();
    for (name, ahead_us) in &told {
        let off_us = between(*ahead_us, (0, 0));
        if off_us.abs() > CLOCKS_WITHIN_US {
            let direction = if off_us > 0 { "ahead of" } else { "behind" };
            let what = format!("its clock is {:.1} s {direction} this machine's", off_us.abs() as f64 / 1e6);
            findings.push(Finding::new("clocks", name, Found::problem(what, remedy)));
        }
    }
    let pairs = told.iter().flat_map(|a| told.iter().map(move |b| (between(a.1, b.1), a.0, b.0)));
    if let Some((apart_us, a, b)) = pairs.max_by_key(|(apart_us, _, _)| *apart_us)
        && apart_us > CLOCKS_WITHIN_US
    {
        let what = format!("the clocks of these two are {:.1} s apart", apart_us as f64 / 1e6);
        findings.push(Finding::new("clocks", &format!("{b} and {a}"), Found::problem(what, remedy)));
    }
    if findings.is_empty() && !told.is_empty() {
        let text = format!("{} are within a second of each other and of this machine", told.len());
        findings.push(Finding::new("clocks", "", Found::ok(text)));
    }
    findings
}

/// By how much one is certainly ahead of the other; negative: behind; zero: nobody can tell.
fn between(a: (i64, i64), b: (i64, i64)) -> i64 {
    match (a.0.saturating_sub(b.1), a.1.saturating_sub(b.0)) {
        (least, _) if least > 0 => least,
        (_, most) if most < 0 => most,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
