//! A bot of your own in the simulator: its bug is found in virtual time, before any user meets it.
//!
//! The naive bot publishes again when it is not told what became of a message. It has forgotten that the first attempt may
//! have succeeded: so now and then its message stands in the channel twice. The careful bot gives each message a key of
//! its own, under which any number of attempts is one message.
//!
//! `cargo run --release -p dsv2-examples --example simulated_bot`

use dsv2_core::{IdempotencyKey, Now};
use dsv2_sync::session::{CallOptions, Command};
use dsv2_sync::sim::{Act, Happened, Program, SimConfig, SimReport, Simulation};

/// How many messages the bot publishes.
const MESSAGES: u64 = 20;

/// Publishes one message after the other, and does not rest until each is acknowledged.
struct Bot {
    careful: bool,
    /// Calls so far; the first of each life creates the channel.
    calls: u64,
    acknowledged: u64,
    has_channel: bool,
}

impl Bot {
    fn new(careful: bool) -> Self {
        Self { careful, calls: 0, acknowledged: 0, has_channel: false }
    }

    /// The next thing to do, which may be the last one again.
    fn go_on(&mut self, out: &mut Vec<Act>) {
        let Ok(channel) = "news".parse() else { return };
        let (mut options, number) =
            (CallOptions { timeout_ms: Some(400), ..CallOptions::default() }, self.acknowledged);
        let command = if self.has_channel {
            if self.careful {
                options.key = IdempotencyKey::new(&format!("headline-{number}")).ok();
            }
            Command::Publish { channel, message: format!("headline {number}") }
        } else {
            Command::CreateChannel { channel }
        };
        self.calls += 1;
        out.push(Act::Call { token: self.calls, command, options });
    }
}

impl Program for Bot {
    fn step(&mut self, _now: Now, event: Happened, out: &mut Vec<Act>) {
        match event {
            // After a crash the bot does not know either what became of its last call.
            Happened::Started { .. } => {}
            Happened::Done { result: Ok(_), .. } if self.has_channel => self.acknowledged += 1,
            Happened::Done { result: Ok(_), .. } => self.has_channel = true,
            Happened::Done { result: Err(_), .. } => {}
            Happened::Delivered { .. } | Happened::Wake => return,
        }
        if !self.is_done() {
            self.go_on(out);
        }
    }

    fn is_done(&self) -> bool {
        self.acknowledged == MESSAGES
    }
}

fn simulate(seed: u64, careful: bool) -> SimReport {
    let mut simulation = Simulation::new(SimConfig::swarm(seed));
    simulation.add(Box::new(Bot::new(careful)));
    simulation.run()
}

fn main() -> Result<(), String> {
    let seeds = 1..=100;
    let found = seeds.clone().find_map(|seed| simulate(seed, false).violations.first().map(|why| (seed, why.clone())));
    let (seed, why) = found.ok_or("the naive bot was lucky a hundred times")?;
    println!("the naive bot, seed {seed}: {why}");
    for seed in seeds {
        if let Some(why) = simulate(seed, true).violations.first() {
            return Err(format!("the careful bot, seed {seed}: {why}"));
        }
    }
    println!("the careful bot: 100 seeds, nothing lost and nothing doubled");
    Ok(())
}
