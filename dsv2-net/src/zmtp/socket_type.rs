use std::fmt;

use super::ZmtpError;

/// The socket types of RFC 28, 29, 30 and 31 that a READY command may announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are the specification's
pub enum SocketType {
    Req,
    Rep,
    Dealer,
    Router,
    Pub,
    Sub,
    Xpub,
    Xsub,
    Push,
    Pull,
    Pair,
}

impl SocketType {
    const ALL: [Self; 11] = [
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pub,
        Self::Sub,
        Self::Xpub,
        Self::Xsub,
        Self::Push,
        Self::Pull,
        Self::Pair,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Xpub => "XPUB",
            Self::Xsub => "XSUB",
            Self::Push => "PUSH",
            Self::Pull => "PULL",
            Self::Pair => "PAIR",
        }
    }

    /// Parses the value of the `Socket-Type` property.
    pub fn from_wire(name: &[u8]) -> Result<Self, ZmtpError> {
        let printable = || String::from_utf8_lossy(&name[..name.len().min(32)]).into_owned();
        Self::ALL
            .into_iter()
            .find(|t| t.as_str().as_bytes() == name)
            .ok_or_else(|| ZmtpError::UnknownSocketType(printable()))
    }

    /// Whether RFC 23 ("Socket-Type compatibility") lets these two be connected. The relation is symmetric.
    #[must_use]
    pub const fn accepts(self, peer: Self) -> bool {
        match self {
            Self::Req => matches!(peer, Self::Rep | Self::Router),
            Self::Rep => matches!(peer, Self::Req | Self::Dealer),
            Self::Dealer => matches!(peer, Self::Rep | Self::Dealer | Self::Router),
            Self::Router => matches!(peer, Self::Req | Self::Dealer | Self::Router),
            Self::Pub | Self::Xpub => matches!(peer, Self::Sub | Self::Xsub),
            Self::Sub | Self::Xsub => matches!(peer, Self::Pub | Self::Xpub),
            Self::Push => matches!(peer, Self::Pull),
            Self::Pull => matches!(peer, Self::Push),
            Self::Pair => matches!(peer, Self::Pair),
        }
    }

    /// Whether what arrives at this socket are subscriptions: PUB and XPUB.
    #[must_use]
    pub const fn receives_subscriptions(self) -> bool {
        matches!(self, Self::Pub | Self::Xpub)
    }

    /// Whether READY carries an `Identity` property for this type (RFC 23: REQ, DEALER and ROUTER).
    #[must_use]
    pub const fn has_identity(self) -> bool {
        matches!(self, Self::Req | Self::Dealer | Self::Router)
    }
}

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatibility_is_symmetric_and_names_round_trip() {
        for a in SocketType::ALL {
            assert_eq!(SocketType::from_wire(a.as_str().as_bytes()), Ok(a));
            for b in SocketType::ALL {
                assert_eq!(a.accepts(b), b.accepts(a), "{a} and {b}");
            }
        }
        assert!(!SocketType::Router.accepts(SocketType::Rep));
        assert!(!SocketType::Sub.accepts(SocketType::Sub));
    }

    #[test]
    fn unknown_names_are_quoted_in_part() {
        let long = [b'x'; 300];
        let Err(ZmtpError::UnknownSocketType(text)) = SocketType::from_wire(&long) else { panic!("accepted") };
        assert_eq!(text.len(), 32);
    }
}
