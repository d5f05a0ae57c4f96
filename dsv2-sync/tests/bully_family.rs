//! Servers of the family, which know no epochs; the reference; and messages that nobody should believe.

mod bully_net;

use std::time::Duration;

use bully_net::{Net, name};
use dsv2_core::{Machine, Mono, Now, ServerName};
use dsv2_sync::election::{
    Bully, BullyConfig, ChangeReason, Claim, Coordinator, Election, ElectionEffect, ElectionInput, ElectionMessage,
    Epoch, Member, NodeId, Seen, Standing,
};

/// One server, named `me`, with rank 2, in the hands of the test.
struct Alone {
    machine: Bully,
    now: Mono,
}

fn member(server: &str, rank: u64, node: Option<u128>) -> Member {
    Member { name: name(server), rank: Some(rank), node: node.map(NodeId) }
}

impl Alone {
    /// It knows `me` (rank 2), `better` (3) and `worse` (1), which are native, and `foreign` (4).
    fn new(config: BullyConfig) -> Self {
        let machine = Bully::new(name("me"), NodeId(2), Epoch::ZERO, config, Mono::ZERO);
        let mut this = Self { machine, now: Mono::ZERO };
        let members = vec![member("me", 2, Some(2)), member("better", 3, Some(3)), member("worse", 1, Some(1))];
        this.feed(ElectionInput::Members([members, vec![member("foreign", 4, None)]].concat()));
        this
    }

    fn feed(&mut self, input: ElectionInput) -> Vec<ElectionEffect> {
        let mut out = Vec::new();
        self.machine.step(Now { mono: self.now, ..Now::default() }, input, &mut out);
        out
    }

    fn hear(&mut self, from: &str, message: ElectionMessage) -> Vec<ElectionEffect> {
        self.feed(ElectionInput::Message { from: name(from), message })
    }

    /// Lets so many milliseconds pass, waking it whenever it wants.
    fn pass_ms(&mut self, ms: u64) -> Vec<ElectionEffect> {
        let until = self.now + Duration::from_millis(ms);
        let mut all = Vec::new();
        while let Some(at) = self.machine.deadline().filter(|&at| at <= until) {
            self.now = at;
            all.extend(self.feed(ElectionInput::Wake));
        }
        self.now = until;
        all
    }

    fn follows(&self) -> Option<&str> {
        self.machine.coordinator().map(|who| who.name.as_str())
    }
}

fn sent_to<'a>(effects: &'a [ElectionEffect], server: &str) -> Vec<&'a ElectionMessage> {
    let sends = effects.iter().filter_map(|effect| match effect {
        ElectionEffect::Send { to, message } => Some((to, message)),
        _ => None,
    });
    sends.filter(|(to, _)| to.as_str() == server).map(|(_, message)| message).collect()
}

fn claim(server: &str, number: u64, node: u128, rank: u64) -> Claim {
    Claim {
        name: name(server),
        epoch: Epoch { number, node: NodeId(node) },
        rank: Some(rank),
        standing: Standing::Settled,
    }
}

#[test]
fn a_foreign_announcement_is_obeyed_only_without_voters() {
    let announced = ElectionInput::ForeignAnnouncement { name: name("foreign") };
    let mut with_voters = Alone::new(BullyConfig { obey_foreign: false, ..BullyConfig::default() });
    with_voters.pass_ms(3_000);
    assert_eq!(with_voters.feed(announced.clone()), [ElectionEffect::ForeignIgnored { name: name("foreign") }]);
    assert!(with_voters.machine.is_coordinator(Mono::ZERO));

    let mut without = Alone::new(BullyConfig::default());
    without.pass_ms(3_000);
    let mine = without.machine.coordinator().cloned();
    let new = Some(Coordinator { name: name("foreign"), epoch: Epoch::ZERO });
    let changed = ElectionEffect::Changed { old: mine, new, reason: ChangeReason::Foreign };
    assert_eq!(without.feed(announced.clone()), [changed]);
    assert_eq!(without.feed(announced), [], "said twice, obeyed once");
    let stranger = ElectionInput::ForeignAnnouncement { name: name("stranger") };
    assert_eq!(without.feed(stranger), [ElectionEffect::ForeignIgnored { name: name("stranger") }]);
    assert_eq!((without.follows(), without.machine.epoch().number), (Some("foreign"), 1), "epochs stay");
}

