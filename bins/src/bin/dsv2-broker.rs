//! `dsv2-broker`: see `dsv2-broker --help`.

use std::process::ExitCode;

use dsv2_bins::cli::{self, Program};
use dsv2_bins::role;

const PROGRAM: Program = Program { section: "broker", tools: false, log: "info" };

fn main() -> ExitCode {
    cli::run::<role::BrokerArgs, _, _>(PROGRAM, role::broker)
}
