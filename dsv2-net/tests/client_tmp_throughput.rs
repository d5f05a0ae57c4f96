#![cfg(all(feature = "client", feature = "cluster"))]
use std::time::{Duration, Instant};
use dsv2_net::client::{Client, Delivery};
use dsv2_net::cluster::{Cluster, ClusterOptions};
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn throughput() {
    for (what, options) in [("memory", ClusterOptions::memory(1)), ("tcp", ClusterOptions::local(1, 0))] {
        let cluster = Cluster::start(options).await.unwrap();
        let e = cluster.endpoints();
        let build = || Client::builder(e.clients.to_string()).proxy(e.subscribers.to_string());
        let ana = build().user("ana").connect().await.unwrap();
        let dev = ana.channel("dev");
        dev.create().await.unwrap();
        let n = 200_000u64;
        let mut p = dev.publisher().unwrap();
        let t = Instant::now();
        for _ in 0..n { p.send("x".repeat(100)).await.unwrap(); }
        p.flush().await.unwrap();
        println!("{what}: publish only {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
        let bob = build().connect().await.unwrap();
        let mut news = bob.subscribe(["dev"]).await.unwrap();
        let reader = tokio::spawn(async move {
            let (mut got, mut recovered) = (0, 0);
            while got < n { match news.next().await { Some(Delivery::Message(_)) => got += 1, Some(Delivery::Recovered { messages, .. }) => recovered += messages, other => println!("{other:?}") } }
            recovered
        });
        let t = Instant::now();
        for _ in 0..n { p.send("x".repeat(100)).await.unwrap(); }
        p.flush().await.unwrap();
        println!("{what}: publish with a subscriber {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
        let recovered = tokio::time::timeout(Duration::from_secs(120), reader).await.unwrap().unwrap();
        println!("{what}: delivered {:.0}/s, {recovered} by history", n as f64 / t.elapsed().as_secs_f64());
        let mut news = bob.subscribe(["dev"]).from(dsv2_net::client::Cursor::Beginning).await.unwrap();
        let t = Instant::now();
        let mut got = 0; while got < 2 * n { if let Some(Delivery::Message(_)) = news.next().await { got += 1; } }
        println!("{what}: replayed {:.0}/s", 2.0 * n as f64 / t.elapsed().as_secs_f64());
        let t = Instant::now();
        for _ in 0..2000 { dev.publish("x").await.unwrap(); }
        println!("{what}: round trip {:.0} us", t.elapsed().as_secs_f64() / 2000.0 * 1e6);
    }
}
