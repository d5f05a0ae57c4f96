//! The scripts `tests/golden/quorum_*.txt`: elections with a quorum, message by message.

#[allow(unreachable_pub, reason = "shared by several test programs")]
mod golden;
mod quorum_net;

use dsv2_core::ServerName;
use dsv2_sync::election::{Claim, Coordinator, ElectionEffect, ElectionInput, ElectionMessage, Epoch};
use quorum_net::{Net, name};

/// `12` and the server whose node took it, which in scripts is its rank.
fn epoch(epoch: &Epoch) -> String {
    if *epoch == Epoch::ZERO { "0".into() } else { format!("{}.{}", epoch.number, epoch.node.0) }
}

fn claim(claim: &Claim) -> String {
    format!("{} in epoch {}", claim.name, epoch(&claim.epoch))
}

fn who(who: Option<&Coordinator>) -> String {
    who.map_or("nobody".into(), |who| format!("{} ({})", who.name, epoch(&who.epoch)))
}

fn message(message: &ElectionMessage) -> String {
    let or_zero = |known: &Option<Epoch>| epoch(&known.unwrap_or(Epoch::ZERO));
    match message {
        ElectionMessage::Election { epoch, .. } => {
            format!("Election   would you support me? I know epoch {}", or_zero(epoch))
        }
        ElectionMessage::Ok { epoch, .. } => format!("Ok         leave it to me; I know epoch {}", or_zero(epoch)),
        ElectionMessage::Support { epoch: known } => format!("Support    I would; I know epoch {}", epoch(known)),
        ElectionMessage::Request { ballot, .. } => format!("Request    your vote for epoch {}?", epoch(ballot)),
        ElectionMessage::Grant { ballot } => format!("Grant      my vote for epoch {}", epoch(ballot)),
        ElectionMessage::Lease { claim: of, .. } => format!("Lease      {} leads", claim(of)),
        ElectionMessage::Renewed { epoch: known, .. } => format!("Renewed    I follow epoch {}", epoch(known)),
        ElectionMessage::Handover { epoch: known } => {
            format!("Handover   let me take over from epoch {}", epoch(known))
        }
        ElectionMessage::Resign { epoch: known } => format!("Resign     epoch {} is over", epoch(known)),
        ElectionMessage::View { epoch: known, seen: None } => {
            format!("View       I know epoch {}; I hear nobody, or am bound", epoch(known))
        }
        ElectionMessage::View { epoch: known, seen: Some(seen) } => {
            format!("View       I know epoch {}; I heard {} {} ms ago", epoch(known), claim(&seen.claim), seen.age_ms)
        }
        _ => "?".into(),
    }
}

fn effect(server: &ServerName, effect: &ElectionEffect) -> String {
    let server = server.as_str();
    match effect {
        ElectionEffect::Save(of) => format!("{server:<6} saves epoch {}", epoch(of)),
        ElectionEffect::SaveVote(of) => format!("{server:<6} saves its vote for epoch {}", epoch(of)),
        ElectionEffect::Send { to, message: said } => format!("{server:<6} -> {:<6} {}", to.as_str(), message(said)),
        ElectionEffect::Announce(of) => format!("{server:<6} announces {} on the topic servers", who(Some(of))),
        ElectionEffect::Changed { old, new, reason } => {
            format!("{server:<6} CHANGES from {} to {}: {reason}", who(old.as_ref()), who(new.as_ref()))
        }
        ElectionEffect::CoordinatorStays { name } => format!("{server:<6} says: the reference is gone, {name} stays"),
        ElectionEffect::ForeignIgnored { name } => format!("{server:<6} ignores that {name} was named"),
        _ => "?".into(),
    }
}

struct Script {
    net: Net,
    leases: bool,
}

impl Script {
    fn print(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.net.effects);
        let lease = |effect: &ElectionEffect| {
            use ElectionMessage::{Lease, Renewed};
            matches!(effect, ElectionEffect::Send { message: Lease { .. } | Renewed { .. }, .. })
        };
        let shown = said.iter().filter(|(.., effect)| self.leases || !lease(effect));
        shown
            .map(|(at, server, of)| format!("{:>5}.{:03}  {}", at / 1_000_000, at / 1_000 % 1_000, effect(server, of)))
            .collect()
    }

    fn split(&mut self, words: &[&str]) {
        let sides: Vec<&[&str]> = words.split(|word| *word == "|").collect();
        for (index, side) in sides.iter().enumerate() {
            let others = || sides[index + 1..].iter().flat_map(|side| side.iter());
            for (a, b) in side.iter().flat_map(|a| others().map(move |b| (a, b))) {
                self.net.cut(&name(a), &name(b), true);
            }
        }
    }

    fn obey(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["voters", ..] => {
                let servers = words[1..].iter().filter_map(|word| word.split_once('='));
                let servers: Vec<(&str, u64)> =
                    servers.map(|(server, rank)| (server, rank.parse().expect("a rank"))).collect();
                self.net = Net::new(&servers, servers.len(), 0);
                self.net.delay_ms = (2, 2);
            }
            ["start", ..] => words[1..].iter().for_each(|server| self.net.start(&name(server))),
            ["leases", on] => self.leases = on == "shown",
            ["kill", server] => self.net.crash(&name(server), true),
            ["kill", server, "silently"] => self.net.crash(&name(server), false),
            ["pause", server] => self.net.pause(&name(server)),
            ["resume", server] => self.net.resume(&name(server)),
            ["split", ..] => self.split(&words[1..]),
            ["join"] => self.net.join_all(),
            ["stepdown", server] => self.net.feed(&name(server), ElectionInput::Stepdown),
            ["family", "names", server] => {
                let input = ElectionInput::ForeignAnnouncement { name: name(server) };
                self.net.alive().iter().for_each(|server| self.net.feed(server, input.clone()));
            }
            ["who", "leads"] => {
                let leaders: Vec<_> = self.net.alive().into_iter().filter(|server| self.net.leads(server)).collect();
                let leaders: Vec<&str> = leaders.iter().map(ServerName::as_str).collect();
                return vec![if leaders.is_empty() { "nobody".into() } else { leaders.join(" ") }];
            }
            ["run", time, "ms"] => self.net.run_ms(time.parse().expect("milliseconds")),
            _ => panic!("no such command: {command}"),
        }
        assert!(self.net.violations.is_empty(), "{:?}", self.net.violations);
        self.print()
    }
}

fn check(file: &str) {
    let mut script = Script { net: Net::new(&[], 0, 0), leases: false };
    golden::check(file, |command| script.obey(command));
}

#[test]
fn first_choice() {
    check("quorum_first_choice.txt");
}

#[test]
fn failover() {
    check("quorum_failover.txt");
}

#[test]
fn partition() {
    check("quorum_partition.txt");
}

#[test]
fn hand_over() {
    check("quorum_hand_over.txt");
}

#[test]
fn a_paused_process_returns_with_an_old_lease() {
    check("quorum_paused.txt");
}
