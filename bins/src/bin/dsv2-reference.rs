//! `dsv2-reference`: see `dsv2-reference --help`.

use std::process::ExitCode;

use dsv2_bins::role;
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<role::ReferenceArgs, _, _>(catalog::REFERENCE, role::reference)
}
