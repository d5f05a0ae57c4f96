//! A foreign broker, proxy and reference between our servers and clients.

use dsv2_net::server::{Server, ServerOptions};
use dsv2_net::{Client, Endpoint};
use serde_json::Value;

use crate::peer::Peer;
use crate::{CODECS, LANGUAGES, format, next_text, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_and_sdk_work_under_a_foreign_broker_proxy_and_reference() {
    for language in LANGUAGES {
        for serde in CODECS {
            under_foreign_middle(language, serde).await;
        }
    }
}

async fn under_foreign_middle(language: &str, serde: &str) {
    let any = "tcp://127.0.0.1:0";
    let start = |name: &str, flags: &[&str]| Peer::start(&format!("{name}.{language}"), serde, flags);
    let mut broker = start("broker", &["--frontend", any, "--backend", any]);
    let mut proxy = start("proxy", &["--publishers", any, "--subscribers", any]);
    let mut reference = start("reference", &["--bind", any]);
    let (broker_at, proxy_at, reference_at) = (broker.wait("ready"), proxy.wait("ready"), reference.wait("ready"));
    let endpoint = |value: &Value| value.as_str().and_then(|text| text.parse::<Endpoint>().ok()).expect("an endpoint");
    let mut servers = Vec::new();
    for name in ["nosso1", "nosso2"] {
        let mut options = ServerOptions::new(name.parse().expect("a name"));
        options.brokers = vec![endpoint(&broker_at["backend"])];
        options.publish = vec![endpoint(&proxy_at["publishers"])];
        options.subscribe = vec![endpoint(&proxy_at["subscribers"])];
        options.reference = endpoint(&reference_at["bind"]);
        options.link = Endpoint::loopback();
        options.format = format(serde);
        servers.push(Server::start(options).await.expect("starts"));
    }
    let client = Client::builder(text(&endpoint(&broker_at["frontend"])))
        .proxy(text(&endpoint(&proxy_at["subscribers"])))
        .user("ana")
        .serde(format(serde))
        .connect()
        .await
        .expect("connects through a foreign broker");
    let channel = client.channel("dev");
    channel.create().await.expect("creates");
    let mut subscription = client.subscribe(["dev"]).await.expect("subscribes");
    for n in 0..50 {
        channel.publish(n.to_string()).await.expect("publishes");
    }
    let mut received = Vec::new();
    while received.len() < 50 {
        received.push(next_text(&mut subscription).await);
    }
    received.sort_by_key(|text| text.parse::<u32>().unwrap_or(u32::MAX));
    assert_eq!(received, (0..50).map(|n| n.to_string()).collect::<Vec<_>>(), "each exactly once");
    for server in servers {
        server.stop().await.expect("stops");
    }
}
