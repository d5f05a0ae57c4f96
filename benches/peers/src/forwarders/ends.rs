//! What stands before and behind a forwarder: sockets of libzmq, or connections of the engine.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dsv2_net::endpoint::{Keepalive, connect};
use dsv2_net::engine::{Connection, Limits, LocalSocket};
use dsv2_net::zmtp::{Batch, Command, Message, SocketType};

use super::child::Child;

const TOPIC: &str = "t";

/// Published between two looks at the lead.
const BURST: usize = 100;

/// Nothing arrives for so long: something was lost, and there is no figure.
const PATIENCE: Duration = Duration::from_secs(10);

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

fn socket(context: &zmq::Context, kind: zmq::SocketType, endpoint: &str) -> zmq::Socket {
    let socket = context.socket(kind).expect("socket");
    socket.set_sndhwm(1_000_000).expect("hwm");
    socket.set_rcvhwm(1_000_000).expect("hwm");
    socket.set_linger(0).expect("linger");
    if kind == zmq::SUB {
        socket.set_subscribe(TOPIC.as_bytes()).expect("subscribe");
    }
    socket.connect(endpoint).expect("connect");
    socket
}

fn wait_readable(items: &mut [zmq::PollItem<'_>]) {
    let ready = zmq::poll(items, PATIENCE.as_millis() as i64).expect("poll");
    assert!(ready > 0, "nothing arrived for {PATIENCE:?}: messages were lost");
}

/// Seconds from the first message until every subscriber has every message.
pub(crate) fn fan_out(shape: &FanOut, child: &Child) -> f64 {
    let context = zmq::Context::new();
    let publisher = socket(&context, zmq::PUB, &child.input);
    let received: Arc<Vec<AtomicUsize>> = Arc::new((0..shape.subscribers).map(|_| AtomicUsize::new(0)).collect());
    let receiver = {
        let sockets: Vec<_> = (0..shape.subscribers).map(|_| socket(&context, zmq::SUB, &child.output)).collect();
        let (received, shape) = (Arc::clone(&received), *shape);
        thread::spawn(move || receive_all(&sockets, &received, &shape))
    };
    // Until everybody is subscribed; these are not counted.
    while received.iter().any(|n| n.load(Ordering::Acquire) == 0) {
        publisher.send(TOPIC, zmq::SNDMORE).expect("send");
        publisher.send("?", 0).expect("send");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(50));
    let body = vec![b'x'; shape.payload_bytes];
    // A tenth on top, at first, warms everything up.
    let warm_up = shape.messages / 10;
    publish(&publisher, &body, 0..warm_up, shape.lead(), &received);
    hold_lead(warm_up, 0, &received);
    child.mark_start();
    let start = Instant::now();
    let all = warm_up + shape.messages;
    publish(&publisher, &body, warm_up..all, shape.lead(), &received);
    hold_lead(all, 0, &received);
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    receiver.join().expect("receiver");
    seconds
}

fn publish(publisher: &zmq::Socket, body: &[u8], numbers: Range<usize>, lead: usize, received: &[AtomicUsize]) {
    for sent in numbers {
        if sent % BURST == 0 {
            hold_lead(sent, lead, received);
        }
        publisher.send(TOPIC, zmq::SNDMORE).expect("send");
        publisher.send(body, 0).expect("send");
    }
}

/// Waits while the slowest receiver is too far behind. Counters start at one: the first word.
fn hold_lead(sent: usize, lead: usize, received: &[AtomicUsize]) {
    let since = Instant::now();
    while received.iter().map(|n| n.load(Ordering::Acquire) - 1).min().unwrap_or(0) + lead < sent {
        assert!(since.elapsed() < PATIENCE, "nothing arrived for {PATIENCE:?}: messages were lost");
        thread::sleep(Duration::from_micros(50));
    }
}

/// Sockets are drained in turn; only when none has anything are all of them waited for, because polling 50 sockets
/// costs more than receiving from one.
fn receive_all(sockets: &[zmq::Socket], received: &[AtomicUsize], shape: &FanOut) {
    let mut items: Vec<_> = sockets.iter().map(|s| s.as_poll_item(zmq::POLLIN)).collect();
    let mut frame = zmq::Message::new();
    let all = shape.messages + shape.messages / 10;
    let mut missing = sockets.len();
    while missing > 0 {
        let mut idle = true;
        missing = 0;
        for (socket, received) in sockets.iter().zip(received) {
            idle &= !count_real(socket, received, shape.payload_bytes, &mut frame);
            missing += usize::from(received.load(Ordering::Relaxed) <= all);
        }
        if idle && missing > 0 {
            wait_readable(&mut items);
        }
    }
}

/// What came before the first real message counts once, all together. `true`: something was there.
fn count_real(socket: &zmq::Socket, received: &AtomicUsize, payload_bytes: usize, frame: &mut zmq::Message) -> bool {
    let (mut count, mut something) = (0, false);
    while socket.recv(frame, zmq::DONTWAIT).is_ok() {
        something = true;
        if frame.get_more() {
            continue;
        }
        if frame.len() == payload_bytes {
            count += 1;
        } else {
            let _ = received.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
    received.fetch_add(count, Ordering::AcqRel);
    something
}

/// Seconds for all round trips.
pub(crate) fn echo(shape: &Echo, child: &Child) -> f64 {
    let context = zmq::Context::new();
    let stop = Arc::new(AtomicBool::new(false));
    let kind = if shape.rep { zmq::REP } else { zmq::DEALER };
    let servers: Vec<_> = (0..shape.servers)
        .map(|_| {
            let (server, stop) = (socket(&context, kind, &child.input), Arc::clone(&stop));
            thread::spawn(move || echo_server(&server, &stop))
        })
        .collect();
    // All servers are there before the first client is given one.
    thread::sleep(Duration::from_millis(100));
    let clients: Vec<_> = (0..shape.clients).map(|_| socket(&context, zmq::DEALER, &child.output)).collect();
    let body = vec![b'x'; shape.payload_bytes];
    round_trips(&clients, &body, shape.window, shape.messages / 10);
    child.mark_start();
    let start = Instant::now();
    round_trips(&clients, &body, shape.window, shape.messages);
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    stop.store(true, Ordering::Release);
    servers.into_iter().for_each(|server| server.join().expect("server"));
    seconds
}

fn round_trips(clients: &[zmq::Socket], body: &[u8], window: usize, messages: usize) {
    let mut items: Vec<_> = clients.iter().map(|client| client.as_poll_item(zmq::POLLIN)).collect();
    let mut in_flight = vec![0; clients.len()];
    let (mut sent, mut received) = (0usize, 0);
    let mut frame = zmq::Message::new();
    while received < messages {
        for (client, in_flight) in clients.iter().zip(&mut in_flight) {
            while sent < messages && *in_flight < window {
                client.send(&(sent as u64).to_be_bytes()[..], zmq::SNDMORE).expect("send");
                client.send("", zmq::SNDMORE).expect("send");
                client.send(body, 0).expect("send");
                sent += 1;
                *in_flight += 1;
            }
        }
        wait_readable(&mut items);
        for (client, in_flight) in clients.iter().zip(&mut in_flight) {
            while client.recv(&mut frame, zmq::DONTWAIT).is_ok() {
                if !frame.get_more() {
                    assert_eq!(frame.len(), body.len(), "an echo, and no refusal");
                    received += 1;
                    *in_flight -= 1;
                }
            }
        }
    }
}

/// Answers every message with itself, frame by frame, until told to stop.
fn echo_server(server: &zmq::Socket, stop: &AtomicBool) {
    server.set_rcvtimeo(50).expect("timeout");
    let mut frame = zmq::Message::new();
    while !stop.load(Ordering::Acquire) {
        while server.recv(&mut frame, 0).is_ok() {
            let flags = if frame.get_more() { zmq::SNDMORE } else { 0 };
            server.send(std::mem::replace(&mut frame, zmq::Message::new()), flags).expect("send");
        }
    }
}

/// Like [`fan_out`], between connections of the engine.
pub(crate) fn own_fan_out(shape: &FanOut, child: &Child) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(own_fan_out_async(shape, child))
}

async fn own_connection(endpoint: &str, kind: SocketType) -> Connection {
    let endpoint = endpoint.parse().expect("endpoint");
    let limits = Limits { outbox_cap_bytes: 64 << 20, ..Limits::default() };
    let stream = connect(&endpoint, Keepalive::default()).await.expect("connect");
    Connection::establish(stream, String::new(), &Arc::new(LocalSocket::new(kind, limits))).await.expect("handshake")
}

async fn own_fan_out_async(shape: &FanOut, child: &Child) -> f64 {
    let &FanOut { subscribers, payload_bytes, messages } = shape;
    let received: Arc<Vec<AtomicUsize>> = Arc::new((0..subscribers).map(|_| AtomicUsize::new(0)).collect());
    let mut receivers = Vec::new();
    for index in 0..subscribers {
        let mut connection = own_connection(&child.output, SocketType::Sub).await;
        connection.outbox().append_wire(&Command::subscription(TOPIC.as_bytes(), true, true), 0).expect("room");
        connection.outbox().flush();
        let received = Arc::clone(&received);
        receivers.push(tokio::spawn(async move {
            let mut batch = Batch::new();
            while received[index].load(Ordering::Relaxed) < messages {
                connection.next_batch(&mut batch).await.expect("open");
                received[index].fetch_add(batch.len(), Ordering::AcqRel);
            }
        }));
    }
    let mut publisher = own_connection(&child.input, SocketType::Pub).await;
    // The subscription that comes last arrives when all have been taken.
    let mut batch = Batch::new();
    publisher.next_batch(&mut batch).await.expect("subscription");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let outbox = publisher.outbox().clone();
    let reading = tokio::spawn(async move { while publisher.next_batch(&mut Batch::new()).await.is_ok() {} });
    let message = Message::from_frames([TOPIC.as_bytes(), &vec![b'x'; payload_bytes]]);
    child.mark_start();
    let start = Instant::now();
    for sent in 0..messages {
        if sent % BURST == 0 {
            outbox.flush();
            while received.iter().map(|n| n.load(Ordering::Acquire)).min().unwrap_or(0) + shape.lead() < sent {
                tokio::time::sleep(Duration::from_micros(50)).await;
            }
        }
        outbox.append(&message).expect("room");
    }
    outbox.flush();
    for receiver in receivers {
        receiver.await.expect("receiver");
    }
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    reading.abort();
    seconds
}
