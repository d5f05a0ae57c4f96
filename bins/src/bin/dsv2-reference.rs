//! `dsv2-reference`: see `dsv2-reference --help`.

use std::process::ExitCode;

use dsv2_bins::cli::{self, Program};
use dsv2_bins::role;

const PROGRAM: Program = Program { section: "reference", tools: false, log: "info" };

fn main() -> ExitCode {
    cli::run::<role::ReferenceArgs, _, _>(PROGRAM, role::reference)
}
