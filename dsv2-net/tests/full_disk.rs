//! A server whose disk runs full, or fails: what it still does, what it refuses, and that nobody notices more than that.
#![cfg(feature = "cluster")]

mod server_support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dsv2_core::{Code, Failure, Format, Level, Outcome, Reply, ReplyBody, RequestBody, ServerName, Service};
use dsv2_net::server::Server;
use dsv2_store::testing::{Call, Fault, FaultyDisk};
use dsv2_store::{EventStore, JsonlConfig, JsonlStore};

use server_support::{Front, PATIENCE, history, options, publish, reference};

/// Promise 8.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);

fn store(disk: &FaultyDisk, node: u128) -> Box<dyn EventStore> {
    let config = JsonlConfig { node, ..JsonlConfig::default() };
    Box::new(JsonlStore::open(Arc::new(disk.clone()), config).expect("opens"))
}

fn login(user: &str) -> RequestBody {
    RequestBody::Login { user: user.parse().expect("a name") }
}

fn channel(channel: &str) -> RequestBody {
    RequestBody::Channel { channel: channel.parse().expect("a name") }
}

fn refused(body: &ReplyBody, code: Code) -> bool {
    matches!(body, ReplyBody::Failed(Failure { code: found, outcome: Outcome::Rejected, .. }) if *found == code)
}

/// A user, a channel and one message, all acknowledged.
async fn furnish(front: &mut Front) {
    front.until_ready().await;
    for body in [login("ana"), channel("dev"), publish("one")] {
        let done = front.ask(Format::Json, body).await;
        assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
    }
}

