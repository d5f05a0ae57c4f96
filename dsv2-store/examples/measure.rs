//! Measures the store in files on this machine's disk.
//!
//! ```text
//! cargo run --release -p dsv2-store --example measure -- [EVENTS] [DIR]
//! ```
//! Prints events per second for groups of one, 100 and 1,000 (append and sync), then for a log of EVENTS (a million by
//! default): bytes an event on disk and in memory, and the time to open and to replay it. DIR is a new directory on the
//! disk to measure; by default one is made where temporary files are, and removed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dsv2_core::{ChannelName, Clock, Event, EventBody, EventId, MessageId, Origin, SessionId, Timestamp, UserName};
use dsv2_store::testing::SplitMix64;
use dsv2_store::{EventStore, FeedCursor, JsonlConfig, JsonlStore, Limit};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Events as a busy server writes them: nine publications to one private message, 128 bytes of text each.
struct Source {
    origin: Origin,
    seq: u64,
    sessions: Vec<SessionId>,
    users: Vec<UserName>,
    channels: Vec<ChannelName>,
    rng: SplitMix64,
}

impl Source {
    fn new() -> Result<Self> {
        let mut rng = SplitMix64::new(1);
        let users = (0..1_000).map(|n| format!("user{n}").parse());
        let channels = (0..100).map(|n| format!("channel{n}").parse());
        let sessions =
            (0..1_000).map(|_| SessionId::new(Clock::ZERO, u128::from(rng.next()) << 64 | u128::from(rng.next())));
        let sessions = sessions.collect();
        let origin = Origin { server: "server1".parse()?, incarnation: 0x9f3a_c01d_22e4_b6aa };
        let (users, channels) =
            (users.collect::<std::result::Result<_, _>>()?, channels.collect::<std::result::Result<_, _>>()?);
        Ok(Self { origin, seq: 0, sessions, users, channels, rng })
    }

    fn event(&mut self) -> Event {
        self.seq += 1;
        let message =
            "The quick brown fox jumps over the lazy dog, again and again; ".chars().cycle().take(128).collect();
        let user = self.users[self.rng.index(self.users.len())].clone();
        let body = if self.rng.chance(90) {
            EventBody::Publish { user, channel: self.channels[self.rng.index(self.channels.len())].clone(), message }
        } else {
            EventBody::Message { src: user, dst: self.users[self.rng.index(self.users.len())].clone(), message }
        };
        let session = self.sessions[self.rng.index(self.sessions.len())];
        Event {
            id: EventId { origin: self.origin.clone(), seq: self.seq },
            clock: Clock::new(7_000_000 + 2 * self.seq).unwrap_or(Clock::MAX),
            prev: (self.seq > 9).then(|| EventId { origin: self.origin.clone(), seq: self.seq - 9 }),
            message_id: MessageId::Request { session, number: self.seq / 1_000 + 1 },
            timestamp: Timestamp { ms: 1_795_407_353_924 + self.seq as i64 },
            body,
        }
    }

    fn batch(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let (dir, temporary) = match args.next() {
        Some(dir) => (PathBuf::from(dir), None),
        None => {
            let dir = tempfile::tempdir()?;
            (dir.path().join("data"), Some(dir))
        }
    };
    groups(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    log(&dir, events)?;
    drop(temporary);
    Ok(())
}

fn groups(dir: &Path) -> Result<()> {
    let mut source = Source::new()?;
    let mut store = JsonlStore::open_dir(dir, JsonlConfig::default())?;
    for (group, rounds) in [(1, 2_000), (100, 1_000), (1_000, 500)] {
        let batches: Vec<_> = (0..rounds).map(|_| source.batch(group)).collect();
        let mut took = Vec::with_capacity(rounds);
        let mut appending = Duration::ZERO;
        let start = Instant::now();
        for batch in &batches {
            let round = Instant::now();
            store.append(batch)?;
            appending += round.elapsed();
            store.sync()?;
            took.push(round.elapsed());
        }
        let total = start.elapsed();
        took.sort();
        let (p50, p99) = (took[rounds / 2], took[rounds * 99 / 100]);
        let rate = (group * rounds) as f64 / total.as_secs_f64();
        let each = appending / (group * rounds) as u32;
        println!(
            "groups of {group:>4}: {rate:>9.0} events/s synced, p50 {p50:?}, p99 {p99:?}, append {each:?} an event"
        );
    }
    Ok(())
}

fn log(dir: &Path, events: u64) -> Result<()> {
    let mut source = Source::new()?;
    let mut store = JsonlStore::open_dir(dir, JsonlConfig::default())?;
    let mut slowest = Duration::ZERO;
    for _ in 0..events / 1_000 {
        let batch = source.batch(1_000);
        let start = Instant::now();
        store.append(&batch)?;
        slowest = slowest.max(start.elapsed());
        store.sync()?;
    }
    store.close()?;
    let stats = store.stats();
    println!(
        "{} events: {} bytes each on disk, {} in memory, slowest append of 1,000 {slowest:?}",
        stats.events,
        stats.bytes / stats.events,
        stats.index_bytes / stats.events
    );
    drop(store);
    for _ in 0..3 {
        let before = resident_kib();
        let start = Instant::now();
        let store = JsonlStore::open_dir(dir, JsonlConfig::default())?;
        let opened = start.elapsed();
        let resident = resident_kib().zip(before).map(|(after, before)| (after - before) * 1_024 / events as i64);
        let start = Instant::now();
        let mut bytes = 0;
        store.replay(&mut |event| bytes += std::hint::black_box(event).id.seq)?;
        println!("open {opened:?}, replay {:?}; resident memory grew by {resident:?} bytes an event", start.elapsed());
        read(&store, &source)?;
    }
    Ok(())
}

fn read(store: &JsonlStore, source: &Source) -> Result<()> {
    let feed = dsv2_core::Feed::Channel(source.channels[7].clone());
    let start = Instant::now();
    let pages = 200;
    for _ in 0..pages {
        std::hint::black_box(store.read(&feed, FeedCursor::Before(None), Limit::events(50))?);
    }
    let last = start.elapsed() / pages;
    let start = Instant::now();
    let from = store.stats().events / 2;
    for page in 0..u64::from(pages) {
        std::hint::black_box(store.range(&source.origin, from + page * 100, Limit::events(1_000))?);
    }
    println!("last 50 of a channel {last:?}; a range of 1,000 {:?}", start.elapsed() / pages);
    Ok(())
}

/// Resident memory, where the system tells.
fn resident_kib() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.trim().parse().ok()
}
