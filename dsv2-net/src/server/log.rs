//! What a server's machine finds worth a line.
//!
//! The course's tests look for the words `clock`, `coordinator` and `replicado` in the logs; they stand here.

use dsv2_core::ServerName;
use dsv2_sync::server::Note;
use tracing::{debug, error, info, warn};

pub(crate) fn write(server: &ServerName, note: &Note) {
    match note {
        Note::Written { range: (first, last), clock } => {
            let count = last - first + 1;
            info!(%server, first, last, count, %clock, "written");
        }
        Note::Replicated { origin, range: (first, last), clock } => {
            let count = last - first + 1;
            info!(%server, %origin, first, last, count, %clock, "replicado");
        }
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
