//! Sockets of libzmq: one I/O thread for all, a thread for all subscribers, one for each server.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Clients, Ends, PATIENCE, Publisher, TOPIC, note};

/// Between two looks at whether it is over, where nothing arrives.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Libzmq {
    context: zmq::Context,
    over: Arc<AtomicBool>,
    threads: RefCell<Vec<JoinHandle<()>>>,
}

impl Libzmq {
    fn socket(&self, kind: zmq::SocketType, endpoint: &str) -> zmq::Socket {
        let socket = self.context.socket(kind).expect("socket");
        socket.set_sndhwm(1_000_000).expect("hwm");
        socket.set_rcvhwm(1_000_000).expect("hwm");
        socket.set_linger(0).expect("linger");
        if kind == zmq::SUB {
            socket.set_subscribe(TOPIC.as_bytes()).expect("subscribe");
        }
        socket.connect(endpoint).expect("connect");
        socket
    }

    fn spawn(&self, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let over = Arc::clone(&self.over);
        self.threads.borrow_mut().push(thread::spawn(move || work(&over)));
    }
}

impl Drop for Libzmq {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        for thread in self.threads.take() {
            let _ = thread.join();
        }
    }
}

impl Ends for Libzmq {
    fn publisher(&self, endpoint: &str) -> Box<dyn Publisher> {
        Box::new(self.socket(zmq::PUB, endpoint))
    }

    fn subscribe(&self, endpoint: &str, payload_bytes: usize, received: &Arc<[AtomicUsize]>) {
        let sockets: Vec<_> = received.iter().map(|_| self.socket(zmq::SUB, endpoint)).collect();
        let received = Arc::clone(received);
        self.spawn(move |over| receive_all(&sockets, &received, payload_bytes, over));
    }

    fn serve(&self, endpoint: &str, rep: bool) {
        let server = self.socket(if rep { zmq::REP } else { zmq::DEALER }, endpoint);
        self.spawn(move |over| echo(&server, over));
    }

    fn clients(&self, endpoint: &str, clients: usize) -> Box<dyn Clients> {
        let sockets = (0..clients).map(|_| self.socket(zmq::DEALER, endpoint)).collect();
        Box::new(Dealers { sockets, frame: zmq::Message::new() })
    }
}

impl Publisher for zmq::Socket {
    fn send(&mut self, body: &[u8]) {
        zmq::Socket::send(self, TOPIC, zmq::SNDMORE).expect("send");
        zmq::Socket::send(self, body, 0).expect("send");
    }

    fn flush(&mut self) {}
}

/// Sockets are drained in turn; only when none has anything are all of them waited for, because polling 50 sockets
/// costs more than receiving from one.
fn receive_all(sockets: &[zmq::Socket], received: &[AtomicUsize], payload_bytes: usize, over: &AtomicBool) {
    let mut items: Vec<_> = sockets.iter().map(|socket| socket.as_poll_item(zmq::POLLIN)).collect();
    let mut frame = zmq::Message::new();
    while !over.load(Ordering::Acquire) {
        let mut idle = true;
        for (socket, received) in sockets.iter().zip(received) {
            let (mut messages, mut others) = (0, false);
            while socket.recv(&mut frame, zmq::DONTWAIT).is_ok() {
                idle = false;
                if !frame.get_more() {
                    messages += usize::from(frame.len() == payload_bytes);
                    others |= frame.len() != payload_bytes;
                }
            }
            note(received, messages, others);
        }
        if idle {
            zmq::poll(&mut items, LOOK_EVERY.as_millis() as i64).expect("poll");
        }
    }
}

/// Frame by frame.
fn echo(server: &zmq::Socket, over: &AtomicBool) {
    server.set_rcvtimeo(LOOK_EVERY.as_millis() as i32).expect("timeout");
    let mut frame = zmq::Message::new();
    while !over.load(Ordering::Acquire) {
        while server.recv(&mut frame, 0).is_ok() {
            let flags = if frame.get_more() { zmq::SNDMORE } else { 0 };
            server.send(std::mem::replace(&mut frame, zmq::Message::new()), flags).expect("send");
        }
    }
}

struct Dealers {
    sockets: Vec<zmq::Socket>,
    frame: zmq::Message,
}

impl Clients for Dealers {
    fn send(&mut self, client: usize, number: u64, body: &[u8]) {
        let socket = &self.sockets[client];
        socket.send(&number.to_be_bytes()[..], zmq::SNDMORE).expect("send");
        socket.send("", zmq::SNDMORE).expect("send");
        socket.send(body, 0).expect("send");
    }

    fn receive(&mut self, payload_bytes: usize, replies: &mut [usize]) {
        let mut items: Vec<_> = self.sockets.iter().map(|socket| socket.as_poll_item(zmq::POLLIN)).collect();
        let ready = zmq::poll(&mut items, PATIENCE.as_millis() as i64).expect("poll");
        assert!(ready > 0, "nothing arrived for {PATIENCE:?}: messages were lost");
        for (socket, replies) in self.sockets.iter().zip(replies) {
            while socket.recv(&mut self.frame, zmq::DONTWAIT).is_ok() {
                if !self.frame.get_more() {
                    assert_eq!(self.frame.len(), payload_bytes, "an echo, and no refusal");
                    *replies += 1;
                }
            }
        }
    }
}