#[test]
fn a_foreign_coordinator_leads_until_it_leaves_the_list_or_is_silent() {
    let announced = ElectionInput::ForeignAnnouncement { name: name("foreign") };
    let lists_it = |it: bool| {
        let members = [member("me", 2, Some(2)), member("foreign", 4, None)];
        ElectionInput::Members(members[..1 + usize::from(it)].to_vec())
    };
    let mut server = Alone::new(BullyConfig::default());
    server.feed(announced);
    for _ in 0..6 {
        server.pass_ms(20_000);
        server.feed(lists_it(true));
    }
    server.pass_ms(20_000);
    server.feed(ElectionInput::Heard(name("foreign")));
    server.pass_ms(29_000);
    assert_eq!(server.follows(), Some("foreign"), "listed, or heard");
    let mut left = server.machine.clone();
    server.pass_ms(2_000);
    assert_eq!(server.follows(), Some("me"), "silent for 30 s");
    let mut out = Vec::new();
    left.step(Now { mono: server.now - Duration::from_secs(2), ..Now::default() }, lists_it(false), &mut out);
    assert!(left.is_coordinator(Mono::ZERO), "left the list");
}

/// A family that names one of ours gets a coordinator with an epoch.
#[test]
fn whoever_of_ours_is_named_claims_an_epoch() {
    let mut server = Alone::new(BullyConfig::default());
    let effects = server.feed(ElectionInput::ForeignAnnouncement { name: name("me") });
    let mine = Coordinator { name: name("me"), epoch: Epoch { number: 1, node: NodeId(2) } };
    let changed = ElectionEffect::Changed { old: None, new: Some(mine.clone()), reason: ChangeReason::Foreign };
    assert_eq!(effects, [ElectionEffect::Save(mine.epoch), changed, ElectionEffect::Announce(mine)]);

    let mut net = Net::new(BullyConfig::default(), &[("alfa", 1), ("beta", 2), ("gama", 3)], 5);
    for server in ["alfa", "beta", "gama"] {
        net.start(&name(server));
    }
    net.run_ms(10_000);
    for server in net.alive() {
        net.feed(&server, ElectionInput::ForeignAnnouncement { name: name("alfa") });
    }
    net.run_ms(100);
    assert_eq!(net.agreed(&net.alive()), Some(name("alfa")), "{}", net.story());
    net.run_ms(net.config.best_rank_bound_ms());
    assert_eq!(net.agreed(&net.alive()), Some(name("gama")), "the rule of ranks holds again");
}

/// One of three heard the announcement; the others learn of it, or it learns better: in the end they agree.
#[test]
fn an_announcement_that_only_one_heard_does_not_split_them() {
    for hearer in ["alfa", "beta", "gama"] {
        let mut net = Net::new(BullyConfig::default(), &[("alfa", 1), ("beta", 2), ("gama", 3)], 5);
        for server in ["alfa", "beta", "gama"] {
            net.start(&name(server));
        }
        net.run_ms(10_000);
        net.feed(&name(hearer), ElectionInput::ForeignAnnouncement { name: name("alfa") });
        net.run_ms(net.config.best_rank_bound_ms());
        assert_eq!(net.agreed(&net.alive()), Some(name("gama")), "{hearer}: {}", net.story());
    }
}

#[test]
fn a_foreign_ok_binds_only_if_its_sender_is_better_and_only_once() {
    let ok = ElectionMessage::Ok { epoch: None, rank: None };
    for (peer, waits) in [("worse", false), ("foreign", true)] {
        let mut server = Alone::new(BullyConfig::default());
        server.feed(ElectionInput::LinkUp(name(peer)));
        let asked = server.pass_ms(1_750);
        assert!(matches!(sent_to(&asked, peer)[..], [ElectionMessage::Election { .. }]), "{asked:?}");
        server.hear(peer, ok.clone());
        assert_eq!(server.machine.is_coordinator(Mono::ZERO), !waits, "{peer}");
        // It never takes over; the second time it is not waited for.
        server.pass_ms(1_000);
        server.hear(peer, ok.clone());
        assert!(server.machine.is_coordinator(Mono::ZERO), "{peer}");
    }
}

#[test]
fn a_foreign_election_is_answered_ok() {
    let mut server = Alone::new(BullyConfig::default());
    for from in ["foreign", "worse"] {
        let effects = server.hear(from, ElectionMessage::Election { epoch: None, rank: None });
        assert!(matches!(sent_to(&effects, from)[..], [ElectionMessage::Ok { .. }]), "{effects:?}");
    }
}

#[test]
fn the_loss_of_the_reference_is_told_once() {
    let stays = |who: &str| ElectionEffect::CoordinatorStays { name: name(who) };
    let mut server = Alone::new(BullyConfig::default());
    assert_eq!(server.feed(ElectionInput::ReferenceLost), [], "nobody leads yet");
    let effects = server.pass_ms(60_000);
    assert_eq!(effects.iter().filter(|effect| **effect == stays("me")).count(), 1, "{effects:?}");
    assert_eq!(server.feed(ElectionInput::ReferenceLost), []);
    assert_eq!(server.feed(ElectionInput::ReferenceBack), []);
    assert_eq!(server.feed(ElectionInput::ReferenceLost), [stays("me")]);
}

