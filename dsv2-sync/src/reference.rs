//! The reference: gives every server a rank, the same for the same name for ever, and lists those that live.
//!
//! ```text
//!   server                         reference
//!     │── rank (name, address) ────►│   first time: the next free rank, saved before it is told
//!     │◄────────────────── rank 3 ──│
//!     │── heartbeat ───────────────►│   every few seconds
//!     │── list ────────────────────►│
//!     │◄── [{name, rank, address}] ─│   those heard of within the last 30 s, ascending
//! ```
//!
//! It may stop at any time: elections and messages go on without it. If it loses its disk, the servers tell it the
//! ranks that they have.

use std::collections::BTreeMap;
use std::time::Duration;

use dsv2_core::{
    Code, Failure, Lamport, LogicalClock, Machine, Mono, Now, RankedServer, RawTimestamp, Refusal, Reply, ReplyBody,
    Request, RequestBody, ServerCard, ServerName,
};

use crate::guard::merge;

/// What a reference is told at its start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReferenceConfig {
    /// The ranks it gave before, in any order. A rank is given once.
    pub ranks: Vec<RankRecord>,
    /// How long a server counts as alive after its last word.
    pub ttl: Duration,
    /// How many names it gives ranks to.
    pub cap: usize,
}

impl Default for ReferenceConfig {
    /// No ranks, 30 s, 10,000 names.
    fn default() -> Self {
        Self { ranks: Vec::new(), ttl: Duration::from_secs(30), cap: 10_000 }
    }
}

/// A rank that was given, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RankRecord {
    /// To whom.
    pub name: ServerName,
    /// Which.
    pub rank: u64,
}

/// Something happened to the reference.
#[derive(Clone, Debug)]
pub enum ReferenceInput {
    /// A request arrived, or what should have been one.
    Request {
        /// Where the answer goes: exactly one [`ReferenceEffect::Reply`] names it.
        from: u64,
        /// The request, or how to refuse it.
        request: Result<Request, Box<Refusal>>,
    },
}

/// What the reference wants done, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ReferenceEffect {
    /// Make it durable; what follows waits for that.
    Save(RankRecord),
    /// Answer.
    Reply {
        /// Whom.
        to: u64,
        /// The answer.
        reply: Box<Reply>,
    },
}

/// The reference.
#[derive(Debug)]
pub struct Reference {
    servers: BTreeMap<ServerName, Known>,
    next_rank: u64,
    clock: Lamport,
    ttl: Duration,
    cap: usize,
}

#[derive(Debug)]
struct Known {
    rank: u64,
    heard: Option<Mono>,
    address: Option<String>,
    node: Option<String>,
}

impl Reference {
    /// A reference that remembers the ranks in `config`.
    #[must_use]
    pub fn new(config: ReferenceConfig) -> Self {
        let next_rank = config.ranks.iter().map(|record| record.rank).max().unwrap_or(0) + 1;
        let known =
            |record: RankRecord| (record.name, Known { rank: record.rank, heard: None, address: None, node: None });
        let servers = config.ranks.into_iter().map(known).collect();
        Self { servers, next_rank, clock: Lamport::default(), ttl: config.ttl, cap: config.cap }
    }

    /// How many servers have a rank.
    #[must_use]
    pub fn ranked(&self) -> usize {
        self.servers.len()
    }

    /// How many of them were heard of lately.
    #[must_use]
    pub fn alive(&self, now: Mono) -> usize {
        self.servers.values().filter(|known| self.is_alive(now, known)).count()
    }

    fn answer(&mut self, now: Now, request: &Request, out: &mut Vec<ReferenceEffect>) -> Result<ReplyBody, Failure> {
        match &request.body {
            RequestBody::Rank(card) => self.rank(now.mono, card, out).map(ReplyBody::Rank),
            RequestBody::Heartbeat(card) => {
                self.check_node(now.mono, card)?;
                if !self.servers.contains_key(&card.name) {
                    return Err(Failure::rejected(
                        Code::UnknownServer,
                        format!("server {} has no rank here: ask for one", card.name),
                    ));
                }
                self.touch(now.mono, card);
                Ok(ReplyBody::Done(None))
            }
            RequestBody::List => Ok(ReplyBody::List(self.list(now.mono))),
            _ => Err(Failure::rejected(Code::UnknownService, "the reference knows rank, list and heartbeat")),
        }
    }

