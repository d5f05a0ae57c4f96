//! Two clients of one cluster, in one process: a channel, a private message, and a subscription that misses nothing.
//!
//! `cargo run -p dsv2-examples --example two_clients`

use dsv2_net::client::{Client, Cursor, Delivery};
use dsv2_net::cluster::Cluster;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::in_memory().await?;
    let broker = cluster.endpoints().clients.to_string();
    let ana = Client::builder(&broker).user("ana").connect().await?;
    let bob = Client::builder(&broker).user("bob").connect().await?;

    ana.channel("dev").create().await?;
    let mut news = bob.subscribe(["dev"]).and_inbox().from(Cursor::Beginning).await?;
    ana.channel("dev").publish("good morning").await?;
    // A write waits for what its client has seen: bob's login is known wherever ana asks once she has read of it.
    while !ana.users().await?.contains(&"bob".to_owned()) {}
    ana.message("bob", "psst").await?;

    let mut seen = Vec::new();
    while seen.len() < 2 {
        match news.next().await {
            Some(Delivery::Message(message)) => {
                println!("{} in {:?}: {}", message.author(), message.topic, message.text());
                seen.push(message.text().to_owned());
            }
            Some(other) => println!("({other:?})"),
            None => return Err("the subscription ended".into()),
        }
    }
    seen.sort();
    assert_eq!(seen, ["good morning", "psst"]);
    Ok(cluster.stop().await?)
}
