//! The storage thread: appends and syncs off the async threads, many turns at a time.
//!
//! Where there is no room, it keeps what it was asked to write and tries it again; nothing of it is on the disk until
//! then, so reads show none of it. Where the disk fails, it writes nothing more, and reads show only what was synced.

use std::sync::mpsc as sync_mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dsv2_core::{Change, Position, ServerName};
use dsv2_store::{EventStore, StoreError};
use dsv2_sync::server::{Read, ReadResult, Saved};
use dsv2_sync::stored::{self, Group};
use metrics::Histogram;
use tokio::sync::mpsc;

use super::maintenance::Maintenance;

/// The most bytes of one read.
const READ_CAP_BYTES: usize = 512 << 10;

/// How often a full disk is tried again.
const PROBE: Duration = Duration::from_secs(1);

/// What the storage thread is asked to do.
enum Command {
    Commit { commit: u64, changes: Vec<Change>, save: Option<Saved> },
    Read { token: u64, read: Read },
    Close,
}

/// What the storage thread tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// Everything up to this commit is durable.
    Committed { commit: u64, saved: Option<Saved> },
    /// A read is done.
    Read { token: u64, result: Result<ReadResult, String> },
    /// There is no room. Nothing of what was not reported as committed was written; it is tried again.
    Full { durable: Position, error: StoreError },
    /// There is room again, and everything asked for so far is committed.
    Room,
    /// The store failed: nothing beyond `durable` may be taken for durable, now or later.
    Failed { durable: Position, error: StoreError },
}

/// The storage thread's handle. Dropping it ends the thread once it has done what it was asked.
#[derive(Debug)]
pub(crate) struct Storage {
    commands: sync_mpsc::Sender<Command>,
    thread: Option<thread::JoinHandle<Box<dyn EventStore>>>,
}

impl Storage {
    /// Starts the thread; what it has to tell arrives at the receiver.
    pub(crate) fn start(
        store: Box<dyn EventStore>,
        name: &ServerName,
    ) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Report>)> {
        let (commands, inbox) = sync_mpsc::channel();
        // Bounded by what the machine has under way: a report answers a command.
        let (reports, outbox) = mpsc::unbounded_channel();
        let (maintenance, meters) = (Maintenance::new(name.clone(), store.as_ref()), Meters::new(name));
        let thread = thread::Builder::new()
            .name(format!("store {name}"))
            .spawn(move || run(store, maintenance, meters, &inbox, &reports))?;
        Ok((Self { commands, thread: Some(thread) }, outbox))
    }

    /// Asks for changes and metadata to be made durable.
    pub(crate) fn commit(&self, commit: u64, changes: Vec<Change>, save: Option<Saved>) {
        self.send(Command::Commit { commit, changes, save });
    }

    /// Asks for a read.
    pub(crate) fn read(&self, token: u64, read: Read) {
        self.send(Command::Read { token, read });
    }

    fn send(&self, command: Command) {
        // A thread that ended has reported why, and its reports are the driver's concern.
        let _ended = self.commands.send(command).is_err();
    }

    /// Ends the thread after all it was asked before; yields the store. `None` where it panicked.
    pub(crate) async fn stop(mut self) -> Option<Box<dyn EventStore>> {
        self.send(Command::Close);
        let thread = self.thread.take()?;
        tokio::task::spawn_blocking(move || thread.join().ok()).await.ok().flatten()
    }
}

fn run(
    store: Box<dyn EventStore>,
    maintenance: Maintenance,
    meters: Meters,
    inbox: &sync_mpsc::Receiver<Command>,
    reports: &mpsc::UnboundedSender<Report>,
) -> Box<dyn EventStore> {
    let mut writer = Writer { meters, store, group: Group::default(), health: Health::Good, maintenance };
    let mut reads = Vec::new();
    loop {
        let wait = writer.probe_in().into_iter().chain(writer.maintenance.wait()).min();
        let first = match wait {
            None => inbox.recv().map_err(|_| sync_mpsc::RecvTimeoutError::Disconnected),
            Some(wait) => inbox.recv_timeout(wait),
        };
        let first = match first {
            Err(sync_mpsc::RecvTimeoutError::Disconnected) => break,
            Err(sync_mpsc::RecvTimeoutError::Timeout) => None,
            Ok(first) => Some(first),
        };
        let idle = first.is_none();
        let mut closing = false;
        for command in first.into_iter().chain(inbox.try_iter()) {
            match command {
                Command::Commit { commit, changes, save } => writer.add(commit, changes, save),
                Command::Read { token, read } => reads.push((token, read)),
                Command::Close => closing = true,
            }
        }
        writer.commit(closing, &mut |report| drop(reports.send(report)));
        for (token, read) in reads.drain(..) {
            let result = writer.answer(read).map_err(|error| {
                if matches!(error, StoreError::Corrupt { .. }) {
                    writer.maintenance.distrust();
                }
                error.to_string()
            });
            drop(reports.send(Report::Read { token, result }));
        }
        if closing {
            break;
        }
        writer.maintenance.step(writer.store.as_mut(), idle);
    }
    writer.maintenance.finish(writer.store.as_mut(), true);
    writer.store
}

