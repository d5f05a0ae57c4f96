//! All programs, with all of their flags: for whoever has to speak of every one of them.

use std::ffi::OsString;

use clap::Command;

use crate::bot::BotArgs;
use crate::chat::ClientArgs;
use crate::cli::{self, Flag, Program, Setting};
use crate::config::ConfigFile;
use crate::error::Error;
use crate::nearest::suggestion;
use crate::role::{BrokerArgs, ProxyArgs, ReferenceArgs, ServerArgs};
use crate::tool::ToolArgs;

/// `dsv2`.
pub const TOOLS: Program = Program { section: "dsv2", tools: true, log: "warn" };
/// `dsv2-broker`.
pub const BROKER: Program = Program { section: "broker", tools: false, log: "info" };
/// `dsv2-proxy`.
pub const PROXY: Program = Program { section: "proxy", tools: false, log: "info" };
/// `dsv2-reference`.
pub const REFERENCE: Program = Program { section: "reference", tools: false, log: "info" };
/// `dsv2-server`.
pub const SERVER: Program = Program { section: "server", tools: false, log: "info" };
/// `dsv2-client`.
pub const CLIENT: Program = Program { section: "client", tools: false, log: "warn" };
/// `dsv2-bot`.
pub const BOT: Program = Program { section: "bot", tools: false, log: "info" };

/// The settings of a program, if there can be such.
type Settings = Result<Vec<Setting>, Error>;

/// What can be asked of a program without running it.
struct Entry {
    describe: fn() -> (Command, Vec<Flag>),
    settings: fn(Option<&ConfigFile>, &[OsString]) -> Settings,
}

macro_rules! entry {
    ($args:ty, $program:expr) => {
        Entry {
            describe: || cli::describe::<$args>($program),
            settings: |file, argv| cli::settings::<$args>($program, file, argv),
        }
    };
}

const ENTRIES: [Entry; 7] = [
    entry!(ToolArgs, TOOLS),
    entry!(BrokerArgs, BROKER),
    entry!(ProxyArgs, PROXY),
    entry!(ReferenceArgs, REFERENCE),
    entry!(ServerArgs, SERVER),
    entry!(ClientArgs, CLIENT),
    entry!(BotArgs, BOT),
];

/// Each program as it is built, whatever environment this process is in, and the flags of it and of its tools.
#[must_use]
pub fn programs() -> Vec<(Command, Vec<Flag>)> {
    ENTRIES.iter().map(|entry| (entry.describe)()).collect()
}

/// The settings that a program would run with, given these arguments; the first one is its name.
///
/// # Errors
/// [`Error::Usage`] where there is no such program, or it does not take them; [`Error::Config`].
pub fn settings(file: Option<&ConfigFile>, argv: &[OsString]) -> Result<Vec<Setting>, Error> {
    let wanted = argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut names = Vec::new();
    for entry in &ENTRIES {
        let name = (entry.describe)().0.get_name().to_owned();
        if name == wanted {
            return (entry.settings)(file, argv);
        }
        names.push(name);
    }
    let meant = suggestion(&wanted, names.iter().map(String::as_str));
    Err(Error::Usage(format!("there is no program {wanted}{meant}; there are {}", names.join(", "))))
}

/// The flags of all programs and tools.
#[must_use]
pub fn flags() -> Vec<Flag> {
    programs().into_iter().flat_map(|(_, flags)| flags).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_there_and_sound() {
        let names: Vec<String> = programs().iter().map(|(command, _)| command.get_name().to_owned()).collect();
        let all = ["dsv2", "dsv2-broker", "dsv2-proxy", "dsv2-reference", "dsv2-server", "dsv2-client", "dsv2-bot"];
        assert_eq!(names, all);
        programs().into_iter().for_each(|(command, _)| command.debug_assert());
        let flags = flags();
        assert!(flags.iter().any(|flag| flag.variable() == "DSV2_SERVER_DATA" && flag.section == "server"));
        assert!(flags.iter().any(|flag| flag.variable() == "DSV2_PING_PART"));
    }
}