    fn rank(&mut self, now: Mono, card: &ServerCard, out: &mut Vec<ReferenceEffect>) -> Result<u64, Failure> {
        self.check_node(now, card)?;
        if !self.servers.contains_key(&card.name) {
            if self.servers.len() >= self.cap {
                return Err(Failure::rejected(
                    Code::Full,
                    format!("{} servers have ranks, and no more are given", self.cap),
                ));
            }
            let free = |rank: u64| rank > 0 && self.servers.values().all(|known| known.rank != rank);
            // A server that says it has a rank got it from us, before our disk was lost.
            let rank = card.rank.filter(|&rank| free(rank)).unwrap_or(self.next_rank);
            self.next_rank = self.next_rank.max(rank + 1);
            self.servers.insert(card.name.clone(), Known { rank, heard: None, address: None, node: None });
            out.push(ReferenceEffect::Save(RankRecord { name: card.name.clone(), rank }));
        }
        self.touch(now, card);
        Ok(self.servers.get(&card.name).map_or(0, |known| known.rank))
    }

    /// Two live servers must not share a name: each would take the other's events for its own.
    fn check_node(&self, now: Mono, card: &ServerCard) -> Result<(), Failure> {
        let other = self.servers.get(&card.name).filter(|known| self.is_alive(now, known));
        let taken = other.is_some_and(|known| known.node.is_some() && card.node.is_some() && known.node != card.node);
        if taken {
            let text = format!("another server called {} is alive: give each server a name of its own", card.name);
            return Err(Failure::rejected(Code::NameTaken, text));
        }
        Ok(())
    }

    fn is_alive(&self, now: Mono, known: &Known) -> bool {
        known.heard.is_some_and(|heard| now.since(heard) <= self.ttl)
    }

    fn touch(&mut self, now: Mono, card: &ServerCard) {
        if let Some(known) = self.servers.get_mut(&card.name) {
            known.heard = Some(now);
            known.address.clone_from(&card.address);
            known.node.clone_from(&card.node);
        }
    }

    fn list(&self, now: Mono) -> Vec<RankedServer> {
        let alive = self.servers.iter().filter(|(_, known)| self.is_alive(now, known));
        let mut list: Vec<RankedServer> = alive
            .map(|(name, known)| RankedServer {
                name: name.to_string(),
                rank: known.rank,
                address: known.address.clone(),
                node: known.node.clone(),
            })
            .collect();
        list.sort_by_key(|server| server.rank);
        list
    }
}

impl Machine for Reference {
    type Input = ReferenceInput;
    type Effect = ReferenceEffect;

    fn step(&mut self, now: Now, input: ReferenceInput, out: &mut Vec<ReferenceEffect>) {
        let ReferenceInput::Request { from, request } = input;
        let timestamp = now.wall.timestamp();
        let reply = match request {
            Ok(request) => {
                merge(&mut self.clock, now, request.clock);
                let body = self.answer(now, &request, out).unwrap_or_else(ReplyBody::Failed);
                Reply {
                    format: request.format,
                    service: request.body.service().as_str().into(),
                    timestamp: request.timestamp.unwrap_or_else(|| RawTimestamp::from(timestamp)),
                    clock: Some(self.clock.tick()),
                    position: None,
                    body,
                }
            }
            Err(refusal) => {
                merge(&mut self.clock, now, refusal.clock);
                refusal.reply(self.clock.tick(), timestamp)
            }
        };
        out.push(ReferenceEffect::Reply { to: from, reply: Box::new(reply) });
    }

    fn deadline(&self) -> Option<Mono> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsv2_core::{Format, RequestExt};

