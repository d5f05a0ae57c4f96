//! One simulated client process: the real session machine, and the program that uses it.

use std::collections::{BTreeMap, BTreeSet};

use dsv2_core::{Clock, EventId, Feed, HistorySpan, Level, Machine, MessageId, Outcome, Publication, Subject};

use super::builtin::user;
use super::program::{Act, Happened, Program};
use super::world::{Happening, World};
use crate::history::{Entry, From, Order as Ordered, Record};
use crate::random::SplitMix;
use crate::session::{
    Answer, Command, Cursor, Delivery, Effect, Input, Note, Order, ResumePoint, Session, SessionConfig, Side,
};

/// A client: its program outlives it, its session does not.
pub(super) struct Client {
    pub(super) index: usize,
    /// Changes whenever the process starts or dies.
    pub(super) life: u64,
    starts: u64,
    pub(super) up: bool,
    pub(super) session: Session,
    program: Box<dyn Program>,
    pub(super) broker: Connection,
    pub(super) proxy: Connection,
    /// What it listens to, on this and every later connection to a proxy.
    pub(super) topics: BTreeSet<String>,
    subscriptions: BTreeMap<u64, Followed>,
    calls: BTreeMap<u64, Call>,
    /// Names under which the history knows subscriptions that may go on after a crash, by what they follow.
    followed: BTreeMap<Vec<Feed>, String>,
    armed_us: u64,
    random: SplitMix,
}

/// One of a client's two connections.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// To which of the brokers or proxies.
    pub(super) to: usize,
    /// Its number; `None` while there is none.
    pub(super) number: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Followed {
    name: String,
    pub(super) feeds: Vec<Feed>,
    pub(super) point: ResumePoint,
}

#[derive(Debug)]
enum Call {
    Write(String),
    Read { name: String, topic: String, end: bool },
    Other,
}

impl Client {
    pub(super) fn new(index: usize, program: Box<dyn Program>, seed: u64) -> Self {
        Self {
            index,
            life: 0,
            starts: 0,
            up: false,
            session: Session::new(SessionConfig::default()),
            program,
            broker: Connection { to: index, number: None },
            proxy: Connection { to: index, number: None },
            topics: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            calls: BTreeMap::new(),
            followed: BTreeMap::new(),
            armed_us: u64::MAX,
            random: SplitMix::new(seed),
        }
    }

    pub(super) fn program(&self) -> &dyn Program {
        &*self.program
    }

    pub(super) fn subscriptions(&self) -> impl Iterator<Item = &Followed> {
        self.subscriptions.values()
    }

    fn name(&self) -> String {
        format!("u{}", self.index)
    }

    fn config(&mut self, lasting: bool) -> SessionConfig {
        let random = &mut self.random;
        SessionConfig {
            user: Some(user(self.index)),
            format: if self.index.is_multiple_of(2) { dsv2_core::Format::Json } else { dsv2_core::Format::MsgPack },
            random: u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()),
            attempt_ms: 300 + random.below(1_700),
            window: [8, 64, 1_024][random.below(3) as usize],
            held: [16, 4_096][random.below(2) as usize],
            page: [4, 32, 256][random.below(3) as usize],
            // What only a lost server had will not come; anything else may take its time.
            patience_ms: if lasting { None } else { Some(20_000) },
            ..SessionConfig::default()
        }
    }
}

/// The name of a feed in a history.
pub(super) fn topic(feed: &Feed) -> String {
    match feed {
        Feed::Channel(channel) => channel.as_str().to_owned(),
        Feed::Inbox(user) => format!("@{user}"),
        Feed::Conversation(a, b) => format!("@{a}@{b}"),
    }
}

/// A call for people.
fn call(command: &Command) -> String {
    match command {
        Command::Publish { channel, message } => format!("calls publish({message:?}) in {channel}"),
        Command::Message { dst, message } => format!("calls message({message:?}) to {dst}"),
        Command::CreateChannel { channel } => format!("creates {channel}"),
        Command::Subscribe { feeds, .. } => format!("subscribes to {} topic(s)", feeds.len()),
        Command::History(_) => "reads a page of history".to_owned(),
        _ => "asks".to_owned(),
    }
}

