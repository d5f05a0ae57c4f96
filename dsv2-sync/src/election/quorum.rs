//! The Bully algorithm with a quorum: a coordinator needs the votes of a majority, and leads only while its lease lasts.
//!
//! ```text
//!   alfa (1)          beta (2)          gama (3, coordinator)
//!      │◄────────────────┼───── Lease ──────┤   twice a second; answered by Renewed: "I vote for nobody else
//!      │                 │◄──── Lease ──────┤   for one silence window"
//!      │                 │                  ✗
//!      │  silence for `window_ms`           ·
//!      ├──── Election ──►│                  ·   before a vote: would I get a majority?
//!      │◄────── Ok ──────┤                  ·   "I am better, leave it to me"
//!      │◄─── Election ───┤                  ·
//!      ├──── Support ───►│                  ·   "I hear nobody, and am bound to nobody"
//!      │                 │                  ·   epoch and vote are saved
//!      │◄─── Request ────┤                  ·   from this sending on counts the lease
//!      │  the vote is saved                 ·
//!      ├───── Grant ────►│                  ·   2 of 3: a majority
//!      │◄──── Lease ─────┤                  ·
//! ```
//!
//! # Rules
//! 1. **Voters** are a named list. Only they vote, and only they lead. All others are learners: they follow.
//! 2. **One vote for each number.** A server that grants an epoch saves the vote before it speaks. Two majorities share a
//!    voter, so no number ever has two coordinators. Comparisons here are between numbers.
//! 3. **The lease.** A coordinator leads until `lease_ms` after the *sending* of the last message that a majority
//!    answered. A voter that answers votes for nobody else for `window_ms` after the *arrival*: a grant and a renewal
//!    both restart its timer. So the lease ends before the first voter is free, and no two leases overlap.
//! 4. **Drift.** Clocks run at different rates; each is trusted to within `drift_permille`. See
//!    [`QuorumConfig::lease_ms`] for the arithmetic.
//! 5. **Restarts.** A server that starts does not know whom it answered just before: it neither votes nor campaigns for
//!    one window.
//! 6. **Before a vote** a server asks who would support it. Whoever hears a living coordinator does not, so a server with
//!    a broken link disturbs nobody. Whoever is better answers `Ok`, as in the plain Bully, and holds its own.
//! 7. **Lower numbers are refused**, and the refusal says which number is known. A coordinator that learns of a higher one
//!    gives up.
//! 8. **Giving up.** A coordinator whose lease ends stops to lead by itself, before it says so. Its word frees the voters
//!    that were bound to it; so does that of a candidate that did not get its majority. Such candidates rest before they
//!    ask again, the worse longer, so that two of them do not take each other's votes for ever.
//! 9. **The best rank in the end.** A better server follows the coordinator that it finds, for `hold_down_ms` without a
//!    break; then it makes sure that a majority hears it, and asks for a hand-over. Who hands over leaves it to that one.
//!
//! Why leases do not overlap: let E and F be two epochs that were won, E the lower. Every majority that answered E shares
//! a voter with the one that granted F. That voter answered E before it granted F, since afterwards it refuses E; and it
//! granted F only after its window, counted from the arrival, or because E's coordinator had already given up. E's lease,
//! counted from the sending, is shorter. So it was over when the grant was made, and F's begins with that grant.
//!
//! Sources: D. Ongaro, *Consensus: Bridging Theory and Practice*, 2014, sections 3.4 (votes), 3.10 (hand-over), 6.4.1
//! (leases) and 9.6 (asking before a vote); C. Gray and D. Cheriton, *Leases: An Efficient Fault-Tolerant Mechanism for
//! Distributed File Cache Consistency*, SOSP 1989, section 5 for clocks that drift; Garcia-Molina as in the
//! [module above](super).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dsv2_core::{Machine, Mono, Now, ServerName};

use super::roster::Roster;
use super::{
    Claim, Coordinator, CoordinatorRank, Election, ElectionEffect, ElectionInput, ElectionMessage, Epoch, NodeId, Seen,
    Standing,
};

mod around;
mod ballot;
mod lease;

