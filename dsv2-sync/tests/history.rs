//! The judge of histories: a good one passes, and each broken promise is named with its line.

use dsv2_sync::history::{Checker, Kind, Record};

/// Judges a history written as lines.
fn judge(lines: &[&str]) -> Vec<(u64, Kind)> {
    let mut checker = Checker::default();
    for (number, line) in (1..).zip(lines) {
        let record: Record = serde_json::from_str(line).unwrap_or_else(|why| panic!("line {number}: {why}"));
        checker.add(number, record);
    }
    checker.finish().into_iter().map(|violation| (violation.line, violation.kind)).collect()
}

fn entry(text: &str, server: &str, seq: u64, clock: u64) -> String {
    format!(r#"{{"text":"{text}","event":"{server}/00000000000000ff#{seq}","clock":{clock}}}"#)
}

fn write(name: &str, text: &str) -> String {
    format!(r#"{{"op":"write","client":"ana","write":"{name}","topic":"dev","text":"{text}"}}"#)
}

fn ok(name: &str, id: &str) -> String {
    format!(r#"{{"op":"ok","write":"{name}","level":"quorum","id":"{id}"}}"#)
}

fn list(op: &str, entries: &[String]) -> String {
    format!(r#"{{{op},"topic":"dev","events":[{}]}}"#, entries.join(","))
}

fn last(server: &str, entries: &[String]) -> String {
    list(&format!(r#""op":"final","server":"{server}""#), entries)
}

fn deliver(entry: &str) -> String {
    format!(r#"{{"op":"deliver","subscription":"s","topic":"dev",{}"#, &entry[1..])
}

const SUBSCRIBE: &str =
    r#"{"op":"subscribe","client":"bob","subscription":"s","topics":["dev"],"from":"beginning","order":"arrival"}"#;
const BEGIN: &str = r#"{"op":"begin","client":"ana","read":"r"}"#;

/// Two messages, written, acknowledged and there; `between` happens before the end.
fn with(between: &[&str], end: &[String]) -> Vec<(u64, Kind)> {
    let head = [write("1", "a"), ok("1", "ia"), write("2", "b"), ok("2", "ib")];
    let lines: Vec<&str> =
        head.iter().map(String::as_str).chain(between.iter().copied()).chain(end.iter().map(String::as_str)).collect();
    judge(&lines)
}

fn both() -> Vec<String> {
    vec![entry("a", "s1", 1, 5), entry("b", "s1", 2, 7)]
}

#[test]
fn a_good_history_passes() {
    let (a, b) = (deliver(&entry("a", "s1", 1, 5)), deliver(&entry("b", "s1", 2, 7)));
    let read = list(r#""op":"read","read":"r","end":true,"stable":9"#, &both());
    assert_eq!(with(&[SUBSCRIBE, &a, &b, BEGIN, &read], &[last("s1", &both()), last("s2", &both())]), []);
}

#[test]
fn each_broken_promise_is_named_with_its_line() {
    let (a, b) = (entry("a", "s1", 1, 5), entry("b", "s1", 2, 7));
    let (all, only_a) = ([last("s1", &both())], [last("s1", std::slice::from_ref(&a))]);
    assert_eq!(with(&[], &only_a), [(4, Kind::Lost)]);
    let c = entry("c", "s2", 1, 8);
    assert_eq!(with(&[], &[last("s1", &[a.clone(), b.clone(), c])]), [(5, Kind::Phantom)]);
    assert_eq!(with(&[], &[last("s1", &[b.clone(), a.clone()])])[0], (5, Kind::TotalOrder));
    assert_eq!(with(&[], &[last("s1", &both()), last("s2", std::slice::from_ref(&b))]), [(6, Kind::Diverged)]);
    assert_eq!(with(&[&ok("1", "other")], &all), [(5, Kind::RetryIdentity)]);
    assert_eq!(with(&[SUBSCRIBE, &deliver(&a)], &all), [(5, Kind::Missed)]);
    assert_eq!(with(&[SUBSCRIBE, &deliver(&a), &deliver(&b), &deliver(&b)], &all), [(8, Kind::Duplicate)]);
    assert_eq!(with(&[SUBSCRIBE, &deliver(&b), &deliver(&a)], &all), [(7, Kind::OriginOrder)]);
    let read = |entries: &[String], stable: u64| {
        list(&format!(r#""op":"read","read":"r","end":true,"stable":{stable}"#), entries)
    };
    assert_eq!(with(&[BEGIN, &read(std::slice::from_ref(&a), 6)], &all), [(6, Kind::ReadYourWrites)]);
    let stable = with(&[BEGIN, &read(std::slice::from_ref(&a), 7)], &all);
    assert_eq!(stable, [(6, Kind::StablePrefix), (6, Kind::ReadYourWrites)]);
    let causal = [entry("b", "s2", 1, 4), a];
    assert_eq!(with(&[], &[last("s1", &causal)]), [(3, Kind::CausalOrder)]);
}

#[test]
fn a_gap_that_was_told_is_no_miss_and_a_rejected_write_must_not_appear() {
    let gap = r#"{"op":"gap","subscription":"s","topic":"dev"}"#;
    let a = deliver(&entry("a", "s1", 1, 5));
    assert_eq!(with(&[SUBSCRIBE, &a, gap], &[last("s1", &both())]), []);
    let (write, rejected) = (write("3", "c"), r#"{"op":"rejected","write":"3"}"#);
    let mut end = both();
    end.push(entry("c", "s1", 3, 9));
    assert_eq!(with(&[&write, rejected], &[last("s1", &end)]), [(6, Kind::RejectedYetThere)]);
    // The program that began it first ended before it was told.
    let forget = r#"{"op":"forget","client":"ana"}"#;
    assert_eq!(with(&[&write, forget, &write, rejected], &[last("s1", &end)]), []);
    // It was told twice.
    assert_eq!(with(&[&write, rejected, &write, rejected], &[last("s1", &end)]), [(8, Kind::RejectedYetThere)]);
}

#[test]
fn what_another_client_had_read_must_be_read_again() {
    let read = |name: &str, entries: &[String]| list(&format!(r#""op":"read","read":"{name}","end":true"#), entries);
    let begin = |name: &str| format!(r#"{{"op":"begin","client":"bob","read":"{name}"}}"#);
    let (first, second) = (read("x", &both()), read("y", &both()[..1]));
    let (x, y) = (begin("x"), begin("y"));
    assert_eq!(with(&[&x, &first, &y, &second], &[last("s1", &both())]), [(8, Kind::MonotonicReads)]);
    let forget = r#"{"op":"forget","client":"bob"}"#;
    assert_eq!(with(&[&x, &first, forget, &y, &second], &[last("s1", &both())]), []);
}

/// As many operations as `DSV2_HISTORY_OPS` says, as lines, parsed and judged. Prints how long that took.
#[test]
fn many_operations_are_judged_in_linear_time() {
    let wanted: usize = std::env::var("DSV2_HISTORY_OPS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut lines = vec![SUBSCRIBE.to_owned()];
    let (mut entries, mut number) = (Vec::new(), 0);
    while lines.len() + 1 < wanted {
        number += 1;
        let entry = entry(&format!("text {number}"), "s1", number, number * 3);
        lines.push(write(&number.to_string(), &format!("text {number}")));
        lines.push(ok(&number.to_string(), &format!("i{number}")));
        lines.push(deliver(&entry));
        entries.push(entry);
        if number % 4 == 0 {
            let newest = &entries[entries.len().saturating_sub(8)..];
            lines.push(BEGIN.to_owned());
            lines.push(list(&format!(r#""op":"read","read":"r","end":true,"stable":{}"#, number * 3), newest));
        }
    }
    lines.push(last("s1", &entries));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let started = std::time::Instant::now();
    assert_eq!(judge(&lines), []);
    println!("{} operations judged in {:.2} s", lines.len(), started.elapsed().as_secs_f64());
}
