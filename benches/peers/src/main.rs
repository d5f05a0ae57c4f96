//! DS-v2 beside the systems that one might use instead.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- forwarders --rounds 7
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- systems --rounds 5
//! ```
//!
//! `forwarders` replaces only what stands in the middle; `systems` measures whole systems through their usual clients;
//! `curves` tells how our own costs grow with the amount of work, `restart` what it costs to have kept many messages.
//! Rounds are interleaved, and each begins with another system, so that a machine that slows down slows all of them.

mod chart;
mod curves;
mod forwarders;
mod loads;
mod restart;
mod scenarios;
mod systems;
mod table;

use std::process::ExitCode;

/// As the programs of DS-v2 do; all clients here share it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A failure ends the program: there is no figure for what did not work.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "\
dsv2-bench-peers forwarders [--rounds N] [--only SCENARIOS] [--kinds FORWARDERS]
dsv2-bench-peers systems    [--rounds N] [--only SCENARIOS] [--systems NAMES] [--seconds S] [--charts DIR] [--json FILE]
dsv2-bench-peers curves     [--rounds N] [--only DIMENSIONS] [--seconds S] [--json FILE]
dsv2-bench-peers restart    [--rounds N] [--messages N] [--systems NAMES] [--json FILE]
dsv2-bench-peers list";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dsv2-bench-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else { return Err(USAGE.into()) };
    let mut options = Options(rest.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned())).collect());
    match command.as_str() {
        // In the child process of a forwarder.
        "--forward" => {
            forwarders::child::serve(rest.first().ok_or(USAGE)?);
            Ok(())
        }
        "forwarders" => {
            let rounds = options.number("--rounds", 7)?;
            let (only, kinds) = (options.text("--only")?, options.text("--kinds")?);
            options.end()?;
            forwarders::compare(rounds, only.as_deref(), kinds.as_deref())
        }
        "systems" => {
            let request = scenarios::Request {
                rounds: options.number("--rounds", 5)?,
                seconds: options.number("--seconds", 3)? as f64,
                only: options.text("--only")?,
                systems: options.text("--systems")?,
                charts: options.text("--charts")?.map(Into::into),
                json: options.text("--json")?.map(Into::into),
            };
            options.end()?;
            until_interrupted(scenarios::compare(&request))
        }
        "curves" => {
            let request = curves::Request {
                rounds: options.number("--rounds", 3)?,
                seconds: options.number("--seconds", 2)? as f64,
                only: options.text("--only")?,
                json: options.text("--json")?.map(Into::into),
            };
            options.end()?;
            until_interrupted(curves::measure(&request))
        }
        "restart" => {
            let request = restart::Request {
                rounds: options.number("--rounds", 5)?,
                messages: options.number("--messages", 1_000_000)?,
                systems: options.text("--systems")?,
                json: options.text("--json")?.map(Into::into),
            };
            options.end()?;
            until_interrupted(restart::measure(&request))
        }
        "list" => {
            scenarios::list();
            println!();
            restart::list();
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Interrupted, a measurement ends what it started.
fn until_interrupted(measurement: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            measured = measurement => measured,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })
}

/// `--name value`, in any order.
struct Options(Vec<(String, Option<String>)>);

impl Options {
    fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.0.iter().position(|(given, _)| given == name) else { return Ok(None) };
        let (name, value) = self.0.remove(at);
        Ok(Some(value.ok_or_else(|| format!("{name} needs a value"))?))
    }

    fn number(&mut self, name: &str, default: usize) -> Result<usize> {
        match self.text(name)? {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name} {text}: not a number").into()),
        }
    }

    /// Nothing may be left.
    fn end(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{name} is not known here\n{USAGE}").into()),
        }
    }
}
