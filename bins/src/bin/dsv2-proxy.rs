//! `dsv2-proxy`: see `dsv2-proxy --help`.

use std::process::ExitCode;

use dsv2_bins::cli::{self, Program};
use dsv2_bins::role;

const PROGRAM: Program = Program { section: "proxy", tools: false, log: "info" };

fn main() -> ExitCode {
    cli::run::<role::ProxyArgs, _, _>(PROGRAM, role::proxy)
}
