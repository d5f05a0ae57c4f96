//! Listening: graceful ends, and a system that has run out of descriptors.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod zmtp_support;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use dsv2_net::Endpoint;
use dsv2_net::engine::{Connection, DrainReport, Limits, Listener, LocalSocket, Router, RouterEvent};
use dsv2_net::port::{PortEvent, PortLimits, SocketKind, Transport, connect};
use dsv2_net::zmtp::{Batch, Message, SocketType};
use zmtp_support::*;

/// A router with one native peer that has said hello.
async fn router_and_peer() -> (Router, dsv2_net::engine::PeerId, Box<dyn dsv2_net::port::Port>) {
    let mut router = Router::bind(&Endpoint::loopback(), Limits::default()).await.unwrap();
    let mut port =
        connect(Transport::Native, SocketKind::Dealer, router.endpoint().clone(), PortLimits::default()).unwrap();
    let (mut events, mut port_events) = (Vec::new(), Vec::new());
    let peer = within("the peer", async {
        loop {
            tokio::select! {
                _ = router.recv(&mut events) => {}
                up = port.recv(&mut port_events) => up.unwrap(),
            }
            if let (Some(RouterEvent::PeerUp { peer, info }), [PortEvent::Up { .. }]) =
                (events.first(), &port_events[..])
            {
                assert!(info.is_dsv2());
                assert_eq!(info.socket_type, SocketType::Dealer);
                return *peer;
            }
        }
    })
    .await;
    (router, peer, port)
}

