//! What stands before and behind a forwarder: sockets of libzmq, or connections of the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dsv2_net::endpoint::{Keepalive, connect};
use dsv2_net::engine::{Connection, Limits, LocalSocket};
use dsv2_net::zmtp::{Batch, Command, Message, SocketType};

use crate::forwarder::Child;

const PAYLOAD_BYTES: usize = 128;
const TOPIC: &str = "t";

/// Most messages published and not yet received by the slowest: nothing is lost, and memory is bounded.
const LEAD: usize = 2_000;

/// Published between two looks at the lead.
const BURST: usize = 100;

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

/// Receives what is there; returns the number of messages.
fn drain(socket: &zmq::Socket, frame: &mut zmq::Message, last: &mut bool) -> usize {
    let mut count = 0;
    while socket.recv(frame, zmq::DONTWAIT).is_ok() {
        if !frame.get_more() {
            count += 1;
            *last |= frame.first() == Some(&b'!');
        }
    }
    count
}

fn wait_readable(socket: &zmq::Socket) {
    socket.poll(zmq::POLLIN, 10_000).expect("poll");
}

/// Seconds from the first message to the last reception.
pub(crate) fn fan_out(input: &str, output: &str, subscribers: usize, messages: usize, child: &Child) -> f64 {
    let context = zmq::Context::new();
    let publisher = socket(&context, zmq::PUB, input);
    let received: Arc<Vec<AtomicUsize>> = Arc::new((0..subscribers).map(|_| AtomicUsize::new(0)).collect());
    let receiver = {
        let sockets: Vec<_> = (0..subscribers).map(|_| socket(&context, zmq::SUB, output)).collect();
        let received = Arc::clone(&received);
        thread::spawn(move || receive_all(&sockets, &received, messages))
    };
    // Warm-up until everybody is subscribed; these are not counted.
    while received.iter().any(|n| n.load(Ordering::Acquire) == 0) {
        publisher.send(TOPIC, zmq::SNDMORE).expect("send");
        publisher.send("?", 0).expect("send");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(50));
    let body = [b'x'; PAYLOAD_BYTES];
    child.mark_start();
    let start = Instant::now();
    for sent in 0..messages {
        if sent % BURST == 0 {
            hold_lead(sent, &received);
        }
        publisher.send(TOPIC, zmq::SNDMORE).expect("send");
        publisher.send(&body[..], 0).expect("send");
    }
    receiver.join().expect("receiver");
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    seconds
}

/// Waits while the slowest receiver is too far behind. Counters start at one: the warm-up.
fn hold_lead(sent: usize, received: &[AtomicUsize]) {
    while received.iter().map(|n| n.load(Ordering::Acquire) - 1).min().unwrap_or(0) + LEAD < sent {
        thread::sleep(Duration::from_micros(50));
    }
}

/// Sockets are drained in turn; only when none has anything are all of them waited for, because polling 50 sockets
/// costs more than receiving from one.
fn receive_all(sockets: &[zmq::Socket], received: &[AtomicUsize], messages: usize) {
    let mut items: Vec<_> = sockets.iter().map(|s| s.as_poll_item(zmq::POLLIN)).collect();
    let mut frame = zmq::Message::new();
    let mut missing = sockets.len();
    while missing > 0 {
        let mut idle = true;
        missing = 0;
        for (socket, received) in sockets.iter().zip(received) {
            idle &= !count_real(socket, received, &mut frame);
            missing += usize::from(received.load(Ordering::Relaxed) <= messages);
        }
        if idle {
            zmq::poll(&mut items, 10_000).expect("poll");
        }
    }
}

