use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HandshakeError, LocalSocket, PeerInfo};
use crate::endpoint::{ReadHalf, WriteHalf};
use crate::zmtp::{Command, Decoder, GREETING_BYTES, Greeting, Metadata, SocketType, ZmtpError};

/// The property by which DS-v2 sockets know each other.
pub const DSV2_PROPERTY: &str = "X-Dsv2";

/// Greets, exchanges READY, and judges the peer. What follows READY stays in the decoder.
pub(super) async fn handshake(
    read: &mut ReadHalf,
    write: &mut WriteHalf,
    decoder: &mut Decoder,
    local: &LocalSocket,
    address: String,
) -> Result<PeerInfo, HandshakeError> {
    write.write_all(&Greeting::ours().encode()).await?;
    let greeting = loop {
        if let Some(greeting) = Greeting::parse(decoder.buffer())? {
            break greeting;
        }
        fill(read, decoder).await?;
    };
    decoder.buffer().advance(GREETING_BYTES);
    greeting.require_null()?;
    write.write_all(&Command::Ready(ready(local)).encode()).await?;
    let judged = receive_ready(read, decoder, local).await;
    if let Err(HandshakeError::Protocol(error)) = &judged
        && !matches!(error, ZmtpError::PeerError(_))
    {
        // So that the peer's log says why. It may be gone already.
        let _ = write.write_all(&Command::Error(error.to_string()).encode()).await;
    }
    let (socket_type, metadata) = judged?;
    let identity = metadata.get("Identity").cloned().unwrap_or_default();
    Ok(PeerInfo { socket_type, identity, metadata, version: (greeting.major, greeting.minor), address })
}

async fn receive_ready(
    read: &mut ReadHalf,
    decoder: &mut Decoder,
    local: &LocalSocket,
) -> Result<(SocketType, Metadata), HandshakeError> {
    loop {
        match decoder.decode_command()? {
            Some(Command::Ready(metadata)) => {
                let theirs = metadata.socket_type()?;
                if !local.socket_type().accepts(theirs) {
                    return Err(ZmtpError::IncompatibleSocket { ours: local.socket_type(), theirs }.into());
                }
                return Ok((theirs, metadata));
            }
            Some(Command::Error(reason)) => return Err(ZmtpError::PeerError(reason).into()),
            Some(_) => return Err(ZmtpError::Unexpected("command before READY").into()),
            None => fill(read, decoder).await?,
        }
    }
}

fn ready(local: &LocalSocket) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.push("Socket-Type", local.socket_type().as_str());
    if local.socket_type().has_identity() {
        metadata.push("Identity", local.identity().clone());
    }
    metadata.push(DSV2_PROPERTY, Bytes::from_static(b"1"));
    for (name, value) in local.properties() {
        metadata.push(name, value.clone());
    }
    metadata
}

/// Reads a little. The decoder's limits bound what a handshake can make us hold.
async fn fill(read: &mut ReadHalf, decoder: &mut Decoder) -> Result<(), HandshakeError> {
    let buffer = decoder.buffer();
    buffer.reserve(512);
    match read.read_buf(buffer).await? {
        0 => Err(HandshakeError::PeerClosed),
        _ => Ok(()),
    }
}
