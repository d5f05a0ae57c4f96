//! Persist, publish, acknowledge: through the real driver and real sockets, nothing that a write reveals leaves before the
//! disk has it.

mod server_support;

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dsv2_core::{
    Clock, Event, EventId, Feed, Floors, Format, Origin, Position, RequestBody, Retention, Service, Timestamp,
};
use dsv2_net::Endpoint;
use dsv2_net::engine::{Proxy, ProxyConfig};
use dsv2_net::port::{self, Port, PortEvent, PortLimits, SocketKind, Transport};
use dsv2_net::server::Server;
use dsv2_store::{EventStore, FeedCursor, Limit, MemoryStore, Meta, Page, StoreError, StoreStats, Stretch};
use server_support::{Front, PATIENCE, options, reference};
use tokio::time::timeout;

/// A gate before every sync.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and how many syncs stand before it.
    state: Mutex<(bool, u32)>,
    changed: Condvar,
}

impl Gate {
    fn shut(&self, shut: bool) {
        self.state.lock().expect("whole").0 = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().expect("whole");
        state.1 += 1;
        self.changed.notify_all();
        while state.0 {
            state = self.changed.wait(state).expect("whole");
        }
        state.1 -= 1;
    }

    /// Waits until a sync stands before it.
    fn until_reached(&self) {
        let state = self.state.lock().expect("whole");
        let (_state, waited) =
            self.changed.wait_timeout_while(state, PATIENCE, |(_, waiting)| *waiting == 0).expect("whole");
        assert!(!waited.timed_out(), "the server never syncs");
    }
}

/// A store in memory, whose syncs pass a gate.
struct Gated(MemoryStore, Arc<Gate>);

impl EventStore for Gated {
    fn append(&mut self, events: &[Event]) -> Result<(), StoreError> {
        self.0.append(events)
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        self.1.pass();
        self.0.sync()
    }
    fn vector(&self) -> &Position {
        self.0.vector()
    }
    fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> Result<Stretch, StoreError> {
        self.0.range(origin, from_seq, limit)
    }
    fn read(&self, feed: &Feed, cursor: FeedCursor, limit: Limit) -> Result<Page, StoreError> {
        self.0.read(feed, cursor, limit)
    }
    fn replay_after(&self, after: &Position, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError> {
        self.0.replay_after(after, visit)
    }
    fn skip(&mut self, origin: &Origin, upto: u64) {
        self.0.skip(origin, upto);
    }
    fn floors(&self) -> Floors {
        self.0.floors()
    }
    fn position_at(&self, clock: Clock) -> Position {
        self.0.position_at(clock)
    }
    fn floors_for(&self, retention: &Retention, now: Timestamp) -> Floors {
        self.0.floors_for(retention, now)
    }
    fn retire(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) -> Result<(), StoreError> {
        self.0.retire(floors, hidden)
    }
    fn meta(&self) -> &Meta {
        self.0.meta()
    }
    fn save_meta(&mut self, meta: &Meta) -> Result<(), StoreError> {
        self.0.save_meta(meta)
    }
    fn stats(&self) -> StoreStats {
        self.0.stats()
    }
}

/// Waits for the next publication.
async fn publication(subscriber: &mut Box<dyn Port>) -> Vec<u8> {
    let mut events = Vec::new();
    loop {
        timeout(PATIENCE, subscriber.recv(&mut events)).await.expect("in time").expect("goes on");
        for event in events.drain(..) {
            if let PortEvent::Message(message) = event {
                return message.last().to_vec();
            }
        }
    }
}

fn about_late(publication: &[u8]) -> bool {
    String::from_utf8_lossy(publication).contains("late")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_before_its_sync() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut front, reference) = (Front::bind().await, reference(data.path()).await);
    let config = ProxyConfig {
        publishers: vec![Endpoint::loopback()],
        subscribers: vec![Endpoint::loopback()],
        ..ProxyConfig::default()
    };
    let proxy = Proxy::bind(config).await.expect("free ports");
    let mut options = options("s1", &front, &reference, data.path());
    options.publish = vec![proxy.publisher_endpoints().next().expect("one").clone()];
    let at = proxy.subscriber_endpoints().next().expect("one").clone();
    let proxy = tokio::spawn(proxy.run(std::future::pending::<()>()));
    let mut subscriber = port::connect(Transport::Native, SocketKind::Sub, at, PortLimits::default()).expect("a port");
    subscriber.subscribe(b"replication");
    let gate = Arc::new(Gate::default());
    let store = Gated(MemoryStore::new(Meta::new(7)), Arc::clone(&gate));
    let server = Server::start_with(options, Box::new(store)).await.expect("starts");
    front.until_ready().await;
    // Until the subscription has reached the server, publications go nowhere.
    let mut user = 0;
    let first = loop {
        user += 1;
        front.ask(Format::Json, RequestBody::Login { user: format!("u{user}").parse().expect("a name") }).await;
        if let Ok(text) = timeout(Duration::from_millis(200), publication(&mut subscriber)).await {
            break text;
        }
    };
    assert!(String::from_utf8_lossy(&first).contains("user_login"));

    gate.shut(true);
    let asked = front.send(Format::Json, RequestBody::Login { user: "late".parse().expect("a name") });
    let waiting = Arc::clone(&gate);
    tokio::task::spawn_blocking(move || waiting.until_reached()).await.expect("a sync begins");
    // It stands before the disk. Neither the reply nor the publication may come.
    let published = async { while !about_late(&publication(&mut subscriber).await) {} };
    let early = tokio::select! {
        _reply = front.answer(asked, Service::Login) => Some("the reply"),
        () = published => Some("the publication"),
        () = tokio::time::sleep(Duration::from_millis(500)) => None,
    };
    assert_eq!(early, None, "left before the disk had it");
    gate.shut(false);
    front.answer(asked, Service::Login).await;
    while !about_late(&publication(&mut subscriber).await) {}
    server.stop().await.expect("stops");
    proxy.abort();
}
