//! A running broker, and the parties that its tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its part; a panic is how tests fail

use std::sync::Arc;

use dsv2_net::Endpoint;
use dsv2_net::engine::{Broker, BrokerConfig, BrokerHandle, DrainReport, Refusal, Refuser};
use dsv2_net::zmtp::SocketType;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::forwarder_support::Peer;
use crate::zmtp_support::{Raw, eventually, within};

/// Says everything that it knows.
#[derive(Debug)]
struct Telling;

impl Refuser for Telling {
    fn refuse(&self, request_body: &[u8], why: Refusal) -> Vec<u8> {
        format!("{why:?} {:?}: {}", why.outcome(), String::from_utf8_lossy(request_body)).into()
    }
}

pub struct Running {
    pub clients: Endpoint,
    pub servers: Endpoint,
    pub handle: BrokerHandle,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<DrainReport>,
}

impl Running {
    pub async fn start(config: BrokerConfig) -> Self {
        let broker = Broker::bind(config, Arc::new(Telling)).await.unwrap();
        let clients = broker.client_endpoints().next().unwrap().clone();
        let servers = broker.server_endpoints().next().unwrap().clone();
        let handle = broker.handle();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(broker.run(stopped));
        Self { clients, servers, handle, stop: Some(stop), task }
    }
}

pub fn tcp() -> BrokerConfig {
    BrokerConfig { clients: vec![Endpoint::loopback()], servers: vec![Endpoint::loopback()], ..BrokerConfig::default() }
}

/// A DEALER server of ours that takes requests.
pub async fn ready_server(broker: &Running) -> Peer {
    let before = broker.handle.stats().load.available_servers;
    let server = Peer::connect(&broker.servers, SocketType::Dealer).await;
    server.send(&["_dsv2", "ready"]);
    eventually("ready", || broker.handle.stats().load.available_servers == before + 1).await;
    server
}

/// Reads `[id, "", body]` and returns the id.
pub async fn read_request(server: &mut Raw, body: &str) -> [u8; 8] {
    let mut wire = vec![0; 10 + 2 + 2 + body.len()];
    within("request", server.0.read_exact(&mut wire)).await.unwrap();
    assert_eq!(wire[..2], [1, 8], "the routing frame");
    assert_eq!(wire[10..14], [1, 0, 0, body.len() as u8]);
    assert_eq!(&wire[14..], body.as_bytes());
    wire[2..10].try_into().unwrap()
}
