//! What clients saw, written down line by line, and the judge of it.
//!
//! A history tells nothing of how a system works inside, so the same checks judge a simulated run, a real cluster, and a
//! system in another language. One record is one JSON object; a file holds one a line (`dsv2 check FILE`). Lines stand in
//! the order in which they happened at the client; lines of different clients may be interleaved at will, except that a
//! message's `write` stands before anything that shows the message.
//!
//! | `op` | fields | says |
//! |---|---|---|
//! | `write` | `client`, `write`, `topic`, `text` | a client begins to write; all retries of it share the name `write` |
//! | `ok` | `write`, `level`, `event`?, `id`? | it is acknowledged; may stand more than once |
//! | `unknown`, `rejected` | `write` | it may have happened; it surely did not |
//! | `subscribe` | `client`, `subscription`, `topics`, `from` (`beginning`, `last`), `order` (`arrival`, `stable`) | deliveries begin |
//! | `closed`, `resume` | `subscription` | it ends before the run does; it goes on from its stored point after all |
//! | `deliver` | `subscription`, `topic`, and an entry | a message is delivered |
//! | `gap` | `subscription`, `topic` | messages are missing, and the client was told |
//! | `begin` | `client`, `read` | a read begins |
//! | `read` | `read`, `topic`, `events`, `end`?, `stable`? | it ends: a run of consecutive messages, to the topic's end where `end`; up to the logical time `stable` nothing will be inserted |
//! | `forget` | `client` | a new session: it may see less than the one before |
//! | `final` | `server`, `topic`, `events` | all messages that a server holds when the run has ended |
//! | `retired` | `topic`, `clock` | retention took messages of the topic up to that logical time: reads may lack them, `final` lists too, and a subscription that was told of a gap |
//! | `lost` | `server` | its disk is gone for good, and with it what was acknowledged at `local` |
//! | `gone` | `origin`, `from`, `to`, `messages`? | the last copy of these events of an origin went with a disk, and with them what was acknowledged at `local`; `messages`, pairs of topic and text, may have stood there, and stand elsewhere since |
//!
//! An entry is `text`, and where known `event` (`server/incarnation#number`), `clock` and `id`. A text names its message,
//! so no two messages of a topic may share one. Without `final` lines, only what can be judged without them is.
//!
//! ```
//! use dsv2_sync::history::{Checker, Kind, Record};
//! let lines = [
//!     r#"{"op":"write","client":"ana","write":"1","topic":"dev","text":"oi"}"#,
//!     r#"{"op":"ok","write":"1","level":"quorum"}"#,
//!     r#"{"op":"final","server":"s1","topic":"dev","events":[]}"#,
//! ];
//! let mut checker = Checker::default();
//! for (number, line) in (1..).zip(lines) {
//!     checker.add(number, serde_json::from_str::<Record>(line)?);
//! }
//! let violations = checker.finish();
//! assert_eq!((violations[0].line, violations[0].kind), (2, Kind::Lost));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod judge;
mod names;

use std::collections::HashMap;
use std::fmt;

use dsv2_core::{Clock, EventId, Level, OrderKey, Origin};
use serde::{Deserialize, Serialize};

use names::Names;

