//! `dsv2`: starts a cluster, and looks at things.

mod check;
mod config;
mod doctor;
mod import;
mod inspect;
mod ping;
mod shell;
mod sim;
mod status;
mod up;
mod upkeep;

use clap::{Parser, Subcommand};

use crate::args::Common;
use crate::bench::{self, BenchArgs};
use crate::cli::HasCommon;
use crate::error::Error;

/// DS-v2: private messages and channels over ZeroMQ, replicated and durable.
///
/// `dsv2 up` starts a whole cluster; `dsv2-client --user ana` talks to it. The other tools look at a cluster, at a data
/// directory, or at a simulation.
#[derive(Debug, Parser)]
#[command(name = "dsv2", version)]
pub struct ToolArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    Up(up::UpArgs),
    Status(status::StatusArgs),
    Ping(ping::PingArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Inspect(inspect::InspectArgs),
    Import(import::ImportArgs),
    Snapshot(upkeep::SnapshotArgs),
    Compact(upkeep::CompactArgs),
    Retire(upkeep::RetireArgs),
    Sim(sim::SimArgs),
    Check(check::CheckArgs),
    Bench(BenchArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

impl HasCommon for ToolArgs {
    fn common(&self) -> &Common {
        &self.common
    }

    fn log(&self) -> Option<&'static str> {
        match self.tool {
            Tool::Up(_) => Some("info"),
            // Its disks break all the time.
            Tool::Sim(_) => Some("error"),
            _ => None,
        }
    }
}

/// Runs a tool.
///
/// # Errors
/// [`Error`], as the tool has it.
pub async fn tool(args: ToolArgs) -> Result<(), Error> {
    let file = args.common.config;
    match args.tool {
        Tool::Up(args) => up::up(args).await,
        Tool::Status(args) => status::status(args).await,
        Tool::Ping(args) => ping::ping(args).await,
        Tool::Config(args) => config::config(&args, file),
        Tool::Doctor(args) => doctor::doctor(args, file).await,
        Tool::Inspect(args) => inspect::inspect(&args),
        Tool::Import(args) => import::import(&args),
        Tool::Snapshot(args) => upkeep::snapshot(&args),
        Tool::Compact(args) => upkeep::compact(&args),
        Tool::Retire(args) => upkeep::retire(&args),
        Tool::Sim(args) => sim::sim(&args),
        Tool::Check(args) => check::check(&args),
        Tool::Bench(args) => bench::bench(args).await,
        Tool::Completions(args) => shell::completions(&args),
        Tool::Man(args) => shell::man(&args),
    }
}