impl World {
    fn entry(&self, publication: &Publication) -> Entry {
        let event = (publication.event.as_ref(), publication.clock, publication.id.as_ref());
        self.entry_of(publication.body.text(), event)
    }

    /// A message in the history. Its identity is for readers; the judge goes by its text.
    pub(super) fn entry_of(
        &self,
        text: &str,
        (event, clock, id): (Option<&EventId>, Option<Clock>, Option<&MessageId>),
    ) -> Entry {
        let id = id.filter(|_| self.history.is_some()).map(ToString::to_string);
        Entry { text: text.to_owned(), event: event.cloned(), clock, id }
    }

    /// Starts a client's process.
    pub(super) fn start_client(&mut self, index: usize) {
        let lasting = self.config.lost_servers == 0 && self.config.faults.server_wiped_percent == 0;
        let client = &mut self.clients[index];
        if client.up {
            return;
        }
        client.up = true;
        client.life += 1;
        client.starts += 1;
        client.session = Session::new(client.config(lasting));
        #[cfg(feature = "planted")]
        client.session.plant(self.planted);
        client.topics.clear();
        client.subscriptions.clear();
        client.calls.clear();
        client.armed_us = u64::MAX;
        let (life, starts, name) = (client.life, client.starts, client.name());
        if starts > 1 {
            self.record(Record::Forget { client: name });
        }
        let at_us = self.now_us + self.delay_us();
        self.later(at_us, Happening::DialBroker { client: index, life });
        let at_us = self.now_us + self.delay_us();
        self.later(at_us, Happening::DialProxy { client: index, life });
        self.tell_program(index, Happened::Started { life: starts, user: user(index) });
    }

    /// Something happens to a client's session.
    pub(super) fn session(&mut self, index: usize, input: Input) {
        let now = self.client_now();
        let client = &mut self.clients[index];
        if !client.up {
            return;
        }
        client.session.step(now, input, &mut self.session_turn);
        // The program answers an effect with calls, whose effects come after those that are there already.
        self.effects.extend(self.session_turn.drain(..).map(|effect| (index, effect)));
        if !std::mem::replace(&mut self.carrying_out, true) {
            while let Some((index, effect)) = self.effects.pop_front() {
                self.session_effect(index, effect);
            }
            self.carrying_out = false;
        }
        self.arm(index);
    }

    /// A client's process dies.
    pub(super) fn kill_client(&mut self, index: usize) {
        self.drop_client(index);
        let client = &mut self.clients[index];
        client.up = false;
        client.life += 1;
        let open = std::mem::take(&mut client.subscriptions);
        open.into_values().for_each(|followed| self.record(Record::Closed { subscription: followed.name }));
    }

    /// Plans the next time at which the client wants to be woken.
    fn arm(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let deadline = [client.session.deadline(), client.program.deadline()].into_iter().flatten().min();
        let Some(at) = deadline.filter(|at| at.us < client.armed_us) else { return };
        let at_us = at.us.max(self.now_us + 1);
        client.armed_us = at_us;
        let life = client.life;
        self.later(at_us, Happening::ClientWake { client: index, life });
    }

    pub(super) fn client_wake(&mut self, index: usize, life: u64) {
        let now = self.client_now();
        let client = &mut self.clients[index];
        if client.life != life || !client.up || client.armed_us > self.now_us {
            return;
        }
        client.armed_us = u64::MAX;
        if client.program.deadline().is_some_and(|at| at <= now.mono) {
            self.tell_program(index, Happened::Wake);
        }
        if self.clients[index].session.deadline().is_some_and(|at| at <= now.mono) {
            self.session(index, Input::Wake);
        }
        self.arm(index);
    }

