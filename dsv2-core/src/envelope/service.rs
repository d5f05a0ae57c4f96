//! The services, and the words of success and failure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a request asks for, and what its reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Registers a user, or logs a known one in.
    Login,
    /// Lists the users.
    Users,
    /// Creates a channel.
    Channel,
    /// Lists the channels.
    Channels,
    /// Publishes in a channel.
    Publish,
    /// Sends a private message.
    Message,
    /// Reads a feed back. Beyond the seed.
    History,
    /// Tells how a server is. Beyond the seed.
    Status,
    /// Asks the reference for a server's rank.
    Rank,
    /// Asks the reference for the live servers.
    List,
    /// Tells the reference that a server lives.
    Heartbeat,
    /// Asks a server for its wall clock.
    Clock,
    /// Asks a server whether it takes part in an election.
    Election,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Login,
        Self::Users,
        Self::Channel,
        Self::Channels,
        Self::Publish,
        Self::Message,
        Self::History,
        Self::Status,
        Self::Rank,
        Self::List,
        Self::Heartbeat,
        Self::Clock,
        Self::Election,
    ];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Users => "users",
            Self::Channel => "channel",
            Self::Channels => "channels",
            Self::Publish => "publish",
            Self::Message => "message",
            Self::History => "history",
            Self::Status => "status",
            Self::Rank => "rank",
            Self::List => "list",
            Self::Heartbeat => "heartbeat",
            Self::Clock => "clock",
            Self::Election => "election",
        }
    }

    /// The service with that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.as_str() == name)
    }

    /// The field in which its replies explain a failure.
    pub(super) const fn error_field(self) -> &'static str {
        match self {
            Self::Publish | Self::Message | Self::Rank | Self::List | Self::Heartbeat => "message",
            _ => "description",
        }
    }

    /// The `status` of its successful replies, where they have one.
    pub(super) const fn success(self) -> Option<&'static str> {
        match self {
            Self::Login | Self::Channel => Some("sucesso"),
            Self::Publish | Self::Message | Self::Heartbeat => Some("OK"),
            _ => None,
        }
    }

    /// The `status` of its failed replies: the reference of the family says it in English.
    pub(super) const fn failure(self) -> &'static str {
        match self {
            Self::Rank | Self::List | Self::Heartbeat => "error",
            _ => "erro",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How safe a write is when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Durable on the server that took it.
    Local,
    /// Durable on a majority of the voters.
    Quorum,
    /// Durable on every voter.
    All,
}

impl Level {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Local, Self::Quorum, Self::All]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or("is none of local, quorum, all")
    }
}

/// Whether a refused request may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing changed, and nothing will.
    Rejected,
    /// It may or may not have taken effect; a retry with the same identity tells.
    Unknown,
}

impl Outcome {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a request was not carried out: stable words for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The bytes are no message.
    Malformed,
    /// No such service here.
    UnknownService,
    /// A field is missing or of the wrong type.
    BadField,
    /// The clock is out of range, or further ahead than any honest clock can be.
    BadClock,
    /// The user never logged in.
    UnknownUser,
    /// The channel was never created.
    UnknownChannel,
    /// The name is a user's and was asked for as a channel, or the other way round.
    NameTaken,
    /// The identity was used before, for other content.
    IdReused,
    /// The identity is older than what the server remembers: whether it was executed cannot be told any more.
    Forgotten,
    /// Too few voters can be reached for the level asked for.
    Minority,
    /// The server is starting, draining, or fenced after a disk error.
    NotReady,
    /// The server lacks events that the client has seen elsewhere, and could not get them in time.
    Behind,
    /// The disk, or a bounded queue, is full.
    Full,
    /// The deadline passed before the level was reached.
    Timeout,
    /// No server took the request.
    NoServer,
    /// The server left after it took the request.
    ServerLost,
    /// The reference does not know the server.
    UnknownServer,
    /// A code of a newer version or of another program.
    Other,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::UnknownService,
        Self::BadField,
        Self::BadClock,
        Self::UnknownUser,
        Self::UnknownChannel,
        Self::NameTaken,
        Self::IdReused,
        Self::Forgotten,
        Self::Minority,
        Self::NotReady,
        Self::Behind,
        Self::Full,
        Self::Timeout,
        Self::NoServer,
        Self::ServerLost,
        Self::UnknownServer,
        Self::Other,
    ];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownService => "unknown-service",
            Self::BadField => "bad-field",
            Self::BadClock => "bad-clock",
            Self::UnknownUser => "unknown-user",
            Self::UnknownChannel => "unknown-channel",
            Self::NameTaken => "name-taken",
            Self::IdReused => "id-reused",
            Self::Forgotten => "forgotten",
            Self::Minority => "minority",
            Self::NotReady => "not-ready",
            Self::Behind => "behind",
            Self::Full => "full",
            Self::Timeout => "timeout",
            Self::NoServer => "no-server",
            Self::ServerLost => "server-lost",
            Self::UnknownServer => "unknown-server",
            Self::Other => "other",
        }
    }

    /// The code with that name; [`Code::Other`] for one we do not know.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|code| code.as_str() == name).unwrap_or(Self::Other)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request's refusal, as its reply carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// Whether anything may have changed.
    pub outcome: Outcome,
    /// For people.
    pub text: String,
}

impl Failure {
    /// A refusal that changed nothing.
    #[must_use]
    pub fn rejected(code: Code, text: impl Into<String>) -> Self {
        Self { code, outcome: Outcome::Rejected, text: text.into() }
    }

    /// A request whose effect cannot be told.
    #[must_use]
    pub fn unknown(code: Code, text: impl Into<String>) -> Self {
        Self { code, outcome: Outcome::Unknown, text: text.into() }
    }
}
