//! Asking the reference: one question at a time, each with a deadline.

use std::time::Duration;

use dsv2_core::{Code, Failure, Limits, Reply, Request};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::envelope::Envelope;
use crate::endpoint::Endpoint;
use crate::port::{Port, PortEvent, SocketKind, Transport, connect};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) type Answer = Result<Reply, Failure>;

/// Starts the task that asks; it ends when its inbox closes.
pub(crate) fn start(endpoint: Endpoint) -> (mpsc::Sender<Box<Request>>, mpsc::Receiver<Answer>) {
    let (questions, inbox) = mpsc::channel(1);
    let (outbox, answers) = mpsc::channel(1);
    tokio::spawn(run(endpoint, inbox, outbox));
    (questions, answers)
}

async fn run(endpoint: Endpoint, mut inbox: mpsc::Receiver<Box<Request>>, outbox: mpsc::Sender<Answer>) {
    let port = connect(Transport::Native, SocketKind::Dealer, endpoint, super::port_limits());
    let Ok(mut port) = port else { return };
    let mut number = 0_u64;
    let mut events = Vec::new();
    loop {
        tokio::select! {
            question = inbox.recv() => {
                let Some(question) = question else { return };
                number += 1;
                let answer = ask(port.as_mut(), &question, number).await;
                if outbox.send(answer).await.is_err() {
                    return;
                }
            }
            // The port reconnects and answers heartbeats only while it is listened to.
            received = port.recv(&mut events) => {
                if received.is_err() {
                    return;
                }
                events.clear();
            }
        }
    }
}

async fn ask(port: &mut dyn Port, question: &Request, number: u64) -> Answer {
    let lost = |why: &str| Failure::unknown(Code::Timeout, why);
    let deadline = Instant::now() + ANSWER;
    let id = number.to_be_bytes();
    let mut unsent = Some(Envelope::of(&id).wrap(&question.encode()));
    let mut events = Vec::new();
    loop {
        if let Some(message) = unsent.take() {
            unsent = port.send(message).err().map(crate::port::SendError::into_message);
        }
        match timeout_at(deadline, port.recv(&mut events)).await {
            Err(_) if unsent.is_some() => return Err(lost("the reference cannot be reached")),
            Err(_) => return Err(lost("the reference does not answer")),
            Ok(Err(error)) => return Err(lost(&error.to_string())),
            Ok(Ok(())) => {}
        }
        for event in events.drain(..) {
            let PortEvent::Message(message) = event else { continue };
            let Some((envelope, body)) = Envelope::split(&message) else { continue };
            if *envelope.first() != id {
                continue;
            }
            let reply = Reply::decode(question.body.service(), &body, &Limits::default());
            return reply.map_err(|why| Failure::unknown(Code::Malformed, why));
        }
    }
}
