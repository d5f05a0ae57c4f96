//! The Bully algorithm, with epochs, a precedence and a hold-down.
//!
//! ```text
//!             heard of a coordinator
//!  Listening ────────────────────────► following ◄────────────── leading
//!      │                               │   │   ▲   one precedes     ▲
//!      │ none for `lost_ms`     silence│   │   │                    │
//!      ▼                               ▼   │   │ heard of one       │
//!    Asking ◄──────────────────────────┘   │   │                    │
//!      │ │  ◄──── better, and `hold_down_ms` of quiet               │
//!      │ └── Ok from a better one ──► Promised ── broken: ask again │
//!      └──── no such answer within `answer_ms`: save epoch, claim ──┘
//! ```
//!
//! What follows from the rules of the [module above](super), with links that lose nothing:
//! - the best server of every set that is linked among itself leads it, after [`BullyConfig::best_rank_bound_ms`];
//! - a dead coordinator is replaced after `lost_ms` + `answer_ms` and two message delays at most; where its links break
//!   visibly, `link_grace_ms` takes the place of `lost_ms`; after a resignation only the delays remain;
//! - memory: one entry per server, at most 1,000; a turn sends at most one message to each.

use std::collections::BTreeSet;
use std::time::Duration;

use dsv2_core::{Machine, Mono, Now, ServerName};

use super::roster::Roster;
use super::{
    ChangeReason, Claim, Coordinator, CoordinatorRank, Election, ElectionEffect, ElectionInput, ElectionMessage, Epoch,
    NodeId, Seen, Standing,
};

mod around;
mod ballot;
mod claims;

/// How far an epoch's number may lie above the highest known one. A damaged message could otherwise use the numbers up.
const EPOCH_JUMP_CAP: u64 = 1 << 32;

/// The figures of [`Bully`]. All servers of a cluster need the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BullyConfig {
    /// Which rank wins; the highest.
    pub rank: CoordinatorRank,
    /// How often the coordinator says that it lives; 500 ms.
    pub heartbeat_ms: u64,
    /// How long it may be silent before it is taken for dead; 1,750 ms: three heartbeats and a half. A server that
    /// starts listens so long before it asks. At least three heartbeats.
    pub lost_ms: u64,
    /// How long answers to an election are awaited; 300 ms.
    pub answer_ms: u64,
    /// How long a better server that answered may take to become coordinator; 1,000 ms.
    pub takeover_ms: u64,
    /// How soon the coordinator's link must come back before its breaking counts as silence; 500 ms.
    pub link_grace_ms: u64,
    /// How long a better server follows a worse one before it takes over; 5,000 ms.
    pub hold_down_ms: u64,
    /// How long a coordinator of the family may show no sign of life, and stand in no new list; 30,000 ms, the family's.
    pub foreign_lost_ms: u64,
    /// Whether announcements without an epoch are obeyed; `true`. Set it to `false` where voters are configured.
    pub obey_foreign: bool,
}

impl Default for BullyConfig {
    fn default() -> Self {
        Self {
            rank: CoordinatorRank::Highest,
            heartbeat_ms: 500,
            lost_ms: 1_750,
            answer_ms: 300,
            takeover_ms: 1_000,
            link_grace_ms: 500,
            hold_down_ms: 5_000,
            foreign_lost_ms: 30_000,
            obey_foreign: true,
        }
    }
}

impl BullyConfig {
    /// Once the links among a set of servers are stable, and messages take less than half of `answer_ms`, all of the set
    /// agree after so many milliseconds: one silence, two elections of which the first was promised to a server that
    /// died, and two heartbeats.
    #[must_use]
    pub const fn agreement_bound_ms(&self) -> u64 {
        self.lost_ms + 2 * (self.answer_ms + self.takeover_ms) + 2 * self.heartbeat_ms
    }

    /// And after so many, they agree on the best of them: the agreement, the hold-down, and one silence during which the
    /// coordinator may not have known yet that it is in contact.
    #[must_use]
    pub const fn best_rank_bound_ms(&self) -> u64 {
        self.agreement_bound_ms() + self.hold_down_ms + self.lost_ms + self.answer_ms
    }

