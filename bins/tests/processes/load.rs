//! Clients under load: pipelined writers that note what became of every message, and subscribers that note what they saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dsv2_core::{Code, EventId, Level};
use dsv2_net::Client;
use dsv2_net::client::{Channel, ClientBuilder, Cursor, Delivery, WriteError};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::eventually;

/// How long one write may take: longer than any outage that a campaign makes.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Acknowledged(EventId),
    /// It may stand there, or not.
    Unknown(Option<Code>),
    /// It stands nowhere.
    Rejected(Option<Code>),
}

/// A message that somebody tried to write.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) channel: String,
    pub(crate) begun: Instant,
    /// Not there as long as it is under way.
    pub(crate) fate: Option<Fate>,
    pub(crate) ended: Option<Instant>,
}

/// Everything that was tried, by its text.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    attempts: Mutex<BTreeMap<String, Attempt>>,
    answered: AtomicUsize,
    tally: Mutex<Tally>,
    /// Whether writers begin nothing more, whatever was planned.
    enough: AtomicBool,
    /// For each writer, when its last acknowledgement came.
    pace: Mutex<BTreeMap<String, Instant>>,
    /// The longest time that a writer had none, and when it was over.
    pause: Mutex<Option<(Duration, Instant)>>,
}

/// How many messages ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) rejected: usize,
}

impl Ledger {
    pub(crate) fn attempts(&self) -> MutexGuard<'_, BTreeMap<String, Attempt>> {
        self.attempts.lock().expect("no writer panicked")
    }

    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    pub(crate) fn tally(&self) -> Tally {
        let under_way = self.attempts().values().filter(|attempt| attempt.fate.is_none()).count();
        assert_eq!(under_way, 0, "messages are still under way");
        self.tally_so_far()
    }

    /// How many messages have ended how by now.
    pub(crate) fn tally_so_far(&self) -> Tally {
        *self.tally.lock().expect("no writer panicked")
    }

    fn begin(&self, text: &str, channel: &str) {
        let attempt = Attempt { channel: channel.to_owned(), begun: Instant::now(), fate: None, ended: None };
        let before = self.attempts().insert(text.to_owned(), attempt);
        assert!(before.is_none(), "{text} was written before");
    }

    /// The longest time that any writer stood still, between two acknowledgements, and when it was over.
    pub(crate) fn longest_pause(&self) -> Option<(Duration, Instant)> {
        *self.pause.lock().expect("no writer panicked")
    }

    fn end(&self, text: &str, fate: Fate) {
        if matches!(fate, Fate::Acknowledged(_)) {
            let (writer, now) = (text.split('-').next().unwrap_or_default(), Instant::now());
            let last = self.pace.lock().expect("no writer panicked").insert(writer.to_owned(), now);
            let mut longest = self.pause.lock().expect("no writer panicked");
            *longest = (*longest).max(last.map(|last| (now - last, now)));
        }
        let mut tally = self.tally.lock().expect("no writer panicked");
        match fate {
            Fate::Acknowledged(_) => tally.acknowledged += 1,
            Fate::Unknown(_) => tally.unknown += 1,
            Fate::Rejected(_) => tally.rejected += 1,
        }
        drop(tally);
        let mut attempts = self.attempts();
        let attempt = attempts.get_mut(text).expect("it was begun");
        (attempt.fate, attempt.ended) = (Some(fate), Some(Instant::now()));
        drop(attempts);
        self.answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// As many messages as fit, until [`Load::stop`].
pub(crate) const WITHOUT_END: usize = usize::MAX;

/// What writers are to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) writers: usize,
    /// Between all of them.
    pub(crate) in_flight: usize,
    /// Between all of them.
    pub(crate) messages: usize,
    pub(crate) level: Level,
    pub(crate) channels: &'a [&'a str],
}

/// Clients that write and read, on threads of their own.
pub(crate) struct Load {
    runtime: Runtime,
    pub(crate) ledger: Arc<Ledger>,
    writing: JoinSet<()>,
    clients: Vec<Client>,
}

