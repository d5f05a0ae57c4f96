//! What the two sides of Berkeley's algorithm say to each other, and what they do not believe.

mod berkeley_net;

use berkeley_net::{NOON_US, epoch, name};
use dsv2_core::{Machine, Mono, Now, Wall};
use dsv2_sync::clock_sync::{
    Berkeley, BerkeleyConfig, ClockEffect, ClockInput, ClockMessage, ClockStatus, ClockSync, Part,
};
use dsv2_sync::election::{Coordinator, Epoch};

/// One server, named `me`, in the hands of the test; `beta` and `gama` are linked.
struct One {
    machine: Berkeley,
    us: u64,
}

impl One {
    fn new() -> Self {
        let mut this = Self { machine: Berkeley::new(name("me"), BerkeleyConfig::default(), at(0)), us: 0 };
        this.feed(ClockInput::Members(["me", "beta", "gama"].map(name).to_vec()));
        this.feed(ClockInput::LinkUp(name("beta")));
        this.feed(ClockInput::LinkUp(name("gama")));
        this
    }

    fn feed(&mut self, input: ClockInput) -> Vec<ClockEffect> {
        let mut out = Vec::new();
        self.machine.step(at(self.us), input, &mut out);
        out
    }

    fn coordinator(&mut self, who: &str, number: u64) -> Vec<ClockEffect> {
        self.feed(ClockInput::Coordinator(Some(Coordinator { name: name(who), epoch: epoch(number) })))
    }

    fn hear(&mut self, from: &str, message: ClockMessage) -> Vec<ClockEffect> {
        self.feed(ClockInput::Message { from: name(from), message })
    }

    fn status(&self) -> ClockStatus {
        self.machine.status(at(self.us))
    }
}

fn at(us: u64) -> Now {
    Now { mono: Mono { us }, wall: wall(i64::try_from(us).expect("in range")) }
}

fn wall(after_noon_us: i64) -> Wall {
    Wall { us: NOON_US + after_noon_us }
}

/// The probes among effects: to whom, the round, the nonce.
fn probes(effects: &[ClockEffect]) -> Vec<(&str, u64, u64)> {
    let probe = |effect| match effect {
        &ClockEffect::Send { ref to, message: ClockMessage::Probe { round, nonce, .. } } => {
            Some((to.as_str(), round, nonce))
        }
        _ => None,
    };
    effects.iter().filter_map(probe).collect()
}

fn adjust(number: u64, round: u64, offset_us: i64) -> ClockMessage {
    ClockMessage::Adjust { epoch: epoch(number), round, offset_us, error_bound_us: 100, outlier: false, step: false }
}

fn probe(number: u64, round: u64) -> ClockMessage {
    ClockMessage::Probe { epoch: epoch(number), round, nonce: 77 }
}

#[test]
fn a_probe_is_answered_with_the_wall_clock_and_its_offset() {
    let mut server = One::new();
    server.coordinator("beta", 4);
    server.us = 1_000_000;
    let reading = |offset_us| ClockMessage::Reading {
        epoch: epoch(4),
        round: 1,
        nonce: 77,
        wall: wall(1_000_000 + offset_us),
        offset_us,
        left_us: 0,
    };
    assert_eq!(server.hear("beta", probe(4, 1)), [ClockEffect::Send { to: name("beta"), message: reading(0) }]);
    let adjusted = ClockEffect::Adjusted { offset_us: -7_000, by_us: -7_000, stepped: true };
    assert_eq!(server.hear("beta", adjust(4, 1, -7_000)), [adjusted], "the first one is a step");
    let ClockMessage::Reading { wall, .. } = reading(-7_000) else { return };
    assert_eq!(server.machine.wall(at(server.us)), wall);
    assert_eq!((server.status().error_bound_us, server.status().epoch), (Some(100), epoch(4)));
    assert_eq!(server.hear("beta", probe(3, 9)), [], "a reign that is over");
}