    const fn lost(&self) -> Duration {
        Duration::from_millis(self.lost_ms)
    }

    const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    const fn hold_down(&self) -> Duration {
        Duration::from_millis(self.hold_down_ms)
    }

    /// A leader that lost the others must know it before they choose another, so this is less than `lost`.
    const fn contact(&self) -> Duration {
        Duration::from_millis(self.lost_ms.saturating_sub(self.heartbeat_ms))
    }
}

/// The coordinator that is followed, or this server's own reign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reign {
    who: Coordinator,
    rank: Option<u64>,
    standing: Standing,
    /// When it last spoke, as far as known here.
    heard: Mono,
    /// When it counts as lost.
    expires: Mono,
    /// Before this, nobody here thinks of taking over.
    challenge_at: Mono,
}

impl Reign {
    /// Named by a server of the family.
    fn is_foreign(&self) -> bool {
        self.who.epoch == Epoch::ZERO
    }

    fn claim(&self) -> Claim {
        Claim { name: self.who.name.clone(), epoch: self.who.epoch, rank: self.rank, standing: self.standing }
    }
}

/// What a server is waiting for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// Just started: for a coordinator to be heard of.
    Listening { until: Mono },
    /// Nothing but silence, its next heartbeat, or the end of the hold-down.
    Calm,
    /// For answers to its election. A `challenge` is held against a coordinator that lives.
    Asking { until: Mono, waiting: BTreeSet<ServerName>, challenge: bool },
    /// For a better server to keep its word.
    Promised { until: Mono, by: ServerName },
}

/// A server's part in the Bully algorithm.
///
/// ```
/// use dsv2_core::{Machine, Mono, Now, ServerName};
/// use dsv2_sync::election::{Bully, BullyConfig, Election, ElectionInput, Epoch, NodeId};
///
/// // A server that is alone listens, and then leads.
/// let me: ServerName = "server1".parse()?;
/// let mut bully = Bully::new(me, NodeId(7), Epoch::ZERO, BullyConfig::default(), Mono::ZERO);
/// let mut effects = Vec::new();
/// let at = bully.deadline().ok_or("it waits")?;
/// bully.step(Now { mono: at, ..Now::default() }, ElectionInput::Wake, &mut effects);
/// assert!(bully.is_coordinator(at));
/// assert_eq!(bully.epoch(), Epoch { number: 1, node: NodeId(7) });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bully {
    config: BullyConfig,
    node: NodeId,
    roster: Roster,
    /// The highest epoch seen; saved before anything that follows from it leaves.
    epoch: Epoch,
    reign: Option<Reign>,
    /// While this server leads: when its next heartbeat is due.
    leading: Option<Mono>,
    phase: Phase,
    /// Who will not take over although it is better: it answered `Ok` and did nothing, or it resigned. Since the last
    /// agreement.
    reneged: BTreeSet<ServerName>,
    /// Since when this server has been in contact without a break.
    settled_since: Option<Mono>,
    /// A reign that began with a handover is judged by its own contacts from here on.
    judged_from: Mono,
    /// The last reign that was given up; late heartbeats of it must not revive it.
    resigned: Epoch,
    draining: bool,
    reference_lost: bool,
    /// It is still to be said that the coordinator stays.
    owes_stays: bool,
}

impl Bully {
    /// A server that starts now; `saved` is the epoch of the last durable [`ElectionEffect::Save`], or
    /// [`Epoch::ZERO`].
    #[must_use]
    pub fn new(me: ServerName, node: NodeId, saved: Epoch, config: BullyConfig, now: Mono) -> Self {
        Self {
            node,
            roster: Roster::new(me, config.rank),
            epoch: saved,
            reign: None,
            leading: None,
            phase: Phase::Listening { until: now + config.lost() },
            reneged: BTreeSet::new(),
            settled_since: None,
            judged_from: Mono::ZERO,
            resigned: Epoch::ZERO,
            draining: false,
            reference_lost: false,
            owes_stays: false,
            config,
        }
    }