/// What the disk lacks stands nowhere; what is durable is served, and found again without a write.
async fn serves_what_is_durable(front: &mut Front, why: Code) {
    assert_eq!(front.ask(Format::Json, RequestBody::Users).await, ReplyBody::Users(vec!["ana".into()]));
    assert_eq!(front.ask(Format::MsgPack, RequestBody::Channels).await, ReplyBody::Channels(vec!["dev".into()]));
    assert_eq!(history(front).await, ["one"]);
    for body in [login("ana"), channel("dev")] {
        let known = front.ask(Format::Json, body).await;
        assert!(matches!(known, ReplyBody::Done(Some(_))), "nothing is to be written for it: {known:?}");
    }
    for body in [login("bob"), login("carl"), channel("ops"), publish("two")] {
        let answer = front.ask(Format::MsgPack, body).await;
        assert!(refused(&answer, why), "{answer:?}");
    }
    let status = front.status().await;
    assert!(!status.ready && status.trouble.is_some() && status.position.events() == 3, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_serves_reads_and_goes_on_when_there_is_room() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut front, reference) = (Front::bind().await, reference(data.path()).await);
    let disk = FaultyDisk::new(8);
    let options = options("server1", &front, &reference, data.path());
    let server = Server::start_with(options, store(&disk, 1)).await.expect("starts");
    furnish(&mut front).await;
    // Three rounds: it runs full more than once in a life.
    for round in 0..3 {
        disk.set_capacity(Some(disk.used_bytes() + 20));
        let user = format!("bob{round}");
        let (held, also) = (front.send(Format::Json, login(&user)), front.send(Format::MsgPack, RequestBody::Users));
        front.until(false).await;
        let answer = front.ask(Format::Json, publish("refused")).await;
        assert!(refused(&answer, Code::Full), "{answer:?}");
        if round == 0 {
            serves_what_is_durable(&mut front, Code::Full).await;
            // What was decided before waits for room, and no longer than that its outcome is unknown.
            assert!(front.waits(held), "not acknowledged before it is durable");
            let Reply { body, format, position, .. } = front.answer(held, Service::Login).await;
            let ReplyBody::Failed(failure) = body else { panic!("{body:?}") };
            assert_eq!((failure.code, failure.outcome), (Code::Timeout, Outcome::Unknown));
            assert_eq!((format, position), (Format::Json, None));
            assert!(matches!(
                front.answer(also, Service::Users).await.body,
                ReplyBody::Failed(_) | ReplyBody::Users(_)
            ));
        }
        let freed = Instant::now();
        disk.set_capacity(None);
        front.until_ready().await;
        let after = freed.elapsed();
        assert!(after <= RESUMES_WITHIN, "{after:?}");
        println!("round {round}: writes resumed after {after:?}");
        if round > 0 {
            let done = front.answer(held, Service::Login).await.body;
            assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
        }
        let done = front.ask(Format::Json, publish(&format!("after {round}"))).await;
        assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
    }
    let everybody = ReplyBody::Users(["ana", "bob0", "bob1", "bob2"].map(String::from).to_vec());
    assert_eq!(front.ask(Format::Json, RequestBody::Users).await, everybody);
    assert_eq!(history(&mut front).await, ["one", "after 0", "after 1", "after 2"]);
    assert_eq!(front.losses, 0, "no connection was dropped");
    // As a power cut: what was acknowledged is there.
    drop(server);
    let survivor = disk.fork(9);
    survivor.crash();
    let (mut texts, mut users) = (0, 0);
    let count = &mut |event: dsv2_core::Event| match event.body {
        dsv2_core::EventBody::Publish { .. } => texts += 1,
        dsv2_core::EventBody::UserLogin { .. } => users += 1,
        _ => {}
    };
    store(&survivor, 1).replay(count).expect("reads");
    assert_eq!((texts, users), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_disk_of_three_costs_the_cluster_nothing() {
    let data = tempfile::tempdir().expect("a directory");
    let reference = reference(data.path()).await;
    let names = ["server1", "server2", "server3"];
    let voters: BTreeSet<ServerName> = names.iter().map(|name| name.parse().expect("a name")).collect();
    let disk = FaultyDisk::new(80);
    let (mut fronts, mut servers) = (Vec::new(), Vec::new());
    for (at, name) in names.into_iter().enumerate() {
        let front = Front::bind().await;
        let mut options = options(name, &front, &reference, data.path());
        options.voters.clone_from(&voters);
        let disk = if at == 2 { disk.clone() } else { FaultyDisk::new(at as u64) };
        servers.push(Server::start_with(options, store(&disk, at as u128 + 1)).await.expect("starts"));
        fronts.push(front);
    }
    for front in &mut fronts {
        front.until_ready().await;
    }
    furnish(&mut fronts[0]).await;
    until_equal(&mut fronts, &["one"]).await;
    disk.set_capacity(Some(disk.used_bytes()));
    let mut said = vec!["one".to_owned()];
    for n in 0..30 {
        let done = fronts[n % 2].ask(Format::Json, publish(&n.to_string())).await;
        // The second may not have heard of user and channel yet.
        if let ReplyBody::Done(Some(receipt)) = done {
            assert_eq!(receipt.level, Level::Quorum);
            said.push(n.to_string());
        }
    }
    assert!(said.len() > 15);
    let full = &mut fronts[2];
    full.until(false).await;
    assert!(refused(&full.ask(Format::Json, publish("refused")).await, Code::Full));
    assert_eq!(history(full).await, ["one"], "reads go on, and show what is durable");
    // Vectors are exchanged twice a second: the links live on through several of those.
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(3) {
        for (at, front) in fronts.iter_mut().enumerate() {
            let status = front.status().await;
            let alive = status.peers.iter().filter(|peer| peer.connected).count();
            assert_eq!(alive, 2, "server {at}: {status:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    disk.set_capacity(None);
    let freed = Instant::now();
    fronts[2].until_ready().await;
    let all: Vec<&str> = said.iter().map(String::as_str).collect();
    until_equal(&mut fronts, &all).await;
    assert!(freed.elapsed() <= RESUMES_WITHIN, "{:?}", freed.elapsed());
    println!("ready and equal after {:?}", freed.elapsed());
    let done = fronts[2].ask(Format::Json, publish("after")).await;
    assert!(matches!(done, ReplyBody::Done(Some(_))), "{done:?}");
    assert!(fronts.iter().all(|front| front.losses == 0), "no connection was dropped");
}

/// Waits until every server's history is, in whatever order, `texts`.
async fn until_equal(fronts: &mut [Front], texts: &[&str]) {
    let by = Instant::now() + PATIENCE;
    let wanted: BTreeSet<&str> = texts.iter().copied().collect();
    for front in fronts {
        loop {
            let found = history(front).await;
            if found.len() == texts.len() && found.iter().map(String::as_str).collect::<BTreeSet<_>>() == wanted {
                break;
            }
            assert!(Instant::now() < by, "{found:?} is not {texts:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_fences_and_what_it_lost_is_shown_to_nobody() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut front, reference) = (Front::bind().await, reference(data.path()).await);
    let disk = FaultyDisk::new(7);
    let options = options("server1", &front, &reference, data.path());
    let server = Server::start_with(options, store(&disk, 1)).await.expect("starts");
    furnish(&mut front).await;
    disk.fail_nth(Call::Sync, 1, Fault::Broken);
    let lost = front.send(Format::Json, publish("lost"));
    front.until(false).await;
    let answer = front.answer(lost, Service::Publish).await.body;
    let ReplyBody::Failed(failure) = answer else { panic!("{answer:?}") };
    assert_eq!(failure.outcome, Outcome::Unknown);
    let syncs = disk.syncs();
    serves_what_is_durable(&mut front, Code::NotReady).await;
    assert_eq!(disk.syncs(), syncs, "never tried again");
    assert_eq!(front.losses, 0, "no connection was dropped");
    let _fenced = server.stop().await.is_err();
}
