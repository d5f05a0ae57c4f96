//! The same random scripts against libzmq's proxy and ours, driven by libzmq's own sockets and by raw bytes.
//!
//! Needs a Python with pyzmq: `DSV2_PYTHON`, or the one that `bins/tests/peers/setup.sh` installs. Without either the
//! test says so and passes; with `DSV2_PYTHON` set it never passes unrun.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dsv2_net::Endpoint;
use dsv2_net::engine::{MatchMode, Proxy, ProxyConfig};
use tokio::task::spawn_blocking;

const SEEDS: u64 = 6;
const ROUNDS: u64 = 40;

fn python() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("DSV2_PYTHON") {
        return Some(path.into());
    }
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/venv/bin/python");
    peers.exists().then_some(peers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_proxy_delivers_what_libzmqs_delivers() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no Python with pyzmq; set DSV2_PYTHON or run bins/tests/peers/setup.sh");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bins/tests/peers/differential.py");
    let proxy = Proxy::bind(ProxyConfig {
        publishers: vec![Endpoint::loopback()],
        subscribers: vec![Endpoint::loopback()],
        match_mode: MatchMode::Prefix,
        ..ProxyConfig::default()
    })
    .await
    .unwrap();
    let publishers = proxy.publisher_endpoints().next().unwrap().to_string();
    let subscribers = proxy.subscriber_endpoints().next().unwrap().to_string();
    for seed in 1..=SEEDS {
        let mut run = Command::new(&python);
        run.arg(&script)
            .args(["--publishers", &publishers, "--subscribers", &subscribers])
            .args(["--seed", &seed.to_string(), "--rounds", &ROUNDS.to_string()])
            .stdin(Stdio::null());
        // The script ends itself after two minutes.
        let output = spawn_blocking(move || run.output()).await.unwrap().expect("started");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "seed {seed}: {stderr}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert!(report["deliveries"].as_u64() > Some(ROUNDS * 10), "a script that delivered too little: {report}");
    }
    let stats = proxy.handle().stats();
    assert_eq!((stats.dropped, stats.subscriptions_refused, stats.ignored), (0, 0, 0), "{stats:?}");
}