#[test]
fn a_restart_continues_above_the_saved_epoch() {
    let saved = Epoch { number: 41, node: NodeId(9) };
    let mut server = Alone::new(BullyConfig::default());
    server.machine = Bully::new(name("me"), NodeId(2), saved, BullyConfig::default(), Mono::ZERO);
    assert_eq!(server.machine.epoch(), saved);
    let effects = server.pass_ms(1_750);
    let mine = Epoch { number: 42, node: NodeId(2) };
    assert_eq!(effects.first(), Some(&ElectionEffect::Save(mine)), "saved before anything else");
}

#[test]
fn lower_epochs_are_refused_with_the_higher_one() {
    let mut server = Alone::new(BullyConfig::default());
    server.feed(ElectionInput::LinkUp(name("better")));
    server.feed(ElectionInput::LinkUp(name("worse")));
    server.hear("better", ElectionMessage::Heartbeat(claim("better", 9, 3, 3)));
    assert_eq!(server.follows(), Some("better"));
    let effects = server.hear("worse", ElectionMessage::Coordinator(claim("worse", 8, 1, 1)));
    let seen = Some(Seen { claim: claim("better", 9, 3, 3), age_ms: 0 });
    let epoch = Epoch { number: 9, node: NodeId(3) };
    assert_eq!(sent_to(&effects, "worse"), [&ElectionMessage::View { epoch, seen }]);
    assert_eq!(server.follows(), Some("better"));
    let same = server.hear("better", ElectionMessage::Heartbeat(claim("better", 7, 3, 3)));
    assert!(matches!(sent_to(&same, "better")[..], [ElectionMessage::View { .. }]), "{same:?}");
}

/// A coordinator below an epoch that was saved here is told so, and followed once it has a higher one.
#[test]
fn a_restarted_server_follows_nobody_below_its_saved_epoch() {
    let saved = Epoch { number: 41, node: NodeId(9) };
    let mut server = Alone::new(BullyConfig::default());
    server.machine = Bully::new(name("me"), NodeId(2), saved, BullyConfig::default(), Mono::ZERO);
    server.feed(ElectionInput::LinkUp(name("better")));
    let effects = server.hear("better", ElectionMessage::Heartbeat(claim("better", 9, 3, 3)));
    assert_eq!(sent_to(&effects, "better"), [&ElectionMessage::View { epoch: saved, seen: None }]);
    assert_eq!(server.follows(), None);
    server.hear("better", ElectionMessage::Coordinator(claim("better", 42, 3, 3)));
    assert_eq!(server.follows(), Some("better"));
}

/// In the middle of its own election a server goes on if it would precede whoever claims meanwhile, and gives way if not.
#[test]
fn an_election_is_not_given_up_for_a_claim_that_it_would_end() {
    for (claimant, standing, gives_way) in
        [("worse", Standing::Alone, false), ("worse", Standing::Settled, true), ("better", Standing::Alone, true)]
    {
        let mut server = Alone::new(BullyConfig::default());
        server.feed(ElectionInput::LinkUp(name("worse")));
        server.feed(ElectionInput::LinkUp(name("better")));
        server.pass_ms(1_750);
        let (node, rank) = if claimant == "worse" { (1, 1) } else { (3, 3) };
        let claim = Claim { standing, ..claim(claimant, 5, node, rank) };
        server.hear(claimant, ElectionMessage::Coordinator(claim));
        assert_eq!(server.follows(), gives_way.then_some(claimant), "{claimant}, {standing:?}");
        let effects = server.pass_ms(300);
        assert_eq!(server.machine.is_coordinator(Mono::ZERO), !gives_way, "{claimant}, {standing:?}");
        let above = Epoch { number: 6, node: NodeId(2) };
        assert_eq!(effects.contains(&ElectionEffect::Save(above)), !gives_way, "above the one it did not follow");
    }
}

