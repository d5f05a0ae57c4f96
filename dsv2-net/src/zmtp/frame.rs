use bytes::{BufMut, BytesMut};

use super::ZmtpError;

/// The longest frame header: flags and eight bytes of length.
pub const MAX_HEADER_BYTES: usize = 9;

const MORE: u8 = 0b001;
const LONG: u8 = 0b010;
const COMMAND: u8 = 0b100;

/// One frame header (RFC 37, "Framing").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Further frames of the same message follow.
    pub more: bool,
    /// A command, not a message frame.
    pub command: bool,
    /// Payload bytes announced: not yet checked against any limit.
    pub payload_len: u64,
    /// Bytes of the header itself: 2 or 9.
    pub header_len: usize,
}

impl FrameHeader {
    /// Reads a header from the start of `input`: `None` while it is incomplete.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, ZmtpError> {
        let Some(&flags) = input.first() else { return Ok(None) };
        let (more, command) = (flags & MORE != 0, flags & COMMAND != 0);
        if flags & !(MORE | LONG | COMMAND) != 0 || (more && command) {
            return Err(ZmtpError::InvalidFlags(flags));
        }
        let (payload_len, header_len) = if flags & LONG == 0 {
            let Some(&len) = input.get(1) else { return Ok(None) };
            (u64::from(len), 2)
        } else {
            let Some(len) = input.get(1..MAX_HEADER_BYTES).and_then(|b| <[u8; 8]>::try_from(b).ok()) else {
                return Ok(None);
            };
            (u64::from_be_bytes(len), MAX_HEADER_BYTES)
        };
        Ok(Some(Self { more, command, payload_len, header_len }))
    }
}

/// Bytes that a frame with this payload takes on the wire.
pub(crate) const fn encoded_len(payload_len: usize) -> usize {
    payload_len + if payload_len < 256 { 2 } else { MAX_HEADER_BYTES }
}

/// Appends one message frame.
pub(crate) fn put_frame(out: &mut BytesMut, payload: &[u8], more: bool) {
    put_header(out, payload.len(), if more { MORE } else { 0 });
    out.put_slice(payload);
}

/// Appends the header of a command frame.
pub(crate) fn put_command_header(out: &mut BytesMut, payload_len: usize) {
    put_header(out, payload_len, COMMAND);
}

fn put_header(out: &mut BytesMut, payload_len: usize, flags: u8) {
    match u8::try_from(payload_len) {
        Ok(short) => out.put_slice(&[flags, short]),
        Err(_) => {
            out.put_u8(flags | LONG);
            out.put_u64(payload_len as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_headers_round_trip() {
        for len in [0usize, 1, 255, 256, 65_536] {
            for more in [false, true] {
                let mut wire = BytesMut::new();
                put_frame(&mut wire, &vec![7; len], more);
                assert_eq!(wire.len(), encoded_len(len));
                let header = FrameHeader::parse(&wire).unwrap().unwrap();
                assert_eq!(
                    header,
                    FrameHeader { more, command: false, payload_len: len as u64, header_len: wire.len() - len }
                );
                for cut in 0..header.header_len {
                    assert_eq!(FrameHeader::parse(&wire[..cut]), Ok(None));
                }
            }
        }
    }

    #[test]
    fn reserved_bits_and_commands_with_more_are_refused() {
        assert_eq!(FrameHeader::parse(&[0b1000]), Err(ZmtpError::InvalidFlags(8)));
        assert_eq!(FrameHeader::parse(&[MORE | COMMAND]), Err(ZmtpError::InvalidFlags(5)));
    }
}
