//! `dsv2-broker`: see `dsv2-broker --help`.

use std::process::ExitCode;

use dsv2_bins::role;
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<role::BrokerArgs, _, _>(catalog::BROKER, role::broker)
}