    /// How well this server is connected, as its claims say.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Standing {
        match self.settled_since {
            None => Standing::Alone,
            Some(since) if now.since(since) < self.config.hold_down() => Standing::Fresh,
            Some(_) => Standing::Settled,
        }
    }

    /// A leader judges by whom it heard; a follower takes the coordinator's word, since nobody else speaks to it. While
    /// there is no coordinator nothing is judged: a failover must not cost the survivors their standing.
    fn judge_standing(&mut self, now: Mono) {
        let contact = match &self.reign {
            Some(_) if self.leading.is_some() && now < self.judged_from => return,
            Some(_) if self.leading.is_some() => self.roster.in_contact(now, self.config.contact()),
            Some(reign) if now < reign.expires => reign.standing != Standing::Alone,
            _ => return,
        };
        self.settled_since = contact.then(|| self.settled_since.unwrap_or(now));
    }

    /// The coordinator, if it is not overdue.
    fn live(&self, now: Mono) -> Option<&Reign> {
        self.reign.as_ref().filter(|reign| self.leading.is_some() || now < reign.expires)
    }

    /// This server's claim, made now; what a reign needs is what it has, so it also serves to compare before there is one.
    fn own_claim(&self, now: Mono) -> Claim {
        let epoch = self.reign.as_ref().filter(|_| self.leading.is_some()).map_or(Epoch::ZERO, |reign| reign.who.epoch);
        Claim { name: self.roster.me.clone(), epoch, rank: self.roster.rank, standing: self.standing(now) }
    }

    /// The precedence: the better standing, then the better rank.
    fn precedes(&self, a: &Claim, b: &Claim) -> bool {
        if a.standing == b.standing {
            self.roster.prefers((a.rank, &a.name), (b.rank, &b.name))
        } else {
            a.standing > b.standing
        }
    }

    /// What this server can vouch for: its own reign, or a coordinator that it heard itself, over a working link, and
    /// not longer ago than two heartbeats. Anything weaker would let servers keep a dead one alive for each other.
    fn vouch(&self, now: Mono) -> Option<Seen> {
        if self.leading.is_some() {
            return Some(Seen { claim: self.own_claim(now), age_ms: 0 });
        }
        let reign = self.live(now)?;
        let age = now.since(reign.heard);
        let at_first_hand = self.roster.is_up(&reign.who.name) && age <= 2 * self.config.heartbeat();
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        (reign.is_foreign() || at_first_hand).then(|| Seen { claim: reign.claim(), age_ms })
    }

    /// Learns of an epoch; it is saved before anything else is said. `false` where it is implausible, and nothing changed.
    fn learn(&mut self, epoch: Epoch, out: &mut Vec<ElectionEffect>) -> bool {
        if epoch.number > self.epoch.number.saturating_add(EPOCH_JUMP_CAP) {
            return false;
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            out.push(ElectionEffect::Save(epoch));
        }
        true
    }

    fn view(&self, now: Mono) -> ElectionMessage {
        ElectionMessage::View { epoch: self.epoch, seen: self.vouch(now) }
    }

    fn broadcast(&self, message: &ElectionMessage, out: &mut Vec<ElectionEffect>) {
        out.extend(self.roster.reachable().into_iter().map(|to| send(&to, message.clone())));
    }

    fn on_message(&mut self, now: Mono, from: &ServerName, message: ElectionMessage, out: &mut Vec<ElectionEffect>) {
        if *from == self.roster.me {
            return;
        }
        self.roster.heard(now, from);
        match message {
            ElectionMessage::Election { epoch, rank } => self.on_election(now, from, epoch, rank, out),
            ElectionMessage::Ok { epoch, rank } => self.on_ok(now, from, epoch, rank, out),
            ElectionMessage::Coordinator(claim) | ElectionMessage::Heartbeat(claim) if claim.name == *from => {
                self.on_heartbeat(now, &claim, out);
            }
            ElectionMessage::View { epoch, seen } => self.on_view(now, from, epoch, seen, out),
            ElectionMessage::Ack { epoch } => {
                self.learn(epoch, out);
            }
            ElectionMessage::Resign { epoch } => self.on_resign(now, from, epoch, out),
            ElectionMessage::Coordinator(_) | ElectionMessage::Heartbeat(_) => {}
            // Of a cluster with voters, which this server was not told of.
            ElectionMessage::Support { .. }
            | ElectionMessage::Request { .. }
            | ElectionMessage::Grant { .. }
            | ElectionMessage::Lease { .. }
            | ElectionMessage::Renewed { .. }
            | ElectionMessage::Handover { .. } => {}
        }
    }

    fn run_timers(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        match &self.phase {
            Phase::Listening { until } if now >= *until => self.elect(now, false, out),
            Phase::Asking { until, .. } if now >= *until => self.lead(now, None, out),
            Phase::Promised { until, by } if now >= *until => {
                self.reneged.insert(by.clone());
                self.elect(now, false, out);
            }
            Phase::Calm => self.run_calm_timers(now, out),
            _ => {}
        }
    }

    fn run_calm_timers(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        if let Some(due) = self.leading {
            if now >= due {
                self.leading = Some(now + self.config.heartbeat());
                self.broadcast(&ElectionMessage::Heartbeat(self.own_claim(now)), out);
            }
        } else if self.reign.as_ref().is_some_and(|reign| now >= reign.expires) {
            if self.draining {
                self.forget(ChangeReason::Lost, out);
            } else {
                self.elect(now, false, out);
            }
        } else if self.challenge_due().is_some_and(|due| now >= due) {
            self.elect(now, true, out);
        }
    }

    /// When this server should take over from the coordinator that it follows: it is better, the hold-down is over, and
    /// its claim would precede.
    fn challenge_due(&self) -> Option<Mono> {
        let reign = self.reign.as_ref().filter(|_| self.leading.is_none() && !self.draining)?;
        let me = (self.roster.rank, &self.roster.me);
        if !self.roster.prefers(me, (reign.rank, &reign.who.name)) {
            return None;
        }
        match (reign.standing, self.settled_since) {
            (Standing::Alone, _) => Some(reign.challenge_at),
            (Standing::Fresh, Some(since)) => Some(reign.challenge_at.max(since)),
            (Standing::Settled, Some(since)) => Some(reign.challenge_at.max(since + self.config.hold_down())),
            (_, None) => None,
        }
    }
}