/// How far an epoch's number may lie above the highest known one. A damaged message could otherwise use the numbers up.
const EPOCH_JUMP_CAP: u64 = 1 << 32;

/// The figures of [`QuorumBully`]. All servers of a cluster need the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuorumConfig {
    /// Who votes, and may lead. Every server is given the same list.
    pub voters: BTreeSet<ServerName>,
    /// Which rank wins; the highest.
    pub rank: CoordinatorRank,
    /// How often the coordinator renews its lease; 500 ms.
    pub heartbeat_ms: u64,
    /// The silence window: how long a voter that answered a coordinator, granted a vote or was started votes for nobody
    /// else; 1,750 ms. At least three heartbeats.
    pub window_ms: u64,
    /// By how many thousandths the rate of any clock may differ from that of true time; 20. Quartz keeps 0.1.
    pub drift_permille: u64,
    /// How long answers to an election, and votes, are awaited; 300 ms.
    pub answer_ms: u64,
    /// How long a better server that answered may take to become coordinator; 1,000 ms.
    pub takeover_ms: u64,
    /// How long a better server follows a worse one before it asks for the lead; 5,000 ms.
    pub hold_down_ms: u64,
}

impl QuorumConfig {
    /// The default figures for these voters.
    #[must_use]
    pub const fn new(voters: BTreeSet<ServerName>) -> Self {
        Self {
            voters,
            rank: CoordinatorRank::Highest,
            heartbeat_ms: 500,
            window_ms: 1_750,
            drift_permille: 20,
            answer_ms: 300,
            takeover_ms: 1_000,
            hold_down_ms: 5_000,
        }
    }

    /// How long a lease lasts from the sending of what a majority answered, in milliseconds by the coordinator's clock.
    ///
    /// With rates between 1 − ρ and 1 + ρ of true time, a window W of a fast voter is over after W / (1 + ρ) of true
    /// time, and a lease L of a slow coordinator after L / (1 − ρ). The second must not exceed the first, so
    /// L = W · (1 − ρ) / (1 + ρ): with 1,750 ms and 2 % it is 1,681 ms, and 69 ms are the price of the margin.
    #[must_use]
    pub const fn lease_ms(&self) -> u64 {
        let drift = if self.drift_permille < 1_000 { self.drift_permille } else { 1_000 };
        self.window_ms * (1_000 - drift) / (1_000 + drift)
    }

    /// Once the links among a majority of the voters are stable, and messages take less than a quarter of `answer_ms`,
    /// they agree after so many milliseconds: one window in which voters may be bound, another one if a vote that was
    /// given in it comes to nothing, two elections of which the first was left to a server that died, and two heartbeats.
    #[must_use]
    pub const fn agreement_bound_ms(&self) -> u64 {
        2 * self.window_ms + 2 * (2 * self.answer_ms + self.takeover_ms) + 2 * self.heartbeat_ms
    }

    /// And after so many, they agree on the best of them: the agreement, the hold-down, the question before the
    /// hand-over, and the election after it.
    #[must_use]
    pub const fn best_rank_bound_ms(&self) -> u64 {
        self.agreement_bound_ms() + self.hold_down_ms + 3 * self.answer_ms + self.takeover_ms
    }

    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    const fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms())
    }

    const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    const fn answer(&self) -> Duration {
        Duration::from_millis(self.answer_ms)
    }

    const fn hold_down(&self) -> Duration {
        Duration::from_millis(self.hold_down_ms)
    }
}

/// The coordinator that is followed, or this server's own reign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reign {
    who: Coordinator,
    rank: Option<u64>,
    /// When it last spoke, as far as known here; a window later it counts as lost.
    heard: Mono,
    /// When it last spoke to this server itself.
    direct: Option<Mono>,
}

/// What a server is doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// It follows, or waits until it is bound to nobody.
    Calm,
    /// It asks who would support it. A `challenge` is held while a coordinator lives, to ask for a hand-over.
    Asking { until: Mono, waiting: BTreeSet<ServerName>, support: BTreeSet<ServerName>, challenge: bool },
    /// A better server said that it would see to it.
    Promised { until: Mono, by: ServerName },
    /// It asked for votes at `sent`.
    Voting { until: Mono, ballot: Epoch, sent: Mono, grants: BTreeSet<ServerName> },
    /// It leads: when the next heartbeat is due, and the sending of the last message that each other voter answered.
    Leading { beat: Mono, answered: BTreeMap<ServerName, Mono> },
    /// It found no majority, or gave up; it asks again then. Who lost a ballot waits for that in any case.
    Resting { until: Mono, lost: bool },
}

