//! `dsv2`: see `dsv2 --help`.

use std::process::ExitCode;

use dsv2_bins::cli::{self, Program};
use dsv2_bins::tool::{self, ToolArgs};

const PROGRAM: Program = Program { section: "dsv2", tools: true, log: "warn" };

fn main() -> ExitCode {
    cli::run::<ToolArgs, _, _>(PROGRAM, tool::tool)
}
