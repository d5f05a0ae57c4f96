//! `dsv2-bot`: see `dsv2-bot --help`.

use std::process::ExitCode;

use dsv2_bins::bot::{self, BotArgs};
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<BotArgs, _, _>(catalog::BOT, bot::bot)
}
