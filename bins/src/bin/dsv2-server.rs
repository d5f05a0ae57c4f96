//! `dsv2-server`: see `dsv2-server --help`.

use std::process::ExitCode;

use dsv2_bins::role;
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<role::ServerArgs, _, _>(catalog::SERVER, role::server)
}
