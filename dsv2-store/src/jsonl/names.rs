//! Names made once and shared: a log repeats few names very often.

use std::collections::HashSet;

use dsv2_core::{ChannelName, Name, Origin, ServerName, UserName};

/// Names by their text. Grows with the number of *different* names it has met, which is why it lives for one call.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    users: HashSet<UserName>,
    channels: HashSet<ChannelName>,
    servers: HashSet<ServerName>,
}

impl Interner {
    pub(crate) fn user(&mut self, text: &str) -> Option<UserName> {
        intern(&mut self.users, text)
    }

    pub(crate) fn channel(&mut self, text: &str) -> Option<ChannelName> {
        intern(&mut self.channels, text)
    }

    pub(crate) fn origin(&mut self, server: &str, incarnation: u64) -> Option<Origin> {
        Some(Origin { server: intern(&mut self.servers, server)?, incarnation })
    }
}

fn intern<K>(known: &mut HashSet<Name<K>>, text: &str) -> Option<Name<K>>
where
    Name<K>: Eq + std::hash::Hash + Clone,
{
    if let Some(name) = known.get(text) {
        return Some(name.clone());
    }
    let name = Name::new(text).ok()?;
    known.insert(name.clone());
    Some(name)
}
