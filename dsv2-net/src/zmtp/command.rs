use bytes::{BufMut, Bytes, BytesMut};

use super::frame::put_command_header;
use super::{Message, SocketType, ZmtpError};

/// Most properties that a READY may carry.
pub const METADATA_CAP: usize = 32;

/// Longest context of a PING (RFC 37).
pub const PING_CONTEXT_CAP_BYTES: usize = 16;

/// The commands of ZMTP 3.1 that a NULL connection knows. Unknown ones are ignored by their receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Ends the handshake, with the sender's properties.
    Ready(Metadata),
    /// Refuses the handshake.
    Error(String),
    /// Adds one subscription to a prefix.
    Subscribe(Bytes),
    /// Removes one subscription.
    Cancel(Bytes),
    /// Asks for a PONG; `ttl_ds` (tenths of a second, 0 = none) is how long the sender's silence may last.
    Ping {
        /// Time to live in tenths of a second.
        ttl_ds: u16,
        /// Returned in the PONG.
        context: Bytes,
    },
    /// Answers a PING.
    Pong {
        /// The PING's context.
        context: Bytes,
    },
    /// A command of another mechanism or version.
    Unknown,
}

impl Command {
    /// Parses a command frame's payload. The parts share its memory.
    pub fn parse(body: &Bytes) -> Result<Self, ZmtpError> {
        let Some((&name_len, rest)) = body.split_first() else { return Err(ZmtpError::MalformedCommand("empty")) };
        let name_len = usize::from(name_len);
        if name_len == 0 || rest.len() < name_len {
            return Err(ZmtpError::MalformedCommand("nameless"));
        }
        let data = body.slice(1 + name_len..);
        match &rest[..name_len] {
            b"READY" => Metadata::parse(&data).map(Self::Ready),
            b"ERROR" => Self::parse_error(&data),
            b"SUBSCRIBE" => Ok(Self::Subscribe(data)),
            b"CANCEL" => Ok(Self::Cancel(data)),
            b"PING" => Self::parse_ping(&data),
            // Longer contexts are nobody's business but the sender's, who counts them as traffic.
            b"PONG" => Ok(Self::Pong { context: data }),
            _ => Ok(Self::Unknown),
        }
    }

    fn parse_error(data: &Bytes) -> Result<Self, ZmtpError> {
        let Some((&len, reason)) = data.split_first() else { return Err(ZmtpError::MalformedCommand("ERROR")) };
        let Some(reason) = reason.get(..usize::from(len)) else { return Err(ZmtpError::MalformedCommand("ERROR")) };
        Ok(Self::Error(String::from_utf8_lossy(reason).into_owned()))
    }

    fn parse_ping(data: &Bytes) -> Result<Self, ZmtpError> {
        let [high, low, context @ ..] = &data[..] else { return Err(ZmtpError::MalformedCommand("PING")) };
        if context.len() > PING_CONTEXT_CAP_BYTES {
            return Err(ZmtpError::MalformedCommand("PING"));
        }
        Ok(Self::Ping { ttl_ds: u16::from_be_bytes([*high, *low]), context: data.slice(2..) })
    }

    /// The whole command frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (name, data): (&str, Bytes) = match self {
            Self::Ready(metadata) => ("READY", metadata.encode()),
            Self::Error(reason) => ("ERROR", encode_reason(reason)),
            Self::Subscribe(topic) => ("SUBSCRIBE", topic.clone()),
            Self::Cancel(topic) => ("CANCEL", topic.clone()),
            Self::Ping { ttl_ds, context } => {
                let mut data = BytesMut::with_capacity(2 + context.len());
                data.put_u16(*ttl_ds);
                data.put_slice(context);
                ("PING", data.freeze())
            }
            Self::Pong { context } => ("PONG", context.clone()),
            Self::Unknown => ("UNKNOWN", Bytes::new()),
        };
        let mut wire = BytesMut::new();
        put_command_header(&mut wire, 1 + name.len() + data.len());
        wire.put_u8(name.len() as u8); // all names are ours and short
        wire.put_slice(name.as_bytes());
        wire.put_slice(&data);
        wire.freeze()
    }

    /// A subscription as the peer's version wants it: a command since 3.1, a message before.
    #[must_use]
    pub fn subscription(topic: &[u8], subscribe: bool, as_command: bool) -> Bytes {
        let topic_bytes = Bytes::copy_from_slice(topic);
        match (as_command, subscribe) {
            (true, true) => Self::Subscribe(topic_bytes).encode(),
            (true, false) => Self::Cancel(topic_bytes).encode(),
            (false, _) => {
                let mut body = BytesMut::with_capacity(1 + topic.len());
                body.put_u8(u8::from(subscribe));
                body.put_slice(topic);
                Message::single(&body).wire().clone()
            }
        }
    }
}

