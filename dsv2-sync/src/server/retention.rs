//! Retention: raising the floors below which messages are retired, at all servers to the same clocks.
//!
//! ```text
//!   coordinator: what does the configuration ask for? ── Read ──► the store's answer
//!       ├─ not above what is final at every voter          (each tells with its bound)
//!       └─ not between a message and its twin               (a retry that was carried out twice)
//!   all servers: hear the floors with bounds, vectors and stretches ──► once all is here that is below ──► fold, Retire
//! ```
//! So nothing can arrive below a floor any more, anywhere, and what every server forgets is the same, whichever of them
//! stand still meanwhile. The floors of two coordinators merge to the higher ones.

use dsv2_core::{Change, Clock, Mono, Now, Retirement, ServerName};

use super::Server;
use super::io::{Effect, Note, Read};
use super::requests::Reading;
use crate::planted::Bug;
use crate::replication::ReplicationLog;

/// What is to be retired.
#[derive(Debug)]
pub(super) struct Retiring {
    /// The highest floors that this server knows of.
    pub(super) wanted: Retirement,
    /// When to look again.
    next: Mono,
    /// Whether the store was asked, and has not answered.
    asked: bool,
}

impl Retiring {
    pub(super) fn new(wanted: Retirement, now: Mono) -> Self {
        Self { wanted, next: now, asked: false }
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
        let leads = self.election.is_coordinator(now.mono) && self.stuck.is_none();
        if let Some(bound) = self.final_everywhere().filter(|_| leads) {
            self.retiring.asked = true;
            let bound = if self.planted.has(Bug::RetiredTooSoon) { Clock::MAX } else { bound };
            let token = self.token();
            self.reads.insert(token, Reading::Floors);
            let now = self.wall_now(now).timestamp();
            let read = Read::Floors { retention: self.config.retention, now, bound };
            out.push(Effect::Read { token, read });
        }
    }

    /// The store answered what the retention asks for, or could not.
    pub(super) fn floors_read(&mut self, answer: Option<Retirement>, out: &mut Vec<Effect>) {
        self.retiring.asked = false;
        let Some(Retirement { floors, at }) = answer else { return };
        self.hear_floors(&Retirement { floors: self.state.safe_floors(floors), at }, out);
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
    pub(super) fn hear_floors(&mut self, retirement: &Retirement, out: &mut Vec<Effect>) {
        self.retiring.wanted.merge(retirement);
        self.raise_floors(out);
    }

    /// What is below the floors is about to be retired here, or to be passed over because it is retired elsewhere.
    pub(super) fn remember_floors(&mut self, out: &mut Vec<Effect>) {
        if self.asked.retirement.merge(&self.retiring.wanted) {
            out.push(Effect::Save(self.asked.clone()));
        }
    }

    /// Retires what is to be retired, as soon as all is held that was when that was decided.
    pub(super) fn raise_floors(&mut self, out: &mut Vec<Effect>) {
        if self.state.floors().covers(&self.retiring.wanted.floors) || self.stuck.is_some() {
            return;
        }
        if self.log.held().covers(&self.retiring.wanted.at) {
            // What had to be held is told to others after a restart, too, whatever a damaged disk has lost by then.
            self.remember_floors(out);
            let floors = self.retiring.wanted.floors;
            let hidden = self.state.retire(floors);
            out.push(Effect::Change(Change::Retire { floors, hidden }));
            out.push(Effect::Log(Note::Retired(floors)));
        }
    }
}
