//! Who answers at an endpoint.

use std::sync::Arc;
use std::time::Duration;

use dsv2_core::{Format, Limits, Reply, ReplyBody, Request, RequestBody, RequestExt, Service};
use dsv2_net::Endpoint;
use dsv2_net::engine::PeerInfo;
use dsv2_net::port::{Port, PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::Message;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// Who answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Nobody listens.
    Nobody,
    /// It cannot be reached at all: no such host, no way there.
    NoWay(String),
    /// Somebody listens, and does not talk as the part does.
    Other(String),
    /// The part, as far as can be told.
    Part,
}

/// What to ask of whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// What connects to such a part.
    pub(super) kind: SocketKind,
    /// The types of socket that the part has, by their names on the wire.
    pub(super) sockets: &'static [&'static str],
    /// Whether it must give a list of servers, as only the reference does.
    pub(super) lists: bool,
}

/// Connects, shakes hands, and asks.
pub(super) async fn ask(endpoint: &Endpoint, question: Question, within: Duration) -> Answer {
    let deadline = Instant::now() + within;
    if let Endpoint::Tcp { host, port } = endpoint {
        match timeout(within / 2, TcpStream::connect((host.as_str(), *port))).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Answer::Nobody,
            Ok(Err(error)) => return Answer::NoWay(error.to_string()),
            Err(_) => return Answer::NoWay("packets to it are not answered".to_owned()),
        }
    }
    let mut why = "it does not answer as ZeroMQ does".to_owned();
    match timeout_at(deadline, converse(endpoint, question, &mut why)).await {
        Ok(Ok(())) => Answer::Part,
        Ok(Err(why)) => Answer::Other(why),
        Err(_) => Answer::Other(why),
    }
}

/// Whether nobody listens there, for sure.
pub(super) async fn is_refused(endpoint: &Endpoint, within: Duration) -> bool {
    let Endpoint::Tcp { host, port } = endpoint else { return false };
    let connected = timeout(within, TcpStream::connect((host.as_str(), *port))).await;
    connected.is_ok_and(|result| result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
}

/// Up to the end of the handshake, and to the answer where one is wanted. `why` says how far it came.
async fn converse(endpoint: &Endpoint, question: Question, why: &mut String) -> Result<(), String> {
    let failed = |error: dsv2_net::port::PortError| error.to_string();
    let mut port =
        connect(Transport::Native, question.kind, endpoint.clone(), PortLimits::default()).map_err(failed)?;
    let mut events = Vec::new();
    loop {
        events.clear();
        port.recv(&mut events).await.map_err(failed)?;
        for event in &events {
            match event {
                PortEvent::Up { info } => {
                    is_expected(info.as_ref(), question)?;
                    if !question.lists {
                        return Ok(());
                    }
                    "it answers as ZeroMQ does, and gives no list of servers".clone_into(why);
                    ask_for_list(port.as_mut())?;
                }
                PortEvent::Unreachable { reason, .. } | PortEvent::Down { reason, .. } => reason.clone_into(why),
                PortEvent::Message(message) => return is_list(message),
                _ => {}
            }
        }
    }
}

fn is_expected(info: Option<&Arc<PeerInfo>>, question: Question) -> Result<(), String> {
    let Some(info) = info else { return Ok(()) };
    let socket = info.socket_type.as_str();
    if question.sockets.contains(&socket) {
        return Ok(());
    }
    Err(format!("a {socket} socket answers, where {} is expected", question.sockets.join(" or ")))
}

/// The reference's list, which changes nothing there.
fn ask_for_list(port: &mut (impl Port + ?Sized)) -> Result<(), String> {
    let (body, ext) = (RequestBody::List, RequestExt::default());
    let request = Request { format: Format::Json, timestamp: None, clock: None, ext, body };
    let message = Message::from_frames([&b"doctor"[..], b"", &request.encode()]);
    port.send(message).map_err(|error| error.to_string())
}

fn is_list(message: &Message) -> Result<(), String> {
    let reply = Reply::decode(Service::List, message.last(), &Limits::default());
    match reply.map(|reply| reply.body) {
        Ok(ReplyBody::List(_)) => Ok(()),
        Ok(ReplyBody::Failed(failure)) => Err(format!("it gives no list of servers: {}", failure.text)),
        Ok(_) | Err(_) => Err("it answers something else than a list of servers".to_owned()),
    }
}
