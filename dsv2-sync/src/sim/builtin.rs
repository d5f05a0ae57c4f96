//! The programs that every simulated world has: clients that write and read back, and clients that follow.

use std::collections::BTreeMap;

use dsv2_core::{ChannelName, Feed, HistoryQuery, HistorySpan, IdempotencyKey, Level, Now, Outcome, Subject, UserName};

use super::program::{Act, Happened, Program};
use crate::random::SplitMix;
use crate::session::{CallOptions, Command, Cursor, Order, ResumePoint};

/// How many writes a writer has under way at once.
const WINDOW: usize = 4;
/// Of so many answers, one is followed by a read.
const READ_EVERY: u64 = 3;

pub(super) fn channel() -> ChannelName {
    "dev".parse().unwrap_or_else(|_| unreachable!("dev is a name"))
}

pub(super) fn user(index: usize) -> UserName {
    format!("u{index}").parse().unwrap_or_else(|_| unreachable!("u{index} is a name"))
}

/// Publishes its messages, some at once, with every kind of option; what is unknown and has a key it tries again.
#[derive(Debug)]
pub(super) struct Writer {
    index: usize,
    random: SplitMix,
    voters: bool,
    /// Keys are remembered for as long as their messages are kept: where that is short, none are used.
    keys: bool,
    next: u64,
    writes: u64,
    /// What is to be written again, under the same key.
    again: Vec<u64>,
    under_way: BTreeMap<u64, u64>,
    reads: u64,
    created: bool,
    token: u64,
}

impl Writer {
    pub(super) fn new(index: usize, writes: u64, (voters, keys): (bool, bool), seed: u64) -> Self {
        Self {
            index,
            random: SplitMix::new(seed),
            voters,
            keys,
            next: 0,
            writes,
            again: Vec::new(),
            under_way: BTreeMap::new(),
            reads: 0,
            created: false,
            token: 0,
        }
    }

    fn call(&mut self, command: Command, options: CallOptions, out: &mut Vec<Act>) -> u64 {
        self.token += 1;
        out.push(Act::Call { token: self.token, command, options });
        self.token
    }

    fn create(&mut self, out: &mut Vec<Act>) {
        self.call(Command::CreateChannel { channel: channel() }, CallOptions::default(), out);
    }

    /// Whether that message has a key of the program's own: then it may be written again.
    fn has_key(&self, number: u64) -> bool {
        self.keys && number.is_multiple_of(3)
    }

    fn write(&mut self, number: u64, out: &mut Vec<Act>) {
        let message = format!("{}:{number}", self.index);
        let mut options = CallOptions::default();
        if self.has_key(number) {
            options.key = IdempotencyKey::new(&format!("k{number}")).ok();
        } else {
            options.level = match self.random.below(8) {
                0 => Some(Level::Local),
                1 if self.voters => Some(Level::All),
                _ => None,
            };
        }
        if self.random.chance(1, 8) {
            options.timeout_ms = Some(500 + self.random.below(3_000));
        }
        let command = if number % 5 == 4 {
            Command::Message { dst: user(self.index), message }
        } else {
            Command::Publish { channel: channel(), message }
        };
        let token = self.call(command, options, out);
        self.under_way.insert(token, number);
    }

    fn go_on(&mut self, out: &mut Vec<Act>) {
        while self.created && self.under_way.len() < WINDOW {
            if let Some(number) = self.again.pop() {
                self.write(number, out);
            } else if self.next < self.writes {
                self.next += 1;
                self.write(self.next - 1, out);
            } else {
                break;
            }
        }
    }

    fn read(&mut self, out: &mut Vec<Act>) {
        let subject =
            if self.random.chance(1, 4) { Subject::Inbox(user(self.index)) } else { Subject::Channel(channel()) };
        let query = HistoryQuery { subject, span: HistorySpan::Before(None), limit: 4 + self.random.below(20) };
        self.call(Command::History(query), CallOptions::default(), out);
    }
}

impl Program for Writer {
    fn step(&mut self, _now: Now, event: Happened, out: &mut Vec<Act>) {
        match event {
            Happened::Started { .. } => {
                // What was under way may have happened: only what has a key can be repeated.
                let lost = std::mem::take(&mut self.under_way).into_values();
                let again: Vec<u64> = lost.filter(|&number| self.has_key(number)).collect();
                self.again.extend(again);
                self.created = false;
                self.create(out);
            }
            Happened::Done { token, result } => match (self.under_way.remove(&token), result) {
                (Some(number), Err(failure)) if self.has_key(number) && failure.outcome == Outcome::Unknown => {
                    self.again.push(number);
                }
                (Some(_), _) => {
                    self.reads += 1;
                    if self.reads.is_multiple_of(READ_EVERY) {
                        self.read(out);
                    }
                }
                (None, Ok(crate::session::Answer::Written(_))) => self.created = true,
                (None, Err(_)) if !self.created => self.create(out),
                (None, _) => {}
            },
            Happened::Delivered { .. } | Happened::Wake => {}
        }
        self.go_on(out);
    }

    fn is_done(&self) -> bool {
        self.next == self.writes && self.again.is_empty() && self.under_way.is_empty()
    }
}

/// Follows the channel, and the inboxes of writers, and goes on after a crash where it was.
#[derive(Debug)]
pub(super) struct Follower {
    feeds: Vec<Feed>,
    cursor: Cursor,
    order: Order,
    point: Option<ResumePoint>,
    token: u64,
    subscribed: bool,
}

impl Follower {
    pub(super) fn new(writers: usize, beginning: bool, order: Order) -> Self {
        let inboxes = (0..writers).map(|index| Feed::Inbox(user(index)));
        let feeds = std::iter::once(Feed::Channel(channel())).chain(inboxes).collect();
        let cursor = if beginning { Cursor::Beginning } else { Cursor::Last };
        Self { feeds, cursor, order, point: None, token: 0, subscribed: false }
    }

    fn subscribe(&mut self, out: &mut Vec<Act>) {
        self.token += 1;
        let cursor = self.point.clone().map_or_else(|| self.cursor.clone(), Cursor::At);
        let command = Command::Subscribe { feeds: self.feeds.clone(), cursor, order: self.order };
        out.push(Act::Call { token: self.token, command, options: CallOptions::default() });
    }
}

impl Program for Follower {
    fn step(&mut self, _now: Now, event: Happened, out: &mut Vec<Act>) {
        match event {
            Happened::Started { .. } => {
                self.subscribed = false;
                self.subscribe(out);
            }
            Happened::Done { result: Ok(_), .. } => self.subscribed = true,
            // The channel or the users are not there yet, or no server.
            Happened::Done { result: Err(_), .. } => self.subscribe(out),
            Happened::Delivered { point, .. } => self.point = Some(point),
            Happened::Wake => {}
        }
    }

    fn is_done(&self) -> bool {
        self.subscribed
    }
}