#[tokio::test]
async fn a_shutdown_writes_what_is_queued_and_frees_the_endpoint() {
    let (router, peer, mut port) = router_and_peer().await;
    let endpoint = router.endpoint().clone();
    let last = Message::from_frames([&b"last"[..], &vec![1; 4 << 20]]);
    for _ in 0..3 {
        router.send(peer, &last).unwrap();
    }
    let receive = async {
        let (mut events, mut got) = (Vec::new(), 0);
        loop {
            port.recv(&mut events).await.unwrap();
            for event in events.drain(..) {
                match event {
                    PortEvent::Message(message) => {
                        assert_eq!(message, last);
                        got += 1;
                    }
                    PortEvent::Down { .. } => return got,
                    _ => {}
                }
            }
        }
    };
    let (report, got) = within("shutdown", async { tokio::join!(router.shutdown(DEADLINE), receive) }).await;
    assert_eq!(report, DrainReport { drained: 1, cut: 0, unsent_messages: 0 });
    assert_eq!(got, 3);
    Router::bind(&endpoint, Limits::default()).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_at_its_deadline_and_says_what_is_lost() {
    let mut router = Router::bind(&Endpoint::loopback(), Limits::default()).await.unwrap();
    let mut raw = Raw::connect(router.endpoint()).await;
    raw.shake_hands("DEALER", 1).await;
    let mut events = Vec::new();
    assert!(within("peer", router.recv(&mut events)).await);
    let RouterEvent::PeerUp { peer, .. } = events[0] else { panic!("{events:?}") };
    // More than the system's buffers take, to a peer that reads nothing.
    router.send(peer, &Message::single(&vec![0; 15 << 20])).unwrap();
    let report = within("shutdown", router.shutdown(Duration::from_millis(100))).await;
    assert_eq!(report, DrainReport { drained: 0, cut: 1, unsent_messages: 1 });
}

#[tokio::test]
async fn a_dropped_router_closes_its_connections() {
    let (router, _, mut port) = router_and_peer().await;
    drop(router);
    let mut events = Vec::new();
    within("down", async {
        while !events.iter().any(|e| matches!(e, PortEvent::Down { .. })) {
            port.recv(&mut events).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_waits_back_pressures_its_peer_only() {
    let (release, held) = tokio::sync::watch::channel(false);
    let local = Arc::new(LocalSocket::new(SocketType::Router, Limits::default()));
    let handler = move |mut connection: Connection| {
        let mut held = held.clone();
        async move {
            let mut batch = Batch::new();
            while connection.next_batch(&mut batch).await.is_ok() {
                if batch.message(0).first() == b"hold" {
                    held.wait_for(|released| *released).await.unwrap();
                }
                for message in batch.messages() {
                    connection.outbox().push(&message).unwrap();
                }
            }
        }
    };
    let listener = Listener::bind(&Endpoint::loopback(), Arc::clone(&local), handler).await.unwrap();
    let mut held_peer = Raw::connect(listener.endpoint()).await;
    held_peer.shake_hands("DEALER", 0).await;
    assert!(held_peer.write(Message::single(b"hold").wire()).await);
    eventually("the held message", || local.counters().messages_in.get() == 1).await;
    assert!(held_peer.write(&Message::single(b"later").wire().repeat(1000)).await);

    let mut free_peer =
        connect(Transport::Native, SocketKind::Dealer, listener.endpoint().clone(), PortLimits::default()).unwrap();
    let mut events = Vec::new();
    within("the other peer is served", async {
        while !events.iter().any(|e| matches!(e, PortEvent::Message(_))) {
            free_peer.recv(&mut events).await.unwrap();
            if matches!(events[..], [PortEvent::Up { .. }]) {
                free_peer.send(Message::single(b"free")).unwrap();
            }
        }
    })
    .await;
    assert_eq!(local.counters().messages_in.get(), 2, "nothing more was read from the one that is held");
    release.send(true).unwrap();
    eventually("the rest", || local.counters().messages_in.get() == 1002).await;
}

/// Runs the check below in a process that may open few files.
#[cfg(target_os = "linux")]
#[test]
fn running_out_of_descriptors_is_survived() {
    let test = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --ignored --exact with_few_descriptors"])
        .arg(test)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[ignore = "needs a low limit of descriptors: run by running_out_of_descriptors_is_survived"]
#[tokio::test]
async fn with_few_descriptors() {
    let victim = Victim::start(Limits { pending_cap: 1000, ..Limits::default() }).await;
    let Endpoint::Tcp { port, .. } = victim.endpoint else { panic!("not TCP") };
    // Both ends of each connection count here, so that accepting fails as soon as connecting does.
    let mut hoard = Vec::new();
    while let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
        hoard.push(stream);
    }
    eventually("accept fails", || victim.counters.accept_errors.get() > 1).await;
    assert!(victim.counters.accept_errors.get() < 10, "it pauses in between");
    drop(hoard);
    victim.assert_serves().await;
}

/// Input that nobody read makes a system reset the connection at its end, and throw away what the peer has not yet
/// fetched. So a drained connection reads on until the peer has hung up.
#[tokio::test]
async fn a_shutdown_amid_traffic_lets_the_last_answer_arrive() {
    let mut router =
        Router::bind(&Endpoint::loopback(), Limits { inbox_cap_bytes: 1, ..Limits::default() }).await.unwrap();
    let mut raw = Raw::connect(router.endpoint()).await;
    raw.shake_hands("DEALER", 0).await;
    let mut events = Vec::new();
    assert!(within("peer", router.recv(&mut events)).await);
    let RouterEvent::PeerUp { peer, .. } = events[0] else { panic!("{events:?}") };
    // The router takes one read of this and no more.
    assert!(raw.write(&Message::single(&[0; 1000]).wire().repeat(300)).await);
    let last = Message::single(&vec![1; 256 << 10]);
    router.send(peer, &last).unwrap();
    let (report, received) =
        within("shutdown", async { tokio::join!(router.shutdown(DEADLINE), raw.read_to_end()) }).await;
    assert_eq!(report, DrainReport { drained: 1, cut: 0, unsent_messages: 0 });
    assert!(received.ends_with(last.wire()), "{} bytes arrived", received.len());
}
