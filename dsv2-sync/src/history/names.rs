//! Numbers for names: a history says the same few names a million times.

use std::collections::HashMap;

/// Names of clients, topics, servers and writes' authors.
#[derive(Debug, Default)]
pub(super) struct Names {
    clients: HashMap<String, u32>,
    topics: HashMap<String, u32>,
    servers: HashMap<String, u32>,
}

impl Names {
    pub(super) fn client(&mut self, name: &str) -> u32 {
        number(&mut self.clients, name)
    }

    pub(super) fn topic(&mut self, name: &str) -> u32 {
        number(&mut self.topics, name)
    }

    pub(super) fn server(&mut self, name: &str) -> u32 {
        number(&mut self.servers, name)
    }

    pub(super) fn find_server(&self, name: &str) -> Option<u32> {
        self.servers.get(name).copied()
    }
}

fn number(table: &mut HashMap<String, u32>, name: &str) -> u32 {
    if let Some(&number) = table.get(name) {
        return number;
    }
    // A history of 2^32 names does not fit in memory.
    let number = u32::try_from(table.len()).unwrap_or(u32::MAX);
    table.insert(name.to_owned(), number);
    number
}
