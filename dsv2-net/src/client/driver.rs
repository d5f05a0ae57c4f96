//! The client's one task: it owns the ports and the session, and carries out what the session wants.

mod answers;
mod notes;
mod places;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dsv2_core::{Clock, Code, Failure, Format, Machine, Now, RawTimestamp, Reply, ReplyBody};
use dsv2_sync::session::{Answer, CallOptions, Command, Delivery, Effect, Input, Session, Side, Step};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep};

use super::subscription::{Consumer, Established, Item};
use super::{ClientState, DrainReport};
use crate::port::{PortError, PortEvent, SendError};
use crate::time::Clocks;
use crate::zmtp::{Message, Press};
pub(super) use answers::Answerer;
use answers::Answers;
use notes::log;
use places::Connections;
pub(super) use places::Places;

/// How many calls are taken from the queue at a time.
const BATCH: usize = 256;

/// Subscriptions' tokens have this bit; those of other calls are places in [`Answers`].
const SUBSCRIPTION: u64 = 1 << 63;

/// How long a client that nobody holds any more tries to write out what it has queued.
const FAREWELL: Duration = Duration::from_millis(500);

/// What handles ask of the task.
#[derive(Debug)]
pub(super) enum Ask {
    /// A call.
    Call { command: Command, options: CallOptions, answerer: Answerer },
    /// A subscription.
    Subscribe { command: Command, options: CallOptions, answer: oneshot::Sender<Result<Established, Failure>> },
    /// The end, once everything is answered.
    Drain,
}

/// The task.
pub(super) struct Driver {
    session: Session,
    clocks: Clocks,
    /// Read when a turn began.
    now: Now,
    connections: Connections,
    asks: mpsc::Receiver<Ask>,
    /// Asks taken from the queue for which there is no room yet.
    backlog: VecDeque<Ask>,
    answers: Answers,
    subscriptions: BTreeMap<u64, Consuming>,
    subscribed: u64,
    /// Wakes the task when a consumer took something or is gone.
    wake: Arc<Notify>,
    effects: Vec<Effect>,
    /// Memory for effects while others are carried out.
    spare: Vec<Effect>,
    press: Press,
    /// Messages that found no room in the port.
    outgoing: VecDeque<Message>,
    state: watch::Sender<ClientState>,
    end: End,
    ending: Option<Ending>,
    over: bool,
}

/// A subscription, as the task sees it.
struct Consuming {
    batches: mpsc::UnboundedSender<Vec<Item>>,
    consumer: Arc<Consumer>,
    batch: Vec<Item>,
    opening: Option<Opening>,
}

/// Until the subscription is established: who waits for it, and what it will receive from.
struct Opening {
    answer: oneshot::Sender<Result<Established, Failure>>,
    batches: mpsc::UnboundedReceiver<Vec<Item>>,
}

/// Somebody drains the client.
struct Ending {
    until: Instant,
    report: DrainReport,
    /// What was begun before has been taken; from here on calls are refused.
    refuses: bool,
}

/// How a client's handles tell its task to end, and learn what came of it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) until: watch::Receiver<Option<Instant>>,
    pub(super) report: watch::Sender<Option<DrainReport>>,
}

impl Driver {
    pub(super) fn new(
        session: Session,
        places: Places,
        asks: mpsc::Receiver<Ask>,
        state: watch::Sender<ClientState>,
        end: End,
    ) -> Result<Self, PortError> {
        let clocks = Clocks::start();
        Ok(Self {
            session,
            now: clocks.now(),
            clocks,
            connections: Connections::open(places)?,
            asks,
            backlog: VecDeque::new(),
            answers: Answers::default(),
            subscriptions: BTreeMap::new(),
            subscribed: 0,
            wake: Arc::default(),
            effects: Vec::new(),
            spare: Vec::new(),
            press: Press::default(),
            outgoing: VecDeque::new(),
            state,
            end,
            ending: None,
            over: false,
        })
    }