fn encode_reason(reason: &str) -> Bytes {
    let mut end = reason.len().min(255);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = BytesMut::with_capacity(1 + end);
    data.put_u8(end as u8); // at most 255
    data.put_slice(&reason.as_bytes()[..end]);
    data.freeze()
}

/// The properties of READY, in the order received. Names compare without case (RFC 23).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, Bytes)>);

impl Metadata {
    /// No properties.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a property. Names that the wire cannot carry (empty, over 255 bytes, outside ASCII) are refused with
    /// `false`, and nothing is changed.
    pub fn push(&mut self, name: &str, value: impl Into<Bytes>) -> bool {
        let valid = !name.is_empty() && name.len() <= 255 && name.is_ascii() && self.0.len() < METADATA_CAP;
        if valid {
            self.0.push((name.to_owned(), value.into()));
        }
        valid
    }

    /// The value of a property.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// All properties.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v))
    }

    /// The announced socket type.
    pub fn socket_type(&self) -> Result<SocketType, ZmtpError> {
        SocketType::from_wire(self.get("Socket-Type").map_or(&[], |v| v))
    }

    fn parse(data: &Bytes) -> Result<Self, ZmtpError> {
        const BAD: ZmtpError = ZmtpError::MalformedCommand("READY");
        let (mut properties, mut at) = (Vec::new(), 0);
        while at < data.len() {
            let name_at = at + 1;
            let value_len_at = name_at + usize::from(data[at]);
            let value_at = value_len_at + 4;
            let name = data.get(name_at..value_len_at).ok_or(BAD)?;
            let len = data.get(value_len_at..value_at).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or(BAD)?;
            let end = usize::try_from(u32::from_be_bytes(len)).ok().and_then(|n| value_at.checked_add(n)).ok_or(BAD)?;
            let value = data.get(value_at..end).ok_or(BAD)?;
            if name.is_empty() || !name.is_ascii() || properties.len() == METADATA_CAP {
                return Err(BAD);
            }
            // Copied: metadata lives as long as the connection, the read buffer should not.
            properties.push((String::from_utf8_lossy(name).into_owned(), Bytes::copy_from_slice(value)));
            at = end;
        }
        Ok(Self(properties))
    }

    fn encode(&self) -> Bytes {
        let mut data = BytesMut::new();
        for (name, value) in &self.0 {
            data.put_u8(name.len() as u8); // checked by `push`
            data.put_slice(name.as_bytes());
            data.put_u32(value.len() as u32); // a READY is far smaller than 4 GiB
            data.put_slice(value);
        }
        data.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::super::FrameHeader;
    use super::*;

    fn body(wire: &Bytes) -> Bytes {
        let header = FrameHeader::parse(wire).unwrap().unwrap();
        assert!(header.command);
        assert_eq!(header.header_len as u64 + header.payload_len, wire.len() as u64);
        wire.slice(header.header_len..)
    }

    #[test]
    fn commands_round_trip() {
        let mut metadata = Metadata::new();
        assert!(metadata.push("Socket-Type", "ROUTER"));
        assert!(metadata.push("X-Dsv2", "1"));
        assert!(!metadata.push("", "x"));
        let all = [
            Command::Ready(metadata),
            Command::Error("no".into()),
            Command::Subscribe(Bytes::from_static(b"topic")),
            Command::Cancel(Bytes::from(vec![b't'; 400])),
            Command::Ping { ttl_ds: 300, context: Bytes::from_static(b"ctx") },
            Command::Pong { context: Bytes::from_static(b"ctx") },
            Command::Unknown,
        ];
        for command in all {
            assert_eq!(Command::parse(&body(&command.encode())), Ok(command));
        }
    }

    #[test]
    fn names_compare_without_case() {
        let mut metadata = Metadata::new();
        metadata.push("socket-TYPE", "PUB");
        assert_eq!(metadata.socket_type(), Ok(SocketType::Pub));
        assert_eq!(Metadata::new().socket_type(), Err(ZmtpError::UnknownSocketType(String::new())));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for bad in [
            &b""[..],
            b"\0",
            b"\x09READY",
            b"\x04PING\0",
            b"\x05ERROR",
            b"\x05ERROR\x05no",
            b"\x05READY\x04A",
            b"\x05READY\x01A\xff\xff\xff\xff",
        ] {
            assert!(
                matches!(Command::parse(&Bytes::copy_from_slice(bad)), Err(ZmtpError::MalformedCommand(_))),
                "{bad:?}"
            );
        }
        let long_context = [&b"\x04PING\0\0"[..], &[0; 17]].concat();
        assert!(Command::parse(&long_context.into()).is_err());
    }

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let Ok(Command::Error(text)) = Command::parse(&body(&Command::Error("é".repeat(200)).encode())) else {
            panic!("no error")
        };
        assert_eq!(text, "é".repeat(127));
    }
}
