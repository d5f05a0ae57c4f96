//! Heartbeats, by a peer whose every byte is known.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod zmtp_support;

use std::time::Duration;

use bytes::Bytes;
use dsv2_net::engine::{CloseReason, Heartbeat, Limits};
use dsv2_net::zmtp::{Command, FrameHeader, Message};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use zmtp_support::*;

fn limits() -> Limits {
    let heartbeat = Heartbeat::every(Duration::from_millis(100), Duration::from_millis(300));
    Limits { heartbeat, ..Limits::default() }
}

/// The next command that the other side sends (after its READY), or `None` at its end.
async fn next_command(raw: &mut Raw) -> Option<Command> {
    loop {
        let mut header = vec![0; 2];
        raw.0.read_exact(&mut header).await.ok()?;
        let parsed = FrameHeader::parse(&header).unwrap().expect("short frames only");
        let mut body = vec![0; parsed.payload_len as usize];
        raw.0.read_exact(&mut body).await.ok()?;
        if parsed.command {
            match Command::parse(&Bytes::from(body)).unwrap() {
                Command::Ready(_) => {}
                command => return Some(command),
            }
        }
    }
}

#[tokio::test]
async fn an_unanswered_ping_ends_the_connection() {
    let mut victim = Victim::start(limits()).await;
    let mut raw = victim.raw().await;
    raw.shake_hands("DEALER", 1).await;
    let Some(Command::Ping { ttl_ds, .. }) = within("ping", next_command(&mut raw)).await else { panic!("no PING") };
    assert_eq!(ttl_ds, 0, "our silence ends nothing: who only listens sends nothing");
    assert_eq!(victim.peer_down().await.1, CloseReason::HeartbeatTimeout);
    assert_eq!(victim.counters.heartbeat_timeouts.get(), 1);
    assert_eq!(within("end", next_command(&mut raw)).await, None, "one PING was enough");
}

#[tokio::test]
async fn answered_pings_keep_an_idle_connection() {
    let victim = Victim::start(limits()).await;
    let mut raw = victim.raw().await;
    raw.shake_hands("DEALER", 1).await;
    for _ in 0..8 {
        let Some(Command::Ping { context, .. }) = within("ping", next_command(&mut raw)).await else {
            panic!("no PING")
        };
        assert!(raw.write(&Command::Pong { context }.encode()).await);
    }
    assert!(raw.write(Message::single(b"hello").wire()).await);
    let mut echo = [0; 7];
    within("echo", raw.0.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo[2..], b"hello");
}

#[tokio::test]
async fn pings_are_answered_with_their_context_even_within_a_message() {
    let victim = Victim::start(Limits::default()).await;
    let mut raw = victim.raw().await;
    raw.shake_hands("DEALER", 1).await;
    let ping = Command::Ping { ttl_ds: 0, context: Bytes::from_static(b"ctx") }.encode();
    let wire = [Message::prefix(b"one"), ping, Message::single(b"two").wire().clone()].concat();
    assert!(raw.write(&wire).await);
    assert_eq!(
        within("pong", next_command(&mut raw)).await,
        Some(Command::Pong { context: Bytes::from_static(b"ctx") })
    );
    let mut echo = vec![0; 10];
    within("echo", raw.0.read_exact(&mut echo)).await.unwrap();
    assert_eq!(echo, Message::from_frames(["one", "two"]).wire()[..]);
}

#[tokio::test]
async fn peers_of_3_0_are_never_pinged() {
    let victim = Victim::start(limits()).await;
    let mut old = victim.raw().await;
    old.shake_hands("DEALER", 0).await;
    // As long as a 3.1 peer would be pinged and given up twice over.
    let quiet = timeout(Duration::from_millis(800), next_command(&mut old)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(victim.counters.heartbeat_timeouts.get(), 0);
    assert!(old.write(Message::single(b"x").wire()).await);
    eventually("its message", || victim.counters.messages_in.get() == 1).await;
}

#[tokio::test]
async fn a_peer_outlives_its_own_ttl_by_nothing() {
    let mut victim = Victim::start(Limits { heartbeat: Heartbeat::off(), ..Limits::default() }).await;
    let mut raw = victim.raw().await;
    raw.shake_hands("DEALER", 1).await;
    let started = Instant::now();
    assert!(raw.write(&Command::Ping { ttl_ds: 2, context: Bytes::new() }.encode()).await);
    assert_eq!(victim.peer_down().await.1, CloseReason::HeartbeatTimeout);
    let lived = started.elapsed();
    assert!(lived >= Duration::from_millis(200) && lived < Duration::from_secs(5), "{lived:?}");
}
