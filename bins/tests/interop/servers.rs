//! Foreign servers: in our cluster, and behind our broker, proxy and reference.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dsv2_net::Client;
use dsv2_net::cluster::{Cluster, ClusterOptions};
use serde_json::json;

use crate::peer::Peer;
use crate::{CODECS, LANGUAGES, PATIENCE, format, next_text, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_server_joins_our_cluster_and_its_writes_are_adopted() {
    for (language, serde) in LANGUAGES.iter().flat_map(|language| CODECS.map(|serde| (language, serde))) {
        let program = format!("server.{language}");
        let mut options = ClusterOptions::local(1, 0);
        options.format = format(serde);
        let cluster = Cluster::start(options).await.expect("starts");
        let at = cluster.endpoints().clone();
        // A broker of its own, so that its clients land on the foreign server.
        let any = "tcp://127.0.0.1:0";
        let mut broker = Peer::start("broker.py", serde, &["--frontend", any, "--backend", any]);
        let broker_at = broker.wait("ready");
        let (back, front) =
            (broker_at["backend"].as_str().expect("text"), broker_at["frontend"].as_str().expect("text"));
        let (publish, sub, reference) = (text(&at.publishers), text(&at.subscribers), text(&at.reference));
        let flags = [
            "--name",
            "deles",
            "--broker",
            back,
            "--proxy-pub",
            &publish,
            "--proxy-sub",
            &sub,
            "--reference",
            &reference,
            "--strict",
        ];
        let mut server = Peer::start(&program, serde, &flags);
        server.wait("ready");
        server.wait("rank");
        let ours = Client::builder(text(&at.clients))
            .proxy(text(&at.subscribers))
            .user("zoe")
            .connect()
            .await
            .expect("connects");
        let front = front.to_owned();
        let foreign = move || {
            let steps = json!([
                {"op": "login", "user": "rui", "within_s": 20},
                {"op": "channel", "channel": "deles-canal"},
                {"op": "subscribe", "topic": "deles-canal", "probe": true},
                {"op": "publish", "channel": "deles-canal", "message": "de fora"},
            ]);
            let script = steps.to_string();
            Peer::start(
                "client.py",
                serde,
                &["--broker", &front, "--proxy-sub", &sub, "--proxy-pub", &publish, "--script", &script],
            )
            .ends();
        };
        let done = tokio::task::spawn_blocking(foreign).await;
        assert!(done.is_ok(), "the foreign server says: {}", server.complaint.lock().expect("whole"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = ours.channel("deles-canal").history().await;
            if let Ok(page) = &page
                && page.messages.iter().filter(|event| event.body.text() == "de fora").count() == 1
            {
                break;
            }
            assert!(Instant::now() < deadline, "never adopted: {page:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(ours.users().await.expect("lists").contains(&"rui".to_owned()));
        cluster.stop().await.expect("stops");
    }
}

/// Nobody but a server of the family answers: a REP behind our broker, a PUB and SUB at our proxy, a REQ to our reference.
/// Its own clients use it, and so does our SDK.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_server_serves_behind_our_broker_proxy_and_reference() {
    for (language, serde) in LANGUAGES.iter().flat_map(|language| CODECS.map(|serde| (language, serde))) {
        let mut options = ClusterOptions::local(1, 0);
        options.format = format(serde);
        let mut cluster = Cluster::start(options).await.expect("starts");
        cluster.stop_server(0).await.expect("stops");
        let at = cluster.endpoints();
        let (publish, sub) = (text(&at.publishers), text(&at.subscribers));
        let (back, front, reference) = (text(&at.servers), text(&at.clients), text(&at.reference));
        let flags = ["--broker", &back, "--proxy-pub", &publish, "--proxy-sub", &sub, "--reference", &reference];
        let flags =
            [&["--name", "deles", "--list-interval", "0.5", "--heartbeat-ivl", "100", "--strict"], &flags[..]].concat();
        let mut server = Peer::start(&format!("server.{language}"), serde, &flags);
        server.wait("ready");
        server.wait("rank");
        let ana = Client::builder(&front).proxy(&sub).serde(format(serde)).user("ana");
        let ana = ana.connect().await.expect("connects");
        let channel = ana.channel("dev");
        channel.create().await.expect("creates");
        let mut news = ana.subscribe(["dev"]).await.expect("subscribes");
        let other = format!("client.{language}");
        let steps = json!([
            {"op": "login", "user": "rui"},
            {"op": "subscribe", "topic": "dev", "probe": true},
            {"op": "publish", "channel": "dev", "message": "de fora", "until_pub": "dev", "within_s": 20},
            {"op": "expect_pub", "topic": "dev", "data": {"message": "de dentro"}, "within_s": 60},
        ]);
        let script = steps.to_string();
        let foreign = Peer::start(
            &other,
            serde,
            &["--broker", &front, "--proxy-sub", &sub, "--proxy-pub", &publish, "--script", &script],
        );
        assert_eq!(next_text(&mut news).await, "de fora");
        channel.publish("de dentro").await.expect("publishes");
        tokio::task::spawn_blocking(|| foreign.ends()).await.expect("no panic");
        let mut seen = BTreeSet::new();
        while !seen.contains("de dentro") {
            seen.insert(next_text(&mut news).await);
        }
        assert_eq!(ana.channels().await.expect("lists"), ["dev"]);
        assert_eq!(
            ana.users().await.expect("lists").into_iter().collect::<BTreeSet<_>>(),
            ["ana", "rui"].map(String::from).into()
        );
        let listed = server.wait("list");
        let itself = |member: &serde_json::Value| member["name"] == "deles" && member["rank"] == 2;
        assert!(listed["list"].as_array().is_some_and(|list| list.iter().any(itself)), "{listed}");
        drop(server);
        cluster.stop().await.expect("stops");
    }
}