/// A server's part in the Bully algorithm with a quorum.
///
/// ```
/// use dsv2_core::{Machine, Mono, Now, ServerName};
/// use dsv2_sync::election::{Election, ElectionInput, Epoch, NodeId, QuorumBully, QuorumConfig};
///
/// // The only voter waits for one window, and then votes for itself.
/// let me: ServerName = "server1".parse()?;
/// let config = QuorumConfig::new([me.clone()].into());
/// let mut quorum = QuorumBully::new(me, NodeId(7), Epoch::ZERO, Epoch::ZERO, config, Mono::ZERO);
/// let at = quorum.deadline().ok_or("it waits")?;
/// quorum.step(Now { mono: at, ..Now::default() }, ElectionInput::Wake, &mut Vec::new());
/// assert!(quorum.is_coordinator(at));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuorumBully {
    config: QuorumConfig,
    node: NodeId,
    roster: Roster,
    /// The highest epoch seen; saved before anything that follows from it leaves.
    epoch: Epoch,
    /// The last vote given, to itself included; saved likewise.
    vote: Epoch,
    reign: Option<Reign>,
    phase: Phase,
    /// Until then this server votes for nobody, and does not campaign.
    bound_until: Mono,
    /// To whom it is bound: that one's word ends it.
    bound_to: Epoch,
    /// The last reign or ballot that was given up; late messages of it must not revive it.
    resigned: Epoch,
    /// Before this, nobody here asks for a hand-over.
    challenge_at: Mono,
    /// Who will not take over although it is better: it answered `Ok` and did nothing. Since the last agreement.
    reneged: BTreeSet<ServerName>,
    draining: bool,
    reference_lost: bool,
    /// It is still to be said that the coordinator stays.
    owes_stays: bool,
    #[cfg(feature = "sim")]
    planted: Option<Planted>,
}

/// A bug to plant, so that tests can show that they would find it.
#[cfg(feature = "sim")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// A grant does not restart the voter's timer.
    GrantKeepsTimer,
    /// A vote is not made durable.
    VoteNotSaved,
}

impl QuorumBully {
    /// A server that starts now; `epoch` and `vote` are those of the last durable [`ElectionEffect::Save`] and
    /// [`ElectionEffect::SaveVote`], or [`Epoch::ZERO`].
    #[must_use]
    pub fn new(me: ServerName, node: NodeId, epoch: Epoch, vote: Epoch, config: QuorumConfig, now: Mono) -> Self {
        Self {
            node,
            roster: Roster::new(me, config.rank),
            epoch: epoch.max(vote),
            vote,
            reign: None,
            phase: Phase::Calm,
            bound_until: now + config.window(),
            bound_to: Epoch::ZERO,
            resigned: Epoch::ZERO,
            challenge_at: now + config.hold_down(),
            reneged: BTreeSet::new(),
            draining: false,
            reference_lost: false,
            owes_stays: false,
            #[cfg(feature = "sim")]
            planted: None,
            config,
        }
    }

    /// Plants a bug.
    #[cfg(feature = "sim")]
    pub const fn plant(&mut self, bug: Planted) {
        self.planted = Some(bug);
    }

    #[cfg(feature = "sim")]
    fn grant_restarts_timer(&self) -> bool {
        self.planted != Some(Planted::GrantKeepsTimer)
    }

    #[cfg(not(feature = "sim"))]
    #[allow(clippy::unused_self, reason = "the other form asks for a planted bug")]
    const fn grant_restarts_timer(&self) -> bool {
        true
    }

    #[cfg(feature = "sim")]
    fn grant_is_saved(&self) -> bool {
        self.planted != Some(Planted::VoteNotSaved)
    }

