//! Mosquitto: QoS 1 for publications that are acknowledged, QoS 0 for fan-out.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::sync::{Mutex as Turn, oneshot};

use super::process::{Server, folder, free_ports};
use super::{Publisher, Running, System};
use crate::Result;
use crate::loads::Arrivals;

const TOPIC: &str = "bench";
/// Requests that may wait for the connection's task.
const QUEUE: usize = 4_096;
/// Publications that may be unacknowledged.
const IN_FLIGHT: u16 = 4_096;

pub(crate) struct Mosquitto;

struct Instance {
    server: Server,
    port: u16,
}

#[async_trait]
impl System for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn durability(&self) -> &'static str {
        "QoS 1: taken, and dropped where nobody subscribed; QoS 0: nothing is acknowledged"
    }

    async fn start(&self) -> Result<Box<dyn Running>> {
        let (dir, port) = (folder()?, free_ports(1)?);
        let config = dir.path().join("conf");
        let place = dir.path().display();
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {place}/\nmax_inflight_messages 0\nmax_queued_messages 0\n"
        );
        fs::write(&config, text)?;
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&config);
        let mut server = Server::start(command, dir)?;
        server.listens(port).await?;
        Ok(Box::new(Instance { server, port }))
    }
}

impl Instance {
    fn connect(&self, name: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(name, "127.0.0.1", self.port);
        options.set_keep_alive(Duration::from_secs(60)).set_inflight(IN_FLIGHT);
        AsyncClient::new(options, QUEUE)
    }

    fn publishing(&self, name: &str, qos: QoS) -> Arc<dyn Publisher> {
        let (client, events) = self.connect(name);
        let waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>> = Arc::default();
        tokio::spawn(acknowledge(events, Arc::clone(&waiting)));
        Arc::new(Mqtt { client, qos, waiting, turn: Turn::new(()) })
    }
}

#[async_trait]
impl Running for Instance {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(self.publishing(&format!("publisher-{number}"), QoS::AtLeastOnce))
    }

    async fn announcer(&self) -> Result<Arc<dyn Publisher>> {
        Ok(self.publishing("announcer", QoS::AtMostOnce))
    }

    async fn subscribe(&self, subscriber: usize, arrivals: Arc<Arrivals>) -> Result<()> {
        let (client, mut events) = self.connect(&format!("subscriber-{subscriber}"));
        client.subscribe(TOPIC, QoS::AtMostOnce).await?;
        tokio::spawn(async move {
            let _open = client;
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(Packet::Publish(publish)) = event {
                    arrivals.take(subscriber, &publish.payload);
                }
            }
        });
        Ok(())
    }
}

/// Runs a connection: who published first is the first to be given a packet id, and waits for that to be acknowledged.
async fn acknowledge(mut events: EventLoop, waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>) {
    let mut under_way: HashMap<u16, oneshot::Sender<()>> = HashMap::new();
    while let Ok(event) = events.poll().await {
        match event {
            Event::Outgoing(Outgoing::Publish(id)) if id != 0 => {
                if let Some(waiter) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                    under_way.insert(id, waiter);
                }
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                if let Some(waiter) = under_way.remove(&ack.pkid) {
                    let _ = waiter.send(());
                }
            }
            _ => {}
        }
    }
}

struct Mqtt {
    client: AsyncClient,
    qos: QoS,
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
    /// Keeps the queue of waiters in the order of the publications.
    turn: Turn<()>,
}

#[async_trait]
impl Publisher for Mqtt {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        if self.qos == QoS::AtMostOnce {
            return Ok(self.client.publish(TOPIC, self.qos, false, payload).await?);
        }
        let (done, acknowledged) = oneshot::channel();
        {
            let _turn = self.turn.lock().await;
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(done);
            self.client.publish(TOPIC, self.qos, false, payload).await?;
        }
        Ok(acknowledged.await?)
    }
}
