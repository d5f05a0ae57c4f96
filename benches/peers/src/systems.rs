//! The systems that are measured: how each is started, and how its usual Rust client publishes, subscribes and asks.

mod dsv2;
mod mosquitto;
mod nats;
mod postgres;
mod process;
mod proxy;
mod rabbitmq;
mod redis;
mod seed;

use std::sync::Arc;

use process::Server;

pub(crate) use dsv2::{CHANNEL, Cluster, build};

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;
use crate::loads::Arrivals;

/// A system, not running.
#[async_trait]
pub(crate) trait System: Sync {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// What its acknowledgement of a publication means.
    fn durability(&self) -> &'static str;

    /// Starts it with nothing stored.
    async fn start(&self) -> Result<Box<dyn Running>> {
        Ok(self.keep().await?)
    }

    /// The same, of a system that can be started again with what it was given.
    async fn keep(&self) -> Result<Box<dyn Keeper>> {
        Err("this system keeps nothing".into())
    }
}

/// A system that runs; it ends on drop.
#[async_trait]
pub(crate) trait Running: Send + Sync {
    /// Processor seconds of its processes so far.
    fn cpu_seconds(&self) -> f64;

    /// A new connection for publications that are acknowledged.
    async fn publisher(&self) -> Result<Arc<dyn Publisher>>;

    /// A new connection for publications that subscribers receive. The same, unless the system has two ways.
    async fn announcer(&self) -> Result<Arc<dyn Publisher>> {
        self.publisher().await
    }

    /// A new connection that hands over what it receives.
    async fn subscribe(&self, _subscriber: usize, _arrivals: Arc<Arrivals>) -> Result<()> {
        Err("this system does not fan out".into())
    }

    /// A new connection for requests, and somebody who answers them.
    async fn requester(&self) -> Result<Arc<dyn Requester>> {
        Err("this system answers no requests".into())
    }
}

/// A system that runs, and that finds what it was given when it is started again.
#[async_trait]
pub(crate) trait Keeper: Running {
    /// What is ended, and started again.
    fn server(&mut self) -> &mut Server;

    /// Reads one message that was stored, on a new connection. An error while it is not there.
    async fn read(&self) -> Result<()>;

    /// Over how many connections it is filled, with how many publications in flight on each.
    fn fill_by(&self) -> (usize, usize) {
        (1, 1_000)
    }

    /// Of what the log takes on disk, where its parts are told apart.
    fn segments(&self) -> Result<Option<Segments>> {
        Ok(None)
    }
}

/// The parts of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    pub(crate) open_bytes: u64,
    pub(crate) open_messages: u64,
    pub(crate) sealed_bytes: u64,
}

/// Publishes on one connection.
#[async_trait]
pub(crate) trait Publisher: Send + Sync {
    /// Ends when the publication is acknowledged, in the sense of [`System::durability`].
    async fn publish(&self, payload: Bytes) -> Result<()>;
}

/// Asks on one connection.
#[async_trait]
pub(crate) trait Requester: Send + Sync {
    /// Ends when the answer has come.
    async fn request(&self) -> Result<()>;
}

/// All of them, ours first.
pub(crate) const ALL: [&dyn System; 11] = [
    &dsv2::Dsv2 { servers: 1 },
    &dsv2::Dsv2 { servers: 3 },
    &proxy::Proxy,
    &redis::Redis,
    &nats::JetStream,
    &nats::Nats,
    &rabbitmq::RabbitMq { quorum: true },
    &rabbitmq::RabbitMq { quorum: false },
    &mosquitto::Mosquitto,
    &postgres::Postgres,
    &seed::Seed,
];
