//! The promises, checked when all is quiet again.

use std::collections::BTreeMap;

use dsv2_core::{EventBody, Feed, RequestBody};

use super::client::channel;
use super::world::World;
use crate::election::Election;

impl World {
    /// Whether nothing is left to do: all clients know, all servers run, hold the same, and follow one coordinator.
    pub(super) fn is_settled(&self) -> bool {
        self.clients.iter().all(super::client::SimClient::is_done) && self.disagreement().is_none()
    }

    /// In what the servers differ, if they do.
    fn disagreement(&self) -> Option<String> {
        let Some(machines) = self
            .nodes
            .iter()
            .map(|node| node.process.as_ref().map(|process| &process.machine))
            .collect::<Option<Vec<_>>>()
        else {
            return Some("a server is down".to_owned());
        };
        if self.nodes.iter().flat_map(|node| &node.process).any(|process| !process.uncommitted.is_empty()) {
            return Some("a disk is busy".to_owned());
        }
        let first = machines.first()?;
        let leader = |machine: &crate::server::Server| {
            machine.election().coordinator().map(|coordinator| coordinator.name.clone())
        };
        for machine in &machines {
            if machine.position() != first.position() {
                return Some(format!("positions differ: {:?} and {:?}", first.position(), machine.position()));
            }
            if machine.state().digest(machine.position()) != first.state().digest(first.position()) {
                return Some("equal positions, different states".to_owned());
            }
            if leader(machine).is_none() || leader(machine) != leader(first) {
                return Some(format!("coordinators differ: {:?} and {:?}", leader(first), leader(machine)));
            }
            if !machine.is_ready() {
                return Some("a server is not ready".to_owned());
            }
        }
        None
    }

    /// Checks what must hold at the end.
    pub(super) fn check(&mut self) {
        let mut violations = Vec::new();
        for client in &mut self.clients {
            self.report.unknown += client.unknown;
            self.report.acknowledged += client.acknowledged.len() as u64;
            violations.append(&mut client.violations);
            if !client.is_done() {
                violations.push(format!("client {} still waits for {:?}", client.index, client.under_way.keys()));
            }
        }
        violations.extend(self.disagreement());
        for node in &self.nodes {
            let Some(process) = &node.process else { continue };
            match process.history(&Feed::Channel(channel())) {
                Ok(events) => self.check_history(node.index, &events, &mut violations),
                Err(why) => violations.push(format!("the history of server {} cannot be read: {why}", node.index)),
            }
        }
        self.report.violations.append(&mut violations);
    }

    /// Every acknowledged message stands there once, and nothing that nobody wrote.
    fn check_history(&self, server: usize, events: &[dsv2_core::Event], violations: &mut Vec<String>) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for event in events {
            let EventBody::Publish { message, .. } = &event.body else { continue };
            *seen.entry(message).or_default() += 1;
        }
        let mut written = 0;
        for client in &self.clients {
            for (number, (body, receipt)) in &client.acknowledged {
                let RequestBody::Publish { message, .. } = body else { continue };
                written += 1;
                match seen.get(message.as_str()) {
                    Some(1) => {}
                    Some(times) => violations
                        .push(format!("server {server}: {message} ({}) stands there {times} times", receipt.event)),
                    None => {
                        let level = receipt.level;
                        violations.push(format!(
                            "server {server}: request {number}, {message}, acknowledged at {level}, is lost"
                        ));
                    }
                }
            }
        }
        let under_way: usize = self.clients.iter().map(|client| client.under_way.len()).sum();
        if seen.len() > written + under_way {
            violations.push(format!("server {server}: {} messages, and only {written} were written", seen.len()));
        }
        let ordered = events.windows(2).all(|pair| pair[0].key() < pair[1].key());
        if !ordered {
            violations.push(format!("server {server}: the history is not in the total order"));
        }
    }
}
