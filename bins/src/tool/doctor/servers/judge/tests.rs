use std::collections::BTreeMap;

use dsv2_core::{PeerReport, StatusReport};
use dsv2_net::Endpoint;
use serde_json::Value;

use super::*;

type Anything = Box<dyn std::error::Error>;

/// Three servers as they should be.
fn sound() -> Result<Seen, Anything> {
    let mut seen = Seen::default();
    for (number, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
        let mut report = StatusReport::new(name.parse()?, format!("{number:032x}"));
        report.ready = true;
        report.version = Some("0.1.0".to_owned());
        report.link_version = Some(5);
        report.coordinator = Some("s3".parse()?);
        report.voters = vec!["s1".parse()?, "s2".parse()?, "s3".parse()?];
        for other in ["s1", "s2", "s3"].into_iter().filter(|other| *other != name) {
            let name = other.parse()?;
            report.peers.push(PeerReport { name, address: None, rank: None, connected: true, lag: 0 });
        }
        let at = Endpoint::tcp("127.0.0.1", 5560 + u16::try_from(number)?);
        seen.servers.push(Server { at, report, ahead_us: Some((-1_000, 1_000)) });
    }
    Ok(seen)
}

/// The findings that are not `ok`: result, check and sentence.
fn wrong(seen: &Seen) -> Vec<(String, String, String)> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let all = judge(seen, Some(3)).into_iter().filter_map(|finding| serde_json::to_value(finding).ok());
    let told = all.map(|value| (text(&value, "result"), text(&value, "check"), text(&value, "what")));
    told.filter(|(result, _, _)| result != "ok").collect()
}

/// Breaks a sound cluster, which must be found by a check with these words.
fn finds(result: &str, check: &str, words: &str, breaking: impl FnOnce(&mut Seen)) -> Result<(), Anything> {
    let mut seen = sound()?;
    breaking(&mut seen);
    let wrong = wrong(&seen);
    let is_it = |(of, by, what): &(String, String, String)| of == result && by == check && what.contains(words);
    assert!(wrong.iter().any(is_it), "no {result} of {check} with {words:?} in {wrong:#?}");
    Ok(())
}

#[test]
fn nothing_is_wrong_with_a_sound_cluster() -> Result<(), Anything> {
    assert_eq!(wrong(&sound()?), []);
    Ok(())
}

#[test]
fn who_leads_is_judged() -> Result<(), Anything> {
    let (s1, s4) = ("s1".parse::<ServerName>()?, "s4".parse::<ServerName>()?);
    finds("problem", "coordinator", "there is none", |seen| {
        seen.servers.iter_mut().for_each(|server| server.report.coordinator = None);
    })?;
    finds("problem", "coordinator", "s1 is followed by s2", |seen| {
        seen.servers[1].report.coordinator = Some(s1.clone());
    })?;
    finds("problem", "coordinator", "do not follow: s1", |seen| seen.servers[0].report.coordinator = None)?;
    finds("problem", "voters", "s2 has s1, s2, s3, s4", |seen| seen.servers[1].report.voters.push(s4.clone()))?;
    finds("problem", "voters", "declared gone for good, and is there", |seen| {
        seen.servers[1].report.departed.push(s1.clone());
    })
}

#[test]
fn a_majority_counts_those_that_answer_or_are_linked() -> Result<(), Anything> {
    finds("problem", "voters", "1 of 3 are there, a majority is 2; missing: s2, s3", |seen| {
        seen.servers.truncate(1);
        seen.servers[0].report.peers.clear();
    })?;
    finds("warning", "voters", "2 of 3 are there; missing: s3", |seen| {
        seen.servers.truncate(2);
        seen.servers.iter_mut().for_each(|server| server.report.peers.retain(|peer| peer.name.as_str() != "s3"));
    })?;
    let s3: ServerName = "s3".parse()?;
    finds("warning", "servers", "cannot be asked from here", |seen| {
        seen.servers.truncate(2);
        seen.silent = BTreeMap::from([(s3.clone(), "no way".to_owned())]);
    })?;
    finds("problem", "servers", "a voter that does not answer", |seen| {
        seen.servers.truncate(2);
        seen.servers.iter_mut().for_each(|server| server.report.peers.retain(|peer| peer.name.as_str() != "s3"));
        seen.silent = BTreeMap::from([(s3, "no way".to_owned())]);
    })
}

#[test]
fn versions_names_and_links_are_compared() -> Result<(), Anything> {
    finds("problem", "versions", "4: s2; 5: s1, s3", |seen| seen.servers[1].report.link_version = Some(4))?;
    finds("warning", "versions", "0.1.0: s1, s3; 0.2.0: s2", |seen| {
        seen.servers[1].report.version = Some("0.2.0".to_owned());
    })?;
    finds("problem", "links", "has no link to s2", |seen| seen.servers[0].report.peers[0].connected = false)?;
    let s1: ServerName = "s1".parse()?;
    finds("problem", "names", "two servers have this name", |seen| seen.servers[1].report.name = s1)?;
    finds("problem", "servers", "takes no writes: too few", |seen| {
        seen.servers[0].report.trouble = Some("too few voters can be reached".to_owned());
    })
}

#[test]
fn clocks_are_off_only_where_the_network_cannot_explain_it() -> Result<(), Anything> {
    let hour = 3_600_000_000;
    finds("problem", "clocks", "3599.9 s behind this machine's", |seen| {
        seen.servers[1].ahead_us = Some((-hour, 100_000 - hour));
    })?;
    finds("problem", "clocks", "1.2 s apart", |seen| {
        seen.servers[0].ahead_us = Some((-700_000, -600_000));
        seen.servers[1].ahead_us = Some((600_000, 700_000));
    })?;
    let mut seen = sound()?;
    seen.servers[1].ahead_us = Some((-1_500_000, 1_500_000));
    assert_eq!(wrong(&seen), []);
    Ok(())
}

#[test]
fn replicas_that_lag_are_told_from_those_that_forgot() -> Result<(), Anything> {
    let event = "s1/00000000000000ff#7".parse()?;
    let mut seen = sound()?;
    seen.servers[0].report.position.advance(&event);
    seen.servers[0].report.origin = Some("s1/00000000000000ff".to_owned());
    seen.again = seen.servers.iter().map(|server| server.report.clone()).collect();
    seen.servers[0].report.peers.iter_mut().for_each(|peer| peer.lag = 7);
    let lacking = wrong(&seen);
    assert_eq!(lacking.len(), 2, "{lacking:?}");
    assert!(lacking.iter().all(|(result, _, what)| result == "warning" && what.contains("lacks 7 events")));
    seen.servers[0].report.peers.iter_mut().for_each(|peer| peer.lag = 2);
    assert!(
        wrong(&seen).iter().all(|(result, _, what)| result == "problem" && what.contains("had acknowledged to s1"))
    );
    Ok(())
}
