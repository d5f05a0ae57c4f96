//! Asking other servers for events: what a stream lost, what was written before a link was there, and earlier lives.
//!
//! The stream of a peer's present life needs no asking as long as nothing of it is lost, so what its vector shows beyond
//! what is held may well be on its way. It is asked for once it still lacks at the next vector. A gap in a stream, and
//! what a new link shows, is asked for at once. One question for each origin is under way at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use dsv2_core::{Mono, Now, Origin, ServerName};

use super::Server;
use super::io::{Effect, LinkId};
use crate::link::LinkMessage;
use crate::replication::ReplicationLog;

/// So long a question is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is shorter than this apart may have been on its way.
const SUSPICION: Duration = Duration::from_millis(200);

/// So many reads of ranges for one link are under way at most; what is asked for beyond is asked for again.
const RANGES_CAP: usize = 4;

/// The questions under way, and what may have to be asked.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    of: BTreeMap<Origin, Pull>,
}

#[derive(Debug)]
struct Pull {
    from: u64,
    /// When it was asked for, or first found missing.
    at: Mono,
    asked: bool,
}

/// How sure it is that events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sure {
    /// They are.
    Yes,
    /// They may be on their way.
    Perhaps,
}

impl Pulls {
    /// Whether to ask now for the events of that origin from that number on.
    fn is_due(&mut self, now: Mono, origin: &Origin, from: u64, sure: Sure) -> bool {
        let known = self.of.get(origin).filter(|pull| pull.from == from);
        let due = match (known, sure) {
            (Some(pull), _) if pull.asked => now.since(pull.at) >= PATIENCE,
            (Some(pull), Sure::Perhaps) => now.since(pull.at) >= SUSPICION,
            (None, Sure::Perhaps) => {
                self.of.insert(origin.clone(), Pull { from, at: now, asked: false });
                false
            }
            (_, Sure::Yes) => true,
        };
        if due {
            self.of.insert(origin.clone(), Pull { from, at: now, asked: true });
        }
        due
    }

    /// Forgets what has arrived.
    fn settle(&mut self, origin: &Origin, held: u64) {
        if self.of.get(origin).is_some_and(|pull| pull.from <= held) {
            self.of.remove(origin);
        }
    }

    /// A link is new: questions that were asked on the one before may be lost.
    pub(super) fn ask_again(&mut self) {
        self.of.clear();
    }
}

impl Server {
    /// Asks for events: on the link given, or wherever the origin's own server, or else any, can be reached.
    pub(super) fn pull(
        &mut self,
        now: Now,
        origin: &Origin,
        from: u64,
        (link, sure): (Option<LinkId>, Sure),
        out: &mut Vec<Effect>,
    ) {
        if self.stuck.is_some() {
            return;
        }
        let own = || self.peers.by_name.get(&origin.server).and_then(super::peers::Peer::link);
        let Some(link) = link.or_else(own).or_else(|| self.peers.links().first().copied()) else { return };
        if self.pulls.is_due(now.mono, origin, from, sure) {
            let message = LinkMessage::Pull { origin: origin.clone(), from };
            out.push(Effect::Link { to: vec![link], message, prompt: true });
        }
    }

    /// Events of an origin arrived. What was asked for comes a page at a time, so the next page is asked for, unless they
    /// are of the sender's present life, which streams on by itself.
    pub(super) fn arrived(
        &mut self,
        now: Now,
        link: LinkId,
        sender: &ServerName,
        origin: &Origin,
        out: &mut Vec<Effect>,
    ) {
        let held = self.log.held().get(origin);
        self.pulls.settle(origin, held);
        let streams = self.peers.by_name.get(sender).is_some_and(|peer| peer.streams(sender, origin));
        let more = self.log.durable(sender).is_some_and(|durable| durable.get(origin) > held);
        if more && !streams {
            self.pull(now, origin, held + 1, (Some(link), Sure::Yes), out);
        }
    }

    /// A peer asks for events. Of the present life it is streamed to again from there; of any other it gets a page.
    pub(super) fn pulled(&mut self, link: LinkId, name: &ServerName, origin: Origin, from: u64, out: &mut Vec<Effect>) {
        let ours = origin == self.origin;
        if let Some(peer) = self.peers.get_mut(name).filter(|peer| ours && peer.dialled.is_some() && peer.welcome) {
            peer.rewind(from.saturating_sub(1));
            return self.catch_up(name, out);
        }
        if self.ranges_for(link) < RANGES_CAP {
            self.start_range(link, false, origin, from, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_on_its_way_is_asked_for_once_it_still_lacks() {
        let (mut pulls, ms) = (Pulls::default(), Mono::from_ms);
        let origin = Origin { server: "s1".parse().expect("a name"), incarnation: 1 };
        assert!(!pulls.is_due(ms(0), &origin, 5, Sure::Perhaps));
        assert!(!pulls.is_due(ms(100), &origin, 5, Sure::Perhaps), "too soon");
        assert!(!pulls.is_due(ms(400), &origin, 9, Sure::Perhaps), "some of it arrived");
        assert!(pulls.is_due(ms(700), &origin, 9, Sure::Perhaps));
        assert!(!pulls.is_due(ms(800), &origin, 9, Sure::Yes), "it was asked for");
        assert!(pulls.is_due(ms(1_700), &origin, 9, Sure::Yes), "the question or the answer was lost");
        assert!(pulls.is_due(ms(1_701), &origin, 20, Sure::Yes), "a page arrived");
        pulls.settle(&origin, 30);
        assert!(pulls.is_due(ms(1_702), &origin, 20, Sure::Yes), "nothing is under way");
    }
}
