//! A server over an event store of your own: here one that counts what passes through it.
//!
//! Whoever writes a store runs `dsv2_store::testing::conformance` over it, as the two stores of this project do.
//!
//! `cargo run -p dsv2-examples --example own_store`

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dsv2_core::{Clock, Event, EventId, Feed, Floors, Origin, Position, Retention, Timestamp};
use dsv2_net::client::Client;
use dsv2_net::engine::{Broker, BrokerConfig, Proxy, ProxyConfig};
use dsv2_net::server::{Server, ServerOptions};
use dsv2_net::{Endpoint, EnvelopeRefuser};
use dsv2_store::{EventStore, FeedCursor, Limit, MemoryStore, Meta, Page, StoreError, StoreStats, Stretch};

/// Counts appended events, and leaves the rest to a memory store.
struct Counting {
    inner: MemoryStore,
    appended: Arc<AtomicU64>,
}

impl EventStore for Counting {
    fn append(&mut self, events: &[Event]) -> Result<(), StoreError> {
        self.inner.append(events)?;
        self.appended.fetch_add(events.len() as u64, Ordering::Relaxed);
        Ok(())
    }
    fn sync(&mut self) -> Result<(), StoreError> {
        self.inner.sync()
    }
    fn vector(&self) -> &Position {
        self.inner.vector()
    }
    fn range(&self, origin: &Origin, from_seq: u64, limit: Limit) -> Result<Stretch, StoreError> {
        self.inner.range(origin, from_seq, limit)
    }
    fn read(&self, feed: &Feed, cursor: FeedCursor, limit: Limit) -> Result<Page, StoreError> {
        self.inner.read(feed, cursor, limit)
    }
    fn replay_after(&self, after: &Position, visit: &mut dyn FnMut(Event)) -> Result<(), StoreError> {
        self.inner.replay_after(after, visit)
    }
    fn skip(&mut self, origin: &Origin, upto: u64) {
        self.inner.skip(origin, upto);
    }
    fn floors(&self) -> Floors {
        self.inner.floors()
    }
    fn position_at(&self, clock: Clock) -> Position {
        self.inner.position_at(clock)
    }
    fn floors_for(&self, retention: &Retention, now: Timestamp) -> Floors {
        self.inner.floors_for(retention, now)
    }
    fn retire(&mut self, floors: Floors, hidden: &BTreeSet<EventId>) -> Result<(), StoreError> {
        self.inner.retire(floors, hidden)
    }
    fn meta(&self) -> &Meta {
        self.inner.meta()
    }
    fn save_meta(&mut self, meta: &Meta) -> Result<(), StoreError> {
        self.inner.save_meta(meta)
    }
    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let at = |part: &str| Endpoint::memory(format!("own-store/{part}"));
    let broker = BrokerConfig { clients: vec![at("clients")], servers: vec![at("servers")], ..BrokerConfig::default() };
    let proxy = ProxyConfig {
        publishers: vec![at("publishers")],
        subscribers: vec![at("subscribers")],
        ..ProxyConfig::default()
    };
    let broker = Broker::bind(broker, Arc::new(EnvelopeRefuser::default())).await?;
    let proxy = Proxy::bind(proxy).await?;
    tokio::spawn(broker.run(std::future::pending::<()>()));
    tokio::spawn(proxy.run(std::future::pending::<()>()));

    let appended = Arc::new(AtomicU64::new(0));
    let store = Counting { inner: MemoryStore::new(Meta::new(1)), appended: appended.clone() };
    let mut options = ServerOptions::new("server1".parse()?);
    options.brokers = vec![at("servers")];
    options.publish = vec![at("publishers")];
    options.subscribe = vec![at("subscribers")];
    options.reference = at("reference");
    options.link = at("link");
    let server = Server::start_with(options, Box::new(store)).await?;

    let client =
        Client::builder(at("clients").to_string()).proxy(at("subscribers").to_string()).user("ana").connect().await?;
    client.channel("dev").create().await?;
    client.channel("dev").publish("counted").await?;
    println!("{} events passed through the store", appended.load(Ordering::Relaxed));
    assert_eq!(appended.load(Ordering::Relaxed), 3, "a login, a channel, a message");
    Ok(server.stop().await?)
}
