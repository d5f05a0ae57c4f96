//! Somebody who watches the servers: each is asked how it is, at its own link, many times a second, whatever happens to it
//! and to the network; and what follows from the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dsv2_core::StatusReport;
use dsv2_net::Client;
use dsv2_net::engine::Heartbeat;
use dsv2_net::port::Backoff;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::eventually;
use crate::parts::{Part, Parts};

/// How often each server is asked, whether it answers or not.
const EVERY: Duration = Duration::from_millis(20);
/// Longer than any test: a question to a server that stands still waits until it goes on.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// What a server said of itself at some moment between two.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    pub(crate) report: StatusReport,
}

impl Sighting {
    /// The epoch in which it believed to lead, by a lease that was not over.
    pub(crate) fn reign(&self) -> Option<u64> {
        let itself = self.report.coordinator.as_ref() == Some(&self.report.name);
        (itself && self.report.lease_ms > Some(0)).then_some(self.report.epoch)
    }
}

/// Watches until it is dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<BTreeMap<usize, Vec<Sighting>>>>,
    over: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<()>>,
    /// Server, from, until: what it answered to questions of this time, it said at its end.
    pauses: Vec<(usize, Instant, Instant)>,
}

impl Watch {
    /// Watches so many servers, each from its own host, and waits until all were seen.
    pub(crate) fn begin(parts: &Parts<'_>, servers: usize) -> Self {
        let (seen, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let watcher = |server| {
            let watcher = Watcher { server, seen: Arc::clone(&seen), over: Arc::clone(&over) };
            let (link, namespace) = (parts.link(server), parts.namespace(server));
            std::thread::spawn(move || watcher.run(&link, namespace.as_deref()))
        };
        let watchers = (0..servers).map(watcher).collect();
        let watch = Self { seen, over, watchers, pauses: Vec::new() };
        eventually("all servers are seen", || watch.seen().len() == servers);
        watch
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Sighting>>> {
        self.seen.lock().expect("no watcher panicked")
    }

    /// The first server that was seen to lead by a valid lease, in an epoch above another one, and when it said so.
    pub(crate) fn leader_above(&self, epoch: u64) -> Option<(usize, u64, Instant)> {
        let seen = self.seen();
        let leading = seen.iter().flat_map(|(server, sightings)| {
            let new = sightings.iter().rev().take_while(|sighting| sighting.report.epoch > epoch);
            new.filter_map(|sighting| sighting.reign().map(|epoch| (*server, epoch, sighting.answered)))
        });
        leading.min_by_key(|(_, _, answered)| *answered)
    }

    /// Who leads now: whoever said so last, and was believed by so many servers.
    pub(crate) fn leader(&self, followers: usize) -> Option<(usize, u64)> {
        let seen = self.seen();
        let last = |server: usize| seen.get(&server).and_then(|sightings| sightings.last());
        let leading = seen.keys().filter_map(|&server| Some((server, last(server)?.reign()?)));
        let (leader, epoch) = leading.max_by_key(|(_, epoch)| *epoch)?;
        let name = &last(leader)?.report.name;
        let follow =
            |server: &&usize| last(**server).is_some_and(|seen| seen.report.coordinator.as_ref() == Some(name));
        (seen.keys().filter(follow).count() >= followers).then_some((leader, epoch))
    }

    /// Waits until one leads that so many servers follow.
    pub(crate) fn wait_for_leader(&self, followers: usize) -> (usize, u64) {
        let mut leader = None;
        eventually("one leads, and is followed", || {
            leader = self.leader(followers);
            leader.is_some()
        });
        leader.expect("just seen")
    }

    /// Lets a server stand still for a time: no thread of it runs.
    pub(crate) fn pause(&mut self, parts: &Parts<'_>, server: usize, time: Duration) {
        parts.signal(Part::Server(server), "STOP");
        eventually("all its threads stand still", || parts.stands_still(Part::Server(server)));
        let from = Instant::now();
        std::thread::sleep(time);
        let until = Instant::now();
        parts.signal(Part::Server(server), "CONT");
        self.pauses.push((server, from, until));
    }

    /// Whether the server that stood still last has said something since.
    pub(crate) fn seen_since_pause(&self) -> bool {
        let Some((server, _, until)) = self.pauses.last() else { return true };
        self.seen()[server].last().is_some_and(|sighting| sighting.asked > *until)
    }

    /// How many questions were asked while their server stood still, and answered afterwards: it was seen at once.
    pub(crate) fn asked_in_pauses(&self) -> usize {
        let seen = self.seen();
        let asked = |(server, from, until): &(usize, Instant, Instant)| {
            seen[server].iter().filter(|sighting| (*from..*until).contains(&sighting.asked)).count()
        };
        self.pauses.iter().map(asked).sum()
    }

    /// Ends watching. No two servers believed to lead at one time: yields how many reigns were seen.
    ///
    /// Between the first answer that told of a reign and the last question that was answered so, it was believed in for
    /// certain, since an epoch that is given up never returns. No two such times overlap.
    pub(crate) fn one_lease_at_a_time(mut self) -> usize {
        self.end();
        let mut reigns: BTreeMap<(u64, usize), (Instant, Instant)> = BTreeMap::new();
        for (&server, sightings) in &*self.seen() {
            for sighting in sightings {
                let Some(epoch) = sighting.reign() else { continue };
                let asked = self.said_after(server, sighting.asked);
                let (first, last) = reigns.entry((epoch, server)).or_insert((sighting.answered, asked));
                (*first, *last) = ((*first).min(sighting.answered), (*last).max(asked));
            }
        }
        let mut in_order: Vec<_> = reigns.iter().filter(|(_, (first, last))| first <= last).collect();
        in_order.sort_by_key(|(_, (first, _))| *first);
        for pair in in_order.windows(2) {
            let ((earlier, (_, last)), (later, (first, _))) = (pair[0], pair[1]);
            let overlap = last.saturating_duration_since(*first);
            assert!(overlap.is_zero(), "two leases for {overlap:?}: (epoch, server) {earlier:?} and {later:?}");
        }
        let epochs: BTreeSet<u64> = reigns.keys().map(|(epoch, _)| *epoch).collect();
        assert_eq!(epochs.len(), reigns.len(), "two coordinators in one epoch: {reigns:?}");
        reigns.len()
    }

    /// What was asked then was answered no earlier than this.
    fn said_after(&self, server: usize, asked: Instant) -> Instant {
        let pause = self.pauses.iter().find(|(who, from, until)| *who == server && (*from..*until).contains(&asked));
        pause.map_or(asked, |(_, _, until)| *until)
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.watchers.drain(..).for_each(|watcher| watcher.join().expect("a watcher"));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The threads see it, and end by themselves.
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Who watches one server, on a thread of its own.
struct Watcher {
    server: usize,
    seen: Arc<Mutex<BTreeMap<usize, Vec<Sighting>>>>,
    over: Arc<AtomicBool>,
}

impl Watcher {
    fn run(self, link: &str, namespace: Option<&Path>) {
        if let Some(namespace) = namespace {
            // Only this thread moves; its sockets are on that host then.
            let there = File::open(namespace).expect("a namespace");
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // Whoever does not answer is not given up, and asked nothing twice.
            let builder = Client::builder(link).proxy(link).timeout(FOR_EVER).connect_timeout(FOR_EVER);
            let builder = builder.ports(|ports| {
                ports.connection.heartbeat = Heartbeat::every(FOR_EVER, FOR_EVER);
                // Whoever comes back is seen at once.
                ports.backoff = Backoff { first: EVERY, cap: EVERY };
            });
            let builder = builder.session(|session| {
                let for_ever_ms = FOR_EVER.as_secs() * 1_000;
                (session.attempt_ms, session.silence_ms) = (for_ever_ms, for_ever_ms);
            });
            let client = builder.connect().await.expect("it answers");
            while !self.over.load(Ordering::SeqCst) {
                tokio::spawn(ask(client.clone(), self.server, Arc::clone(&self.seen)));
                tokio::time::sleep(EVERY).await;
            }
        });
    }
}

async fn ask(client: Client, server: usize, seen: Arc<Mutex<BTreeMap<usize, Vec<Sighting>>>>) {
    let asked = Instant::now();
    // A server that was killed is asked once more when it is back.
    if let Ok(report) = client.status().await {
        let sighting = Sighting { asked, answered: Instant::now(), report };
        seen.lock().expect("nobody panicked").entry(server).or_default().push(sighting);
    }
}