    #[cfg(not(feature = "sim"))]
    #[allow(clippy::unused_self, reason = "the other form asks for a planted bug")]
    const fn grant_is_saved(&self) -> bool {
        true
    }

    /// The last vote that it gave.
    #[must_use]
    pub const fn vote(&self) -> Epoch {
        self.vote
    }

    fn is_voter(&self) -> bool {
        self.config.voters.contains(&self.roster.me)
    }

    /// Whether it may campaign: learners and servers that are about to stop do not.
    fn may_lead(&self) -> bool {
        self.is_voter() && !self.draining
    }

    fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading { .. })
    }

    /// When the coordinator that is followed counts as lost.
    fn expires(&self, reign: &Reign) -> Mono {
        reign.heard + self.config.window()
    }

    /// The coordinator, if it is not overdue.
    fn live(&self, now: Mono) -> Option<&Reign> {
        self.reign.as_ref().filter(|reign| self.is_leading() || now < self.expires(reign))
    }

    /// When silence makes this server hold an election.
    fn suspect_at(&self) -> Mono {
        let expires = self.reign.as_ref().map_or(Mono::ZERO, |reign| self.expires(reign));
        self.bound_until.max(expires)
    }

    /// When this server should ask for a hand-over: it is better than the coordinator that it follows.
    fn challenge_due(&self) -> Option<Mono> {
        let reign = self.reign.as_ref()?;
        let theirs = (self.roster.rank_of(&reign.who.name).or(reign.rank), &reign.who.name);
        self.roster.prefers((self.roster.rank, &self.roster.me), theirs).then_some(self.challenge_at)
    }

    /// When the lease ends: `None` while there is none, or where one vote is a majority.
    fn lease_end(&self) -> Option<Mono> {
        let Phase::Leading { answered, .. } = &self.phase else { return None };
        let others = self.config.majority().checked_sub(2)?;
        // The last message that a majority answered, or a later one.
        let is_majority = |sent: &&Mono| answered.values().filter(|other| other >= sent).count() > others;
        let sent = answered.values().filter(is_majority).max();
        Some(sent.map_or(Mono::ZERO, |&sent| sent + self.config.lease()))
    }

    fn own_claim(&self) -> Claim {
        let epoch = self.reign.as_ref().map_or(Epoch::ZERO, |reign| reign.who.epoch);
        Claim { name: self.roster.me.clone(), epoch, rank: self.roster.rank, standing: Standing::Settled }
    }

    /// What this server can vouch for: its own reign, or a coordinator that spoke to itself within the window. At second
    /// hand, servers could keep a dead one alive for each other.
    fn vouch(&self, now: Mono) -> Option<Seen> {
        if self.is_leading() {
            return Some(Seen { claim: self.own_claim(), age_ms: 0 });
        }
        let reign = self.live(now)?;
        let age = now.since(reign.direct?);
        let claim = Claim {
            name: reign.who.name.clone(),
            epoch: reign.who.epoch,
            rank: reign.rank,
            standing: Standing::Settled,
        };
        // Rounded up: a coordinator must not seem fresher than it is.
        let age_ms = u64::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        (age < self.config.window()).then_some(Seen { claim, age_ms })
    }

    fn view(&self, now: Mono) -> ElectionMessage {
        ElectionMessage::View { epoch: self.epoch, seen: self.vouch(now) }
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

    fn tell_voters(&self, message: &ElectionMessage, out: &mut Vec<ElectionEffect>) {
        out.extend(self.reachable_voters().into_iter().map(|to| send(&to, message.clone())));
    }

    fn reachable_voters(&self) -> Vec<ServerName> {
        let mut reachable = self.roster.reachable();
        reachable.retain(|name| self.config.voters.contains(name));
        reachable
    }

    fn on_message(&mut self, now: Mono, from: &ServerName, message: ElectionMessage, out: &mut Vec<ElectionEffect>) {
        if *from == self.roster.me {
            return;
        }
        self.roster.heard(now, from);
        match message {
            ElectionMessage::Election { epoch, rank } => self.on_election(now, from, epoch, rank, out),
            ElectionMessage::Ok { epoch, rank } => self.on_ok(now, from, epoch, rank, out),
            ElectionMessage::Support { epoch } => self.on_support(now, from, epoch, out),
            ElectionMessage::View { epoch, seen } => self.on_view(now, from, epoch, seen, out),
            ElectionMessage::Request { ballot, rank } => self.on_request(now, from, ballot, rank, out),
            ElectionMessage::Grant { ballot } => self.on_grant(now, from, ballot, out),
            ElectionMessage::Lease { claim, sent_us } if claim.name == *from => {
                self.on_lease(now, &claim, sent_us, out);
            }
            ElectionMessage::Renewed { epoch, sent_us } => self.on_renewed(now, from, epoch, sent_us),
            ElectionMessage::Handover { epoch } => self.on_handover(now, from, epoch, out),
            ElectionMessage::Resign { epoch } => self.on_resign(now, from, epoch, out),
            // Of a server that was told of no voters: it leads nobody here.
            ElectionMessage::Coordinator(_)
            | ElectionMessage::Heartbeat(_)
            | ElectionMessage::Ack { .. }
            | ElectionMessage::Lease { .. } => {}
        }
    }

    fn run_timers(&mut self, now: Mono, out: &mut Vec<ElectionEffect>) {
        match &self.phase {
            Phase::Calm if self.may_lead() => {
                if now >= self.suspect_at() {
                    self.elect(now, false, out);
                } else if self.challenge_due().is_some_and(|due| now >= due) {
                    self.elect(now, true, out);
                }
            }
            Phase::Asking { until, .. } if now >= *until => self.decide(now, out),
            Phase::Promised { until, by } if now >= *until => {
                self.reneged.insert(by.clone());
                self.elect(now, false, out);
            }
            Phase::Voting { until, .. } if now >= *until => self.withdraw(now, out),
            Phase::Resting { until, .. } if now >= *until => self.elect(now, false, out),
            Phase::Leading { beat, .. } if now >= *beat => self.beat(now, out),
            _ => {}
        }
    }
}

