//! Every schedule of an election among three servers, within bounds: which message arrives next, which one is lost, whose
//! time comes while messages are still on their way, who dies and comes back. The machines are those that run elsewhere.
//!
//! The bounds are the fields of [`Bounds`]; the tests print them with the number of states that were looked at.
//! `DSV2_EXPLORE=deep` looks further: for as long as there is memory.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;

use dsv2_core::{Mono, Now, ServerName, Wall};
use dsv2_sync::election::{
    Bully, BullyConfig, Election, ElectionEffect, ElectionInput, ElectionMessage, Epoch, Member, NodeId, Planted,
    QuorumBully, QuorumConfig,
};
use stateright::{Checker, Model, Property};

const NAMES: [&str; 3] = ["alfa", "beta", "gama"];

fn name(index: usize) -> ServerName {
    NAMES[index].parse().expect("a name")
}

fn index(name: &ServerName) -> usize {
    NAMES.iter().position(|known| *known == name.as_str()).expect("one of the three")
}

/// An election that can be explored.
trait Explored: Election + Clone + Debug + PartialEq + Eq + Hash + Send + Sync + 'static {
    /// Whether leases exclude each other; if not, two partitions may each have a coordinator.
    const LEASES: bool;
    fn begin(server: usize, saved: (Epoch, Epoch), now: Mono, planted: Option<Planted>) -> Self;
}

impl Explored for Bully {
    const LEASES: bool = false;
    fn begin(server: usize, (epoch, _): (Epoch, Epoch), now: Mono, _: Option<Planted>) -> Self {
        Self::new(name(server), NodeId(server as u128 + 1), epoch, BullyConfig::default(), now)
    }
}

impl Explored for QuorumBully {
    const LEASES: bool = true;
    fn begin(server: usize, (epoch, vote): (Epoch, Epoch), now: Mono, planted: Option<Planted>) -> Self {
        let config = QuorumConfig::new((0..NAMES.len()).map(name).collect());
        let mut machine = Self::new(name(server), NodeId(server as u128 + 1), epoch, vote, config, now);
        planted.into_iter().for_each(|bug| machine.plant(bug));
        machine
    }
}

/// So many elections are looked at. Whoever may choose which message arrives can keep two candidates from winning for ever,
/// and no time passes meanwhile (Fischer, Lynch and Paterson 1985): without this bound such a schedule has no end.
const ROUNDS: u64 = 3;

/// How far is looked.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// How far apart the servers start, in milliseconds. At once is the worst: all hold elections at the same moment.
    apart_ms: u64,
    /// Until when, in milliseconds.
    horizon_ms: u64,
    /// How many messages are lost at most.
    losses: u8,
    /// How often time passes while messages are on their way.
    late: u8,
    /// How many servers die at most; each may come back.
    crashes: u8,
    /// A bug that must be found.
    planted: Option<Planted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World<M> {
    now: Mono,
    machines: [Option<M>; 3],
    /// What is on their disks: epoch and vote.
    saved: [(Epoch, Epoch); 3],
    /// What is on its way, by sender and receiver. A link keeps the order.
    mail: [[VecDeque<ElectionMessage>; 3]; 3],
    losses: u8,
    late: u8,
    crashes: u8,
    planted: Option<Planted>,
    /// Who led in which epoch.
    owners: BTreeMap<Epoch, usize>,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The first message on the way from one to another arrives.
    Deliver(usize, usize),
    /// It is lost.
    Lose(usize, usize),
    /// Time passes until the next deadline.
    Pass,
    Crash(usize),
    Restart(usize),
}

impl<M: Explored> World<M> {
    fn new(bounds: &Bounds) -> Self {
        let mut world = Self {
            now: Mono::ZERO,
            machines: [None, None, None],
            saved: [(Epoch::ZERO, Epoch::ZERO); 3],
            mail: Default::default(),
            losses: bounds.losses,
            late: bounds.late,
            crashes: bounds.crashes,
            planted: bounds.planted,
            owners: BTreeMap::new(),
            broken: None,
        };
        for server in 0..NAMES.len() {
            world.now = Mono::from_ms(server as u64 * bounds.apart_ms);
            world.start(server);
        }
        world
    }

