//! The smallest program: log in, make a channel, publish, and read it back.
//!
//! `cargo run -p dsv2-examples --example hello -- tcp://127.0.0.1:5555` (with a cluster: `dsv2 up`)

use dsv2_net::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:5555".to_owned());
    let client = Client::builder(broker).user("ana").connect().await?;
    let dev = client.channel("dev");
    dev.create().await?;
    dev.publish("hello").await?;
    for message in dev.history().await?.messages {
        println!("{}: {}", message.body.author(), message.body.text());
    }
    Ok(())
}
