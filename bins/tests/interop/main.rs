//! Real foreign peers: Python (`pyzmq`) and Node (`zeromq`) as clients, bots, servers, broker, proxy and reference.
//!
//! `peers/setup.sh` installs what they need; without Python and Node these tests fail rather than pass unseen.
#![cfg(unix)]

mod clients;
mod middle;
mod peer;
mod servers;

use std::time::Duration;

use dsv2_core::Format;
use dsv2_net::Endpoint;
use dsv2_net::client::{Delivery, Subscription};

const PATIENCE: Duration = Duration::from_secs(60);
const CODECS: [&str; 2] = ["JSON", "MSGPACK"];
/// What the programs of a language end with.
const LANGUAGES: [&str; 2] = ["py", "mjs"];

fn text(endpoint: &Endpoint) -> String {
    endpoint.to_string()
}

/// What the family calls `SERDE`.
fn format(serde: &str) -> Format {
    if serde == "JSON" { Format::Json } else { Format::MsgPack }
}

/// The text of the next message of a subscription.
async fn next_text(subscription: &mut Subscription) -> String {
    loop {
        let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time").expect("goes on");
        if let Delivery::Message(message) = delivery {
            return message.text().to_owned();
        }
    }
}
