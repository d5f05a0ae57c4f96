//! Random histories against a bookkeeper that knows only the promises.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    ClientJoins,
    ClientLeaves(usize),
    Ask {
        client: usize,
        bytes: usize,
    },
    Hold {
        client: usize,
        hold: bool,
    },
    ServerJoins {
        lock_step: bool,
        ready: bool,
    },
    ServerLeaves(usize),
    Ready {
        server: usize,
        ready: bool,
    },
    /// The n-th of all that servers have or had: answers also repeat and come late.
    Reply(usize),
    ReplyStale(usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::ClientJoins),
        1 => any::<usize>().prop_map(Op::ClientLeaves),
        20 => (any::<usize>(), 1..150usize).prop_map(|(client, bytes)| Op::Ask { client, bytes }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(client, hold)| Op::Hold { client, hold }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(lock_step, ready)| Op::ServerJoins { lock_step, ready }),
        1 => any::<usize>().prop_map(Op::ServerLeaves),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(server, ready)| Op::Ready { server, ready }),
        12 => any::<usize>().prop_map(Op::Reply),
        1 => any::<usize>().prop_map(Op::ReplyStale),
        4 => (1..120u64).prop_map(Op::Wait),
    ]
}

/// What became of one accepted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Handed(ServerId),
    Answered,
}

struct ServerSeen {
    lock_step: bool,
    ready: bool,
    /// Unanswered by this server itself: request → (number, bytes, whether the broker still waits).
    has: BTreeMap<RequestId, (u64, usize, bool)>,
}

#[derive(Default)]
struct Books {
    next: u64,
    clients: Vec<ClientId>,
    parked: BTreeSet<ClientId>,
    on_hold: BTreeSet<ClientId>,
    servers: BTreeMap<ServerId, ServerSeen>,
    stale: Vec<(ServerId, RequestId)>,
    owner: BTreeMap<u64, ClientId>,
    fate: BTreeMap<u64, Fate>,
    /// Numbers accepted and not yet handed over or refused, in order.
    queue: BTreeMap<ClientId, VecDeque<u64>>,
}

/// The number of the request, padded to the wanted size.
fn encode(number: u64, bytes: usize) -> Message {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(8 + bytes, 0);
    Message::single(&body)
}

fn decode(message: &Message) -> u64 {
    u64::from_be_bytes(message.first()[..8].try_into().unwrap())
}

impl Books {
    fn present(&self, number: u64) -> bool {
        self.clients.contains(&self.owner[&number])
    }

    fn absorb(&mut self, out: &mut Vec<Effect>, limits: &DispatchConfig) {
        for effect in out.drain(..) {
            match effect {
                Effect::Forward { server, request, message } => self.forwarded(server, request, &message, limits),
                Effect::Refuse { client, message, why } => self.refused(client, decode(&message), why),
                Effect::Resume { client } => {
                    assert!(self.parked.remove(&client), "resumed without being parked");
                }
            }
        }
    }

    fn forwarded(&mut self, id: ServerId, request: RequestId, message: &Message, limits: &DispatchConfig) {
        let number = decode(message);
        let owner = self.owner[&number];
        assert_eq!(self.fate[&number], Fate::Waiting);
        assert!(!self.on_hold.contains(&owner), "handed over for a client on hold");
        let next = self.queue.get_mut(&owner).and_then(VecDeque::pop_front);
        assert_eq!(next, Some(number), "order of a client was broken");
        let elsewhere = self
            .fate
            .iter()
            .any(|(other, fate)| self.owner[other] == owner && matches!(fate, Fate::Handed(at) if *at != id));
        assert!(!elsewhere, "handed to a second server while the first has some");
        self.fate.insert(number, Fate::Handed(id));
        let server = self.servers.get_mut(&id).expect("forwarded to a server that left");
        assert!(server.ready, "forwarded to a server that is not ready");
        server.has.insert(request, (number, message.wire().len(), true));
        if server.lock_step {
            assert!(server.has.len() <= limits.lock_step_window, "too many requests at a lock-step server");
            return;
        }
        let open = server.has.values().filter(|(_, _, awaited)| *awaited);
        let used: Vec<usize> = open.map(|(_, bytes, _)| *bytes).collect();
        let window = limits.server_window;
        assert!(used.len() <= window.messages, "window exceeded");
        assert!(used.len() == 1 || used.iter().sum::<usize>() <= window.bytes);
    }

