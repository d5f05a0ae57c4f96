//! Real foreign peers: Python (`pyzmq`) and Node (`zeromq`) as clients, bots, servers, broker, proxy and reference.
//!
//! `peers/setup.sh` installs what they need; without Python and Node these tests fail rather than pass unseen.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use dsv2_core::Format;
use dsv2_net::cluster::{Cluster, ClusterOptions};
use dsv2_net::server::{Server, ServerOptions};
use dsv2_net::{Client, Endpoint};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const CODECS: [&str; 2] = ["JSON", "MSGPACK"];

/// The interpreters, after `setup.sh` has put in place what they need.
fn interpreters() -> &'static (PathBuf, PathBuf) {
    static FOUND: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    FOUND.get_or_init(|| {
        let output = Command::new(peers().join("setup.sh")).output().expect("setup.sh runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "setup.sh: {}", String::from_utf8_lossy(&output.stderr));
        let find = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(PathBuf::from);
        (find("python=").expect("a Python"), find("node=").expect("a Node"))
    })
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// A foreign program and what it has printed; killed when dropped.
struct Peer {
    program: String,
    child: Child,
    events: mpsc::Receiver<Value>,
    seen: Vec<Value>,
    complaint: &'static Mutex<String>,
}

impl Peer {
    fn start(program: &str, serde: &str, flags: &[&str]) -> Self {
        let (python, node) = interpreters();
        let (runner, folder) = if program.ends_with(".py") { (python, "python") } else { (node, "node") };
        let mut child = Command::new(runner)
            .arg(peers().join(folder).join(program))
            .args(["--timeout", "100"])
            .args(flags)
            .env("SERDE", serde)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|why| panic!("{program} does not start: {why}"));
        let (sender, events) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    drop(sender.send(event));
                }
            }
        });
        let complaint: &'static Mutex<String> = Box::leak(Box::default());
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                complaint.lock().expect("not poisoned").push_str(&(line + "\n"));
            }
        });
        Self { program: program.to_owned(), child, events, seen: Vec::new(), complaint }
    }

    fn wait(&mut self, name: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.seen.iter().find(|event| event["event"] == name) {
                return event.clone();
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.seen.push(event),
                Err(why) => panic!(
                    "{}: no {name} ({why}): {:?} {}",
                    self.program,
                    self.seen,
                    self.complaint.lock().expect("whole")
                ),
            }
        }
    }

    fn ends(mut self) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} still runs: {:?}", self.program, self.seen);
            std::thread::sleep(Duration::from_millis(20));
        };
        while let Ok(event) = self.events.recv_timeout(Duration::from_secs(1)) {
            self.seen.push(event);
        }
        let tail = &self.seen[self.seen.len().saturating_sub(4)..];
        assert!(status.success(), "{}: {status}: {} {tail:?}", self.program, self.complaint.lock().expect("whole"));
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill().is_err();
        let _reaped = self.child.wait().is_err();
    }
}

fn text(endpoint: &Endpoint) -> String {
    endpoint.to_string()
}

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
        options.format = if serde == "JSON" { Format::Json } else { Format::MsgPack };
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
            client("client.mjs", "bia", &[]);
            for bot in ["bot.py", "bot.mjs"] {
                let flags: Vec<&str> =
                    at.iter().copied().chain(["--messages", "30", "--rate", "100", "--warm-up", "5"]).collect();
                let told = Peer::start(bot, serde, &flags).ends();
                let summary = told.iter().find(|event| event["event"] == "summary").expect("a summary");
                assert_eq!(summary["acknowledged"], 30, "{summary}");
            }
        };
        tokio::task::spawn_blocking(foreign).await.expect("no panic");
        cluster.stop().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_servers_and_sdk_work_under_a_foreign_broker_proxy_and_reference() {
    for (language, serde) in [("py", "JSON"), ("mjs", "MSGPACK")] {
        let any = "tcp://127.0.0.1:0";
        let start = |name: &str, flags: &[&str]| Peer::start(&format!("{name}.{language}"), serde, flags);
        let mut broker = start("broker", &["--frontend", any, "--backend", any]);
        let mut proxy = start("proxy", &["--publishers", any, "--subscribers", any]);
        let mut reference = start("reference", &["--bind", any]);
        let (broker_at, proxy_at, reference_at) = (broker.wait("ready"), proxy.wait("ready"), reference.wait("ready"));
        let endpoint =
            |value: &Value| value.as_str().and_then(|text| text.parse::<Endpoint>().ok()).expect("an endpoint");
        let mut servers = Vec::new();
        for name in ["nosso1", "nosso2"] {
            let mut options = ServerOptions::new(name.parse().expect("a name"));
            options.broker = endpoint(&broker_at["backend"]);
            options.publish = endpoint(&proxy_at["publishers"]);
            options.subscribe = endpoint(&proxy_at["subscribers"]);
            options.reference = endpoint(&reference_at["bind"]);
            options.link = Endpoint::loopback();
            options.format = if serde == "JSON" { Format::Json } else { Format::MsgPack };
            servers.push(Server::start(options).await.expect("starts"));
        }
        let client = Client::builder(text(&endpoint(&broker_at["frontend"])))
            .proxy(text(&endpoint(&proxy_at["subscribers"])))
            .user("ana")
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
            let delivery =
                tokio::time::timeout(PATIENCE, subscription.next()).await.expect("in time").expect("goes on");
            if let dsv2_net::client::Delivery::Message(message) = delivery {
                received.push(message.publication.body.text().to_owned());
            }
        }
        received.sort_by_key(|text| text.parse::<u32>().unwrap_or(u32::MAX));
        assert_eq!(received, (0..50).map(|n| n.to_string()).collect::<Vec<_>>(), "each exactly once");
        for server in servers {
            server.stop().await.expect("stops");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_server_joins_our_cluster_and_its_writes_are_adopted() {
    for (program, serde) in [("server.py", "JSON"), ("server.mjs", "MSGPACK")] {
        let mut options = ClusterOptions::local(1, 0);
        options.format = if serde == "JSON" { Format::Json } else { Format::MsgPack };
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
        let mut server = Peer::start(program, serde, &flags);
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
