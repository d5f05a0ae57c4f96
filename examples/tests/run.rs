//! Runs every example, as a user would.

use std::path::PathBuf;
use std::process::Command;

use dsv2_net::cluster::{Cluster, ClusterOptions};

/// The example's program: cargo builds it beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test is a program");
    let profile = test.parent().and_then(std::path::Path::parent).expect("target/PROFILE/deps");
    profile.join("examples").join(name)
}

fn run(name: &str, args: &[&str]) -> String {
    let output = Command::new(example(name)).args(args).output().unwrap_or_else(|why| panic!("{name}: {why}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn two_clients() {
    let told = run("two_clients", &[]);
    assert!(told.contains("good morning") && told.contains("psst"), "{told}");
}

#[test]
fn embedded_cluster() {
    assert!(run("embedded_cluster", &[]).contains("9: "));
}

#[test]
fn own_store() {
    assert!(run("own_store", &[]).contains("3 events"));
}

#[test]
fn simulated_bot() {
    let told = run("simulated_bot", &[]);
    assert!(told.contains("Duplicate") && told.contains("the careful bot: 100 seeds"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello() {
    let cluster = Cluster::start(ClusterOptions::local(1, 0)).await.expect("starts");
    let broker = cluster.endpoints().clients.to_string();
    let told = tokio::task::spawn_blocking(move || run("hello", &[&broker])).await.expect("no panic");
    assert!(told.contains("ana: hello"), "{told}");
    cluster.stop().await.expect("stops");
}
