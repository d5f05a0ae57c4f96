//! All programs, with all of their flags: for whoever has to speak of every one of them.

use clap::Command;

use crate::bot::BotArgs;
use crate::chat::ClientArgs;
use crate::cli::{self, Flag, Program};
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

/// Each program as it is built, whatever environment this process is in, and the flags of it and of its tools.
#[must_use]
pub fn programs() -> Vec<(Command, Vec<Flag>)> {
    vec![
        cli::describe::<ToolArgs>(TOOLS),
        cli::describe::<BrokerArgs>(BROKER),
        cli::describe::<ProxyArgs>(PROXY),
        cli::describe::<ReferenceArgs>(REFERENCE),
        cli::describe::<ServerArgs>(SERVER),
        cli::describe::<ClientArgs>(CLIENT),
        cli::describe::<BotArgs>(BOT),
    ]
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
