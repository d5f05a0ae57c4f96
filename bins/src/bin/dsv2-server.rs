//! `dsv2-server`: see `dsv2-server --help`.

use std::process::ExitCode;

use dsv2_bins::cli::{self, Program};
use dsv2_bins::role;

const PROGRAM: Program = Program { section: "server", tools: false, log: "info" };

fn main() -> ExitCode {
    cli::run::<role::ServerArgs, _, _>(PROGRAM, role::server)
}
