//! `dsv2-bot`: see `dsv2-bot --help`.

use std::process::ExitCode;

use dsv2_bins::bot::{self, BotArgs};
use dsv2_bins::cli::{self, Program};

const PROGRAM: Program = Program { section: "bot", tools: false, log: "info" };

fn main() -> ExitCode {
    cli::run::<BotArgs, _, _>(PROGRAM, bot::bot)
}