    fn card(name: &str, node: &str) -> ServerCard {
        ServerCard {
            name: name.parse().expect("a name"),
            address: Some(format!("tcp://{name}")),
            node: Some(node.into()),
            rank: None,
        }
    }

    fn ask(reference: &mut Reference, seconds: u64, body: RequestBody) -> (ReplyBody, usize) {
        let request = Request { format: Format::Json, timestamp: None, clock: None, ext: RequestExt::default(), body };
        let mut out = Vec::new();
        let now = Now { mono: Mono::from_ms(seconds * 1_000), ..Now::default() };
        reference.step(now, ReferenceInput::Request { from: 7, request: Ok(request) }, &mut out);
        match out.pop() {
            Some(ReferenceEffect::Reply { to: 7, reply }) => (reply.body, out.len()),
            other => panic!("no reply: {other:?}"),
        }
    }

    #[test]
    fn a_name_keeps_its_rank_and_no_rank_is_given_twice() {
        let mut reference = Reference::new(ReferenceConfig::default());
        assert_eq!(ask(&mut reference, 0, RequestBody::Rank(card("a", "1"))), (ReplyBody::Rank(1), 1));
        assert_eq!(ask(&mut reference, 0, RequestBody::Rank(card("b", "2"))), (ReplyBody::Rank(2), 1));
        assert_eq!(ask(&mut reference, 99, RequestBody::Rank(card("a", "3"))), (ReplyBody::Rank(1), 0));
        let ranks = vec![RankRecord { name: "b".parse().expect("a name"), rank: 2 }];
        let mut restarted = Reference::new(ReferenceConfig { ranks, ..ReferenceConfig::default() });
        assert_eq!(ask(&mut restarted, 0, RequestBody::Rank(card("c", "3"))).0, ReplyBody::Rank(3));
        let claim = ServerCard { rank: Some(1), ..card("a", "1") };
        assert_eq!(ask(&mut restarted, 0, RequestBody::Rank(claim)), (ReplyBody::Rank(1), 1));
        let stolen = ServerCard { rank: Some(2), ..card("d", "4") };
        assert_eq!(ask(&mut restarted, 0, RequestBody::Rank(stolen)).0, ReplyBody::Rank(4));
    }

    #[test]
    fn the_list_holds_the_living_by_rank() {
        let mut reference = Reference::new(ReferenceConfig::default());
        for name in ["b", "a"] {
            ask(&mut reference, 0, RequestBody::Rank(card(name, name)));
        }
        ask(&mut reference, 20, RequestBody::Heartbeat(card("a", "a")));
        let names = |body| match body {
            ReplyBody::List(list) => list.into_iter().map(|server| (server.rank, server.name)).collect::<Vec<_>>(),
            other => panic!("no list: {other:?}"),
        };
        let (both, one) = (ask(&mut reference, 30, RequestBody::List).0, ask(&mut reference, 31, RequestBody::List).0);
        assert_eq!(names(both), [(1, "b".to_owned()), (2, "a".to_owned())]);
        assert_eq!(names(one), [(2, "a".to_owned())]);
    }

    #[test]
    fn a_second_live_server_of_the_same_name_is_refused() {
        let mut reference = Reference::new(ReferenceConfig::default());
        ask(&mut reference, 0, RequestBody::Rank(card("a", "1")));
        let failed = |body| matches!(body, ReplyBody::Failed(Failure { code: Code::NameTaken, .. }));
        assert!(failed(ask(&mut reference, 5, RequestBody::Rank(card("a", "2"))).0));
        assert!(failed(ask(&mut reference, 5, RequestBody::Heartbeat(card("a", "2"))).0));
        assert!(!failed(ask(&mut reference, 31, RequestBody::Rank(card("a", "2"))).0), "the first one is dead");
        let unknown = ask(&mut reference, 31, RequestBody::Heartbeat(card("x", "9"))).0;
        assert!(matches!(unknown, ReplyBody::Failed(Failure { code: Code::UnknownServer, .. })));
    }
}
