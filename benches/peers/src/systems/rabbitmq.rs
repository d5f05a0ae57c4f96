//! RabbitMQ: a durable queue, persistent messages, publisher confirms.

use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::process::{Server, folder, free_ports};
use super::{Keeper, Publisher, Running, System};
use crate::Result;

const QUEUE: &str = "bench";
/// Of a message that is written to disk.
const PERSISTENT: u8 = 2;

pub(crate) struct RabbitMq {
    pub(crate) quorum: bool,
}

struct Instance {
    server: Server,
    url: String,
    quorum: bool,
}

#[async_trait]
impl System for RabbitMq {
    fn name(&self) -> &'static str {
        if self.quorum { "rabbitmq-quorum" } else { "rabbitmq-classic" }
    }

    fn durability(&self) -> &'static str {
        if self.quorum { "quorum queue of one node, confirms: synced" } else { "durable queue, confirms: synced" }
    }

    async fn keep(&self) -> Result<Box<dyn Keeper>> {
        let (dir, port) = (folder()?, free_ports(3)?);
        // The runtime would start one of its own, and leave it behind.
        let epmd_port = (port + 2).to_string();
        let epmd = Command::new("epmd").args(["-port", &epmd_port, "-address", "127.0.0.1"]).spawn()?;
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        command.env("HOME", dir.path()).env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", &epmd_port);
        command.env("RABBITMQ_NODENAME", format!("bench{port}@localhost"));
        command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", port.to_string());
        command.env("RABBITMQ_DIST_PORT", (port + 1).to_string());
        command.env("RABBITMQ_MNESIA_BASE", dir.path()).env("RABBITMQ_LOG_BASE", dir.path());
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.path().join("plugins"));
        let mut server = Server::start(command, dir)?.with_helper(epmd);
        server.listens(port).await?;
        let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        Ok(Box::new(Instance { server, url, quorum: self.quorum }))
    }
}

impl Instance {
    async fn connect(&self) -> Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

#[async_trait]
impl Running for Instance {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let (connection, channel) = self.connect().await?;
        let mut arguments = FieldTable::default();
        let kind = if self.quorum { "quorum" } else { "classic" };
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), options, arguments).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Arc::new(Confirmed { _connection: connection, channel }))
    }
}

#[async_trait]
impl Keeper for Instance {
    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn read(&self) -> Result<()> {
        let (_connection, channel) = self.connect().await?;
        // Not acknowledged, so it stays.
        match channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await? {
            Some(_) => Ok(()),
            None => Err("nothing is stored".into()),
        }
    }
}

struct Confirmed {
    _connection: Connection,
    channel: Channel,
}

#[async_trait]
impl Publisher for Confirmed {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish("".into(), QUEUE.into(), options, &payload, properties).await?;
        if sent.await?.is_ack() { Ok(()) } else { Err("the broker refused a message".into()) }
    }
}
