//! `dsv2-client`: see `dsv2-client --help`.

use std::process::ExitCode;

use dsv2_bins::chat::{self, ClientArgs};
use dsv2_bins::{catalog, cli};

fn main() -> ExitCode {
    cli::run::<ClientArgs, _, _>(catalog::CLIENT, chat::client)
}