    fn refused(&mut self, client: ClientId, number: u64, why: Refusal) {
        assert_eq!(self.owner[&number], client);
        assert!(self.clients.contains(&client), "answered to nobody");
        match self.fate[&number] {
            Fate::Waiting => {
                assert_eq!(why.outcome(), Outcome::Rejected);
                let next = self.queue.get_mut(&client).and_then(VecDeque::pop_front);
                assert_eq!(next, Some(number), "refused out of order");
            }
            Fate::Handed(id) => {
                assert_eq!(why.outcome(), Outcome::Unknown, "it may have been executed");
                if let Some(server) = self.servers.get_mut(&id) {
                    for entry in server.has.values_mut().filter(|entry| entry.0 == number) {
                        entry.2 = false;
                    }
                }
            }
            Fate::Answered => panic!("answered twice"),
        }
        self.fate.insert(number, Fate::Answered);
    }

    /// Requests of departed clients time out in silence.
    fn forget_departed(&mut self, dispatch: &Dispatch) {
        for server in self.servers.values_mut() {
            for (request, entry) in &mut server.has {
                let place = dispatch.requests.get(request.0).map(|request| request.place);
                entry.2 = matches!(place, Some(Place::Handed(_)));
            }
        }
    }
}

fn pick<T: Copy>(all: &[T], n: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[n % all.len()])
}

struct World {
    dispatch: Dispatch,
    books: Books,
    out: Vec<Effect>,
    now_ms: u64,
    limits: DispatchConfig,
}

