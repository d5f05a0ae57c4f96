//! Several ports as one: the same kind of connection to several endpoints.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::{Port, PortError, PortEvent, PortLimits, PortStats, SocketKind, Transport, connect};
use crate::endpoint::Endpoint;

/// Ports that are received from together.
pub(crate) struct Ports {
    ports: Vec<Box<dyn Port>>,
    /// Which is looked at first next time, so that a busy one does not silence the others.
    first: usize,
    events: Vec<PortEvent>,
}

impl Ports {
    /// Native ports of one kind to all of these.
    pub(crate) fn connect(kind: SocketKind, endpoints: &[Endpoint], limits: &PortLimits) -> Result<Self, PortError> {
        let ports = endpoints.iter().map(|at| connect(Transport::Native, kind, at.clone(), limits.clone()));
        Ok(Self { ports: ports.collect::<Result<_, _>>()?, first: 0, events: Vec::new() })
    }

    pub(crate) fn len(&self) -> usize {
        self.ports.len()
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Box<dyn Port>> {
        self.ports.get_mut(index)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn Port>> {
        self.ports.iter_mut()
    }

    /// Waits for events of any port, and appends them with the port's number. Cancel-safe, as [`Port::recv`].
    pub(crate) async fn recv(&mut self, events: &mut Vec<(usize, PortEvent)>) -> Result<(), PortError> {
        let (count, first) = (self.ports.len(), self.first);
        if let [port] = &mut self.ports[..] {
            port.recv(&mut self.events).await?;
            events.extend(self.events.drain(..).map(|event| (0, event)));
            return Ok(());
        }
        let mut buffers: Vec<Vec<PortEvent>> = vec![Vec::new(); count];
        let mut waits: Vec<_> =
            self.ports.iter_mut().zip(&mut buffers).map(|(port, buffer)| port.recv(buffer)).collect();
        let (index, result) = poll_fn(|context| {
            for index in (0..count).map(|step| (first + step) % count) {
                if let Poll::Ready(result) = waits[index].as_mut().poll(context) {
                    return Poll::Ready((index, result));
                }
            }
            Poll::Pending
        })
        .await;
        drop(waits);
        self.first = (index + 1) % count;
        result?;
        events.extend(std::mem::take(&mut buffers[index]).into_iter().map(|event| (index, event)));
        Ok(())
    }

    /// The numbers of each.
    pub(crate) fn stats(&self) -> Vec<PortStats> {
        self.ports.iter().map(|port| port.stats()).collect()
    }

    /// Drains them one after the other, each for at most so long.
    pub(crate) async fn drain(&mut self, patience: Duration) {
        for port in &mut self.ports {
            port.drain(patience).await;
        }
    }
}