#[test]
fn what_cannot_be_is_ignored() {
    let mut server = Alone::new(BullyConfig::default());
    server.feed(ElectionInput::LinkUp(name("better")));
    let before = server.machine.epoch();
    let far = claim("better", 1 << 33, 3, 3);
    for (from, message) in [
        ("better", ElectionMessage::Heartbeat(far.clone())),
        ("better", ElectionMessage::View { epoch: far.epoch, seen: Some(Seen { claim: far.clone(), age_ms: 0 }) }),
        ("better", ElectionMessage::Ack { epoch: Epoch { number: u64::MAX, node: NodeId(3) } }),
        ("better", ElectionMessage::Coordinator(claim("worse", 5, 1, 1))),
        ("me", ElectionMessage::Coordinator(claim("me", 5, 2, 2))),
        ("better", ElectionMessage::Resign { epoch: far.epoch }),
        (
            "better",
            ElectionMessage::View {
                epoch: Epoch::ZERO,
                seen: Some(Seen { claim: claim("better", 0, 0, 3), age_ms: u64::MAX }),
            },
        ),
    ] {
        let mut twin = Alone { machine: server.machine.clone(), now: server.now };
        twin.feed(ElectionInput::LinkUp(name("better")));
        let effects = twin.hear(from, message.clone());
        let followed = effects.iter().any(|effect| matches!(effect, ElectionEffect::Save(_)));
        assert!(!followed, "{message:?}: {effects:?}");
        assert_eq!(twin.machine.epoch(), before, "{message:?}");
    }
}

#[test]
fn messages_survive_the_wire_and_are_small() {
    let epoch = Epoch { number: 12, node: NodeId(u128::MAX) };
    let claim = Claim { name: name("server1"), epoch, rank: Some(3), standing: Standing::Settled };
    for message in [
        ElectionMessage::Election { epoch: Some(epoch), rank: Some(1) },
        ElectionMessage::Ok { epoch: None, rank: None },
        ElectionMessage::Coordinator(claim.clone()),
        ElectionMessage::Heartbeat(claim.clone()),
        ElectionMessage::Ack { epoch },
        ElectionMessage::View { epoch, seen: None },
        ElectionMessage::View { epoch, seen: Some(Seen { claim, age_ms: 1_999 }) },
        ElectionMessage::Resign { epoch },
    ] {
        let bytes = rmp_serde::to_vec(&message).expect("it encodes");
        assert!(bytes.len() < 100, "{message:?}: {} bytes", bytes.len());
        assert_eq!(rmp_serde::from_slice::<ElectionMessage>(&bytes).expect("it decodes"), message);
    }
}

/// Any input in any state: no panic, no step back, no deadline in the past, and a bounded number of effects.
#[test]
fn nonsense_is_harmless() {
    let mut rng = bully_net::Rng(4);
    let names = ["me", "better", "worse", "foreign", "stranger"];
    for _ in 0..300 {
        let mut server = Alone::new(BullyConfig::default());
        for _ in 0..200 {
            let who: ServerName = name(names[rng.below(5) as usize]);
            let epoch = Epoch { number: rng.below(30), node: NodeId(u128::from(rng.below(4))) };
            let standing = [Standing::Alone, Standing::Fresh, Standing::Settled][rng.below(3) as usize];
            let claim = Claim { name: name(names[rng.below(5) as usize]), epoch, rank: Some(rng.below(6)), standing };
            let message = match rng.below(8) {
                0 => ElectionMessage::Election { epoch: Some(epoch), rank: None },
                1 => ElectionMessage::Ok { epoch: Some(epoch), rank: Some(rng.below(6)) },
                2 => ElectionMessage::Coordinator(Claim { name: who.clone(), ..claim }),
                3 => ElectionMessage::Heartbeat(Claim { name: who.clone(), ..claim }),
                4 => ElectionMessage::Ack { epoch },
                5 => ElectionMessage::View { epoch, seen: Some(Seen { claim, age_ms: rng.below(3_000) }) },
                6 => ElectionMessage::View { epoch, seen: None },
                _ => ElectionMessage::Resign { epoch },
            };
            let input = match rng.below(12) {
                0 => ElectionInput::LinkUp(who),
                1 => ElectionInput::LinkDown(who),
                2 => ElectionInput::Heard(who),
                3 => ElectionInput::ForeignAnnouncement { name: who },
                4 => ElectionInput::Members(vec![member(names[rng.below(5) as usize], rng.below(6), None)]),
                5 => ElectionInput::Wake,
                _ => ElectionInput::Message { from: who, message },
            };
            server.now = server.now + Duration::from_micros(rng.below(900_000));
            let before = server.machine.epoch();
            let effects = server.feed(input.clone());
            assert!(server.machine.epoch() >= before && effects.len() <= 24, "{input:?}: {effects:?}");
            assert!(server.machine.deadline().is_none_or(|at| at > server.now), "{input:?}");
            let leads = server.machine.coordinator().is_some_and(|who| who.name.as_str() == "me");
            assert_eq!(server.machine.is_coordinator(Mono::ZERO), leads, "{input:?}");
        }
    }
}