fn send(to: &ServerName, message: ElectionMessage) -> ElectionEffect {
    ElectionEffect::Send { to: to.clone(), message }
}

impl Machine for Bully {
    type Input = ElectionInput;
    type Effect = ElectionEffect;

    fn step(&mut self, now: Now, input: ElectionInput, out: &mut Vec<ElectionEffect>) {
        let now = now.mono;
        // First the past: after a pause of the process, contact was lost long before this input came.
        self.judge_standing(now);
        match input {
            ElectionInput::Members(members) => self.on_members(now, members),
            ElectionInput::LinkUp(name) => self.on_link_up(now, &name, out),
            ElectionInput::LinkDown(name) => self.on_link_down(now, &name, out),
            ElectionInput::Heard(name) => self.on_heard(now, &name),
            ElectionInput::Message { from, message } => self.on_message(now, &from, message, out),
            ElectionInput::ForeignAnnouncement { name } => self.on_foreign(now, name, out),
            ElectionInput::ReferenceLost => self.on_reference(true),
            ElectionInput::ReferenceBack => self.on_reference(false),
            ElectionInput::Stepdown => self.on_stepdown(out),
            ElectionInput::Wake => {}
        }
        self.judge_standing(now);
        self.run_timers(now, out);
        self.say_it_stays(now, out);
    }

    fn deadline(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Listening { until } | Phase::Asking { until, .. } | Phase::Promised { until, .. } => Some(*until),
            Phase::Calm => self.leading.or_else(|| {
                let expires = self.reign.as_ref()?.expires;
                Some(self.challenge_due().map_or(expires, |due| due.min(expires)))
            }),
        }
    }
}

impl Election for Bully {
    fn coordinator(&self) -> Option<&Coordinator> {
        self.reign.as_ref().map(|reign| &reign.who)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_coordinator(&self, _now: Mono) -> bool {
        self.leading.is_some()
    }
}
