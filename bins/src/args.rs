//! The flags that several programs share.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use dsv2_core::{Format, Level};
use dsv2_net::Endpoint;
use dsv2_sync::election::{CoordinatorRank, ElectionForm};

use crate::error::Error;
use crate::logging::LogFormat;

/// What every program takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// A TOML file with defaults for the flags; see "Configuration" below.
    #[arg(long, global = true, value_name = "FILE", help_heading = "General")]
    pub config: Option<PathBuf>,
    /// The form of the log on stderr; what it tells is chosen with RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM", help_heading = "General")]
    pub log_format: LogFormat,
}

/// Where a whole cluster is, as a shortcut for each endpoint.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The host of every endpoint that is not given by itself.
    #[arg(long, global = true, default_value = "127.0.0.1", help_heading = "Place")]
    pub host: String,
    /// The port P of every endpoint that is not given by itself: P clients, P+1 servers, P+2 publishers,
    /// P+3 subscribers, P+4 reference, P+5 and up the servers' links.
    #[arg(long, global = true, default_value_t = 5555, value_name = "P", help_heading = "Place")]
    pub base_port: u16,
}

/// The parts of a cluster, each at its distance from the base port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The broker's side for clients.
    Clients,
    /// The broker's side for servers.
    Servers,
    /// The proxy's side for publishers.
    Publishers,
    /// The proxy's side for subscribers.
    Subscribers,
    /// The reference.
    Reference,
    /// The first server's link.
    Link,
}

impl Part {
    const fn offset(self) -> u16 {
        match self {
            Self::Clients => 0,
            Self::Servers => 1,
            Self::Publishers => 2,
            Self::Subscribers => 3,
            Self::Reference => 4,
            Self::Link => 5,
        }
    }
}

impl Place {
    /// The endpoint of a part: the one that was given, or the one at its distance from the base port. Base port 0 leaves
    /// the choice of every port to the system.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such port.
    pub fn endpoint(&self, given: Option<&Endpoint>, part: Part) -> Result<Endpoint, Error> {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        let beyond =
            || Error::Usage(format!("--base-port {} leaves no room for the other ports below 65536", self.base_port));
        let port = match self.base_port {
            0 => 0,
            base => base.checked_add(part.offset()).ok_or_else(beyond)?,
        };
        Ok(Endpoint::tcp(self.host.clone(), port))
    }

    /// As [`Place::endpoint`], for connecting.
    ///
    /// # Errors
    /// [`Error::Usage`] also where the system was to choose the port.
    pub fn peer(&self, given: Option<&Endpoint>, part: Part) -> Result<Endpoint, Error> {
        match self.endpoint(given, part)? {
            Endpoint::Tcp { port: 0, .. } => Err(Error::Usage("port 0 can be bound, but not connected to".to_owned())),
            Endpoint::Tcp { host, port } if host == "*" => Ok(Endpoint::tcp("127.0.0.1", port)),
            endpoint => Ok(endpoint),
        }
    }

    /// The endpoints that were given, each as [`Place::peer`], or the one of the place.
    ///
    /// # Errors
    /// As [`Place::peer`].
    pub fn peers(&self, given: &[Endpoint], part: Part) -> Result<Vec<Endpoint>, Error> {
        if given.is_empty() {
            return Ok(vec![self.peer(None, part)?]);
        }
        given.iter().map(|endpoint| self.peer(Some(endpoint), part)).collect()
    }
}

/// A serialization, in any case of letters, as the seed's `SERDE` has it.
///
/// # Errors
/// What it may be.
pub fn serde(text: &str) -> Result<Format, String> {
    match text.to_ascii_lowercase().as_str() {
        "json" => Ok(Format::Json),
        "msgpack" | "messagepack" => Ok(Format::MsgPack),
        _ => Err("is neither json nor msgpack".to_owned()),
    }
}

/// How safe a write must be.
///
/// # Errors
/// What it may be.
pub fn level(text: &str) -> Result<Level, String> {
    Level::from_str(&text.to_ascii_lowercase()).map_err(str::to_owned)
}

/// Which rank leads.
///
/// # Errors
/// What it may be.
pub fn coordinator_rank(text: &str) -> Result<CoordinatorRank, String> {
    CoordinatorRank::from_str(&text.to_ascii_lowercase()).map_err(|error| error.to_string())
}

/// How a coordinator is chosen.
///
/// # Errors
/// What it may be.
pub fn election(text: &str) -> Result<ElectionForm, String> {
    ElectionForm::from_str(&text.to_ascii_lowercase()).map_err(|error| error.to_string())
}

/// A finite number that is not negative.
///
/// # Errors
/// What it must be.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if rate.is_finite() && rate >= 0.0 { Ok(rate) } else { Err("must be finite and not negative".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_at_the_seeds_ports() {
        let place = Place { host: "127.0.0.1".into(), base_port: 5555 };
        let parts = [Part::Clients, Part::Servers, Part::Publishers, Part::Subscribers, Part::Reference, Part::Link];
        for (part, port) in parts.into_iter().zip(5555..) {
            assert_eq!(place.endpoint(None, part).expect("a port"), Endpoint::tcp("127.0.0.1", port));
        }
        let given = Endpoint::tcp("broker", 1);
        assert_eq!(place.endpoint(Some(&given), Part::Clients).expect("given"), given);
    }

    #[test]
    fn ports_end_at_65535_and_cannot_be_guessed() {
        let place = |base_port| Place { host: "*".into(), base_port };
        assert!(place(65_535).endpoint(None, Part::Servers).is_err());
        assert!(place(0).peer(None, Part::Clients).is_err());
        assert_eq!(place(7_000).peer(None, Part::Clients).expect("a peer"), Endpoint::tcp("127.0.0.1", 7_000));
    }

    #[test]
    fn words_may_be_written_in_any_case() {
        assert_eq!(serde("MSGPACK"), Ok(Format::MsgPack));
        assert_eq!(level("Quorum"), Ok(Level::Quorum));
        assert!(serde("xml").is_err() && rate("-1").is_err() && rate("NaN").is_err());
    }
}
