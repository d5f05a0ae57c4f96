//! `dsv2-proxy`: see `dsv2-proxy --help`.

use std::process::ExitCode;

use dsv2_bins::role;
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<role::ProxyArgs, _, _>(catalog::PROXY, role::proxy)
}
