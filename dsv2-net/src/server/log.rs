//! What a server's machine finds worth a line.
//!
//! The course's tests look for the words `clock`, `coordinator` and `replicado` in the logs; they stand here.

use std::collections::BTreeMap;
use std::time::Duration;

use dsv2_core::{Clock, Origin, ServerName};
use dsv2_sync::server::Note;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

/// How long batches of events are collected for one line: a line for each would stand between an event and its
/// acknowledgement, thousands of times a second.
const COLLECTED: Duration = Duration::from_millis(100);

/// The log of a server.
#[derive(Debug)]
pub(super) struct Log {
    server: ServerName,
    /// By origin, `None` for the own events: the first and the last number, and the clock after it.
    collected: BTreeMap<Option<Origin>, ((u64, u64), Clock)>,
    due: Option<Instant>,
}

impl Log {
    pub(super) fn new(server: ServerName) -> Self {
        Self { server, collected: BTreeMap::new(), due: None }
    }

    /// When what was collected is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn note(&mut self, note: Note) {
        match note {
            Note::Written { range, clock } => self.collect(None, range, clock),
            Note::Replicated { origin, range, clock } => self.collect(Some(origin), range, clock),
            note => write(&self.server, &note),
        }
    }

    fn collect(&mut self, origin: Option<Origin>, range: (u64, u64), clock: Clock) {
        self.due.get_or_insert_with(|| Instant::now() + COLLECTED);
        let (held, after) = self.collected.entry(origin).or_insert((range, clock));
        (held.1, *after) = (range.1, clock);
    }

    /// Tells what was collected, if it is time.
    pub(super) fn tell_due(&mut self) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.due = None;
        let server = &self.server;
        for (origin, ((first, last), clock)) in std::mem::take(&mut self.collected) {
            let count = last - first + 1;
            match origin {
                None => info!(%server, first, last, count, %clock, "written"),
                Some(origin) => info!(%server, %origin, first, last, count, %clock, "replicado"),
            }
        }
    }
}

/// However a server ends, its last lines are told.
impl Drop for Log {
    fn drop(&mut self) {
        self.tell();
    }
}

fn write(server: &ServerName, note: &Note) {
    match note {
        Note::Coordinator { name: Some(name), epoch, why, clock } => {
            info!(%server, coordinator = %name, epoch, why, %clock, "the coordinator changed");
        }
        Note::Coordinator { name: None, epoch, why, clock } => {
            info!(%server, epoch, why, %clock, "there is no coordinator");
        }
        Note::CoordinatorStays(Some(name)) => {
            info!(%server, coordinator = %name, "the reference is gone, the coordinator stays")
        }
        Note::CoordinatorStays(None) => info!(%server, "the reference is gone, and there is no coordinator yet"),
        Note::Ranked(rank) => info!(%server, rank, "the reference gave a rank"),
        Note::ReferenceLost(why) => {
            warn!(%server, why, "the reference cannot be asked; messages and elections go on without it")
        }
        Note::ReferenceBack => info!(%server, "the reference answers again"),
        Note::Linked(peer) => info!(%server, %peer, "linked"),
        Note::Unlinked(peer) => warn!(%server, %peer, "the links to a server are down"),
        Note::LinkRefused(why) => error!(%server, why, "a link was refused"),
        Note::Readiness { ready: true, .. } => info!(%server, "takes requests"),
        Note::Readiness { ready: false, why } => warn!(%server, why, "takes no requests"),
        Note::Retired(floors) => {
            info!(%server, publish = %floors.publish, message = %floors.message, "older messages are retired");
        }
        Note::Departed(voter) => warn!(%server, %voter, "a voter is gone for good: nobody waits for it any more"),
        Note::Adopted(event) => {
            info!(%server, event = %event.id, clock = %event.clock, "adopted an event of a foreign server")
        }
        Note::NameConflict(name) => warn!(%server, name, "a name is user and channel at once"),
        Note::ClockRound(what) => debug!(%server, what, "clock agreement"),
        Note::Trouble(what) => warn!(%server, what, "trouble"),
        other => debug!(%server, note = ?other),
    }
}