impl World {
    fn new(limits: DispatchConfig) -> Self {
        Self { dispatch: Dispatch::new(limits.clone(), 0), books: Books::default(), out: Vec::new(), now_ms: 0, limits }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::ClientJoins => self.books.clients.push(self.dispatch.client_joined()),
            Op::ClientLeaves(n) => self.client_leaves(n),
            Op::Ask { client, bytes } => self.ask(client, bytes),
            Op::Hold { client, hold } => self.hold(client, hold),
            Op::ServerJoins { lock_step, ready } => self.server_joins(lock_step, ready),
            Op::ServerLeaves(n) => {
                let ids: Vec<_> = self.books.servers.keys().copied().collect();
                if let Some(id) = pick(&ids, n) {
                    self.dispatch.server_left(self.now_ms, id, &mut self.out);
                    if let Some(server) = self.books.servers.remove(&id) {
                        let stale = server.has.into_keys().map(|request| (id, request));
                        self.books.stale.extend(stale);
                    }
                }
            }
            Op::Ready { server, ready } => {
                let ids: Vec<_> = self.books.servers.keys().copied().collect();
                if let Some(id) = pick(&ids, server) {
                    if let Some(seen) = self.books.servers.get_mut(&id) {
                        seen.ready = ready;
                    }
                    self.dispatch.server_ready(self.now_ms, id, ready, &mut self.out);
                }
            }
            Op::Reply(n) => self.reply(n),
            Op::ReplyStale(n) => {
                if let Some((server, request)) = pick(&self.books.stale, n) {
                    let got = self.dispatch.reply(self.now_ms, server, request, &mut self.out);
                    assert_eq!(got, Err(Stray::NotOutstanding));
                }
            }
            Op::Wait(ms) => {
                self.now_ms += ms;
                self.dispatch.tick(self.now_ms, &mut self.out);
                let due = self.dispatch.deadline();
                assert!(due.is_none_or(|due| due > self.now_ms), "due: {due:?}");
            }
        }
        self.books.forget_departed(&self.dispatch);
        self.books.absorb(&mut self.out, &self.limits);
        self.check_bounds();
    }

    fn client_leaves(&mut self, n: usize) {
        let Some(id) = pick(&self.books.clients, n) else {
            return;
        };
        self.books.clients.retain(|other| *other != id);
        self.books.parked.remove(&id);
        self.books.queue.remove(&id);
        self.dispatch.client_left(id, &mut self.out);
    }

    fn hold(&mut self, n: usize, hold: bool) {
        let Some(id) = pick(&self.books.clients, n) else {
            return;
        };
        if hold {
            self.books.on_hold.insert(id);
            self.dispatch.hold(id);
        } else {
            self.books.on_hold.remove(&id);
            self.dispatch.release(self.now_ms, id, &mut self.out);
        }
    }

    fn server_joins(&mut self, lock_step: bool, ready: bool) {
        let pace = if lock_step { Pace::LockStep } else { Pace::Window };
        let id = self.dispatch.server_joined(self.now_ms, pace, ready, &mut self.out);
        self.books.servers.insert(id, ServerSeen { lock_step, ready, has: BTreeMap::new() });
    }

    fn ask(&mut self, n: usize, bytes: usize) {
        let readable = self.books.clients.clone();
        let Some(id) = pick(&readable, n) else {
            return;
        };
        if self.books.parked.contains(&id) {
            return;
        }
        let number = self.books.next;
        self.books.next += 1;
        self.books.owner.insert(number, id);
        let message = encode(number, bytes);
        let taken = self.dispatch.request(self.now_ms, id, message.clone(), &mut self.out);
        match taken {
            Ok(()) => {
                self.books.fate.insert(number, Fate::Waiting);
                self.books.queue.entry(id).or_default().push_back(number);
            }
            Err(back) => {
                assert_eq!(back, message);
                self.books.parked.insert(id);
            }
        }
    }

    fn reply(&mut self, n: usize) {
        let open: Vec<_> = self
            .books
            .servers
            .iter()
            .flat_map(|(id, server)| server.has.keys().map(|request| (*id, *request)))
            .collect();
        let Some((id, request)) = pick(&open, n) else {
            return;
        };
        let got = self.dispatch.reply(self.now_ms, id, request, &mut self.out);
        let server = self.books.servers.get_mut(&id).expect("picked above");
        let (number, _, awaited) = server.has.remove(&request).expect("picked above");
        let owner = self.books.owner[&number];
        let expected = match (awaited, self.books.present(number)) {
            (true, true) => Ok(owner),
            (true, false) => Err(Stray::ClientGone),
            (false, _) => Err(Stray::NotOutstanding),
        };
        assert_eq!(got, expected);
        if awaited {
            self.books.fate.insert(number, Fate::Answered);
        }
        self.books.stale.push((id, request));
    }

    fn check_bounds(&self) {
        let load = self.dispatch.load();
        let queued: usize = self.books.queue.values().map(VecDeque::len).sum();
        assert_eq!(load.waiting.messages, queued);
        assert!(load.waiting.messages <= self.limits.total_waiting.messages);
        assert!(load.waiting.bytes <= self.limits.total_waiting.bytes || load.waiting.messages == 1);
        for queue in self.books.queue.values() {
            assert!(queue.len() <= self.limits.client_waiting.messages);
        }
        let overdue = self.books.servers.len() * self.limits.lock_step_window;
        assert!(self.dispatch.requests.len() <= load.waiting.messages + load.handed + overdue);
        if self.dispatch.is_idle() {
            assert!(self.books.parked.is_empty(), "parked with nothing to wait for");
        }
    }

    /// Time alone must settle everything: nobody is forgotten in a line.
    fn settle(&mut self) {
        for _ in 0..64 {
            self.apply(&Op::Wait(self.limits.answer_deadline_ms));
            if self.dispatch.is_idle() {
                break;
            }
        }
        assert!(self.dispatch.is_idle());
        assert!(self.books.parked.is_empty());
        for (number, fate) in &self.books.fate {
            if self.books.present(*number) {
                assert_eq!(*fate, Fate::Answered, "request {number} was lost");
            }
        }
        assert!(self.dispatch.orphans.is_empty() && self.dispatch.parked.is_empty());
        for (_, server) in self.dispatch.servers.iter() {
            assert!(server.line.is_empty());
        }
    }

    /// An able server joins and answers at once whatever comes: everything must flow to it.
    fn flow(&mut self) {
        for n in 0..self.books.clients.len() {
            self.apply(&Op::Hold { client: n, hold: false });
        }
        for id in self.books.servers.keys().copied().collect::<Vec<_>>() {
            self.apply(&Op::Ready { server: 0, ready: true });
            self.dispatch.server_left(self.now_ms, id, &mut self.out);
            self.books.servers.remove(&id);
            self.books.absorb(&mut self.out, &self.limits);
        }
        self.apply(&Op::ServerJoins { lock_step: true, ready: true });
        while self.books.servers.values().any(|server| !server.has.is_empty()) {
            self.apply(&Op::Reply(0));
        }
        assert!(self.dispatch.is_idle(), "stuck beside a free server");
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once_in_order_and_within_bounds(
        ops in prop::collection::vec(op(), 1..250),
        flows in any::<bool>(),
        lock_step_window in 1..4_usize,
    ) {
        let mut world = World::new(DispatchConfig { lock_step_window, ..config() });
        for op in &ops {
            world.apply(op);
        }
        if flows {
            world.flow();
        }
        world.settle();
    }
}