/// One line of a history. See the [module](self) for what each means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the table of the module says it once")]
#[non_exhaustive]
pub enum Record {
    Write {
        client: String,
        write: String,
        topic: String,
        text: String,
    },
    Ok {
        write: String,
        level: Level,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<EventId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    Unknown {
        write: String,
    },
    Rejected {
        write: String,
    },
    Subscribe {
        client: String,
        subscription: String,
        topics: Vec<String>,
        from: From,
        #[serde(default)]
        order: Order,
    },
    Resume {
        subscription: String,
    },
    Closed {
        subscription: String,
    },
    Deliver {
        subscription: String,
        topic: String,
        #[serde(flatten)]
        entry: Entry,
    },
    Gap {
        subscription: String,
        topic: String,
    },
    Begin {
        client: String,
        read: String,
    },
    Read {
        read: String,
        topic: String,
        events: Vec<Entry>,
        #[serde(default)]
        end: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stable: Option<Clock>,
    },
    Forget {
        client: String,
    },
    Final {
        server: String,
        topic: String,
        events: Vec<Entry>,
    },
    Lost {
        server: String,
    },
    Retired {
        topic: String,
        clock: Clock,
    },
    Gone {
        origin: Origin,
        from: u64,
        to: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        messages: Vec<(String, String)>,
    },
}

/// A message as a client saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The text, which names the message.
    pub text: String,
    /// The event that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventId>,
    /// The event's logical time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// The message's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Entry {
    fn key(&self) -> Option<OrderKey> {
        Some(OrderKey { clock: self.clock?, id: self.event.clone()? })
    }
}

/// Where a subscription began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// With the first message ever.
    Beginning,
    /// With what came after.
    Last,
}

/// In which order it delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Each server's messages in its order.
    #[default]
    Arrival,
    /// The total order.
    Stable,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The line says something that cannot be.
    Malformed,
    /// An acknowledged message is nowhere.
    Lost,
    /// A message was shown, and later is nowhere.
    Vanished,
    /// A message that nobody had written.
    Phantom,
    /// A message whose author was told that it surely did not happen.
    RejectedYetThere,
    /// A message stands twice where it must stand once.
    Duplicate,
    /// A server's messages came in another order than it wrote them.
    OriginOrder,
    /// A subscription skipped a message and did not say so.
    Missed,
    /// A list, or a subscription in stable order, is not in the total order.
    TotalOrder,
    /// Something was inserted where nothing should be any more, or moved.
    StablePrefix,
    /// A client did not see its own write.
    ReadYourWrites,
    /// A client did not see what it had seen before.
    MonotonicReads,
    /// A message stands before one that its author had seen.
    CausalOrder,
    /// Two servers ended with different messages.
    Diverged,
    /// A retry was acknowledged as another message.
    RetryIdentity,
}

/// A broken promise, and the line that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The number of the line.
    pub line: u64,
    /// Which promise.
    pub kind: Kind,
    /// What happened, for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {:?}: {}", self.line, self.kind, self.text)
    }
}

/// How many violations are kept: one is enough to know, and a thousand to see which.
const VIOLATIONS_CAP: usize = 1_000;

/// Judges a history. Takes memory for each line, about a hundred bytes, and time in proportion to the lines.
#[derive(Debug, Default)]
pub struct Checker {
    names: Names,
    messages: Vec<Message>,
    /// By topic and text.
    by_text: Vec<HashMap<Box<str>, usize>>,
    writes: HashMap<String, Write>,
    subscriptions: Vec<Subscription>,
    subscription_names: HashMap<String, usize>,
    reads: HashMap<String, (u32, u64)>,
    finals: Vec<Option<Final>>,
    lost: Vec<u32>,
    /// Up to which logical time messages of a topic may be gone.
    retired: HashMap<u32, Clock>,
    /// Events of which the last copy went with a disk, from number to number.
    gone: Vec<(Origin, u64, u64)>,
    /// What is judged at the end, when it is known where each message stands.
    later: Vec<(u64, Later)>,
    operations: u64,
    violations: Vec<Violation>,
}

#[derive(Debug)]
struct Message {
    topic: u32,
    text: Box<str>,
    write: Option<String>,
    /// Of the last acknowledgement.
    id: Option<String>,
    /// Where it stands at the end: in the list of its topic, and its event there.
    place: Option<(u32, Option<EventId>, Clock)>,
    /// A server on which it was seen.
    seen_at: Option<u32>,
    /// The logical time that it was shown with.
    clock: Option<Clock>,
    /// An event that held it went with a disk, on this line: until then it may have stood there.
    moved: Option<u64>,
}

