//! A proxy, modelled: it hands a publication to every connection that asked for exactly its topic, keeps nothing, and
//! loses its subscriptions when it dies.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Proxy {
    pub(super) up: bool,
    connections: BTreeSet<u64>,
    topics: BTreeMap<String, BTreeSet<u64>>,
}

impl Proxy {
    pub(super) fn start(&mut self) {
        *self = Self { up: true, ..Self::default() };
    }

    pub(super) fn stop(&mut self) -> Vec<u64> {
        std::mem::take(self).connections.into_iter().collect()
    }

    pub(super) fn client_came(&mut self, connection: u64) {
        self.connections.insert(connection);
    }

    pub(super) fn client_went(&mut self, connection: u64) {
        self.connections.remove(&connection);
        for connections in self.topics.values_mut() {
            connections.remove(&connection);
        }
    }

    pub(super) fn subscribe(&mut self, connection: u64, topic: &str, on: bool) {
        if !self.connections.contains(&connection) {
            return;
        }
        if on {
            self.topics.entry(topic.to_owned()).or_default().insert(connection);
        } else if let Some(connections) = self.topics.get_mut(topic) {
            connections.remove(&connection);
        }
    }

    /// Who gets what is published on the topic.
    pub(super) fn subscribers(&self, topic: &str) -> Vec<u64> {
        self.topics.get(topic).map(|connections| connections.iter().copied().collect()).unwrap_or_default()
    }
}
