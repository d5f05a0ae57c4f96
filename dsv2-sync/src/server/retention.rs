//! Retention: raising the floors below which messages are retired, at all servers to the same clocks.
//!
//! ```text
//!   coordinator: what does the configuration ask for? ── Read ──► the store's answer
//!       ├─ not above what is final at every voter          (each tells with its bound)
//!       └─ not between a message and its twin               (a retry that was carried out twice)
//!   all servers: hear the floors with the bounds ──► once all is here that the coordinator held ──► fold, Retire
//! ```
//! So nothing can arrive below a floor any more, anywhere, and what every server forgets is the same, whichever of them
//! stand still meanwhile. The floors of two coordinators merge to the higher ones.

use dsv2_core::{Change, Clock, Floors, Mono, Now, Position, ServerName};

use super::Server;
use super::io::{Effect, Note, Read};
use super::requests::Reading;
use crate::planted::Bug;
use crate::replication::ReplicationLog;

/// What is to be retired.
#[derive(Debug)]
pub(super) struct Retiring {
    /// The highest floors that this server knows of.
    pub(super) wanted: Floors,
    /// What must be held before they are raised: all that is below them, among others.
    pub(super) at: Position,
    /// When to look again.
    next: Mono,
    /// What was final everywhere when the store was asked, until it answers.
    asked: Option<Clock>,
}

impl Retiring {
    pub(super) fn new(floors: Floors, now: Mono) -> Self {
        Self { wanted: floors, at: Position::default(), next: now, asked: None }
    }
}

impl Server {
    /// When to look whether something may be retired.
    pub(super) fn retention_deadline(&self) -> Option<Mono> {
        let looks =
            !self.config.retention.keeps_all() && !self.config.voters.is_empty() && self.retiring.asked.is_none();
        looks.then_some(self.retiring.next)
    }

    /// The coordinator asks the store what the retention asks for.
    pub(super) fn look_at_retention(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.retention_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        self.retiring.next = now.mono + self.config.timing.retention;
        let leads = self.election.is_coordinator(now.mono) && self.stuck.is_none();
        if let Some(bound) = self.final_everywhere().filter(|_| leads) {
            self.retiring.asked = Some(bound);
            let token = self.token();
            self.reads.insert(token, Reading::Floors);
            let read = Read::Floors { retention: self.config.retention, now: self.wall_now(now).timestamp() };
            out.push(Effect::Read { token, read });
        }
    }

    /// The store answered what the retention asks for, and what it held then, or could not.
    pub(super) fn floors_read(&mut self, answer: Option<(Floors, Position)>, out: &mut Vec<Effect>) {
        let Some(bound) = self.retiring.asked.take() else { return };
        let Some((floors, at)) = answer else { return };
        let floors = if self.planted.has(Bug::RetiredTooSoon) { floors } else { floors.up_to(bound) };
        let floors = self.state.safe_floors(floors);
        if !self.retiring.wanted.covers(&floors) {
            self.hear_floors(floors, &at);
            self.raise_floors(out);
        }
    }

    /// Every event up to here is durable at every voter, and none will ever be inserted.
    fn final_everywhere(&self) -> Option<Clock> {
        let own = self.stable()?;
        let told = |voter: &ServerName| match self.bounds.get(voter) {
            _ if *voter == self.config.name => Some(own),
            bounds => bounds.map(|bounds| bounds.stable).filter(|&clock| clock > Clock::ZERO),
        };
        let told: Option<Vec<Clock>> = self.present_voters().map(told).collect();
        told?.into_iter().min().map(|least| least.min(own))
    }

    /// Somebody tells of floors.
    pub(super) fn hear_floors(&mut self, floors: Floors, at: &Position) {
        if !self.retiring.wanted.covers(&floors) {
            self.retiring.wanted.merge(floors);
            self.retiring.at.merge(at);
        }
    }

    /// Retires what is to be retired, as soon as all is held that was when that was decided.
    pub(super) fn raise_floors(&mut self, out: &mut Vec<Effect>) {
        if self.state.floors().covers(&self.retiring.wanted) || self.stuck.is_some() {
            return;
        }
        if self.log.held().covers(&self.retiring.at) {
            let floors = self.retiring.wanted;
            let hidden = self.state.retire(floors);
            out.push(Effect::Change(Change::Retire { floors, hidden }));
            out.push(Effect::Log(Note::Retired(floors)));
        }
    }
}