fn send(to: &ServerName, message: ElectionMessage) -> ElectionEffect {
    ElectionEffect::Send { to: to.clone(), message }
}

impl Machine for QuorumBully {
    type Input = ElectionInput;
    type Effect = ElectionEffect;

    fn step(&mut self, now: Now, input: ElectionInput, out: &mut Vec<ElectionEffect>) {
        let now = now.mono;
        // First the past: after a pause of the process, the lease ended long before this input came.
        self.end_lease(now, out);
        match input {
            ElectionInput::Members(members) => self.roster.list(members),
            ElectionInput::LinkUp(name) => self.on_link_up(now, &name, out),
            ElectionInput::LinkDown(name) => self.on_link_down(now, &name, out),
            ElectionInput::Heard(name) => self.roster.heard(now, &name),
            ElectionInput::Message { from, message } => self.on_message(now, &from, message, out),
            ElectionInput::ForeignAnnouncement { name } => out.push(ElectionEffect::ForeignIgnored { name }),
            ElectionInput::ReferenceLost => self.on_reference(true),
            ElectionInput::ReferenceBack => self.on_reference(false),
            ElectionInput::Stepdown => self.on_stepdown(now, out),
            ElectionInput::Wake => {}
        }
        self.run_timers(now, out);
        self.say_it_stays(now, out);
    }

    fn deadline(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Calm if self.may_lead() => {
                let suspect = self.suspect_at();
                Some(self.challenge_due().map_or(suspect, |due| due.min(suspect)))
            }
            Phase::Calm => None,
            Phase::Asking { until, .. }
            | Phase::Promised { until, .. }
            | Phase::Voting { until, .. }
            | Phase::Resting { until, .. } => Some(*until),
            Phase::Leading { beat, .. } => Some(self.lease_end().map_or(*beat, |end| end.min(*beat))),
        }
    }
}

impl Election for QuorumBully {
    fn coordinator(&self) -> Option<&Coordinator> {
        self.reign.as_ref().map(|reign| &reign.who)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_coordinator(&self, now: Mono) -> bool {
        self.is_leading() && self.lease_end().is_none_or(|end| now < end)
    }

    fn lease_until(&self) -> Option<Mono> {
        self.lease_end()
    }
}
