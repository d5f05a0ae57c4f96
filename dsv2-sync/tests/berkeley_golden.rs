//! The scripts `tests/golden/berkeley_*.txt`: rounds, message by message.

mod berkeley_net;
#[allow(unreachable_pub, reason = "shared by two test programs")]
mod golden;

use berkeley_net::{NOON_US, Net, name};
use dsv2_sync::clock_sync::{BerkeleyConfig, ClockEffect, ClockInput, ClockMessage, ClockSync, Part, RoundReport};

struct Script {
    net: Net,
}

fn ms(us: i64) -> String {
    format!("{}{}.{:03} ms", if us < 0 { "-" } else { "+" }, us.unsigned_abs() / 1_000, us.unsigned_abs() % 1_000)
}

/// A wall clock's time of day.
fn time(us: i64) -> String {
    let of_day = us.rem_euclid(86_400_000_000);
    let seconds = of_day / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3_600, seconds / 60 % 60, seconds % 60, of_day % 1_000_000)
}

fn message(message: &ClockMessage, first_nonce: u64) -> String {
    let sample = |nonce: u64| nonce.wrapping_sub(first_nonce);
    match message {
        ClockMessage::Probe { round, nonce, .. } => format!("Probe    round {round}, nonce {}", sample(*nonce)),
        ClockMessage::Reading { nonce, wall, offset_us, left_us, .. } => {
            let left = if *left_us == 0 { String::new() } else { format!(", {} to go", ms(*left_us)) };
            format!("Reading  nonce {}: it is {}, my offset is {}{left}", sample(*nonce), time(wall.us), ms(*offset_us))
        }
        ClockMessage::Adjust { round, offset_us, error_bound_us, outlier, step, .. } => {
            let (is_outlier, steps) =
                (if *outlier { "; you are an outlier" } else { "" }, if *step { "; at once" } else { "" });
            format!(
                "Adjust   round {round}: your offset is {}, within {error_bound_us} us{is_outlier}{steps}",
                ms(*offset_us)
            )
        }
        ClockMessage::Request => "Request  a round, please".into(),
        _ => "?".into(),
    }
}

fn report(report: &RoundReport) -> Vec<String> {
    let clock = |clock: &dsv2_sync::clock_sync::ClockSample| {
        let part = match clock.part {
            Part::Agrees => "agrees",
            Part::Confirms => "confirms",
            Part::Outlier => "outlier",
        };
        let name = clock.name.as_str();
        format!(
            "         | {name:<6} {:>16} +- {:>4} us   rtt {:>4} us   {part}",
            ms(clock.ahead_us),
            clock.error_us,
            clock.rtt_us
        )
    };
    report.clocks.iter().map(clock).collect()
}

impl Script {
    fn print(&mut self) -> Vec<String> {
        // Nonces count from the wall clock of the coordinator's start; in scripts they count from 1.
        let mut lines = Vec::new();
        for (at_us, server, effect) in self.net.take() {
            let first = (NOON_US + self.net.clocks[&server].error_us).unsigned_abs();
            let line = match &effect {
                ClockEffect::Send { to, message: said } => {
                    let first = match said {
                        ClockMessage::Reading { .. } => (NOON_US + self.net.clocks[to].error_us).unsigned_abs(),
                        _ => first,
                    };
                    format!("{:<6} -> {:<6} {}", server.as_str(), to.as_str(), message(said, first))
                }
                ClockEffect::RoundDone(done) => {
                    let average = done.average_us.map_or("nothing".into(), ms);
                    lines.extend(report(done));
                    format!("{:<6} the agreed time is {average} from mine; {} members", server.as_str(), done.members)
                }
                ClockEffect::RoundRefused { report: refused, needed } => {
                    lines.extend(report(refused));
                    let (members, answered) = (refused.members, refused.clocks.len());
                    format!(
                        "{:<6} REFUSES the round: {answered} of {members} answered, {needed} must agree",
                        server.as_str()
                    )
                }
                ClockEffect::Adjusted { offset_us, by_us, stepped } => {
                    let how = if *stepped { "steps" } else { "slews" };
                    format!("{:<6} {how} by {} to the offset {}", server.as_str(), ms(*by_us), ms(*offset_us))
                }
                ClockEffect::SystemClockSet { by_us } => {
                    format!("{:<6} sees its system clock set by {}", server.as_str(), ms(*by_us))
                }
                _ => "?".into(),
            };
            lines.push(format!("{:>3}.{:06}  {line}", at_us / 1_000_000, at_us % 1_000_000));
        }
        lines
    }

    fn clocks(&self) -> Vec<String> {
        let line = |server: &str| {
            let status = self.net.clocks[&name(server)].machine.status(self.net.now(server));
            let bound = status.error_bound_us.map_or("unknown".into(), |us| format!("{us} us"));
            let slewing = if status.slewing { ", slewing" } else { "" };
            let (offset, ahead) = (ms(status.offset_us), ms(self.net.ahead_us(server)));
            let wall = time(self.net.wall_us(server));
            format!("{server:<6} says {wall}, which is {ahead} from the truth; offset {offset}; bound {bound}{slewing}")
        };
        self.net.clocks.keys().map(|server| line(server.as_str())).collect()
    }

    fn obey(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["clocks", ..] if words.len() > 1 => {
                let clock = |word: &&'_ str| {
                    let (server, error) = word.split_once('=').expect("NAME=MILLISECONDS or NAME=MILLISECONDS/PPM");
                    let (error, drift) = error.split_once('/').unwrap_or((error, "0"));
                    let number = |text: &str| text.parse::<i64>().expect("a number");
                    (server.to_string(), number(error) * 1_000, number(drift))
                };
                let clocks: Vec<(String, i64, i64)> = words[1..].iter().map(clock).collect();
                let clocks: Vec<(&str, i64, i64)> =
                    clocks.iter().map(|(server, e, d)| (server.as_str(), *e, *d)).collect();
                self.net = Net::new(BerkeleyConfig { samples: 2, ..BerkeleyConfig::default() }, &clocks, 7);
                self.net.delay_us = (200, 900);
            }
            ["coordinator", server] => self.net.lead(server, 1),
            ["cut", server] => {
                self.net.cut.insert(name(server));
            }
            ["join", server] => {
                self.net.cut.remove(&name(server));
            }
            ["move", server, error] => {
                self.net.clocks.get_mut(&name(server)).expect("known").error_us +=
                    error.parse::<i64>().expect("milliseconds") * 1_000;
            }
            ["round"] => self.net.feed(&self.leader(), ClockInput::RoundRequested { step: false }),
            ["round", "with", "step"] => self.net.feed(&self.leader(), ClockInput::RoundRequested { step: true }),
            ["run", time, "ms"] => self.net.run_ms(time.parse().expect("milliseconds")),
            ["wait", time, "ms"] => {
                self.net.run_ms(time.parse().expect("milliseconds"));
                self.net.take();
            }
            ["clocks"] => return self.clocks(),
            _ => panic!("no such command: {command}"),
        }
        self.print()
    }

    fn leader(&self) -> dsv2_core::ServerName {
        name("alfa")
    }
}

fn check(file: &str) {
    let mut script = Script { net: Net::new(BerkeleyConfig::default(), &[], 0) };
    golden::check(file, |command| script.obey(command));
}

#[test]
fn round() {
    check("berkeley_round.txt");
}

#[test]
fn refusal() {
    check("berkeley_refusal.txt");
}
