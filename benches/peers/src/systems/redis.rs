//! Redis: a stream with fsync always, and its publish/subscribe, which stores nothing.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::process::{Server, folder, free_ports};
use super::{Keeper, Publisher, Running, System};
use crate::Result;
use crate::loads::Arrivals;

pub(crate) struct Redis;

struct Instance {
    server: Server,
    client: redis::Client,
}

#[async_trait]
impl System for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn durability(&self) -> &'static str {
        "Streams, appendfsync always: synced, group commit; publish/subscribe: nothing is kept"
    }

    async fn keep(&self) -> Result<Box<dyn Keeper>> {
        let (dir, port) = (folder()?, free_ports(1)?);
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir.path());
        let mut server = Server::start(command, dir)?;
        server.listens(port).await?;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp2"))?;
        Ok(Box::new(Instance { server, client }))
    }
}

impl Instance {
    async fn connect(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

#[async_trait]
impl Running for Instance {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(Stream(self.connect().await?)))
    }

    async fn announcer(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(Announcer(self.connect().await?)))
    }

    async fn subscribe(&self, subscriber: usize, arrivals: Arc<Arrivals>) -> Result<()> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe("bench").await?;
        tokio::spawn(async move {
            let mut messages = subscription.on_message();
            while let Some(message) = messages.next().await {
                arrivals.take(subscriber, message.get_payload_bytes());
            }
        });
        Ok(())
    }
}

#[async_trait]
impl Keeper for Instance {
    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn read(&self) -> Result<()> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg("bench").arg("+").arg("-").arg("COUNT").arg(1);
        let found: redis::Value = command.query_async(&mut self.connect().await?).await?;
        if found == redis::Value::Array(Vec::new()) { Err("nothing is stored".into()) } else { Ok(()) }
    }
}

struct Stream(MultiplexedConnection);

#[async_trait]
impl Publisher for Stream {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        let mut command = redis::cmd("XADD");
        command.arg("bench").arg("*").arg("m").arg(&payload[..]);
        command.query_async::<()>(&mut self.0.clone()).await?;
        Ok(())
    }
}

struct Announcer(MultiplexedConnection);

#[async_trait]
impl Publisher for Announcer {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        let mut command = redis::cmd("PUBLISH");
        command.arg("bench").arg(&payload[..]);
        command.query_async::<()>(&mut self.0.clone()).await?;
        Ok(())
    }
}
