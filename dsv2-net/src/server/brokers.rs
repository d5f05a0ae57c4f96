//! The brokers that a server is connected to. Each has clients of its own; a request is answered where it came from.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::endpoint::Endpoint;
use crate::port::{PortError, PortEvent, PortLimits, PortStats, Ports, SendError, SocketKind};
use crate::zmtp::Message;

use super::envelope::Envelope;

/// Where an answer goes: a broker, on one of its connections. No later connection knows the envelope.
#[derive(Debug)]
pub(super) struct Route {
    broker: usize,
    connection: u64,
    pub(super) envelope: Envelope,
}

/// One broker.
#[derive(Debug, Default)]
struct Side {
    /// Answers that its port had no room for.
    backlog: VecDeque<Message>,
    /// Whether it understands `_dsv2` messages.
    knows_us: bool,
    /// Numbers the connections to it.
    connection: u64,
}

pub(super) struct Brokers {
    ports: Ports,
    sides: Vec<Side>,
    ready: bool,
}

impl Brokers {
    pub(super) fn connect(endpoints: &[Endpoint], limits: &PortLimits) -> Result<Self, PortError> {
        let ports = Ports::connect(SocketKind::Dealer, endpoints, limits)?;
        let sides = endpoints.iter().map(|_| Side::default()).collect();
        Ok(Self { ports, sides, ready: false })
    }

    /// Waits for what any of them brings. Cancel-safe.
    pub(super) async fn recv(&mut self, events: &mut Vec<(usize, PortEvent)>) -> Result<(), PortError> {
        self.ports.recv(events).await
    }

    /// Takes what a broker brought; yields a request, if it is one.
    pub(super) fn take(&mut self, broker: usize, event: PortEvent) -> Option<(Route, Bytes)> {
        let side = &mut self.sides[broker];
        match event {
            PortEvent::Up { info } => {
                side.knows_us = info.is_some_and(|info| info.is_dsv2());
                self.tell(broker);
            }
            PortEvent::Down { .. } => {
                side.knows_us = false;
                side.connection += 1;
                side.backlog.clear();
            }
            PortEvent::Writable => {
                while let Some(message) = self.sides[broker].backlog.pop_front() {
                    if let Some(Err(SendError::Full(message))) =
                        self.ports.get_mut(broker).map(|port| port.send(message))
                    {
                        self.sides[broker].backlog.push_front(message);
                        break;
                    }
                }
            }
            PortEvent::Message(message) => {
                let connection = side.connection;
                let (envelope, body) = Envelope::split(&message)?;
                return Some((Route { broker, connection, envelope }, body));
            }
            PortEvent::Unreachable { .. } => {}
        }
        None
    }

    /// Answers a request, if the connection that it came on is still there. Where it is not, the client asks again,
    /// elsewhere perhaps, and is recognised.
    pub(super) fn answer(&mut self, to: &Route, answer: Message) {
        if self.sides[to.broker].connection == to.connection {
            self.send(to.broker, answer);
        }
    }

    fn send(&mut self, broker: usize, message: Message) {
        let side = &mut self.sides[broker];
        if !side.backlog.is_empty() {
            return side.backlog.push_back(message);
        }
        if let Some(Err(SendError::Full(message))) = self.ports.get_mut(broker).map(|port| port.send(message)) {
            // Bounded by what the broker lets be under way.
            self.sides[broker].backlog.push_back(message);
        }
    }

    /// From now on the server takes requests, or no longer does.
    pub(super) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
        (0..self.ports.len()).for_each(|broker| self.tell(broker));
    }

    fn tell(&mut self, broker: usize) {
        if self.sides[broker].knows_us {
            let word: &[u8] = if self.ready { b"ready" } else { b"draining" };
            self.send(broker, Message::from_frames([b"_dsv2", word]));
        }
    }

    pub(super) fn stats(&self) -> Vec<PortStats> {
        self.ports.stats()
    }

    pub(super) async fn drain(&mut self, patience: Duration) {
        self.ports.drain(patience).await;
    }
}