impl Load {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self {
            runtime: runtime.expect("a runtime"),
            ledger: Arc::default(),
            writing: JoinSet::new(),
            clients: Vec::new(),
        }
    }

    /// A client, connected.
    pub(crate) fn client(&mut self, broker: &str, proxy: &str, user: Option<&str>) -> Client {
        let mut builder = builder(broker, proxy).timeout(WRITE_PATIENCE);
        if let Some(user) = user {
            builder = builder.user(user);
        }
        let client = self.runtime.block_on(builder.connect()).expect("a client");
        self.clients.push(client.clone());
        client
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Creates the channels, and begins to write as planned; `name` tells these writers from others.
    pub(crate) fn write(&mut self, name: &str, broker: &str, proxy: &str, plan: Plan<'_>) {
        for writer in 0..plan.writers {
            let user = format!("{name}{writer}");
            let client = self.client(broker, proxy, Some(&user));
            for channel in plan.channels {
                self.runtime.block_on(client.channel(channel).create().into_future()).expect("a channel");
            }
            let channels: Vec<Channel> = plan.channels.iter().map(|channel| client.channel(channel)).collect();
            let share = plan.messages / plan.writers + usize::from(writer < plan.messages % plan.writers);
            let room = Arc::new(Semaphore::new((plan.in_flight / plan.writers).max(1)));
            let ledger = Arc::clone(&self.ledger);
            let writing = write(user, channels, share, plan.level, room, ledger);
            self.writing.spawn_on(writing, self.runtime.handle());
        }
    }

    /// Lets writers begin nothing more, and waits until all that was begun is answered.
    pub(crate) fn stop(&mut self) {
        self.ledger.enough.store(true, Ordering::SeqCst);
        self.finish();
    }

    /// Waits until all that is planned is answered.
    pub(crate) fn finish(&mut self) {
        let (runtime, writing) = (&self.runtime, &mut self.writing);
        runtime.block_on(async {
            while let Some(ended) = writing.join_next().await {
                ended.expect("a writer");
            }
        });
    }

    /// Begins to follow channels with a client of its own, and waits until it does.
    pub(crate) fn subscribe(
        &mut self,
        name: &'static str,
        broker: &str,
        proxy: &str,
        channels: &'static [&'static str],
        from: Cursor,
    ) -> Subscriber {
        let subscriber = self.join(name, broker, proxy, channels, from);
        eventually(name, || subscriber.seen().since.is_some());
        subscriber
    }

    /// The same without waiting, for whoever joins while nobody may be there to answer.
    pub(crate) fn join(
        &mut self,
        name: &'static str,
        broker: &str,
        proxy: &str,
        channels: &'static [&'static str],
        from: Cursor,
    ) -> Subscriber {
        let from_beginning = from == Cursor::Beginning;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = Arc::clone(&seen);
        let builder = builder(broker, proxy);
        self.runtime.spawn(async move {
            let client = builder.connect().await.expect("a client");
            let mut subscription =
                client.subscribe(channels).from(from).timeout(WRITE_PATIENCE).await.expect("a subscription");
            notes.lock().expect("no checker panicked").since = Some(Instant::now());
            while let Some(delivery) = subscription.next().await {
                notes.lock().expect("no checker panicked").note(delivery);
            }
        });
        Subscriber { name, from_beginning, seen }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Clients that reconnect for ever must not keep the runtime.
        self.clients.clear();
        self.writing.abort_all();
    }
}

/// A client of one or several brokers and their proxies, separated by commas.
fn builder(brokers: &str, proxies: &str) -> ClientBuilder {
    let mut pairs = brokers.split(',').zip(proxies.split(','));
    let (broker, proxy) = pairs.next().expect("a broker");
    let first = Client::builder(broker).proxy(proxy).connect_timeout(WRITE_PATIENCE);
    pairs.fold(first, |builder, (broker, proxy)| builder.or(broker).proxy(proxy))
}

async fn write(
    user: String,
    channels: Vec<Channel>,
    messages: usize,
    level: Level,
    room: Arc<Semaphore>,
    ledger: Arc<Ledger>,
) {
    let mut under_way = JoinSet::new();
    for number in 0..messages {
        let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
        if ledger.enough.load(Ordering::SeqCst) {
            break;
        }
        let channel = &channels[number % channels.len()];
        let text = format!("{user}-{number}");
        ledger.begin(&text, channel.name().expect("a name").as_str());
        let publish = channel.publish(&text).level(level).timeout(WRITE_PATIENCE);
        let ledger = Arc::clone(&ledger);
        under_way.spawn(async move {
            let fate = match publish.await {
                Ok(receipt) => {
                    assert!(receipt.level >= Some(level), "{text}: {receipt:?}");
                    Fate::Acknowledged(receipt.event.expect("our servers tell it"))
                }
                Err(error @ WriteError::Unknown(_)) => Fate::Unknown(error.code()),
                Err(error) => Fate::Rejected(error.code()),
            };
            ledger.end(&text, fate);
            drop(permit);
        });
        while under_way.try_join_next().is_some_and(|ended| ended.map(|()| true).expect("a write")) {}
    }
    while let Some(ended) = under_way.join_next().await {
        ended.expect("a write");
    }
}

/// Somebody who follows channels.
pub(crate) struct Subscriber {
    pub(crate) name: &'static str,
    pub(crate) from_beginning: bool,
    seen: Arc<Mutex<Seen>>,
}

impl Subscriber {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("it did not panic")
    }
}

/// What a subscriber saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When it had joined: what was begun later it must see.
    pub(crate) since: Option<Instant>,
    /// In the order of the deliveries: channel, text, event.
    pub(crate) messages: Vec<(String, String, EventId)>,
    pub(crate) gaps: Vec<String>,
    /// Messages that the publish side had lost, and history supplied.
    pub(crate) recovered: u64,
    pub(crate) reconnected: usize,
}

impl Seen {
    fn note(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Message(message) => {
                let event = message.publication.event.clone().expect("our servers tell it");
                let dsv2_core::Feed::Channel(channel) = &message.topic else { panic!("{message:?}") };
                self.messages.push((channel.to_string(), message.text().to_owned(), event));
            }
            Delivery::Gap { topic, missing, .. } => self.gaps.push(format!("{topic:?} {missing:?}")),
            Delivery::Recovered { messages, .. } => self.recovered += messages,
            Delivery::Reconnected => self.reconnected += 1,
            other => panic!("{other:?}"),
        }
    }
}
