//! A whole cluster inside your own program, on disk; one of its servers is killed, and nothing acknowledged is lost.
//!
//! `cargo run -p dsv2-examples --example embedded_cluster`

use dsv2_net::client::Client;
use dsv2_net::cluster::{Cluster, ClusterOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = tempfile::tempdir()?;
    let mut options = ClusterOptions::local(3, 0);
    options.data = Some(data.path().to_owned());
    let mut cluster = Cluster::start(options).await?;
    let client = Client::builder(cluster.endpoints().clients.to_string())
        .proxy(cluster.endpoints().subscribers.to_string())
        .user("ana")
        .connect()
        .await?;
    let dev = client.channel("dev");
    dev.create().await?;
    for n in 0..10 {
        if n == 5 {
            cluster.kill_server(0);
        }
        let receipt = dev.publish(format!("message {n}")).await?;
        println!("{n}: {receipt:?}");
    }
    let history = dev.history().await?.messages;
    let texts: Vec<&str> = history.iter().map(|message| message.body.text()).collect();
    let wanted: Vec<String> = (0..10).map(|n| format!("message {n}")).collect();
    assert_eq!(texts, wanted);
    Ok(cluster.stop().await?)
}