/// Warm-up messages count once, all together.
/// `true`: something was there.
fn count_real(socket: &zmq::Socket, received: &AtomicUsize, frame: &mut zmq::Message) -> bool {
    let mut count = 0;
    while socket.recv(frame, zmq::DONTWAIT).is_ok() {
        if frame.get_more() {
            continue;
        }
        if frame.len() == PAYLOAD_BYTES {
            count += 1;
        } else {
            let _ = received.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
    received.fetch_add(count, Ordering::AcqRel);
    count > 0
}

/// Seconds for `messages` round trips of a DEALER with `window` requests in flight.
pub(crate) fn echo(servers: &str, clients: &str, window: usize, messages: usize, rep: bool, child: &Child) -> f64 {
    let context = zmq::Context::new();
    let kind = if rep { zmq::REP } else { zmq::DEALER };
    let server = socket(&context, kind, servers);
    let echoing = thread::spawn(move || echo_server(&server));
    let client = socket(&context, zmq::DEALER, clients);
    let body = [b'x'; PAYLOAD_BYTES];
    round_trips(&client, &body, 1, 100);
    child.mark_start();
    let start = Instant::now();
    round_trips(&client, &body, window, messages);
    let seconds = start.elapsed().as_secs_f64();
    child.mark_end();
    round_trips(&client, b"!", 1, 1);
    echoing.join().expect("server");
    seconds
}

fn round_trips(client: &zmq::Socket, body: &[u8], window: usize, messages: usize) {
    let (mut sent, mut received) = (0usize, 0);
    let mut frame = zmq::Message::new();
    while received < messages {
        while sent < messages && sent - received < window {
            client.send(&(sent as u64).to_be_bytes()[..], zmq::SNDMORE).expect("send");
            client.send("", zmq::SNDMORE).expect("send");
            client.send(body, 0).expect("send");
            sent += 1;
        }
        wait_readable(client);
        received += drain(client, &mut frame, &mut false);
    }
}

/// Answers every message with itself, frame by frame, until a body says that it is over.
fn echo_server(server: &zmq::Socket) {
    let mut frame = zmq::Message::new();
    loop {
        server.recv(&mut frame, 0).expect("recv");
        let more = frame.get_more();
        let over = !more && frame.first() == Some(&b'!');
        server
            .send(std::mem::replace(&mut frame, zmq::Message::new()), if more { zmq::SNDMORE } else { 0 })
            .expect("send");
        if over {
            // The context ends only when this socket is closed and its last reply has left.
            server.set_linger(1000).expect("linger");
            return;
        }
    }
}

/// Like [`fan_out`], between connections of the engine.
pub(crate) fn own_fan_out(input: &str, output: &str, subscribers: usize, messages: usize, child: &Child) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    runtime.block_on(own_fan_out_async(input, output, subscribers, messages, child))
}

async fn own_connection(endpoint: &str, kind: SocketType) -> Connection {
    let endpoint = endpoint.parse().expect("endpoint");
    let limits = Limits { outbox_cap_bytes: 64 << 20, ..Limits::default() };
    let stream = connect(&endpoint, Keepalive::default()).await.expect("connect");
    Connection::establish(stream, String::new(), &Arc::new(LocalSocket::new(kind, limits))).await.expect("handshake")
}

async fn own_fan_out_async(input: &str, output: &str, subscribers: usize, messages: usize, child: &Child) -> f64 {
    let received: Arc<Vec<AtomicUsize>> = Arc::new((0..subscribers).map(|_| AtomicUsize::new(0)).collect());
    let mut receivers = Vec::new();
    for index in 0..subscribers {
        let mut connection = own_connection(output, SocketType::Sub).await;
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
    let mut publisher = own_connection(input, SocketType::Pub).await;
    // The subscription that comes last arrives when all have been taken.
    let mut batch = Batch::new();
    publisher.next_batch(&mut batch).await.expect("subscription");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let outbox = publisher.outbox().clone();
    let reading = tokio::spawn(async move { while publisher.next_batch(&mut Batch::new()).await.is_ok() {} });
    let message = Message::from_frames([TOPIC.as_bytes(), &[b'x'; PAYLOAD_BYTES]]);
    child.mark_start();
    let start = Instant::now();
    for sent in 0..messages {
        if sent % BURST == 0 {
            outbox.flush();
            while received.iter().map(|n| n.load(Ordering::Acquire)).min().unwrap_or(0) + LEAD < sent {
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