#[derive(Debug)]
struct Write {
    client: u32,
    message: usize,
    ok: Option<(u64, Level, Option<EventId>)>,
    unknown: bool,
    rejected: Option<u64>,
    /// An attempt has begun and not ended.
    open: bool,
}

#[derive(Debug)]
struct Subscription {
    client: u32,
    line: u64,
    from: From,
    order: Order,
    resumed: bool,
    closed: bool,
    /// What was delivered, and as which event.
    delivered: HashMap<usize, Option<EventId>>,
    /// The first and the last number of each origin on each topic.
    origins: HashMap<(u32, Origin), (u64, u64)>,
    topics: Vec<u32>,
    gaps: Vec<u32>,
    last: HashMap<u32, OrderKey>,
}

#[derive(Debug)]
struct Final {
    server: String,
    list: Vec<usize>,
}

#[derive(Debug)]
enum Later {
    Wrote { client: u32, message: usize },
    Acknowledged { client: u32, message: usize, event: Option<EventId> },
    Saw { client: u32, message: usize, key: Option<OrderKey> },
    Read(Box<Page>),
    Forget { client: u32 },
}

#[derive(Debug)]
struct Page {
    client: u32,
    topic: u32,
    began: u64,
    entries: Vec<(usize, Option<OrderKey>)>,
    end: bool,
    stable: Option<Clock>,
}

impl Checker {
    /// Takes the next record. `line` is what violations call it.
    pub fn add(&mut self, line: u64, record: Record) {
        self.operations += 1;
        match record {
            Record::Write { client, write, topic, text } => self.wrote(line, &client, write, &topic, &text),
            Record::Ok { write, level, event, id } => self.acknowledged(line, &write, level, event, id),
            Record::Unknown { write } => self.ended(line, &write, true),
            Record::Rejected { write } => self.ended(line, &write, false),
            Record::Subscribe { client, subscription, topics, from, order } => {
                let client = self.names.client(&client);
                let topics = topics.iter().map(|topic| self.names.topic(topic)).collect();
                self.subscribed(line, client, subscription, topics, (from, order));
            }
            Record::Resume { subscription } => {
                if let Some(subscription) = self.subscription(line, &subscription) {
                    (subscription.resumed, subscription.closed) = (true, false);
                }
            }
            Record::Closed { subscription } => {
                if let Some(subscription) = self.subscription(line, &subscription) {
                    subscription.closed = true;
                }
            }
            Record::Deliver { subscription, topic, entry } => self.delivered(line, &subscription, &topic, &entry),
            Record::Gap { subscription, topic } => {
                let topic = self.names.topic(&topic);
                if let Some(subscription) = self.subscription(line, &subscription) {
                    subscription.gaps.push(topic);
                }
            }
            Record::Begin { client, read } => {
                let client = self.names.client(&client);
                self.reads.insert(read, (client, line));
            }
            Record::Read { read, topic, events, end, stable } => self.read(line, &read, &topic, &events, end, stable),
            Record::Forget { client } => {
                let client = self.names.client(&client);
                self.later.push((line, Later::Forget { client }));
            }
            Record::Final { server, topic, events } => self.ended_with(line, server, &topic, &events),
            Record::Lost { server } => {
                let server = self.names.server(&server);
                self.lost.push(server);
            }
            Record::Retired { topic, clock } => {
                let topic = self.names.topic(&topic);
                let retired = self.retired.entry(topic).or_insert(Clock::ZERO);
                *retired = clock.max(*retired);
            }
            Record::Gone { origin, from, to, messages } => {
                self.gone.push((origin, from, to));
                for (topic, text) in messages {
                    let topic = self.names.topic(&topic);
                    let message = self.message(topic, &text);
                    self.messages[message].moved = Some(line);
                }
            }
        }
    }

