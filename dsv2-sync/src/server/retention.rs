//! Retention: raising the floors below which messages are retired, at all servers to the same clocks.
//!
//! ```text
//!   coordinator: what does the configuration ask for? ── Read ──► the store's answer
//!       ├─ not above what is final at every voter          (each tells with its bound)
//!       └─ not between a message and its twin               (a retry that was carried out twice)
//!   all servers: hear the floors with the bounds ──► once all up to there is final here ──► fold, Retire
//! ```
//! So nothing can arrive below a floor any more, anywhere, and what every server forgets is the same. The floors of two
//! coordinators merge to the higher ones.

use dsv2_core::{Clock, EventKind, Floors, Mono, Now, ServerName};

use super::Server;
use super::io::{Effect, Note, Read};
use super::requests::Reading;
use crate::planted::Bug;

/// What is to be retired.
#[derive(Debug)]
pub(super) struct Retiring {
    /// The highest floors that this server knows of.
    pub(super) wanted: Floors,
    /// When to look again.
    next: Mono,
    /// The store was asked, and has not answered.
    asked: bool,
}

impl Retiring {
    pub(super) const fn new(floors: Floors, now: Mono) -> Self {
        Self { wanted: floors, next: now, asked: false }
    }
}

impl Server {
    /// When to look whether something may be retired.
    pub(super) fn retention_deadline(&self) -> Option<Mono> {
        let looks = !self.config.retention.keeps_all() && !self.config.voters.is_empty() && !self.retiring.asked;
        looks.then_some(self.retiring.next)
    }

    /// The coordinator asks the store what the retention asks for.
    pub(super) fn look_at_retention(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.retention_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        self.retiring.next = now.mono + self.config.timing.retention;
        if self.election.is_coordinator(now.mono) && self.stuck.is_none() && self.final_everywhere().is_some() {
            self.retiring.asked = true;
            let token = self.token();
            self.reads.insert(token, Reading::Floors);
            let read = Read::Floors { retention: self.config.retention, now: self.wall_now(now).timestamp() };
            out.push(Effect::Read { token, read });
        }
    }

    /// The store answered what the retention asks for, or could not.
    pub(super) fn floors_read(&mut self, floors: Option<Floors>, out: &mut Vec<Effect>) {
        self.retiring.asked = false;
        let (Some(floors), Some(bound)) = (floors, self.final_everywhere()) else { return };
        let floors = if self.planted.has(Bug::RetiredTooSoon) { floors } else { floors.up_to(bound) };
        let floors = if self.planted.has(Bug::TwinsDivided) { floors } else { self.state.safe_floors(floors) };
        self.retiring.wanted.merge(floors);
        self.raise_floors(out);
    }

    /// Every event up to here is durable at every voter, and none will ever be inserted.
    fn final_everywhere(&self) -> Option<Clock> {
        let own = self.stable()?;
        let told = |voter: &ServerName| match self.bounds.get(voter) {
            _ if *voter == self.config.name => Some(own),
            bounds => bounds.map(|bounds| bounds.stable).filter(|&clock| clock > Clock::ZERO),
        };
        let told: Option<Vec<Clock>> = self.config.voters.iter().map(told).collect();
        told?.into_iter().min().map(|least| least.min(own))
    }

    /// Somebody tells of floors.
    pub(super) fn hear_floors(&mut self, floors: Floors) {
        self.retiring.wanted.merge(floors);
    }

    /// Retires what is to be retired, as soon as all up to there is final here.
    pub(super) fn raise_floors(&mut self, out: &mut Vec<Effect>) {
        let present = self.state.floors();
        if present.covers(&self.retiring.wanted) || self.stuck.is_some() {
            return;
        }
        let reached = if self.planted.has(Bug::RetiredTooSoon) { Some(Clock::MAX) } else { self.stable() };
        let Some(reached) = reached else { return };
        let mut floors = present;
        // Never a part of the way: only the floors that were decided are known to be safe.
        for kind in [EventKind::Publish, EventKind::Message] {
            let wanted = self.retiring.wanted.of(kind);
            if wanted <= reached {
                let of_kind = if kind == EventKind::Publish { &mut floors.publish } else { &mut floors.message };
                *of_kind = wanted.max(*of_kind);
            }
        }
        if floors != present {
            let hidden = self.state.retire(floors);
            out.push(Effect::Retire { floors, hidden });
            out.push(Effect::Log(Note::Retired(floors)));
        }
    }
}