    fn tell_program(&mut self, index: usize, event: Happened) {
        let now = self.client_now();
        let mut acts = Vec::new();
        self.clients[index].program.step(now, event, &mut acts);
        for act in acts {
            match act {
                Act::Call { token, command, options } => {
                    self.tell(1, || format!("u{index}"), || call(&command));
                    self.begin(index, token, &command, &options);
                    self.session(index, Input::Call { token, command, options });
                }
                Act::Unsubscribe { subscription } => {
                    if let Some(followed) = self.clients[index].subscriptions.remove(&subscription) {
                        self.record(Record::Closed { subscription: followed.name });
                    }
                    self.session(index, Input::Unsubscribe { subscription });
                }
            }
        }
        self.arm(index);
    }

    /// Notes a call in the history.
    fn begin(&mut self, index: usize, token: u64, command: &Command, options: &crate::session::CallOptions) {
        let client = &mut self.clients[index];
        let (name, life) = (client.name(), client.life);
        let unique = format!("{name}/{life}/{token}");
        let write = |topic: String, text: &str| {
            // Under one key it is one write, however often it is tried, and whatever crashes in between.
            let write =
                options.key.as_ref().map_or_else(|| unique.clone(), |key| format!("{name}/{topic}/{}", key.as_str()));
            let record = Record::Write { client: name.clone(), write: write.clone(), topic, text: text.to_owned() };
            (Call::Write(write), record)
        };
        let (call, record) = match command {
            Command::Publish { channel, message } => write(channel.as_str().to_owned(), message),
            Command::Message { dst, message } => write(format!("@{dst}"), message),
            Command::History(query) => {
                let topic = match &query.subject {
                    Subject::Channel(channel) => channel.as_str().to_owned(),
                    Subject::Inbox(user) => format!("@{user}"),
                    // What a bare name means may change; conversations are parts of inboxes.
                    Subject::Topic(_) | Subject::Conversation { .. } => return,
                };
                let HistorySpan::Before(key) = &query.span else { return };
                let call = Call::Read { name: unique.clone(), topic, end: key.is_none() };
                (call, Record::Begin { client: name, read: unique })
            }
            Command::Subscribe { feeds, cursor, order } => {
                let resumes = matches!(cursor, Cursor::At(_));
                let known = client.followed.get(feeds).filter(|_| resumes).cloned();
                let name = known.clone().unwrap_or_else(|| unique.clone());
                let point = match cursor {
                    Cursor::Last => ResumePoint::default(),
                    Cursor::Beginning => ResumePoint::beginning(feeds),
                    Cursor::At(point) => point.restricted(feeds),
                };
                let followed = Followed { name: name.clone(), feeds: feeds.clone(), point };
                client.subscriptions.insert(token, followed);
                client.followed.insert(feeds.clone(), name.clone());
                let record = match known {
                    Some(subscription) => Record::Resume { subscription },
                    None => Record::Subscribe {
                        client: client.name(),
                        subscription: name,
                        topics: feeds.iter().map(topic).collect(),
                        from: if matches!(cursor, Cursor::Beginning) { From::Beginning } else { From::Last },
                        order: if *order == Order::Stable { Ordered::Stable } else { Ordered::Arrival },
                    },
                };
                (Call::Other, record)
            }
            _ => return,
        };
        client.calls.insert(token, call);
        self.record(record);
    }