    fn start(&mut self, server: usize) {
        self.machines[server] = Some(M::begin(server, self.saved[server], self.now, self.planted));
        let member = |of| Member { name: name(of), rank: Some(of as u64 + 1), node: Some(NodeId(of as u128 + 1)) };
        self.feed(server, ElectionInput::Members((0..NAMES.len()).map(member).collect()));
        for other in (0..NAMES.len()).filter(|other| *other != server) {
            if self.machines[other].is_some() {
                self.feed(server, ElectionInput::LinkUp(name(other)));
                self.feed(other, ElectionInput::LinkUp(name(server)));
            }
        }
    }

    fn feed(&mut self, server: usize, input: ElectionInput) {
        let Some(machine) = &mut self.machines[server] else { return };
        let (before, mut effects) = (machine.epoch(), Vec::new());
        machine.step(Now { mono: self.now, wall: Wall::default() }, input, &mut effects);
        if machine.epoch() < before {
            self.broken = Some("an epoch went back");
        }
        for effect in effects {
            match effect {
                ElectionEffect::Save(epoch) => self.saved[server].0 = epoch,
                ElectionEffect::SaveVote(vote) => {
                    if vote.number <= self.saved[server].1.number {
                        self.broken = Some("two votes for one number");
                    }
                    self.saved[server].1 = vote;
                }
                ElectionEffect::Send { to, message } if self.machines[index(&to)].is_some() => {
                    self.mail[server][index(&to)].push_back(message);
                }
                _ => {}
            }
        }
        self.look(server);
    }

    /// At most one coordinator for each number; at most one valid lease.
    fn look(&mut self, server: usize) {
        let leads = |world: &Self, of: usize| {
            world.machines[of].as_ref().is_some_and(|machine| machine.is_coordinator(world.now))
        };
        if !leads(self, server) {
            return;
        }
        let known = self.machines[server].as_ref().and_then(Election::coordinator);
        let Some(mut epoch) = known.filter(|known| known.name == name(server)).map(|known| known.epoch) else {
            self.broken = Some("who leads names somebody else");
            return;
        };
        if M::LEASES {
            // Votes are given for numbers; without them two servers may take one, and the node tells the epochs apart.
            epoch.node = NodeId(0);
        }
        if *self.owners.entry(epoch).or_insert(server) != server {
            self.broken = Some("two coordinators in one epoch");
        }
        if M::LEASES && (0..NAMES.len()).filter(|of| leads(self, *of)).count() > 1 {
            self.broken = Some("two leases at one time");
        }
    }

    /// The links on which something is on its way.
    fn busy(&self) -> impl Iterator<Item = (usize, usize)> {
        let pairs = (0..NAMES.len()).flat_map(|from| (0..NAMES.len()).map(move |to| (from, to)));
        pairs.filter(|&(from, to)| !self.mail[from][to].is_empty())
    }

    fn next_deadline(&self) -> Option<Mono> {
        self.machines.iter().flatten().filter_map(dsv2_core::Machine::deadline).min()
    }

    fn leader(&self) -> Option<usize> {
        (0..NAMES.len()).find(|of| self.machines[*of].as_ref().is_some_and(|machine| machine.is_coordinator(self.now)))
    }
}

struct Exploration<M> {
    bounds: Bounds,
    form: std::marker::PhantomData<fn() -> M>,
}

impl<M: Explored> Model for Exploration<M> {
    type State = World<M>;
    type Action = Step;

    fn init_states(&self) -> Vec<World<M>> {
        vec![World::new(&self.bounds)]
    }

    fn actions(&self, world: &World<M>, steps: &mut Vec<Step>) {
        if world.broken.is_some() {
            return;
        }
        for (from, to) in world.busy() {
            steps.push(Step::Deliver(from, to));
            if world.losses > 0 {
                steps.push(Step::Lose(from, to));
            }
        }
        if world.busy().next().is_none() || world.late > 0 {
            steps.push(Step::Pass);
        }
        for server in 0..NAMES.len() {
            match &world.machines[server] {
                // Whoever dies between two steps of others; their letters do not matter for when.
                Some(_) if world.crashes > 0 => steps.push(Step::Crash(server)),
                None => steps.push(Step::Restart(server)),
                Some(_) => {}
            }
        }
    }