    /// Runs until the end.
    pub(super) async fn run(mut self) {
        let (mut from_broker, mut from_proxy, mut asks) = (Vec::new(), Vec::new(), Vec::new());
        let mut sleep = Box::pin(tokio::time::sleep_until(self.wake_at()));
        while !self.over {
            self.reset(sleep.as_mut());
            let takes = self.takes_asks();
            tokio::select! {
                result = self.connections.broker.recv(&mut from_broker) => {
                    self.now = self.clocks.now();
                    self.over |= result.is_err();
                    self.heard(Side::Broker, &mut from_broker);
                }
                result = self.connections.proxy.recv(&mut from_proxy) => {
                    self.now = self.clocks.now();
                    self.over |= result.is_err();
                    self.heard(Side::Proxy, &mut from_proxy);
                }
                count = self.asks.recv_many(&mut asks, BATCH), if takes => {
                    self.now = self.clocks.now();
                    self.over |= count == 0;
                    self.backlog.extend(asks.drain(..));
                }
                Ok(()) = self.end.until.changed() => {
                    self.now = self.clocks.now();
                    self.drained_until();
                }
                () = self.wake.notified() => {
                    self.now = self.clocks.now();
                    self.tend_consumers();
                }
                () = sleep.as_mut() => {
                    self.now = self.clocks.now();
                    self.step(Input::Wake);
                }
            }
            self.take_asks();
            self.carry_out();
            self.tell_state();
            self.check_end();
        }
        self.end().await;
    }

    fn wake_at(&self) -> Instant {
        let deadline = self.clocks.at(self.session.deadline());
        self.ending.as_ref().map_or(deadline, |ending| deadline.min(ending.until))
    }

    fn reset(&self, sleep: std::pin::Pin<&mut Sleep>) {
        let at = self.wake_at();
        // Without a deadline the moment is far away, and a different one each time; that needs no new timer.
        if at < sleep.deadline() || self.session.deadline().is_some() && at != sleep.deadline() || sleep.is_elapsed() {
            sleep.reset(at);
        }
    }

    fn takes_asks(&self) -> bool {
        self.backlog.is_empty() && self.outgoing.is_empty() && (self.session.accepts() || self.refuses())
    }