    fn session_effect(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Send { request, body } => self.client_sends(index, request, body),
            Effect::Listen(topic) => self.listen(index, topic, true),
            Effect::Unlisten(topic) => self.listen(index, topic, false),
            Effect::Done { token, result } => {
                self.ended(index, token, &result);
                self.tell_program(index, Happened::Done { token, result });
            }
            Effect::Deliver { subscription, delivery, step } => {
                let life = self.clients[index].life;
                let at_us = self.now_us + self.load_random.below(2_000);
                self.later(at_us, Happening::Consumed { client: index, life, subscription });
                let Some(followed) = self.clients[index].subscriptions.get_mut(&subscription) else { return };
                step.iter().for_each(|step| followed.point.advance(step));
                let (name, point) = (followed.name.clone(), followed.point.clone());
                self.note_delivery(index, name, &delivery);
                self.tell_program(index, Happened::Delivered { subscription, delivery, point });
            }
            Effect::Advance { subscription, step } => {
                if let Some(followed) = self.clients[index].subscriptions.get_mut(&subscription) {
                    followed.point.advance(&step);
                }
            }
            Effect::Reconnect(Side::Broker) => self.leave_broker(index),
            Effect::Reconnect(Side::Proxy) => self.leave_proxy(index),
            Effect::Log(Note::Behind(_)) => {
                let client = self.clients[index].name();
                self.record(Record::Forget { client });
            }
            Effect::Log(Note::UnreadableReply(why) | Note::UnreadablePublication(why)) => {
                self.broken(format!("client u{index} cannot read what it got: {why}"));
            }
            Effect::Log(_) => {}
        }
    }

    fn note_delivery(&mut self, index: usize, subscription: String, delivery: &Delivery) {
        match delivery {
            Delivery::Message { feed, publication } => {
                self.report.delivered += 1;
                self.tell(
                    9,
                    || format!("u{index}"),
                    || {
                        let event = publication.event.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
                        format!(
                            "delivers {:?} on {}, event {event}; its resume point moves over it",
                            publication.body.text(),
                            topic(feed)
                        )
                    },
                );
                let entry = self.entry(publication);
                self.record(Record::Deliver { subscription, topic: topic(feed), entry });
            }
            Delivery::Gap { feed, .. } => {
                self.report.gaps += 1;
                self.record(Record::Gap { subscription, topic: topic(feed) });
            }
            Delivery::Recovered { messages, .. } => self.report.recovered += messages,
            _ => {}
        }
    }

    /// Notes an answer in the history.
    fn ended(&mut self, index: usize, token: u64, result: &Result<Answer, dsv2_core::Failure>) {
        let client = &mut self.clients[index];
        if client.subscriptions.contains_key(&token) {
            if result.is_err()
                && let Some(followed) = client.subscriptions.remove(&token)
            {
                self.record(Record::Closed { subscription: followed.name });
            }
            return;
        }
        let ended = client.calls.remove(&token);
        self.tell(
            9,
            || format!("u{index}"),
            || match result {
                Ok(Answer::Written(written)) => match &written.receipt {
                    Some(receipt) => format!("is told: {} at level {}", receipt.event, receipt.level),
                    None => "is told: done".to_owned(),
                },
                Ok(_) => "is answered".to_owned(),
                Err(failure) => format!("is told: {}, {}", failure.code, failure.outcome.as_str()),
            },
        );
        let record = match (ended, result) {
            (Some(Call::Write(write)), Ok(Answer::Written(written))) => {
                self.report.acknowledged += 1;
                let receipt = written.receipt.as_ref();
                Record::Ok {
                    write,
                    level: receipt.map_or(Level::Local, |receipt| receipt.level),
                    event: receipt.map(|receipt| receipt.event.clone()),
                    id: receipt.map(|receipt| receipt.id.to_string()),
                }
            }
            (Some(Call::Write(write)), Err(failure)) if failure.outcome == Outcome::Rejected => {
                self.report.rejected += 1;
                Record::Rejected { write }
            }
            (Some(Call::Write(write)), _) => {
                self.report.unknown += 1;
                Record::Unknown { write }
            }
            (Some(Call::Read { name, topic, end }), Ok(Answer::History(page))) => {
                self.report.reads += 1;
                let events = page.events.iter().map(|publication| self.entry(publication)).collect();
                let stable = page.stable.filter(|_| self.config.keeps_final());
                Record::Read { read: name, topic, events, end, stable }
            }
            _ => return,
        };
        self.record(record);
    }
}