    fn next_state(&self, world: &World<M>, step: Step) -> Option<World<M>> {
        let mut world = world.clone();
        match step {
            Step::Deliver(from, to) => {
                let message = world.mail[from][to].pop_front()?;
                world.feed(to, ElectionInput::Message { from: name(from), message });
            }
            Step::Lose(from, to) => {
                world.mail[from][to].pop_front()?;
                world.losses -= 1;
            }
            Step::Pass => {
                let at = world.next_deadline()?.max(world.now);
                if world.busy().next().is_some() {
                    world.late -= 1;
                }
                world.now = at;
                for server in 0..NAMES.len() {
                    let due = world.machines[server].as_ref().and_then(dsv2_core::Machine::deadline);
                    if due.is_some_and(|due| due <= at) {
                        world.feed(server, ElectionInput::Wake);
                    }
                }
            }
            Step::Crash(server) => {
                world.machines[server] = None;
                world.crashes -= 1;
                // What it had sent is lost with its connections, and the others see them break.
                world.mail[server].iter_mut().for_each(VecDeque::clear);
                world.mail.iter_mut().for_each(|to| to[server].clear());
                for other in 0..NAMES.len() {
                    world.feed(other, ElectionInput::LinkDown(name(server)));
                }
            }
            Step::Restart(server) => world.start(server),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the laws hold", |_, world: &World<M>| world.broken.is_none()),
            Property::sometimes("somebody leads", |_, world: &World<M>| world.leader().is_some()),
            Property::sometimes("a second reign", |_, world: &World<M>| {
                world.leader().is_some_and(|of| world.saved[of].0.number > 1)
            }),
        ]
    }

    fn within_boundary(&self, world: &World<M>) -> bool {
        let rounds = world.saved.iter().map(|(epoch, vote)| epoch.number.max(vote.number)).max().unwrap_or(0);
        world.now <= Mono::from_ms(self.bounds.horizon_ms) && rounds <= ROUNDS
    }
}

fn explore<M: Explored>(what: &str, bounds: &[Bounds]) {
    let deep = std::env::var("DSV2_EXPLORE").is_ok_and(|text| text == "deep");
    for &bounds in if deep { bounds } else { &bounds[..bounds.len() - 1] } {
        let began = std::time::Instant::now();
        let model = Exploration::<M> { bounds, form: std::marker::PhantomData };
        let checker = model.checker().threads(2).spawn_bfs().join();
        println!(
            "{what}: {} states, {} different, in {:.1} s, with {bounds:?}",
            checker.state_count(),
            checker.unique_state_count(),
            began.elapsed().as_secs_f32()
        );
        checker.assert_no_discovery("the laws hold");
        checker.assert_any_discovery("somebody leads");
    }
}

/// What must not be found is found where it is.
#[test]
fn a_planted_bug_is_found() {
    let bounds = Bounds { planted: Some(Planted::GrantKeepsTimer), ..bounds(100, 2_300, 0, 2, 0) };
    let model = Exploration::<QuorumBully> { bounds, form: std::marker::PhantomData };
    let checker = model.checker().threads(2).spawn_bfs().join();
    let found = checker.discovery("the laws hold").expect("two leases at one time");
    println!("found among {} states: {:?}", checker.state_count(), found.into_actions());
}

const fn bounds(apart_ms: u64, horizon_ms: u64, losses: u8, late: u8, crashes: u8) -> Bounds {
    Bounds { apart_ms, horizon_ms, losses, late, crashes, planted: None }
}

#[test]
fn no_schedule_of_a_quorum_election_breaks_its_laws() {
    explore::<QuorumBully>(
        "quorum",
        &[
            bounds(0, 2_000, 0, 0, 0),
            bounds(100, 2_100, 1, 0, 0),
            bounds(100, 2_100, 2, 0, 0),
            bounds(100, 2_600, 0, 0, 1),
            bounds(100, 2_100, 0, 1, 0),
            bounds(100, 2_100, 0, 2, 0),
            bounds(100, 2_100, 1, 1, 0),
            bounds(100, 2_300, 0, 1, 1),
            bounds(100, 2_600, 1, 1, 1),
        ],
    );
}

#[test]
fn no_schedule_of_a_plain_election_breaks_its_laws() {
    explore::<Bully>(
        "plain",
        &[
            bounds(0, 2_300, 1, 0, 0),
            bounds(0, 2_300, 2, 0, 0),
            bounds(0, 4_000, 0, 0, 1),
            bounds(0, 2_600, 1, 0, 1),
            bounds(100, 2_050, 0, 1, 0),
            bounds(0, 4_000, 1, 1, 1),
        ],
    );
}
