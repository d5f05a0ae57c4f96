//! The scripts `tests/golden/bully_*.txt`: what servers say to each other, message by message.

mod bully_net;
#[allow(unreachable_pub, reason = "shared by two test programs")]
mod golden;

use bully_net::{Net, name};
use dsv2_core::ServerName;
use dsv2_sync::election::{
    BullyConfig, Claim, Coordinator, ElectionEffect, ElectionInput, ElectionMessage, Epoch, Standing,
};

/// `12` and the server whose node took it, which in scripts is its rank.
fn epoch(epoch: &Epoch) -> String {
    if *epoch == Epoch::ZERO { "0".into() } else { format!("{}.{}", epoch.number, epoch.node.0) }
}

fn claim(claim: &Claim) -> String {
    let standing = match claim.standing {
        Standing::Alone => "alone",
        Standing::Fresh => "fresh",
        Standing::Settled => "settled",
    };
    format!("{} in epoch {}, {standing}", claim.name, epoch(&claim.epoch))
}

fn who(who: Option<&Coordinator>) -> String {
    who.map_or("nobody".into(), |who| format!("{} ({})", who.name, epoch(&who.epoch)))
}

fn message(message: &ElectionMessage) -> String {
    let or_zero = |known: &Option<Epoch>| epoch(&known.unwrap_or(Epoch::ZERO));
    match message {
        ElectionMessage::Election { epoch, .. } => format!("Election     I know epoch {}", or_zero(epoch)),
        ElectionMessage::Ok { epoch, .. } => format!("Ok           I know epoch {}", or_zero(epoch)),
        ElectionMessage::Coordinator(of) => format!("Coordinator  {}", claim(of)),
        ElectionMessage::Heartbeat(of) => format!("Heartbeat    {}", claim(of)),
        ElectionMessage::Ack { epoch: known } => format!("Ack          I know epoch {}", epoch(known)),
        ElectionMessage::Resign { epoch: known } => format!("Resign       epoch {}", epoch(known)),
        ElectionMessage::View { epoch: known, seen: None } => {
            format!("View         I know epoch {}, and hear nobody", epoch(known))
        }
        ElectionMessage::View { epoch: known, seen: Some(seen) } => {
            format!(
                "View         I know epoch {}, and heard {} {} ms ago",
                epoch(known),
                claim(&seen.claim),
                seen.age_ms
            )
        }
        _ => "?".into(),
    }
}

fn effect(server: &ServerName, effect: &ElectionEffect) -> String {
    let server = server.as_str();
    match effect {
        ElectionEffect::Save(of) => format!("{server:<6} saves epoch {}", epoch(of)),
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
    beats: bool,
}

impl Script {
    fn print(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.net.effects);
        let beat = |effect: &ElectionEffect| {
            use ElectionMessage::{Ack, Heartbeat};
            matches!(effect, ElectionEffect::Send { message: Heartbeat(_) | Ack { .. }, .. })
        };
        let shown = said.iter().filter(|(.., effect)| self.beats || !beat(effect));
        shown
            .map(|(at, server, of)| {
                format!("{:>5}.{:03}  {}", at.us / 1_000_000, at.us / 1_000 % 1_000, effect(server, of))
            })
            .collect()
    }

    fn split(&mut self, words: &[&str]) {
        let sides: Vec<&[&str]> = words.split(|word| *word == "|").collect();
        for (index, side) in sides.iter().enumerate() {
            for (a, b) in
                side.iter().flat_map(|a| sides[index + 1..].iter().flat_map(|s| s.iter()).map(move |b| (a, b)))
            {
                self.net.cut(&name(a), &name(b), true);
            }
        }
    }

    fn obey(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["servers", ..] => {
                let servers = words[1..].iter().filter_map(|word| word.split_once('='));
                let servers: Vec<(&str, u64)> =
                    servers.map(|(server, rank)| (server, rank.parse().expect("a rank"))).collect();
                self.net = Net::new(BullyConfig::default(), &servers, 0);
                self.net.weather.delay_ms = (2, 2);
            }
            ["start", ..] => words[1..].iter().for_each(|server| self.net.start(&name(server))),
            ["heartbeats", on] => self.beats = on == "shown",
            ["kill", server] => self.net.crash(&name(server), true),
            ["kill", server, "silently"] => self.net.crash(&name(server), false),
            ["cut", a, b] => self.net.cut(&name(a), &name(b), true),
            ["split", ..] => self.split(&words[1..]),
            ["join"] => self.net.join_all(),
            ["stepdown", server] => self.net.feed(&name(server), ElectionInput::Stepdown),
            ["reference", state] => {
                let input = if state == "lost" { ElectionInput::ReferenceLost } else { ElectionInput::ReferenceBack };
                self.net.alive().iter().for_each(|server| self.net.feed(server, input.clone()));
            }
            ["run", time, "ms"] => self.net.run_ms(time.parse().expect("milliseconds")),
            _ => panic!("no such command: {command}"),
        }
        self.print()
    }
}

fn check(file: &str) {
    let mut script = Script { net: Net::new(BullyConfig::default(), &[], 0), beats: false };
    golden::check(file, |command| script.obey(command));
}

#[test]
fn first_choice() {
    check("bully_first_choice.txt");
}

#[test]
fn failover() {
    check("bully_failover.txt");
}

#[test]
fn partition() {
    check("bully_partition.txt");
}

#[test]
fn return_of_the_best() {
    check("bully_return.txt");
}

#[test]
fn one_broken_link() {
    check("bully_broken_link.txt");
}

#[test]
fn stepdown() {
    check("bully_stepdown.txt");
}
