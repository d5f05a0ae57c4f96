//! Servers whose file system runs full under load: a small one in memory, that is made larger afterwards. It needs root,
//! and where that is missing the tests say so.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dsv2_core::{Code, Level};
use dsv2_net::Client;
use dsv2_net::client::WriteError;

use crate::harness::{Place, eventually, without_root};
use crate::load::{Fate, Ledger, Load, Plan, WITHOUT_END};
use crate::mounts::Mount;
use crate::parts::{Part, Parts};
use crate::verdict;

/// Room for some thousand messages.
const SMALL_KIB: u64 = 768;
const LARGE_KIB: u64 = 256 << 10;
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
static CHANNELS: [&str; 1] = ["dev"];

/// It runs full three times in its life, and once it is killed while it is full, and starts so.
#[test]
fn a_full_file_system_refuses_writes_serves_reads_and_goes_on_when_there_is_room() {
    if without_root("file systems") {
        return;
    }
    let place = Place::new();
    let disk = Mount::memory(place.path("s1"), SMALL_KIB);
    let mut parts = Parts::start_with(&place, 1, &[]);
    let mut load = Load::new();
    let ana = begin(&mut load, &parts, 0, Level::Local);
    for round in 1..=3 {
        until_full(&load, &ana);
        if round == 2 {
            parts.kill(Part::Server(0));
            parts.start_part(Part::Server(0));
            until_full(&load, &ana);
        }
        let durable = acknowledged(&load.ledger);
        let read = texts(&load, &ana);
        assert!(read.is_superset(&durable), "{:?} are missing", durable.difference(&read).take(10).collect::<Vec<_>>());
        refuses(&load, &ana, &format!("refused-{round}"));
        let (before, freed) = (load.ledger.tally_so_far().acknowledged, Instant::now());
        disk.resize(SMALL_KIB * (round + 1));
        eventually("writes go on", || load.ledger.tally_so_far().acknowledged > before);
        println!("round {round}: full with {before} acknowledged, writes went on after {:.1?}", freed.elapsed());
        assert!(freed.elapsed() <= RESUMES_WITHIN, "{:?}", freed.elapsed());
    }
    disk.resize(LARGE_KIB);
    load.stop();
    judge(parts, &load, 0);
}

/// The others write on, and it is ready again soon after there is room.
#[test]
fn one_full_file_system_of_three_costs_the_cluster_nothing() {
    if without_root("file systems") {
        return;
    }
    let place = Place::new();
    let disk = Mount::memory(place.path("s3"), SMALL_KIB);
    let parts = Parts::start_with(&place, 3, &["--voters", "s1,s2,s3"]);
    let mut load = Load::new();
    let ana = begin(&mut load, &parts, 2, Level::Quorum);
    until_full(&load, &ana);
    let full = load.ledger.tally_so_far().acknowledged;
    let since = Instant::now();
    eventually("the others write on", || load.ledger.tally_so_far().acknowledged >= full + 1_000);
    let wrote_on = since.elapsed();
    refuses(&load, &ana, "refused");
    let (read, begun) = (texts(&load, &ana), load.ledger.attempts().keys().cloned().collect());
    assert!(read.len() > 100 && read.is_subset(&begun), "it serves {} messages", read.len());
    let freed = Instant::now();
    disk.resize(LARGE_KIB);
    eventually("it is ready again", || is_ready(&load, &ana));
    let ready = freed.elapsed();
    load.stop();
    parts.wait_until(3);
    println!("full with {full} acknowledged; 1000 more took {wrote_on:.1?}; ready {ready:.1?} after there was room");
    assert!(ready <= RESUMES_WITHIN, "{ready:?}");
    judge(parts, &load, 2);
}

/// Writers, by way of the broker, and a client of one server.
fn begin(load: &mut Load, parts: &Parts<'_>, server: usize, level: Level) -> Client {
    let (broker, proxy) = (parts.endpoint(Part::Broker), parts.endpoint(Part::Proxy));
    let plan = Plan { writers: 3, in_flight: 60, messages: WITHOUT_END, level, channels: &CHANNELS };
    let ana = load.client(&parts.link(server), &proxy, Some("ana"));
    load.write("w", &broker, &proxy, plan);
    ana
}

fn is_ready(load: &Load, client: &Client) -> bool {
    load.block_on(client.status()).is_ok_and(|status| status.ready)
}

fn until_full(load: &Load, client: &Client) {
    eventually("the file system is full", || {
        let status = load.block_on(client.status()).expect("a status");
        !status.ready && status.trouble.is_some_and(|trouble| trouble.contains("full"))
    });
}

/// A write is refused before anything is decided, and says why.
fn refuses(load: &Load, client: &Client, text: &str) {
    let publish = client.channel("dev").publish(text).timeout(Duration::from_secs(1));
    let refused = load.block_on(publish.into_future()).expect_err("there is no room");
    assert!(!matches!(refused, WriteError::Unknown(_)) && refused.code() == Some(Code::Full), "{refused:?}");
}

/// What a client's server has in the channel, each once.
fn texts(load: &Load, client: &Client) -> BTreeSet<String> {
    let history = load.block_on(verdict::history(client, "dev"));
    let texts: BTreeSet<String> = history.iter().map(|(text, _)| text.clone()).collect();
    assert_eq!(texts.len(), history.len(), "a message stands there twice");
    texts
}

fn acknowledged(ledger: &Ledger) -> BTreeSet<String> {
    let attempts = ledger.attempts();
    let acknowledged = attempts.iter().filter(|(_, attempt)| matches!(attempt.fate, Some(Fate::Acknowledged(_))));
    acknowledged.map(|(text, _)| text.clone()).collect()
}

/// The server is killed and started once more; then all have everything that was acknowledged, and nothing that was refused.
fn judge(mut parts: Parts<'_>, load: &Load, server: usize) {
    parts.kill(Part::Server(server));
    parts.start_part(Part::Server(server));
    let dirs = parts.data();
    parts.wait_until(dirs.len());
    parts.stop();
    verdict::check_history("the log", &load.ledger, &verdict::fold_equal(&dirs).channels);
    println!("{:?}", load.ledger.tally());
}
