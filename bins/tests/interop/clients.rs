//! Foreign clients and bots of our cluster.

use std::collections::BTreeSet;

use dsv2_core::Format;
use dsv2_net::Client;
use dsv2_net::client::Cursor;
use dsv2_net::cluster::{Cluster, ClusterOptions};
use dsv2_net::server::{Server, ServerOptions};
use serde_json::json;

use crate::peer::Peer;
use crate::{CODECS, format, next_text, text};

/// What every client of the family does, twice over, with everything that we emit audited.
fn script(me: &str) -> String {
    let (me, soon) = (me.to_lowercase(), 20);
    json!([
        {"op": "login", "user": me, "within_s": soon},
        {"op": "login", "user": me, "expect": {"status": "sucesso", "clock": {"$gte": 1}}},
        {"op": "users", "expect": {"users": {"$contains": me}}},
        {"op": "channel", "channel": format!("{me}-canal")},
        {"op": "channel", "channel": format!("{me}-canal"), "expect": {"status": "sucesso"}},
        {"op": "channels", "contains": [format!("{me}-canal")]},
        {"op": "subscribe", "topic": format!("{me}-canal"), "probe": true},
        {"op": "subscribe", "topic": me, "probe": true},
        // That the proxy knows a subscription does not say that every server does: the first publication may be lost.
        {"op": "publish", "channel": format!("{me}-canal"), "message": "alô", "until_pub": format!("{me}-canal"), "within_s": soon},
        {"op": "publish", "channel": format!("{me}-canal"), "message": "olá"},
        {"op": "expect_pub", "topic": format!("{me}-canal"), "data": {"user": me, "message": "olá", "clock": {"$type": "int"}}},
        {"op": "message", "dst": me, "message": "ei", "until_pub": me, "within_s": soon},
        {"op": "message", "dst": me, "message": "psiu"},
        {"op": "expect_pub", "topic": me, "data": {"src": me, "message": "psiu"}},
        {"op": "publish", "channel": "nenhum", "message": "x", "expect": {"status": "erro", "message": {"$type": "string"}}},
        {"op": "publish", "channel": format!("{me}-canal"), "user": "ninguem", "message": "x", "expect": {"status": "erro"}},
        {"op": "request", "service": "dance", "expect": {"status": "erro", "description": {"$type": "string"}}},
        {"op": "request", "service": "clock", "expect": {"time": {"$any": 1}}},
        {"op": "request", "service": "election", "expect": {"election": "OK"}},
    ])
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_clients_and_bots_use_our_cluster() {
    for serde in CODECS {
        // Requests are answered in their own serialization; publications have one for all, as in the family.
        let mut options = ClusterOptions::local(3, 0);
        options.format = format(serde);
        let cluster = Cluster::start(options).await.expect("starts");
        let at = cluster.endpoints();
        let (broker, sub, publish) = (text(&at.clients), text(&at.subscribers), text(&at.publishers));
        let foreign = move || {
            let at = ["--broker", &broker, "--proxy-sub", &sub, "--proxy-pub", &publish, "--strict"];
            let client = |program: &str, me: &str, more: &[&str]| {
                let script = script(&format!("{me}-{serde}"));
                let flags: Vec<&str> = at.iter().chain(&["--script", &script]).chain(more).copied().collect();
                Peer::start(program, serde, &flags).ends();
            };
            client("client.py", "ana", &[]);
            client("client.py", "dea", &["--mode", "dealer", "--heartbeat-ivl", "100"]);
            client("client.mjs", "bia", &["--heartbeat-ivl", "100"]);
            for bot in ["bot.py", "bot.mjs"] {
                let flags: Vec<&str> = at
                    .iter()
                    .copied()
                    .chain(["--messages", "30", "--rate", "100", "--warm-up", "5", "--heartbeat-ivl", "100"])
                    .collect();
                let told = Peer::start(bot, serde, &flags).ends();
                let summary = told.iter().find(|event| event["event"] == "summary").expect("a summary");
                assert_eq!(summary["acknowledged"], 30, "{summary}");
            }
        };
        tokio::task::spawn_blocking(foreign).await.expect("no panic");
        cluster.stop().await.expect("stops");
    }
}

/// Requests in both serializations from both languages at once, servers that publish in different ones, and our own
/// clients in both, who see everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_serializations_share_one_cluster() {
    let cluster = Cluster::start(ClusterOptions::local(1, 0)).await.expect("starts");
    let at = cluster.endpoints();
    let mut options = ServerOptions::new("packed".parse().expect("a name"));
    options.brokers = vec![at.servers.clone()];
    options.publish = vec![at.publishers.clone()];
    options.subscribe = vec![at.subscribers.clone()];
    options.reference = at.reference.clone();
    options.format = Format::MsgPack;
    // A learner of the cluster: it forwards writes, and has the same history.
    options.voters = ["server1".parse().expect("a name")].into();
    let packed = Server::start(options).await.expect("starts");
    let mut followers = Vec::new();
    for serde in [Format::Json, Format::MsgPack] {
        let builder = Client::builder(text(&at.clients)).proxy(text(&at.subscribers)).serde(serde).user("zoe");
        let client = builder.connect().await.expect("connects");
        client.channel("geral").create().await.expect("creates");
        let subscription = client.subscribe(["geral"]).from(Cursor::Beginning).await.expect("subscribes");
        followers.push(subscription);
    }
    let broker = text(&at.clients);
    let foreign = move || {
        let mut running = Vec::new();
        for (program, serde, me) in [
            ("client.py", "JSON", "ana"),
            ("client.py", "MSGPACK", "bia"),
            ("client.mjs", "JSON", "caio"),
            ("client.mjs", "MSGPACK", "davi"),
        ] {
            let mut steps = vec![json!({"op": "login", "user": me, "within_s": 20})];
            for n in 0..20 {
                let message = format!("{me}-{n}");
                // A server may not have heard of the user yet who logged in at another one.
                steps.push(json!({"op": "publish", "channel": "geral", "message": message, "within_s": 20}));
            }
            let script = json!(steps).to_string();
            running.push(Peer::start(program, serde, &["--broker", &broker, "--strict", "--script", &script]));
        }
        running.into_iter().for_each(|peer| drop(peer.ends()));
    };
    tokio::task::spawn_blocking(foreign).await.expect("no panic");
    let wanted: BTreeSet<String> =
        ["ana", "bia", "caio", "davi"].iter().flat_map(|me| (0..20).map(move |n| format!("{me}-{n}"))).collect();
    for mut subscription in followers {
        let mut seen = BTreeSet::new();
        while seen.len() < wanted.len() {
            let text = next_text(&mut subscription).await;
            assert!(seen.insert(text.clone()), "{text} came twice");
        }
        assert_eq!(seen, wanted);
    }
    packed.stop().await.expect("stops");
    cluster.stop().await.expect("stops");
}