#[test]
fn only_the_coordinator_adjusts_and_only_who_was_read_and_only_once() {
    let mut server = One::new();
    server.coordinator("beta", 4);
    assert_eq!(server.hear("beta", adjust(4, 1, 5_000)), [], "nobody read this clock");
    server.hear("beta", probe(4, 2));
    assert_eq!(server.hear("gama", adjust(4, 2, 5_000)), [], "not the coordinator");
    assert_eq!(server.hear("beta", adjust(3, 2, 5_000)), [], "a reign that is over");
    assert_eq!(server.hear("beta", adjust(4, 1, 5_000)), [], "another round");
    assert_eq!(server.hear("beta", adjust(4, 2, 5_000)).len(), 1);
    assert_eq!(server.hear("beta", adjust(4, 2, 9_000)), [], "twice");
    server.hear("beta", probe(4, 2));
    assert_eq!(server.hear("beta", adjust(4, 2, 9_000)), [], "a late probe does not open the round again");
    assert_eq!(server.status().offset_us, 5_000);
    server.hear("gama", probe(5, 1));
    assert_eq!(
        server.hear("gama", adjust(5, 1, 6_000)).len(),
        1,
        "a newer reign, of which the election has yet to tell"
    );
}

/// Starts a round in which `me` leads; returns the probes' nonces for `beta` and `gama`.
fn begin(server: &mut One) -> [u64; 2] {
    let effects = server.coordinator("me", 6);
    let [("beta", 1, beta), ("gama", 1, gama)] = probes(&effects)[..] else { panic!("{effects:?}") };
    [beta, gama]
}

fn reading(round: u64, nonce: u64, wall: Wall) -> ClockMessage {
    ClockMessage::Reading { epoch: epoch(6), round, nonce, wall, offset_us: 0, left_us: 0 }
}

#[test]
fn readings_that_answer_no_open_probe_are_not_believed() {
    let mut server = One::new();
    let [beta, gama] = begin(&mut server);
    server.us = 1_000;
    let right = wall(500);
    let mut old = reading(1, beta, right);
    if let ClockMessage::Reading { epoch, .. } = &mut old {
        epoch.number = 5;
    }
    assert_eq!(server.hear("beta", old), [], "of another reign");
    for (from, message, why) in [
        ("beta", reading(1, beta.wrapping_add(999), right), "unknown nonce"),
        ("beta", reading(1, gama, right), "somebody else's nonce"),
        ("beta", reading(2, beta, right), "another round"),
        ("delta", reading(1, beta, right), "a stranger"),
    ] {
        assert_eq!(server.hear(from, message), [], "{why}");
    }
    let next = server.hear("beta", reading(1, beta, right));
    let [("beta", 1, second)] = probes(&next)[..] else { panic!("{next:?}") };
    assert_eq!(server.hear("beta", reading(1, beta, right)), [], "twice");
    assert_ne!(second, beta);
}

#[test]
fn lost_probes_are_repeated_and_late_answers_to_them_refused() {
    let mut server = One::new();
    let [beta, _] = begin(&mut server);
    server.us = 250_000;
    assert_eq!(server.machine.deadline(), Some(Mono { us: 250_000 }));
    let again = server.feed(ClockInput::Wake);
    let [("beta", 1, second), ("gama", 1, _)] = probes(&again)[..] else { panic!("{again:?}") };
    assert_eq!(server.hear("beta", reading(1, beta, wall(0))), [], "its round trip is not known any more");
    assert_eq!(probes(&server.hear("beta", reading(1, second, wall(250_000)))).len(), 1);
    server.us = 900_000;
    let end = server.feed(ClockInput::Wake);
    assert!(matches!(end[..], [ClockEffect::Send { .. }, ClockEffect::RoundDone(_)]), "two of three agree: {end:?}");
}

