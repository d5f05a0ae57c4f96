//! What can go wrong, by what was tried. Every error says whether anything changed, and whether a retry helps.

use dsv2_core::{Code, Failure, NameError, Outcome};

use super::CallError;
use crate::endpoint::EndpointError;
use crate::port::PortError;

/// Whether something may have changed although the call did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// Nothing changed, and nothing will.
    No,
    /// It may or may not have happened, or may still happen. The same write under the same key tells.
    Unknown,
}

/// Why a client could not be made. There is none then, and nothing is tried in the background.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A text is not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The proxy's endpoint was not given, and cannot be derived from the broker's.
    #[error("the proxy's endpoint does not follow from {0}: name it")]
    NoProxy(String),
    /// The user's name is no name.
    #[error("the user's name {0}")]
    Name(#[from] NameError),
    /// The transport cannot do this.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The system has no randomness to make an identity from.
    #[error("the system has no randomness: {0}")]
    Random(#[source] std::io::Error),
    /// No broker could be reached in time.
    #[error("no broker could be reached in time")]
    Unreachable,
    /// The user could not be logged in.
    #[error("the login was refused: {0}")]
    Login(#[source] Failure),
}

/// Why a write is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A name is none.
    #[error("the name {0}")]
    Name(NameError),
    /// The text is longer than the client sends; carries its length and the limit, in bytes.
    #[error("the text has {0} bytes, at most {1} are sent")]
    TooLarge(usize, usize),
    /// The value could not be serialized; carries why.
    #[error("the value cannot be serialized: {0}")]
    Serialize(String),
    /// It was refused, or never sent: surely nothing changed.
    #[error("rejected: {0}")]
    Rejected(Failure),
    /// It may have happened.
    #[error("the outcome is unknown: {0}")]
    Unknown(Failure),
    /// The client has ended.
    #[error("the client has ended")]
    Closed,
}

/// Why a read brought nothing. Reads change nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A name is none, or there is no user whose messages could be read.
    #[error("the name {0}")]
    Name(NameError),
    /// Private messages were asked for, and the client has no user.
    #[error("the client has no user")]
    NoUser,
    /// No server answered, or it refused.
    #[error("{0}")]
    Failed(Failure),
    /// The client has ended.
    #[error("the client has ended")]
    Closed,
}

/// Why a subscription was not made. There is none then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// A name is none.
    #[error("the name {0}")]
    Name(NameError),
    /// An inbox was asked for, and the client has no user.
    #[error("the client has no user")]
    NoUser,
    /// No server answered, or it refused; servers of the family cannot replay anything.
    #[error("{0}")]
    Failed(Failure),
    /// The client has ended.
    #[error("the client has ended")]
    Closed,
}

impl ConnectError {
    /// Always [`Changed::No`], but for a login whose outcome is unknown: a user may have been registered.
    #[must_use]
    pub fn changed(&self) -> Changed {
        match self {
            Self::Login(failure) => changed(failure),
            _ => Changed::No,
        }
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub fn retry_helps(&self) -> bool {
        match self {
            Self::Unreachable => true,
            Self::Login(failure) => may_pass(failure),
            _ => false,
        }
    }
}

impl WriteError {
    pub(super) fn of(failure: Failure) -> Self {
        match failure.outcome {
            Outcome::Unknown => Self::Unknown(failure),
            Outcome::Rejected => Self::Rejected(failure),
        }
    }

    /// Whether anything may have changed.
    #[must_use]
    pub fn changed(&self) -> Changed {
        match self {
            Self::Unknown(_) => Changed::Unknown,
            _ => Changed::No,
        }
    }

    /// Whether the same write may succeed later. After [`WriteError::Unknown`] it must be made under the same
    /// [key](super::Write::with_key) as before, or the message may stand there twice.
    #[must_use]
    pub fn retry_helps(&self) -> bool {
        match self {
            Self::Rejected(failure) | Self::Unknown(failure) => may_pass(failure),
            _ => false,
        }
    }

    /// The servers' or the session's word for it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rejected(failure) | Self::Unknown(failure) => Some(failure.code),
            _ => None,
        }
    }
}

impl ReadError {
    pub(super) fn unexpected() -> Self {
        Self::Failed(Failure::rejected(Code::Malformed, "the answer is for another question"))
    }

    /// Always [`Changed::No`].
    #[must_use]
    pub fn changed(&self) -> Changed {
        Changed::No
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub fn retry_helps(&self) -> bool {
        matches!(self, Self::Failed(failure) if may_pass(failure))
    }
}

impl SubscribeError {
    /// Always [`Changed::No`].
    #[must_use]
    pub fn changed(&self) -> Changed {
        Changed::No
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub fn retry_helps(&self) -> bool {
        matches!(self, Self::Failed(failure) if may_pass(failure) || failure.code == Code::UnknownChannel)
    }
}

impl From<CallError> for ReadError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Closed | CallError::Lost => Self::Closed,
            CallError::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl From<CallError> for WriteError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Closed => Self::Closed,
            CallError::Lost => {
                Self::Unknown(Failure::unknown(Code::NotReady, "the client ended before the answer came"))
            }
            CallError::Failed(failure) => Self::of(failure),
        }
    }
}

fn changed(failure: &Failure) -> Changed {
    match failure.outcome {
        Outcome::Unknown => Changed::Unknown,
        Outcome::Rejected => Changed::No,
    }
}

fn may_pass(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::Minority | Code::NotReady | Code::Behind | Code::Full | Code::Timeout | Code::NoServer | Code::ServerLost
    ) || (failure.outcome == Outcome::Unknown && failure.code != Code::Forgotten)
}
