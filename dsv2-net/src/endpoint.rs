//! Where sockets live: `tcp://host:port`, `ipc://path` and `memory://name`, with one stream type for all three.

mod memory;
mod stream;

use std::fmt;
use std::str::FromStr;

pub(crate) use stream::DirectWrite;
pub use stream::{BindError, BoundListener, Keepalive, ReadHalf, Stream, WriteHalf, connect};

/// An address to bind or to connect to.
///
/// ```
/// use dsv2_net::Endpoint;
/// let endpoint: Endpoint = "tcp://127.0.0.1:5555".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp://127.0.0.1:5555");
/// # Ok::<(), dsv2_net::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// TCP. `host` is a name, an IPv4 or an IPv6 address (without brackets), or `*` for all interfaces when binding.
    /// Port 0 lets the system choose when binding.
    Tcp {
        /// Host name, address or `*`.
        host: String,
        /// Port number.
        port: u16,
    },
    /// A Unix domain socket.
    Ipc {
        /// Path of the socket file.
        path: String,
    },
    /// A name within this process: no sockets, no files.
    Memory {
        /// Any non-empty name.
        name: String,
    },
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid endpoint {text:?}: {reason}")]
pub struct EndpointError {
    /// The rejected text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Endpoint {
    /// `tcp://127.0.0.1:0`: a free port of the loopback interface.
    #[must_use]
    pub fn loopback() -> Self {
        Self::tcp("127.0.0.1", 0)
    }

    /// A TCP endpoint.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
    }

    /// Whether it is every address of the machine, where one can listen and nobody can be told to come.
    ///
    /// ```
    /// use dsv2_net::Endpoint;
    /// assert!(Endpoint::tcp("*", 5560).is_wildcard() && Endpoint::tcp("::", 5560).is_wildcard());
    /// assert!(!Endpoint::tcp("127.0.0.1", 5560).is_wildcard());
    /// ```
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        let Self::Tcp { host, .. } = self else { return false };
        host == "*" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
    }

    /// An in-process endpoint.
    #[must_use]
    pub fn memory(name: impl Into<String>) -> Self {
        Self::Memory { name: name.into() }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fail = |reason| EndpointError { text: text.chars().take(256).collect(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| fail("expected tcp://, ipc:// or memory://"))?;
        match scheme {
            "tcp" => parse_tcp(rest).map_err(fail),
            "ipc" | "memory" if rest.is_empty() => Err(fail("the name is empty")),
            "ipc" => Ok(Self::Ipc { path: rest.to_owned() }),
            "memory" => Ok(Self::Memory { name: rest.to_owned() }),
            _ => Err(fail("unknown scheme: expected tcp, ipc or memory")),
        }
    }
}

fn parse_tcp(rest: &str) -> Result<Endpoint, &'static str> {
    let (host, port) = rest.rsplit_once(':').ok_or("expected host:port")?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("unclosed bracket")?,
        None if host.contains(':') => return Err("an IPv6 address needs brackets"),
        None => host,
    };
    if host.is_empty() {
        return Err("the host is empty");
    }
    if host.chars().any(|c| c.is_whitespace() || c == '/' || c == '[' || c == ']') {
        return Err("the host has an invalid character");
    }
    let port = match port {
        "*" => 0,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| "the port is not a number up to 65535")?
        }
        _ => return Err("the port is not a number up to 65535"),
    };
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ipc { path } => write!(f, "ipc://{path}"),
            Self::Memory { name } => write!(f, "memory://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip() {
        for text in [
            "tcp://127.0.0.1:5555",
            "tcp://*:0",
            "tcp://[::1]:80",
            "tcp://broker.example:65535",
            "ipc:///tmp/a b",
            "memory://x",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("tcp://*:*".parse(), Ok(Endpoint::tcp("*", 0)));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in [
            "",
            "tcp://",
            "tcp://:1",
            "tcp://a",
            "tcp://a:",
            "tcp://a:70000",
            "tcp://a:+1",
            "tcp://::1:5",
            "tcp://[::1:5",
            "tcp://a b:1",
            "udp://a:1",
            "ipc://",
            "memory://",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