/// The family answers with whole seconds: enough to confirm that a majority agrees, too coarse to move anybody.
#[test]
fn a_server_of_the_family_confirms_and_does_not_pull() {
    let mut server = One::new();
    server.us = 700_000;
    let [beta, gama] = begin(&mut server);
    assert_ne!(beta, gama);
    server.feed(ClockInput::LinkDown(name("gama")));
    server.us = 701_000;
    let mut effects = Vec::new();
    for sample in 0..4 {
        let nonce = (sample == 0).then_some(beta);
        effects =
            server.feed(ClockInput::Reading { from: name("beta"), nonce, wall: wall(0), resolution_us: 1_000_000 });
    }
    let [ClockEffect::RoundDone(report)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((report.average_us, report.clocks.len()), (Some(0), 2));
    let beta = &report.clocks[0];
    assert_eq!((beta.part, beta.error_us), (Part::Confirms, 500_000), "{beta:?}");
    assert_eq!(server.status().offset_us, 0);
    // An hour off is too much, however coarse the answer.
    server.us += 2_000_000;
    let effects = server.feed(ClockInput::RoundRequested { step: false });
    assert_eq!(probes(&effects).len(), 1);
    for _ in 0..4 {
        effects_of(&mut server, 3_600_000_000);
    }
    assert!(server.status().outliers.is_empty(), "a refused round changes nothing");
}

fn effects_of(server: &mut One, ahead_us: i64) {
    let time = wall(i64::try_from(server.us).expect("in range") + ahead_us);
    let effects =
        server.feed(ClockInput::Reading { from: name("beta"), nonce: None, wall: time, resolution_us: 1_000_000 });
    let done = effects.iter().any(|effect| matches!(effect, ClockEffect::RoundDone(_)));
    assert!(!done, "{effects:?}");
}

#[test]
fn losing_the_office_ends_the_round() {
    let mut server = One::new();
    let [beta, _] = begin(&mut server);
    assert_eq!(server.coordinator("beta", 7), []);
    server.us = 1_000;
    assert_eq!(server.hear("beta", reading(1, beta, wall(0))), []);
    server.us = 100_000_000;
    assert_eq!(server.feed(ClockInput::Wake), [], "nor does a new one begin");
    let foreign = Coordinator { name: name("me"), epoch: Epoch::ZERO };
    assert_eq!(server.feed(ClockInput::Coordinator(Some(foreign))), [], "without an epoch nobody may adjust others");
}

#[test]
fn whose_clock_was_set_asks_for_a_round() {
    let mut server = One::new();
    server.coordinator("beta", 4);
    server.hear("beta", probe(4, 1));
    let mut out = Vec::new();
    let set = Now { mono: Mono { us: 1_000_000 }, wall: wall(61_000_000) };
    server.machine.step(set, ClockInput::Wake, &mut out);
    let request = ClockEffect::Send { to: name("beta"), message: ClockMessage::Request };
    assert_eq!(out, [ClockEffect::SystemClockSet { by_us: 60_000_000 }, request]);
    assert_eq!(server.machine.status(set).error_bound_us, None);
    out.clear();
    server.machine.step(set, ClockInput::Message { from: name("beta"), message: adjust(4, 1, 0) }, &mut out);
    assert_eq!(out, [], "what was measured before is void");
    let interval = server.machine.now(set);
    assert_eq!((interval.earliest.us, interval.latest.us), (i64::MIN, i64::MAX));
}

#[test]
fn messages_survive_the_wire() {
    let reading = ClockMessage::Reading {
        epoch: epoch(1),
        round: 2,
        nonce: u64::MAX,
        wall: wall(-5),
        offset_us: i64::MIN,
        left_us: 1,
    };
    for message in [probe(1, 2), reading, adjust(u64::MAX, 3, -1), ClockMessage::Request] {
        let bytes = rmp_serde::to_vec(&message).expect("it encodes");
        assert!(bytes.len() < 80, "{message:?}: {} bytes", bytes.len());
        assert_eq!(rmp_serde::from_slice::<ClockMessage>(&bytes).expect("it decodes"), message);
    }
}

/// Extreme numbers from a peer neither panic nor overflow.
#[test]
fn nonsense_is_harmless() {
    let mut rng = berkeley_net::Rng(3);
    let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    for _ in 0..2_000 {
        let mut server = One::new();
        let [mut beta, _] = begin(&mut server);
        for _ in 0..8 {
            server.us += rng.next() % 300_000;
            let mut pick = || extremes[(rng.next() % 7) as usize];
            let (wall, offset_us, left_us) = (Wall { us: pick() }, pick(), pick());
            let message = ClockMessage::Reading { epoch: epoch(6), round: 1, nonce: beta, wall, offset_us, left_us };
            let mut effects = server.hear("beta", message);
            let resolution_us = pick().unsigned_abs();
            effects.extend(server.feed(ClockInput::Reading {
                from: name("gama"),
                nonce: None,
                wall: Wall { us: pick() },
                resolution_us,
            }));
            if let Some((_, _, nonce)) = probes(&effects).into_iter().find(|(to, ..)| *to == "beta") {
                beta = nonce;
            }
            assert!(server.machine.deadline().is_some_and(|deadline| deadline.us > server.us));
            server.machine.now(at(server.us));
        }
        server.coordinator("beta", 7);
        server.hear("beta", probe(7, 1));
        let step = ClockMessage::Adjust {
            epoch: epoch(7),
            round: 1,
            offset_us: extremes[(rng.next() % 7) as usize],
            error_bound_us: u64::MAX,
            outlier: true,
            step: true,
        };
        server.hear("beta", step);
        server.us += 5_000_000;
        server.feed(ClockInput::Wake);
        server.machine.now(at(server.us));
    }
}
