//! A server over real sockets and files, with this test in the broker's place.
#![cfg(feature = "cluster")]

mod server_support;

use std::collections::BTreeSet;
use std::time::Duration;

use dsv2_core::{Failure, Format, Level, ReplyBody, RequestBody, ServerName};
use dsv2_net::server::Server;

use server_support::{Front, PATIENCE, history, options, publish, reference};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_answers_persists_and_remembers() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut front, reference) = (Front::bind().await, reference(data.path()).await);
    let options = options("server1", &front, &reference, data.path());
    let server = Server::start(options.clone()).await.expect("starts");
    front.until_ready().await;
    assert!(matches!(
        front.ask(Format::Json, publish("early")).await,
        ReplyBody::Failed(Failure { code: dsv2_core::Code::UnknownUser, .. })
    ));
    for format in [Format::Json, Format::MsgPack] {
        let login = front.ask(format, RequestBody::Login { user: "ana".parse().expect("a name") }).await;
        assert!(matches!(login, ReplyBody::Done(Some(ref receipt)) if receipt.level == Level::Local), "{login:?}");
    }
    front.ask(Format::Json, RequestBody::Channel { channel: "dev".parse().expect("a name") }).await;
    for text in ["one", "two"] {
        let done = front.ask(Format::MsgPack, publish(text)).await;
        assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
    }
    assert_eq!(front.ask(Format::Json, RequestBody::Users).await, ReplyBody::Users(vec!["ana".into()]));
    let users = std::fs::read_to_string(data.path().join("server1/users.json")).expect("persisted");
    assert!(users.contains("\"ana\"") && users.lines().count() == 1, "{users}");
    let refused = front.ask_raw(b"{\"service\":\"dance\",\"data\":{}}").await;
    assert!(String::from_utf8_lossy(&refused).contains("description"));
    // Dropped, not stopped: as a crash.
    drop(server);
    let mut front = Front::bind().await;
    let server = loop {
        let mut again = options.clone();
        again.brokers = vec![front.endpoint()];
        match Server::start(again).await {
            Ok(server) => break server,
            // The old one's disk thread ends a moment later.
            Err(dsv2_net::server::ServerError::Store(dsv2_store::StoreError::Locked { .. })) => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error}"),
        }
    };
    front.until_ready().await;
    assert_eq!(history(&mut front).await, ["one", "two"]);
    server.stop().await.expect("stops cleanly");
    reference.stop().await.expect("stops cleanly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_elect_replicate_and_survive_a_kill() {
    let data = tempfile::tempdir().expect("a directory");
    let reference = reference(data.path()).await;
    let names = ["server1", "server2", "server3"];
    let voters: BTreeSet<ServerName> = names.iter().map(|name| name.parse().expect("a name")).collect();
    let (mut fronts, mut servers) = (Vec::new(), Vec::new());
    for name in names {
        let front = Front::bind().await;
        let mut options = options(name, &front, &reference, data.path());
        options.voters.clone_from(&voters);
        servers.push(Some(Server::start(options).await.expect("starts")));
        fronts.push(front);
    }
    for front in &mut fronts {
        front.until_ready().await;
    }
    fronts[0].ask(Format::Json, RequestBody::Login { user: "ana".parse().expect("a name") }).await;
    let done = fronts[0].ask(Format::Json, RequestBody::Channel { channel: "dev".parse().expect("a name") }).await;
    assert!(matches!(done, ReplyBody::Done(Some(ref receipt)) if receipt.level == Level::Quorum), "{done:?}");
    for n in 0..20 {
        // Another server may not have heard of user and channel yet: a client of ours would send its position.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while matches!(fronts[n % 3].ask(Format::Json, publish(&n.to_string())).await, ReplyBody::Failed(_)) {
            assert!(tokio::time::Instant::now() < deadline, "server {} never learns of them", n % 3 + 1);
        }
    }
    let leader = agree(&mut fronts, None).await;
    let killed = names.iter().position(|name| *name == leader.as_str()).expect("one of the three");
    servers[killed] = None;
    let front = fronts.remove(killed);
    drop(front);
    let successor = agree(&mut fronts, Some(&leader)).await;
    assert_ne!(successor, leader);
    let done = fronts[0].ask(Format::Json, publish("after")).await;
    assert!(matches!(done, ReplyBody::Done(Some(_))), "two of three are a majority: {done:?}");
    let first = history(&mut fronts[0]).await;
    assert!(first.contains(&"after".to_owned()));
    tokio::time::timeout(PATIENCE, async {
        while history(&mut fronts[1]).await != first {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("both hold the same");
    for server in servers.into_iter().flatten() {
        server.stop().await.expect("stops cleanly");
    }
}

/// Waits until all report one coordinator, other than `not`.
async fn agree(fronts: &mut [Front], not: Option<&ServerName>) -> ServerName {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut seen = BTreeSet::new();
        for front in fronts.iter_mut() {
            seen.insert(front.status().await.coordinator);
        }
        if let (1, Some(Some(name))) = (seen.len(), seen.first())
            && Some(name) != not
        {
            return name.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "no agreement: {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
