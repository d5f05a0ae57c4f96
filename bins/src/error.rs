//! How a program of DS-v2 fails: one line that says what, one that says what to do, and an exit code for scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use dsv2_core::{Failure, NameError, Outcome};
use dsv2_net::cluster::ClusterError;
use dsv2_net::reference::ReferenceError;
use dsv2_net::server::ServerError;
use dsv2_net::{BindError, Endpoint};
use dsv2_store::StoreError;

/// The table of exit codes, for `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 no answer in time · 4 a check failed · 130 ended by a second Ctrl-C";

/// Why a program ends with a code other than 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The flags, or the environment, ask for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The configuration file cannot be used.
    #[error("the configuration file {path} cannot be used: {why}", path = path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// An endpoint cannot be bound.
    #[error("{0}")]
    Bind(BindError),
    /// The address of `--admin` cannot be had.
    #[error("{host}:{port} cannot be listened on for --admin: {}", admin_failure(.why))]
    Admin {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system said.
        why: std::io::Error,
    },
    /// Nobody answered in time.
    #[error("{0}")]
    NoAnswer(String),
    /// A server refused a request, or its effect is not known.
    #[error("{failure}", failure = describe(.0))]
    Refused(Failure),
    /// The data directory cannot be used.
    #[error("{0}")]
    Store(String),
    /// What a program is there to check does not hold.
    #[error("{0}")]
    Check(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// Whoever read the output has gone away, which is no failure: `dsv2-client tail | head`.
    #[error("the output was closed")]
    OutputClosed,
}

impl Error {
    /// The code that the process exits with. See [`EXIT_CODES`].
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Usage(_) | Self::Config { .. } => 2,
            Self::NoAnswer(_) => 3,
            Self::Check(_) => 4,
            Self::Bind(_) | Self::Admin { .. } | Self::Refused(_) | Self::Store(_) | Self::Failed(_) => 1,
        })
    }

    /// What the user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind(BindError::Taken { endpoint: Endpoint::Tcp { port, .. } }) => Some(format!(
                "another program listens there, perhaps another cluster: stop it, or choose other ports with --base-port {}",
                free_base(*port)
            )),
            Self::Bind(BindError::Forbidden { .. }) => {
                Some("ports below 1024 need privileges: try --base-port 5555".to_owned())
            }
            Self::Bind(BindError::NotLocal { .. }) => {
                Some("listen on an address of this machine, or on all of them: --host '*'".to_owned())
            }
            Self::Admin { port, .. } => Some(format!(
                "give --admin another port, such as {}, or 0 for any; the host must be an address of this machine",
                port.checked_add(1).unwrap_or(9464)
            )),
            Self::NoAnswer(_) => Some(
                "is a cluster running there? `dsv2 up` starts one, `--host` and `--base-port` say where it is"
                    .to_owned(),
            ),
            Self::Refused(failure) if failure.outcome == Outcome::Unknown => {
                Some("it may or may not have taken effect: look before you repeat it".to_owned())
            }
            _ => None,
        }
    }
}

/// A base port some way off the one that is taken.
fn free_base(taken: u16) -> u16 {
    if taken < 60_000 { (taken / 1_000 + 1) * 1_000 + 555 } else { 15_555 }
}

fn admin_failure(why: &std::io::Error) -> String {
    match why.kind() {
        std::io::ErrorKind::AddrInUse => "the port is taken".to_owned(),
        _ => why.to_string(),
    }
}

fn describe(failure: &Failure) -> String {
    format!("{} ({}, {})", failure.text, failure.code, failure.outcome.as_str())
}

impl From<BindError> for Error {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        use dsv2_core::Code;
        match (failure.code, failure.outcome) {
            (Code::Timeout | Code::NoServer, Outcome::Rejected) => Self::NoAnswer(failure.text),
            _ => Self::Refused(failure),
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::Usage(format!("the name {error}"))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(with_source(&error))
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Bind(error) => Self::Bind(error),
            ServerError::Store(error) => {
                Self::Store(format!("the data directory cannot be used: {}", with_source(&error)))
            }
            other => Self::Failed(with_source(&other)),
        }
    }
}

impl From<ReferenceError> for Error {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Bind(error) => Self::Bind(error),
            other => Self::Failed(with_source(&other)),
        }
    }
}

impl From<ClusterError> for Error {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Bind(error) => Self::Bind(error),
            ClusterError::Reference(error) => error.into(),
            ClusterError::Server { source, .. } => source.into(),
            ClusterError::Options(why) => Self::Usage(why),
            other => Self::Failed(with_source(&other)),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("the system refused: {error}"))
    }
}

/// An error with those below it that its own text does not repeat.
fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text = format!("{text}: {source_text}");
        }
        below = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_a_way_out() {
        let error = Error::from(BindError::Taken { endpoint: Endpoint::tcp("127.0.0.1", 5555) });
        assert!(error.to_string().contains("5555"));
        assert!(error.hint().is_some_and(|hint| hint.contains("--base-port 6555")));
    }

    #[test]
    fn what_is_unknown_is_not_called_unanswered() {
        use dsv2_core::Code;
        let unknown = Error::from(Failure::unknown(Code::Timeout, "no answer"));
        assert!(matches!(unknown, Error::Refused(_)) && unknown.hint().is_some());
        assert!(matches!(Error::from(Failure::rejected(Code::NoServer, "nobody")), Error::NoAnswer(_)));
    }
}
