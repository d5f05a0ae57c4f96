//! `dsv2`: see `dsv2 --help`.

use std::process::ExitCode;

use dsv2_bins::tool::{self, ToolArgs};
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<ToolArgs, _, _>(catalog::TOOLS, tool::tool)
}
