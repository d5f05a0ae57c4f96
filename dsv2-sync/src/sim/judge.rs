//! What must hold: at every acknowledgement, and when all is quiet again.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Clock, Event, EventBody, EventId, EventKind, Feed, Level, Reply, ReplyBody};
use dsv2_store::EventStore;

use super::client::topic;
use super::world::World;
use crate::history::Record;
use crate::server::Server;
use crate::state::State;

impl World {
    /// A receipt leaves: its event must be on as many disks as its level says.
    pub(super) fn check_receipt(&mut self, server: usize, reply: &Reply) {
        let ReplyBody::Done(Some(receipt)) = &reply.body else { return };
        let members = self.members();
        // What a disk held until it was lost, it held: how many may be lost at a time is the world's concern.
        let disks = self.nodes[..members].iter().filter(|node| node.has_held(&receipt.event)).count();
        let due = match receipt.level {
            Level::Local => 1,
            Level::Quorum => members / 2 + 1,
            Level::All => members - self.departed.len(),
        };
        if disks < due {
            let (event, level) = (&receipt.event, receipt.level);
            self.broken(format!("server {server} acknowledged {event} at {level}, which is on {disks} disk(s) only"));
        }
    }

    /// What is left to do, if anything.
    pub(super) fn unsettled(&self) -> Option<String> {
        for client in &self.clients {
            if !client.up {
                return Some(format!("client u{} is down", client.index));
            }
            if !client.program().is_done() {
                return Some(format!("client u{} is not done", client.index));
            }
        }
        self.disagreement().or_else(|| self.undelivered())
    }

    /// In what the servers differ, if they do.
    fn disagreement(&self) -> Option<String> {
        let alive = || self.nodes.iter().filter(|node| !self.lost.contains(&node.index));
        let mut machines: Vec<&Server> = Vec::new();
        for node in alive() {
            let Some(process) = &node.process else { return Some(format!("server {} is down", node.index)) };
            if !process.uncommitted.is_empty() || !process.group.is_empty() || process.syncing {
                return Some("a disk is busy".to_owned());
            }
            machines.push(&process.machine);
        }
        let first = machines.first()?;
        let leader = |machine: &Server| machine.election().coordinator().map(|coordinator| coordinator.name.clone());
        let digest = first.state().digest(first.position());
        for machine in &machines {
            if machine.position() != first.position() {
                return Some(format!("positions differ: {:?} and {:?}", first.position(), machine.position()));
            }
            if machine.state().digest(machine.position()) != digest {
                return Some("equal positions, different states".to_owned());
            }
            if leader(machine).is_none() || leader(machine) != leader(first) {
                return Some(format!("coordinators differ: {:?} and {:?}", leader(first), leader(machine)));
            }
            // Who heard of events that nobody has any more waits for them until it is started again.
            let waits = !self.bereft.is_subset(&self.departed);
            if !self.departed.is_empty() && !waits && machine.stable().is_none() {
                return Some("nothing is final, though nobody is waited for who is gone".to_owned());
            }
            if !machine.is_ready() {
                return Some("a server is not ready".to_owned());
            }
            if !self
                .ranks
                .iter()
                .any(|record| Some(record.rank) == machine.rank() && record.name == machine.origin().server)
            {
                return Some(format!("the reference does not know {} by its rank", machine.origin().server));
            }
        }
        None
    }

    /// Which subscription has not got everything, if any.
    fn undelivered(&self) -> Option<String> {
        let process = self.nodes.iter().find_map(|node| node.process.as_ref())?;
        for client in &self.clients {
            for followed in client.subscriptions() {
                for feed in &followed.feeds {
                    let point = followed.point.get(feed).unwrap_or_default();
                    if process.history_after(feed, point, 1).is_ok_and(|events| !events.is_empty()) {
                        return Some(format!("client u{} has not got all of {}", client.index, topic(feed)));
                    }
                }
            }
        }
        None
    }