/// How the disk is.
enum Health {
    Good,
    /// There was no room; when to try again.
    Full(Instant),
    /// It failed; what had been synced before.
    Failed(Position),
}

/// How long groups take, and how large they are. Nothing is recorded where no recorder of the `metrics` crate is installed.
struct Meters {
    append_seconds: Histogram,
    sync_seconds: Histogram,
    group_events: Histogram,
}

impl Meters {
    fn new(name: &ServerName) -> Self {
        let server = || name.to_string();
        Self {
            append_seconds: metrics::histogram!("dsv2_store_append_seconds", "server" => server()),
            sync_seconds: metrics::histogram!("dsv2_store_sync_seconds", "server" => server()),
            group_events: metrics::histogram!("dsv2_store_group_events", "server" => server()),
        }
    }
}

/// The store with what is to be written to it.
struct Writer {
    meters: Meters,
    store: Box<dyn EventStore>,
    group: Group,
    health: Health,
    maintenance: Maintenance,
}

impl Writer {
    /// How long until a full disk is to be tried again.
    fn probe_in(&self) -> Option<Duration> {
        match self.health {
            Health::Full(at) => Some(at.saturating_duration_since(Instant::now())),
            Health::Good | Health::Failed(_) => None,
        }
    }

    fn add(&mut self, commit: u64, changes: Vec<Change>, save: Option<Saved>) {
        // What comes in after a failure is never written.
        if !matches!(self.health, Health::Failed(_)) {
            self.group.add(commit, changes, save);
        }
    }

    /// Writes what is to be written, unless it is too early to try a full disk again.
    fn commit(&mut self, closing: bool, report: &mut dyn FnMut(Report)) {
        let due = match self.health {
            Health::Good => true,
            Health::Full(at) => closing || at <= Instant::now(),
            Health::Failed(_) => false,
        };
        if !due || self.group.is_empty() {
            return;
        }
        match write(&mut self.group, self.store.as_mut(), &self.meters) {
            Ok((committed, events)) => {
                self.maintenance.grew(events);
                report(committed);
                if matches!(self.health, Health::Full(_)) {
                    self.health = Health::Good;
                    report(Report::Room);
                }
            }
            Err(error @ StoreError::Full { .. }) => {
                let again = matches!(self.health, Health::Full(_));
                self.health = Health::Full(Instant::now() + PROBE);
                if !again {
                    report(Report::Full { durable: self.store.vector().clone(), error });
                }
            }
            Err(error) => {
                let durable = self.group.before(self.store.vector());
                self.group = Group::default();
                self.health = Health::Failed(durable.clone());
                report(Report::Failed { durable, error });
            }
        }
    }

    /// Reads what is durable.
    fn answer(&self, read: Read) -> Result<ReadResult, StoreError> {
        let durable = match &self.health {
            Health::Failed(durable) => Some(durable),
            Health::Good | Health::Full(_) => None,
        };
        stored::answer(self.store.as_ref(), read, READ_CAP_BYTES, durable)
    }
}

/// Writes everything, and keeps what could not be written. Yields how many changes it were, too.
fn write(group: &mut Group, store: &mut dyn EventStore, meters: &Meters) -> Result<(Report, usize), StoreError> {
    let changes = group.changes();
    group.remember(store)?;
    let begun = Instant::now();
    group.write(store)?;
    if changes > 0 {
        let appended = Instant::now();
        store.sync()?;
        meters.append_seconds.record((appended - begun).as_secs_f64());
        meters.sync_seconds.record(appended.elapsed().as_secs_f64());
        meters.group_events.record(changes as f64);
    }
    let (commit, saved) = group.done();
    Ok((Report::Committed { commit, saved }, changes))
}
