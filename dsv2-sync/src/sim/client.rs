//! Simulated clients: each publishes its messages one after another, some at once, and asks again until it knows.

use std::collections::BTreeMap;

use dsv2_core::{
    Clock, Format, Outcome, Position, RawTimestamp, Receipt, Reply, ReplyBody, Request, RequestBody, RequestExt,
    Service, SessionId,
};

/// How many writes a client has under way at once.
const WINDOW: usize = 4;

/// A client with one session.
#[derive(Debug)]
pub(super) struct SimClient {
    pub(super) index: usize,
    session: SessionId,
    clock: u64,
    /// The server that its connection leads to.
    pub(super) server: usize,
    /// What it has still to write, by request number.
    todo: BTreeMap<u64, RequestBody>,
    /// What is on its way, and since when.
    pub(super) under_way: BTreeMap<u64, (RequestBody, u64)>,
    /// What was acknowledged.
    pub(super) acknowledged: BTreeMap<u64, (RequestBody, Receipt)>,
    token: Position,
    pub(super) unknown: u64,
    pub(super) violations: Vec<String>,
}

pub(super) fn user(index: usize) -> dsv2_core::UserName {
    format!("u{index}").parse().unwrap_or_else(|_| unreachable!("u{index} is a name"))
}

pub(super) fn channel() -> dsv2_core::ChannelName {
    "dev".parse().unwrap_or_else(|_| unreachable!("dev is a name"))
}

impl SimClient {
    pub(super) fn new(index: usize, writes: u64, random: u128) -> Self {
        let first = [RequestBody::Login { user: user(index) }, RequestBody::Channel { channel: channel() }];
        let message =
            |n| RequestBody::Publish { user: user(index), channel: channel(), message: format!("{index}:{n}") };
        let todo =
            first.into_iter().chain((0..writes).map(message)).zip(1..).map(|(body, number)| (number, body)).collect();
        Self {
            index,
            session: SessionId::new(Clock::ZERO, random),
            clock: 0,
            server: 0,
            todo,
            under_way: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            token: Position::default(),
            unknown: 0,
            violations: Vec::new(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.todo.is_empty() && self.under_way.is_empty()
    }

    /// The numbers of requests to send now: new ones as far as the window allows, and those that were not answered
    /// since `before_us`.
    pub(super) fn due(&mut self, now_us: u64, before_us: u64) -> Vec<(u64, bool)> {
        // The first two make the user and the channel that all others need.
        let ready = self.acknowledged.len() >= 2;
        while self.under_way.len() < if ready { WINDOW } else { 1 } {
            let Some((number, body)) = self.todo.pop_first() else { break };
            self.under_way.insert(number, (body, u64::MAX));
        }
        let mut due = Vec::new();
        for (&number, (_, sent_us)) in &mut self.under_way {
            let new = *sent_us == u64::MAX;
            if new || *sent_us <= before_us {
                *sent_us = now_us;
                due.push((number, !new));
            }
        }
        due
    }

    pub(super) fn request(&mut self, number: u64, wall_ms: i64) -> Option<Vec<u8>> {
        let (body, _) = self.under_way.get(&number)?;
        self.clock += 1;
        let request = Request {
            format: if self.index.is_multiple_of(2) { Format::Json } else { Format::MsgPack },
            timestamp: Some(RawTimestamp::Integer(wall_ms)),
            clock: Clock::new(self.clock),
            ext: RequestExt {
                id: None,
                session: Some(self.session),
                number: Some(number),
                level: None,
                position: Some(self.token.clone()),
            },
            body: body.clone(),
        };
        Some(request.encode())
    }

    /// Takes a reply. What was refused because nothing could be done is asked again later.
    pub(super) fn reply(&mut self, number: u64, body: &[u8], service: Service) {
        let reply = match Reply::decode(service, body, &dsv2_core::Limits::default()) {
            Ok(reply) => reply,
            Err(why) => return self.violations.push(format!("client {} cannot read a reply: {why}", self.index)),
        };
        if let Some(clock) = reply.clock {
            self.clock = self.clock.max(clock.get()) + 1;
        }
        match reply.body {
            ReplyBody::Done(Some(receipt)) => self.acknowledge(number, receipt),
            ReplyBody::Failed(failure) => {
                if failure.outcome == Outcome::Unknown {
                    self.unknown += 1;
                }
                use dsv2_core::Code;
                if !matches!(
                    failure.code,
                    Code::Minority | Code::NotReady | Code::Behind | Code::Timeout | Code::ServerLost | Code::Full
                ) {
                    self.violations
                        .push(format!("client {} request {number}: {}: {failure}", self.index, failure.code));
                }
            }
            other => self.violations.push(format!("client {} got a strange reply: {other:?}", self.index)),
        }
    }

    fn acknowledge(&mut self, number: u64, receipt: Receipt) {
        self.token.advance(&receipt.event);
        if let Some((body, before)) = self.acknowledged.get(&number) {
            // After a partition two events may hold the message; they are one message all the same. Of users and
            // channels that were made on both sides, the earlier one counts, whoever asked for it.
            if before.id != receipt.id && matches!(body, RequestBody::Publish { .. }) {
                self.violations
                    .push(format!("client {} request {number}: {} and then {}", self.index, before.id, receipt.id));
            }
            return;
        }
        if let Some((body, _)) = self.under_way.remove(&number) {
            self.acknowledged.insert(number, (body, receipt));
        }
    }
}