    /// Checks what must hold at the end.
    pub(super) fn judge(&mut self) {
        if let Some(why) = self.unsettled() {
            self.broken(format!("it is not over: {why}"));
        }
        for (node, kept) in self.nodes.iter().zip(self.kept_ranks.iter().flatten()) {
            // Who lost its disk as well has nothing to tell the reference, and may be given another's rank.
            if self.report.wipes == 0 && node.rank != Some(*kept) {
                let why = format!("server {} had rank {kept}, and has {:?}", node.index, node.rank);
                self.report.violations.push(why);
            }
        }
        for client in &self.clients {
            for why in client.program().verdict() {
                self.report.violations.push(format!("client u{}: {why}", client.index));
            }
        }
        let feeds = self.feeds();
        let servers: Vec<usize> =
            self.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.index).collect();
        // Reading each feed back through the index is dear: one server's are, whichever; the logs of all are walked.
        let read = servers.get((self.config.seed % servers.len().max(1) as u64) as usize).copied();
        self.record_retired(&feeds);
        for server in servers {
            let mut logged = self.judge_log(server);
            let uncompacted = self.uncompacted(server);
            for feed in &feeds {
                let events = if read == Some(server) {
                    self.nodes[server].process.as_ref().map_or(Ok(Vec::new()), |process| process.history(feed))
                } else {
                    Ok(logged.remove(feed).unwrap_or_default())
                };
                match events {
                    Ok(events) => {
                        let events = match &uncompacted {
                            Some(all) => self.judge_retired(server, feed, &events, all),
                            None => events,
                        };
                        self.record_final(server, feed, &events);
                    }
                    Err(why) => self.broken(format!("the history of server {server} cannot be read: {why}")),
                }
            }
        }
        for violation in std::mem::take(&mut self.checker).finish() {
            self.broken(violation.to_string());
        }
    }

    /// Up to which logical time reads may lack messages of a feed: what a server had retired that was then lost, too.
    fn record_retired(&mut self, feeds: &BTreeSet<Feed>) {
        for feed in feeds {
            let clock = self.retired.of(kind(feed));
            if clock > Clock::ZERO {
                self.record(Record::Retired { topic: topic(feed), clock });
            }
        }
    }

    /// What a server would hold of each feed if nothing had ever been retired, in the total order and without twins.
    /// `None` where nothing ever is.
    fn uncompacted(&self, server: usize) -> Option<BTreeMap<Feed, Vec<Event>>> {
        if self.config.retention().keeps_all() {
            return None;
        }
        let held = self.nodes[server].process.as_ref()?.machine.position();
        let all: Vec<&Event> =
            self.archive.values().map(|event| &**event).filter(|event| held.contains(&event.id)).collect();
        let mut state = State::default();
        all.iter().for_each(|event| state.apply(event));
        let mut feeds: BTreeMap<Feed, Vec<Event>> = BTreeMap::new();
        for event in all.into_iter().filter(|event| !state.is_twin(&event.id)) {
            if let Some(feed) = event.body.feeds().into_iter().flatten().next() {
                feeds.entry(feed).or_default().push(event.clone());
            }
        }
        feeds.values_mut().for_each(|events| events.sort_by_cached_key(Event::key));
        Some(feeds)
    }

    /// What a server serves of a feed is what it would serve if nothing had been retired, but for messages below the floor;
    /// yields that.
    fn judge_retired(
        &mut self,
        server: usize,
        feed: &Feed,
        served: &[Event],
        all: &BTreeMap<Feed, Vec<Event>>,
    ) -> Vec<Event> {
        let all = all.get(feed).cloned().unwrap_or_default();
        let process = self.nodes[server].process.as_ref();
        let floor = process.map_or(Clock::ZERO, |process| process.machine.state().floors().of(kind(feed)));
        // Whoever passed over an original that others had retired serves its twin, if that is an anchor, below the floor.
        let stands_in = |event: &Event| {
            let is_same = |other: &Event| (&other.message_id, &other.body) == (&event.message_id, &event.body);
            event.clock <= floor
                && !all.iter().any(|other| other.id == event.id)
                && all.iter().any(is_same)
                && served.iter().filter(|other| is_same(other)).count() == 1
        };
        let mut rest = served.iter().filter(|event| !stands_in(event)).peekable();
        for event in &all {
            if rest.next_if(|served| served.id == event.id).is_none() && event.clock > floor {
                let id = &event.id;
                self.broken(format!("server {server} does not serve {id} of {}, above the floor {floor}", topic(feed)));
                return all;
            }
        }
        if let Some(event) = rest.next() {
            let id = event.id.clone();
            self.broken(format!("server {server} serves {id} of {}, which does not count", topic(feed)));
        }
        all
    }

    /// All feeds that somebody wrote to, or follows.
    fn feeds(&self) -> BTreeSet<Feed> {
        let mut feeds: BTreeSet<Feed> = self
            .clients
            .iter()
            .flat_map(|client| client.subscriptions().flat_map(|followed| followed.feeds.clone()))
            .collect();
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            let state = process.machine.state();
            feeds.extend(state.channels().cloned().map(Feed::Channel));
            feeds.extend(state.users().cloned().map(Feed::Inbox));
        }
        feeds
    }

    /// Writes down what a server holds.
    fn record_final(&mut self, server: usize, feed: &Feed, events: &[Event]) {
        let entry = |event: &Event| match &event.body {
            EventBody::Publish { message, .. } | EventBody::Message { message, .. } => {
                Some(self.entry_of(message, (Some(&event.id), Some(event.clock), Some(&event.message_id))))
            }
            EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => None,
        };
        let events = events.iter().filter_map(entry).collect();
        let server = super::node::name(server).to_string();
        self.record(Record::Final { server, topic: topic(feed), events });
    }

    /// A server that holds a message does not write it again. Yields what the log holds of each feed, in the total order
    /// and without twins.
    fn judge_log(&mut self, server: usize) -> BTreeMap<Feed, Vec<Event>> {
        let mut feeds: BTreeMap<Feed, Vec<Event>> = BTreeMap::new();
        let Some(process) = &self.nodes[server].process else { return feeds };
        let (this, lives) = (super::node::name(server), &self.nodes[server].lives);
        let mut seen: BTreeMap<u128, EventId> = BTreeMap::new();
        let (mut broken, mut twins) = (Vec::new(), 0);
        let replayed = process.store.replay(&mut |event| {
            if !matches!(event.body, EventBody::Publish { .. } | EventBody::Message { .. }) {
                return;
            }
            let first = seen.entry(event.message_id.scoped_digest(&event.body)).or_insert_with(|| event.id.clone());
            if *first != event.id {
                twins += 1;
                // What an earlier life wrote to a disk that is lost comes back as others have it.
                if event.id.origin.server == this && lives.contains(&event.id.origin.incarnation) {
                    broken.push(format!("server {server} held {first} and wrote its message again as {}", event.id));
                }
            }
            if !process.machine.state().is_twin(&event.id)
                && let Some(feed) = event.body.feeds().into_iter().flatten().next()
            {
                feeds.entry(feed).or_default().push(event);
            }
        });
        feeds.values_mut().for_each(|events| events.sort_by_cached_key(Event::key));
        self.report.twins = self.report.twins.max(twins);
        if let Err(why) = replayed {
            broken.push(format!("the log of server {server} cannot be read: {why}"));
        }
        broken.into_iter().for_each(|why| self.broken(why));
        feeds
    }
}

/// Of which kind the messages of a feed are.
fn kind(feed: &Feed) -> EventKind {
    match feed {
        Feed::Channel(_) => EventKind::Publish,
        Feed::Inbox(_) | Feed::Conversation(..) => EventKind::Message,
    }
}