    /// How many records it took.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    fn broken(&mut self, line: u64, kind: Kind, text: String) {
        if self.violations.len() < VIOLATIONS_CAP {
            self.violations.push(Violation { line, kind, text });
        }
    }

    fn message(&mut self, topic: u32, text: &str) -> usize {
        let index = topic as usize;
        if self.by_text.len() <= index {
            self.by_text.resize_with(index + 1, HashMap::new);
        }
        if let Some(&message) = self.by_text[index].get(text) {
            return message;
        }
        let message = self.messages.len();
        self.messages.push(Message {
            topic,
            text: Box::from(text),
            write: None,
            id: None,
            place: None,
            seen_at: None,
            clock: None,
            moved: None,
        });
        self.by_text[index].insert(Box::from(text), message);
        message
    }

    /// A message that somebody was shown; notes it where nobody wrote it.
    fn shown(&mut self, line: u64, topic: u32, entry: &Entry) -> usize {
        let message = self.message(topic, &entry.text);
        if self.messages[message].write.is_none() {
            self.broken(line, Kind::Phantom, format!("{:?} was never written", entry.text));
            // Once is enough.
            self.messages[message].write = Some(String::new());
        }
        if let Some(event) = &entry.event {
            let server = self.names.server(event.origin.server.as_str());
            self.messages[message].seen_at = Some(server);
        }
        let known = &mut self.messages[message].clock;
        *known = known.or(entry.clock);
        message
    }

    fn wrote(&mut self, line: u64, client: &str, write: String, topic: &str, text: &str) {
        let (client, topic) = (self.names.client(client), self.names.topic(topic));
        let message = self.message(topic, text);
        self.messages[message].write.get_or_insert_with(|| write.clone());
        self.later.push((line, Later::Wrote { client, message }));
        let new = Write { client, message, ok: None, unknown: false, rejected: None, open: false };
        let write = self.writes.entry(write).or_insert(new);
        // What became of an attempt that ended with its program, nobody was told; a later one is refused for itself.
        write.unknown |= std::mem::replace(&mut write.open, true);
    }

    fn acknowledged(&mut self, line: u64, write: &str, level: Level, event: Option<EventId>, id: Option<String>) {
        let Some(known) = self.writes.get_mut(write) else {
            return self.broken(line, Kind::Malformed, format!("write {write:?} did not begin"));
        };
        let (message, client) = (known.message, known.client);
        let level = known.ok.as_ref().map_or(level, |(_, before, _)| level.max(*before));
        known.ok = Some((line, level, event.clone()));
        known.open = false;
        let before = self.messages[message].id.clone();
        match (before, id) {
            (Some(before), Some(id)) if before != id => {
                self.broken(line, Kind::RetryIdentity, format!("write {write:?} was message {before}, and now {id}"));
            }
            (None, id) => self.messages[message].id = id,
            _ => {}
        }
        self.later.push((line, Later::Acknowledged { client, message, event }));
    }

    fn ended(&mut self, line: u64, write: &str, unknown: bool) {
        let Some(write) = self.writes.get_mut(write) else {
            return self.broken(line, Kind::Malformed, format!("write {write:?} did not begin"));
        };
        write.open = false;
        if unknown {
            write.unknown = true;
        } else {
            write.rejected = Some(line);
        }
    }

    fn subscribed(&mut self, line: u64, client: u32, name: String, topics: Vec<u32>, how: (From, Order)) {
        let (from, order) = how;
        self.subscription_names.insert(name, self.subscriptions.len());
        self.subscriptions.push(Subscription {
            client,
            line,
            from,
            order,
            resumed: false,
            closed: false,
            delivered: HashMap::new(),
            origins: HashMap::new(),
            topics,
            gaps: Vec::new(),
            last: HashMap::new(),
        });
    }

    fn subscription(&mut self, line: u64, name: &str) -> Option<&mut Subscription> {
        let Some(&index) = self.subscription_names.get(name) else {
            self.broken(line, Kind::Malformed, format!("subscription {name:?} did not begin"));
            return None;
        };
        self.subscriptions.get_mut(index)
    }

    fn delivered(&mut self, line: u64, name: &str, topic: &str, entry: &Entry) {
        let topic = self.names.topic(topic);
        let message = self.shown(line, topic, entry);
        let Some(subscription) = self.subscription(line, name) else { return };
        let client = subscription.client;
        let mut broken = None;
        if let Some(first) = subscription.delivered.insert(message, entry.event.clone()) {
            // One double delivery is left by design: see `ResumePoint`.
            let twin = subscription.resumed && first != entry.event;
            broken = (!twin).then(|| (Kind::Duplicate, format!("{:?} was delivered before", entry.text)));
        } else if let Some(event) = &entry.event {
            let range = subscription.origins.entry((topic, event.origin.clone())).or_insert((event.seq, 0));
            if event.seq <= range.1 {
                let text = format!("{event} was delivered after number {}", range.1);
                broken = Some((Kind::OriginOrder, text));
            }
            range.1 = range.1.max(event.seq);
        }
        if let (Order::Stable, Some(key)) = (subscription.order, entry.key()) {
            match subscription.last.get(&topic) {
                Some(last) if *last > key => {
                    broken = Some((Kind::TotalOrder, format!("{key} was delivered after {last}")));
                }
                _ => drop(subscription.last.insert(topic, key)),
            }
        }
        if let Some((kind, text)) = broken {
            self.broken(line, kind, text);
        }
        self.later.push((line, Later::Saw { client, message, key: entry.key() }));
    }

    /// A list in the total order: nothing twice, nothing that nobody wrote.
    fn list(&mut self, line: u64, topic: u32, events: &[Entry]) -> Vec<(usize, Option<OrderKey>)> {
        let mut list: Vec<(usize, Option<OrderKey>)> = Vec::with_capacity(events.len());
        for entry in events {
            let message = self.shown(line, topic, entry);
            let key = entry.key();
            if let (Some((_, Some(before))), Some(key)) = (list.last(), &key)
                && before >= key
            {
                let text = format!("{key} stands after {before}");
                self.broken(line, Kind::TotalOrder, text);
            }
            list.push((message, key));
        }
        let mut sorted: Vec<usize> = list.iter().map(|(message, _)| *message).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let text = format!("{:?} stands there twice", self.messages[pair[0]].text);
            self.broken(line, Kind::Duplicate, text);
        }
        list
    }

    fn read(&mut self, line: u64, read: &str, topic: &str, events: &[Entry], end: bool, stable: Option<Clock>) {
        let topic = self.names.topic(topic);
        let Some((client, began)) = self.reads.remove(read) else {
            return self.broken(line, Kind::Malformed, format!("read {read:?} did not begin"));
        };
        let entries = self.list(line, topic, events);
        self.later.push((line, Later::Read(Box::new(Page { client, topic, began, entries, end, stable }))));
    }

    fn ended_with(&mut self, line: u64, server: String, topic: &str, events: &[Entry]) {
        let topic = self.names.topic(topic);
        let list = self.list(line, topic, events);
        let messages: Vec<usize> = list.iter().map(|(message, _)| *message).collect();
        if self.finals.len() <= topic as usize {
            self.finals.resize_with(topic as usize + 1, || None);
        }
        if let Some(first) = &self.finals[topic as usize] {
            if first.list != messages {
                let text = format!("{server} ends with other messages on this topic than {}", first.server);
                self.broken(line, Kind::Diverged, text);
            }
            return;
        }
        for (index, (message, key)) in (0..).zip(list) {
            let clock = key.as_ref().map_or(Clock::ZERO, |key| key.clock);
            self.messages[message].place = Some((index, key.map(|key| key.id), clock));
        }
        self.finals[topic as usize] = Some(Final { server, list: messages });
    }
}