    fn refuses(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.refuses)
    }

    /// Somebody set the moment at which the client ends, whatever is under way then and however much waits to be taken.
    fn drained_until(&mut self) {
        let Some(until) = *self.end.until.borrow_and_update() else { return };
        let ending = Ending { until, report: DrainReport::default(), refuses: false };
        let ending = self.ending.get_or_insert(ending);
        ending.until = ending.until.min(until);
    }

    fn step(&mut self, input: Input) {
        self.session.step(self.now, input, &mut self.effects);
    }

    /// Hands calls to the session, as many as it accepts.
    fn take_asks(&mut self) {
        while self.outgoing.is_empty() && (self.session.accepts() || self.refuses()) {
            let Some(ask) = self.backlog.pop_front() else { return };
            self.take_ask(ask);
            self.carry_out();
        }
    }

    fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Call { answerer, .. } if self.refuses() => answerer.answer(Err(ended())),
            Ask::Subscribe { answer, .. } if self.refuses() => drop(answer.send(Err(ended()))),
            Ask::Call { command, options, answerer } => {
                let token = self.answers.expect(answerer);
                self.step(Input::Call { token, command, options });
            }
            Ask::Subscribe { command, options, answer } => {
                self.subscribed += 1;
                let token = SUBSCRIPTION | self.subscribed;
                let (batches, receiver) = mpsc::unbounded_channel();
                let (taken, gone) = (AtomicUsize::new(0), AtomicBool::new(false));
                let consumer = Arc::new(Consumer { taken, gone, wake: Arc::clone(&self.wake) });
                let opening = Some(Opening { answer, batches: receiver });
                self.subscriptions.insert(token, Consuming { batches, consumer, batch: Vec::new(), opening });
                self.step(Input::Call { token, command, options });
            }
            Ask::Drain => {
                self.drained_until();
                if let Some(ending) = &mut self.ending {
                    ending.refuses = true;
                }
            }
        }
    }

    fn heard(&mut self, side: Side, events: &mut Vec<PortEvent>) {
        let moves = self.connections.moves(side);
        for event in events.drain(..) {
            if self.connections.moves(side) != moves {
                break;
            }
            match (side, event) {
                (Side::Broker, PortEvent::Message(message)) => self.replied(&message),
                (Side::Proxy, PortEvent::Message(message)) => self.published(&message),
                (side, PortEvent::Up { .. }) => {
                    tracing::debug!(?side, "connected");
                    self.connections.connected(side);
                    self.step(if side == Side::Broker { Input::BrokerUp } else { Input::ProxyUp });
                }
                (side, PortEvent::Down { reason, .. }) => {
                    tracing::info!(?side, %reason, "disconnected");
                    self.lost(side);
                    if self.connections.flaps(side) {
                        self.reconnect(side);
                    }
                }
                (side, PortEvent::Unreachable { attempts, reason }) => {
                    tracing::debug!(?side, attempts, %reason, "unreachable");
                    if self.connections.is_to_be_left(side, attempts) {
                        self.reconnect(side);
                    }
                }
                (_, PortEvent::Writable) => {}
            }
            // Effects of one event may be many; they are carried out before the next.
            if self.effects.len() >= BATCH {
                self.carry_out();
            }
        }
        self.flush_outgoing();
    }

    fn lost(&mut self, side: Side) {
        if side == Side::Broker {
            self.outgoing.clear();
        }
        self.step(if side == Side::Broker { Input::BrokerDown } else { Input::ProxyDown });
    }

    fn replied(&mut self, message: &Message) {
        let mut frames = message.slices();
        let number = frames.next().and_then(|id| <[u8; 8]>::try_from(id).ok()).map(u64::from_be_bytes);
        match (number, frames.next(), frames.next(), frames.next()) {
            (Some(request), Some([]), Some(body), None) => {
                let body = body.to_vec();
                self.step(Input::Reply { request, body });
            }
            _ => tracing::warn!(frames = message.frame_count(), "a reply without its number is ignored"),
        }
    }

    fn published(&mut self, message: &Message) {
        let mut frames = message.slices();
        match (frames.next(), frames.next(), frames.next()) {
            (Some(topic), Some(body), None) => {
                let (topic, body) = (topic.to_vec(), body.to_vec());
                self.step(Input::Published { topic, body });
            }
            _ => tracing::debug!(frames = message.frame_count(), "a publication that is not two frames is ignored"),
        }
    }

    /// Looks what consumers took, and which are gone.
    fn tend_consumers(&mut self) {
        let mut inputs = Vec::new();
        for (&subscription, consuming) in &self.subscriptions {
            let deliveries = consuming.consumer.taken.swap(0, Ordering::AcqRel);
            if consuming.consumer.gone.load(Ordering::Acquire) {
                inputs.push(Input::Unsubscribe { subscription });
            } else if deliveries > 0 {
                inputs.push(Input::Consumed { subscription, deliveries });
            }
        }
        for input in inputs {
            if let Input::Unsubscribe { subscription } = &input {
                self.subscriptions.remove(subscription);
            }
            self.step(input);
        }
    }

    /// Carries out all that the session wants, and what it wants because of that.
    fn carry_out(&mut self) {
        while !self.effects.is_empty() {
            let spare = std::mem::take(&mut self.spare);
            let mut effects = std::mem::replace(&mut self.effects, spare);
            effects.drain(..).for_each(|effect| self.carry_out_one(effect));
            self.spare = effects;
            self.hand_over();
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Send { request, body } => {
                let message = self.press.message([&request.to_be_bytes()[..], b"", &body]);
                self.outgoing.push_back(message);
                self.flush_outgoing();
            }
            Effect::Done { token, result } if token & SUBSCRIPTION != 0 => self.subscription_done(token, result),
            Effect::Done { token, result } => {
                if let Some(ending) = &mut self.ending {
                    ending.report.count(&result);
                }
                self.answers.answer(token, result);
            }
            Effect::Deliver { subscription, delivery, step } => self.deliver(subscription, Some(delivery), step),
            Effect::Advance { subscription, step } => self.deliver(subscription, None, Some(step)),
            Effect::Listen(topic) => self.connections.listen(topic),
            Effect::Unlisten(topic) => self.connections.unlisten(&topic),
            Effect::Reconnect(side) => self.reconnect(side),
            Effect::Log(note) => log(&note),
        }
    }

    fn flush_outgoing(&mut self) {
        while let Some(message) = self.outgoing.pop_front() {
            match self.connections.broker.send(message) {
                // Nothing is lost without a word: the session is told of the connection's end by the port's `Down`.
                Ok(()) | Err(SendError::Down(_) | SendError::Unsupported(_)) => {}
                Err(SendError::Full(message)) => return self.outgoing.push_front(message),
                Err(SendError::TooLarge(message)) => self.refuse(&message),
            }
        }
    }

    /// Answers a request that can never be sent.
    fn refuse(&mut self, message: &Message) {
        let Some(request) = message.frame(0).and_then(|id| <[u8; 8]>::try_from(id).ok()).map(u64::from_be_bytes) else {
            return;
        };
        let failure = Failure::rejected(Code::BadField, "the request is larger than the connection takes");
        let reply = Reply {
            format: Format::Json,
            service: "".into(),
            timestamp: RawTimestamp::Integer(0),
            clock: Some(Clock::ZERO),
            position: None,
            body: ReplyBody::Failed(failure),
        };
        self.step(Input::Reply { request, body: reply.encode() });
    }

    fn subscription_done(&mut self, token: u64, result: Result<Answer, Failure>) {
        let Some(consuming) = self.subscriptions.get_mut(&token) else { return };
        let Some(Opening { answer, batches }) = consuming.opening.take() else { return };
        let result = match result {
            Ok(Answer::Subscribed { gapless }) => {
                let consumer = Arc::clone(&consuming.consumer);
                Ok(Established { batches, consumer, window: self.connections.window(), gapless })
            }
            Ok(_) => Err(Failure::rejected(Code::Malformed, "the answer is for another question")),
            Err(failure) => Err(failure),
        };
        let is_established = result.is_ok();
        if answer.send(result).is_err() || !is_established {
            self.subscriptions.remove(&token);
            self.step(Input::Unsubscribe { subscription: token });
        }
    }

    fn deliver(&mut self, subscription: u64, delivery: Option<Delivery>, step: Option<Step>) {
        if let Some(consuming) = self.subscriptions.get_mut(&subscription) {
            consuming.batch.push(Item { delivery, step });
        }
    }

    /// Sends each consumer what came for it, in one piece.
    fn hand_over(&mut self) {
        for consuming in self.subscriptions.values_mut().filter(|consuming| !consuming.batch.is_empty()) {
            // A consumer that is gone says so itself.
            drop(consuming.batches.send(std::mem::take(&mut consuming.batch)));
        }
    }

    fn reconnect(&mut self, side: Side) {
        match self.connections.renew(side, self.session.is_up(side)) {
            Ok(true) if self.session.is_up(side) => self.lost(side),
            Ok(_) => {}
            Err(why) => {
                tracing::error!(%why, "the port cannot be made again");
                self.over = true;
            }
        }
    }

    fn tell_state(&mut self) {
        let state = ClientState {
            connected: self.session.is_up(Side::Broker),
            proxy_connected: self.session.is_up(Side::Proxy),
            extensions: self.session.has_extensions(),
        };
        self.state.send_if_modified(|told| {
            let changed = *told != state;
            *told = state;
            changed
        });
    }

    fn check_end(&mut self) {
        let Some(ending) = &self.ending else { return };
        let idle = self.session.outstanding() == 0 && self.outgoing.is_empty() && self.backlog.is_empty();
        self.over |= (ending.refuses && idle) || ending.until <= Instant::now();
    }

    async fn end(mut self) {
        self.now = self.clocks.now();
        self.step(Input::Close);
        self.carry_out();
        self.connections.broker.drain(FAREWELL).await;
        self.asks.close();
        while let Ok(ask) = self.asks.try_recv() {
            self.backlog.push_back(ask);
        }
        let asks = std::mem::take(&mut self.backlog);
        for ask in asks {
            match ask {
                Ask::Call { answerer, .. } => answerer.answer(Err(ended())),
                Ask::Subscribe { answer, .. } => drop(answer.send(Err(ended()))),
                Ask::Drain => {}
            }
        }
        self.end.report.send_replace(Some(self.ending.map(|ending| ending.report).unwrap_or_default()));
    }
}

impl DrainReport {
    fn count(&mut self, result: &Result<Answer, Failure>) {
        match result {
            Ok(_) => self.flushed += 1,
            Err(failure) if failure.outcome == dsv2_core::Outcome::Unknown => self.unknown += 1,
            Err(_) => self.failed += 1,
        }
    }
}

fn ended() -> Failure {
    Failure::rejected(Code::NotReady, "the client has ended")
}
