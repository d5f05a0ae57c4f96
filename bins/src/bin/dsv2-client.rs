//! `dsv2-client`: see `dsv2-client --help`.

use std::process::ExitCode;

use dsv2_bins::chat::{self, ClientArgs};
use dsv2_bins::cli::{self, Program};

const PROGRAM: Program = Program { section: "client", tools: false, log: "warn" };

fn main() -> ExitCode {
    cli::run::<ClientArgs, _, _>(PROGRAM, chat::client)
}
