//! The storage thread: appends and syncs off the async threads, many turns at a time.

use std::sync::Arc;
use std::sync::mpsc as sync_mpsc;
use std::thread;

use dsv2_core::Event;
use dsv2_store::{EventStore, FeedCursor, Limit, StoreError};
use dsv2_sync::server::{Read, ReadResult, Saved};
use tokio::sync::mpsc;

/// The most bytes of one read.
const READ_CAP_BYTES: usize = 512 << 10;

/// What the storage thread is asked to do.
enum Command {
    Commit { commit: u64, events: Vec<Arc<Event>>, save: Option<Saved> },
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
    /// The store failed: nothing after the last [`Report::Committed`] may be taken for durable.
    Failed(StoreError),
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
        name: &str,
    ) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Report>)> {
        let (commands, inbox) = sync_mpsc::channel();
        // Bounded by what the machine has under way: a report answers a command.
        let (reports, outbox) = mpsc::unbounded_channel();
        let thread =
            thread::Builder::new().name(format!("store {name}")).spawn(move || run(store, &inbox, &reports))?;
        Ok((Self { commands, thread: Some(thread) }, outbox))
    }

    /// Asks for events and metadata to be made durable.
    pub(crate) fn commit(&self, commit: u64, events: Vec<Arc<Event>>, save: Option<Saved>) {
        self.send(Command::Commit { commit, events, save });
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
    mut store: Box<dyn EventStore>,
    inbox: &sync_mpsc::Receiver<Command>,
    reports: &mpsc::UnboundedSender<Report>,
) -> Box<dyn EventStore> {
    let mut failed = false;
    let mut group = Group::default();
    while let Ok(first) = inbox.recv() {
        let mut closing = false;
        for command in std::iter::once(first).chain(inbox.try_iter()) {
            match command {
                Command::Commit { commit, events, save } => group.add(commit, events, save),
                Command::Read { token, read } => group.reads.push((token, read)),
                Command::Close => closing = true,
            }
        }
        if !failed {
            match group.commit(store.as_mut()) {
                Ok(Some(report)) => drop(reports.send(report)),
                Ok(None) => {}
                Err(error) => {
                    failed = true;
                    drop(reports.send(Report::Failed(error)));
                }
            }
        }
        for (token, read) in group.reads.drain(..) {
            let result = answer(store.as_ref(), read).map_err(|error| error.to_string());
            drop(reports.send(Report::Read { token, result }));
        }
        if closing {
            break;
        }
    }
    store
}

/// Commits that share one sync.
#[derive(Default)]
struct Group {
    commit: u64,
    events: Vec<Event>,
    save: Option<Saved>,
    dirty: bool,
    reads: Vec<(u64, Read)>,
}

impl Group {
    fn add(&mut self, commit: u64, events: Vec<Arc<Event>>, save: Option<Saved>) {
        self.commit = commit;
        self.events.extend(events.into_iter().map(Arc::unwrap_or_clone));
        self.save = save.or(self.save.take());
        self.dirty = true;
    }

    fn commit(&mut self, store: &mut dyn EventStore) -> Result<Option<Report>, StoreError> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(None);
        }
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            store.append(&events)?;
            store.sync()?;
        }
        let saved = self.save.take();
        if let Some(saved) = &saved {
            let mut meta = store.meta().clone();
            meta.clock_limit = saved.clock_limit;
            meta.epoch = saved.epoch;
            meta.epoch_owner = Some(saved.epoch_owner);
            store.save_meta(&meta)?;
        }
        Ok(Some(Report::Committed { commit: self.commit, saved }))
    }
}

fn answer(store: &dyn EventStore, read: Read) -> Result<ReadResult, StoreError> {
    let limit = |events| Limit { events, bytes: READ_CAP_BYTES };
    let (feed, cursor, events) = match read {
        Read::Range { origin, from, limit: events } => {
            return store.range(&origin, from, limit(events)).map(ReadResult::Range);
        }
        Read::After { feed, position, limit } => (feed, FeedCursor::After(position), limit),
        Read::Before { feed, key, limit } => (feed, FeedCursor::Before(key), limit),
    };
    let page = store.read(&feed, cursor, limit(events))?;
    Ok(ReadResult::Page { events: page.events, next: page.next, heads: page.heads, more: page.more })
}
