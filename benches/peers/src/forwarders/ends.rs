//! What stands before and behind a forwarder, and the loads between; the same loads whatever the ends are made of.

mod libzmq;
mod own;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use libzmq::Libzmq;
pub(crate) use own::Own;

use super::child::Child;

const TOPIC: &str = "t";

/// Published between two looks at the lead.
const BURST: usize = 100;

/// Nothing arrives for so long: something was lost, and there is no figure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sockets of one implementation. Dropping them ends what they do.
pub(crate) trait Ends {
    fn publisher(&self, endpoint: &str) -> Box<dyn Publisher>;

    /// As many subscribers as counters. Each counts one for all that is shorter than a message, and one a message.
    fn subscribe(&self, endpoint: &str, payload_bytes: usize, received: &Arc<[AtomicUsize]>);

    /// Answers every message with itself, from a REP or a DEALER.
    fn serve(&self, endpoint: &str, rep: bool);

    /// So many DEALERs.
    fn clients(&self, endpoint: &str, clients: usize) -> Box<dyn Clients>;
}

pub(crate) trait Publisher {
    /// What is sent leaves with the next `flush` at latest.
    fn send(&mut self, body: &[u8]);

    fn flush(&mut self);
}

pub(crate) trait Clients {
    /// What is sent leaves with the next `receive` at latest.
    fn send(&mut self, client: usize, number: u64, body: &[u8]);

    /// Waits until something is there, and counts it, by client.
    fn receive(&mut self, payload_bytes: usize, replies: &mut [usize]);
}

/// The shape of a fan-out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FanOut {
    pub(crate) subscribers: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) messages: usize,
}

impl FanOut {
    /// Most messages published and not yet received by the slowest: nothing is lost, and memory is bounded.
    fn lead(&self) -> usize {
        ((4 << 20) / self.payload_bytes).clamp(1_000, 10_000)
    }
}

/// The shape of an exchange of requests and replies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo {
    /// REP, and not DEALER.
    pub(crate) rep: bool,
    pub(crate) servers: usize,
    pub(crate) clients: usize,
    /// Requests that each client has in flight.
    pub(crate) window: usize,
    pub(crate) payload_bytes: usize,
    /// Of all clients together.
    pub(crate) messages: usize,
}

/// Seconds from the first message until every subscriber has every message.
pub(crate) fn fan_out(ends: &dyn Ends, shape: &FanOut, child: &Child) -> f64 {
    let mut publisher = ends.publisher(&child.input);
    let received: Arc<[AtomicUsize]> = (0..shape.subscribers).map(|_| AtomicUsize::new(0)).collect();
    ends.subscribe(&child.output, shape.payload_bytes, &received);
    // Until everybody is subscribed; these are not counted.
    let since = Instant::now();
    while received.iter().any(|n| n.load(Ordering::Acquire) == 0) {
        assert!(since.elapsed() < PATIENCE, "not everybody is subscribed after {PATIENCE:?}");
        publisher.send(b"?");
        publisher.flush();
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(50));
    let body = vec![b'x'; shape.payload_bytes];
    // A tenth on top, at first, warms everything up.
    let warm_up = shape.messages / 10;
    publish(&mut *publisher, &body, 0..warm_up, shape.lead(), &received);
    hold_lead(warm_up, 0, &received);
    child.mark_start();
    let start = Instant::now();
    let all = warm_up + shape.messages;
    publish(&mut *publisher, &body, warm_up..all, shape.lead(), &received);
    hold_lead(all, 0, &received);
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    seconds
}

fn publish(publisher: &mut dyn Publisher, body: &[u8], numbers: Range<usize>, lead: usize, received: &[AtomicUsize]) {
    for sent in numbers {
        if sent % BURST == 0 {
            publisher.flush();
            hold_lead(sent, lead, received);
        }
        publisher.send(body);
    }
    publisher.flush();
}

/// Waits while the slowest receiver is too far behind. Counters start at one: the first word.
fn hold_lead(sent: usize, lead: usize, received: &[AtomicUsize]) {
    let since = Instant::now();
    while received.iter().map(|n| n.load(Ordering::Acquire) - 1).min().unwrap_or(0) + lead < sent {
        assert!(since.elapsed() < PATIENCE, "nothing arrived for {PATIENCE:?}: messages were lost");
        thread::sleep(Duration::from_micros(50));
    }
}

/// So many messages came to a subscriber, or something that is none.
fn note(received: &AtomicUsize, messages: usize, others: bool) {
    if others {
        let _ = received.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
    }
    received.fetch_add(messages, Ordering::AcqRel);
}

/// Seconds for all round trips.
pub(crate) fn echo(ends: &dyn Ends, shape: &Echo, child: &Child) -> f64 {
    for _ in 0..shape.servers {
        ends.serve(&child.input, shape.rep);
    }
    // All servers are there before the first client is given one.
    thread::sleep(Duration::from_millis(100));
    let mut clients = ends.clients(&child.output, shape.clients);
    round_trips(&mut *clients, shape, shape.messages / 10);
    child.mark_start();
    let start = Instant::now();
    round_trips(&mut *clients, shape, shape.messages);
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    seconds
}

fn round_trips(clients: &mut dyn Clients, shape: &Echo, messages: usize) {
    let body = vec![b'x'; shape.payload_bytes];
    let mut in_flight = vec![0; shape.clients];
    let mut replies = vec![0; shape.clients];
    let (mut sent, mut received) = (0, 0);
    while received < messages {
        for (client, in_flight) in in_flight.iter_mut().enumerate() {
            while sent < messages && *in_flight < shape.window {
                clients.send(client, sent as u64, &body);
                sent += 1;
                *in_flight += 1;
            }
        }
        clients.receive(shape.payload_bytes, &mut replies);
        for (in_flight, replies) in in_flight.iter_mut().zip(&mut replies) {
            *in_flight -= *replies;
            received += std::mem::take(replies);
        }
    }
}
