//! Dialled links: one task each, so that a slow peer delays nobody.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::endpoint::Endpoint;
use crate::engine::Counter;
use crate::port::{PortEvent, PortLimits, SocketKind, Transport, connect};
use crate::zmtp::Message;

/// Messages that wait for a link's task. One that does not fit is dropped: the stream notices the gap and repairs it.
const QUEUE_CAP: usize = 4_096;

/// What happened on a dialled link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Up,
    Down,
    Message(Message),
}

/// All dialled links of a server.
#[derive(Debug)]
pub(crate) struct Dialled {
    links: HashMap<u64, mpsc::Sender<Message>>,
    events: mpsc::Sender<(u64, LinkEvent)>,
    drops: Arc<Counter>,
}

impl Dialled {
    pub(crate) fn new() -> (Self, mpsc::Receiver<(u64, LinkEvent)>) {
        let (events, inbox) = mpsc::channel(QUEUE_CAP);
        (Self { links: HashMap::new(), events, drops: Arc::default() }, inbox)
    }

    /// Dials, and keeps the link up until it is given up.
    pub(crate) fn dial(&mut self, link: u64, address: &str) {
        let Ok(endpoint) = address.parse::<Endpoint>() else {
            tracing::warn!(address, "another server's link is at no address that can be dialled");
            return;
        };
        let (sender, inbox) = mpsc::channel(QUEUE_CAP);
        self.links.insert(link, sender);
        tokio::spawn(run(link, endpoint, inbox, self.events.clone(), Arc::clone(&self.drops)));
    }

    pub(crate) fn hang_up(&mut self, link: u64) {
        self.links.remove(&link);
    }

    /// How many messages were dropped since the start.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.get()
    }

    pub(crate) fn send(&self, link: u64, message: Message) {
        let Some(sender) = self.links.get(&link) else { return };
        if sender.try_send(message).is_err() {
            self.drops.add(1);
            tracing::debug!(link, "a message for a link was dropped: its queue is full");
        }
    }
}

async fn run(
    link: u64,
    endpoint: Endpoint,
    mut inbox: mpsc::Receiver<Message>,
    outbox: mpsc::Sender<(u64, LinkEvent)>,
    drops: Arc<Counter>,
) {
    let limits = PortLimits { queue_cap_bytes: 64 << 20, ..super::port_limits() };
    let Ok(mut port) = connect(Transport::Native, SocketKind::Dealer, endpoint, limits) else { return };
    let mut events = Vec::new();
    loop {
        tokio::select! {
            message = inbox.recv() => match message {
                Some(message) => {
                    if let Err(error) = port.send(message) {
                        drops.add(1);
                        tracing::debug!(link, %error, "a message for a link was dropped");
                    }
                }
                None => return,
            },
            received = port.recv(&mut events) => {
                if received.is_err() {
                    return;
                }
                for event in events.drain(..) {
                    let event = match event {
                        PortEvent::Up { .. } => LinkEvent::Up,
                        PortEvent::Down { .. } => LinkEvent::Down,
                        PortEvent::Message(message) => LinkEvent::Message(message),
                        _ => continue,
                    };
                    if outbox.send((link, event)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
