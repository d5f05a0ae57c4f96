//! Logs, to stderr: stdout belongs to what a program is asked for.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// An object a line, for machines.
    Json,
}

/// Begins to log. `RUST_LOG` says what; without it, what `default` says. Colours only on a terminal, and not where
/// `NO_COLOR` is set.
pub fn init(format: LogFormat, default: &str) {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => filter.parse_lossy(text),
        _ => filter.parse_lossy(default),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // Only a second call in one process fails, and then the first one's log goes on.
    let _already = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}
