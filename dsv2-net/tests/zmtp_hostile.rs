//! Peers that mean no good: each is refused, counted, and harms nobody else.
#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

mod zmtp_support;

use std::time::Duration;

use dsv2_net::engine::{CloseReason, Limits, Router, RouterEvent};
use dsv2_net::zmtp::{Command, Greeting, Message, ZmtpError};
use dsv2_net::{BindError, Endpoint};
use tokio::time::Instant;
use zmtp_support::*;

fn long_header(flags: u8, length: u64) -> Vec<u8> {
    [&[flags | 0b010][..], &length.to_be_bytes()].concat()
}

#[tokio::test]
async fn half_a_greeting_then_silence_meets_the_deadline() {
    let victim = Victim::start(Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() }).await;
    let mut silent = Vec::new();
    for n in 0..20 {
        let mut raw = victim.raw().await;
        assert!(raw.write(&Greeting::ours().encode()[..n]).await);
        silent.push(raw);
    }
    victim.assert_serves().await;
    for mut raw in silent {
        raw.read_to_end().await;
    }
    assert_eq!(victim.counters.refused_timeout.get(), 20);
}

#[tokio::test]
async fn strangers_are_shown_out_at_their_first_byte() {
    let victim = Victim::start(Limits::default()).await;
    let mut curve = Greeting::ours();
    curve.mechanism[..5].copy_from_slice(b"CURVE");
    let mut zmtp_2 = Greeting::ours().encode()[..10].to_vec();
    zmtp_2.extend_from_slice(&[1, 5]);
    let strangers = [&b"GET / HTTP/1.1\r\n"[..], &[0x16, 3, 1], &[0; 64], &curve.encode(), &zmtp_2];
    for (n, bytes) in strangers.into_iter().enumerate() {
        let started = Instant::now();
        let mut raw = victim.raw().await;
        raw.write(bytes).await;
        raw.read_to_end().await;
        assert!(started.elapsed() < Limits::default().handshake_timeout, "refused, not timed out");
        eventually("counted", || victim.counters.refused_protocol.get() == n as u64 + 1).await;
    }
    victim.assert_serves().await;
}

#[tokio::test]
async fn a_wrong_socket_type_is_told_so() {
    let victim = Victim::start(Limits::default()).await;
    let mut raw = victim.raw().await;
    raw.shake_hands("SUB", 1).await;
    let answer = raw.read_to_end().await;
    let reason = b"a SUB peer cannot be connected to a ROUTER socket";
    assert!(answer.windows(reason.len()).any(|w| w == reason), "an ERROR command with the reason");
    assert_eq!(victim.counters.refused_incompatible.get(), 1);
}

#[tokio::test]
async fn traffic_before_ready_is_refused() {
    let victim = Victim::start(Limits::default()).await;
    let huge = long_header(0b100, 1 << 62);
    for (n, bytes) in [Message::single(b"early").wire(), &huge.into()].into_iter().enumerate() {
        let mut raw = victim.raw().await;
        assert!(raw.write(&Greeting::ours().encode()).await);
        raw.write(bytes).await;
        raw.read_to_end().await;
        assert_eq!(victim.counters.refused_protocol.get(), n as u64 + 1);
    }
}

#[tokio::test]
async fn an_announcement_of_two_to_the_62_reserves_nothing() {
    let mut victim = Victim::start(Limits::default()).await;
    let before = resident_bytes();
    for flags in [0, 0b001, 0b100] {
        let mut raw = victim.raw().await;
        raw.shake_hands("DEALER", 1).await;
        raw.write(&long_header(flags, 1 << 62)).await;
        raw.read_to_end().await;
        let (_, reason) = victim.peer_down().await;
        assert!(
            matches!(
                reason,
                CloseReason::Protocol(ZmtpError::MessageTooLarge { .. } | ZmtpError::CommandTooLarge { .. })
            ),
            "{reason}"
        );
    }
    assert_grew_less_than(before, 32 << 20);
    assert_eq!(victim.counters.protocol_errors.get(), 3);
    victim.assert_serves().await;
}

#[tokio::test]
async fn endless_frames_end_at_the_limit() {
    let limits = Limits { message_cap_bytes: 1 << 20, ..Limits::default() };
    let mut victim = Victim::start(limits).await;
    let before = resident_bytes();
    for frame in [Message::prefix(b""), Message::prefix(&[7; 10_000])] {
        let mut raw = victim.raw().await;
        raw.shake_hands("DEALER", 0).await;
        let mut sent = 0;
        while raw.write(&frame).await {
            sent += 1;
            assert!(sent < 1_000_000, "the listener swallows everything");
        }
        let (_, reason) = victim.peer_down().await;
        assert!(
            matches!(
                reason,
                CloseReason::Protocol(ZmtpError::TooManyFrames { .. } | ZmtpError::MessageTooLarge { .. })
            ),
            "{reason}"
        );
    }
    assert_grew_less_than(before, 32 << 20);
    victim.assert_serves().await;
}

#[tokio::test]
async fn silent_connections_make_room_for_honest_ones() {
    let limits = Limits { pending_cap: 8, handshake_timeout: Duration::from_secs(60), ..Limits::default() };
    let victim = Victim::start(limits).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(victim.raw().await);
    }
    victim.assert_serves().await;
    eventually("evictions", || victim.counters.refused_pending.get() >= 92).await;
    // The oldest went first, and noticed.
    silent.remove(0).read_to_end().await;
}

#[tokio::test]
async fn the_cap_on_connections_holds_and_is_given_back() {
    let mut victim = Victim::start(Limits { connection_cap: 3, ..Limits::default() }).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut raw = victim.raw().await;
        raw.shake_hands("DEALER", 1).await;
        peers.push(raw);
    }
    eventually("three peers", || victim.counters.handshakes.get() == 3).await;
    let mut fourth = victim.raw().await;
    assert_eq!(fourth.read_to_end().await, b"");
    assert_eq!(victim.counters.refused_capacity.get(), 1);
    peers.pop();
    victim.peer_down().await;
    victim.assert_serves().await;
}

#[tokio::test]
async fn a_peer_that_goes_within_a_frame_is_just_gone() {
    let mut victim = Victim::start(Limits::default()).await;
    for bytes in [&b"\x00"[..], b"\x00\x05he", b"\x01\x01x", b"\x02\x00\x00"] {
        let mut raw = victim.raw().await;
        raw.shake_hands("REQ", 1).await;
        assert!(raw.write(bytes).await);
        drop(raw);
        assert_eq!(victim.peer_down().await.1, CloseReason::PeerClosed);
    }
    assert_eq!(victim.counters.messages_in.get(), 0);
    victim.assert_serves().await;
}

#[tokio::test]
async fn a_message_left_half_sent_stalls_its_sender_only() {
    let mut victim = Victim::start(Limits { stall_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    let mut raw = victim.raw().await;
    raw.shake_hands("DEALER", 0).await;
    assert!(raw.write(&long_header(0, 1000)).await);
    assert!(raw.write(b"and no more").await);
    assert_eq!(victim.peer_down().await.1, CloseReason::Stalled);
    assert_eq!(victim.counters.stalls.get(), 1);
    victim.assert_serves().await;
}

#[tokio::test]
async fn incomplete_messages_share_one_budget() {
    let limits = Limits { partial_total_cap_bytes: 4 << 20, ..Limits::default() };
    let mut victim = Victim::start(limits).await;
    let mut hoarders = Vec::new();
    for _ in 0..4 {
        let mut raw = victim.raw().await;
        raw.shake_hands("DEALER", 1).await;
        assert!(raw.write(&long_header(0, 8 << 20)).await);
        // Three of these fit, not four; the one that does not is closed, and may notice while it writes.
        raw.write(&vec![0; 5 << 18]).await;
        hoarders.push(raw);
    }
    assert_eq!(victim.peer_down().await.1, CloseReason::MemoryExhausted);
    assert_eq!(victim.counters.memory_exhausted.get(), 1);
    victim.assert_serves().await;
}

#[tokio::test]
async fn pings_without_an_end_are_answered_within_bounds() {
    let limits = Limits { outbox_cap_bytes: 64 << 10, stall_timeout: Duration::from_millis(500), ..Limits::default() };
    let mut victim = Victim::start(limits).await;
    let before = resident_bytes();
    let mut raw = victim.raw().await;
    raw.shake_hands("DEALER", 1).await;
    let pings = Command::Ping { ttl_ds: 0, context: vec![1; 16].into() }.encode().repeat(10_000);
    // Never reads a PONG, until it is closed for that.
    while raw.write(&pings).await {}
    assert_eq!(victim.peer_down().await.1, CloseReason::Stalled);
    assert!(victim.counters.pongs_dropped.get() > 0);
    assert_grew_less_than(before, 32 << 20);
    victim.assert_serves().await;
}

/// Sends to a peer that reads nothing, while another is served.
#[tokio::test]
async fn a_peer_that_reads_nothing_is_refused_then_closed() {
    let limits = Limits { outbox_cap_bytes: 1 << 20, stall_timeout: Duration::from_millis(300), ..Limits::default() };
    let mut router = Router::bind(&Endpoint::loopback(), limits).await.unwrap();
    let mut raw = Raw::connect(router.endpoint()).await;
    raw.shake_hands("DEALER", 1).await;
    let message = Message::single(&[0; 10_000]);
    let (mut events, mut full, mut down) = (Vec::new(), 0, None);
    let flood = async {
        let mut peer = None;
        while down.is_none() {
            tokio::select! {
                _ = router.recv(&mut events) => {}
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            for event in events.drain(..) {
                match event {
                    RouterEvent::PeerUp { peer: id, .. } => peer = Some(id),
                    RouterEvent::PeerDown { reason, unsent_messages, .. } => down = Some((reason, unsent_messages)),
                    RouterEvent::Message { .. } => {}
                }
            }
            let Some(peer) = peer else { continue };
            for _ in 0..200 {
                full += usize::from(router.send(peer, &message).is_err());
            }
            assert!(router.outbox(peer).is_none_or(|o| o.queued_bytes() <= 1 << 20));
        }
    };
    within("the peer is given up", flood).await;
    let (reason, unsent) = down.unwrap();
    assert_eq!(reason, CloseReason::Stalled);
    assert!((90..=105).contains(&unsent), "{unsent} unsent of a queue of 1 MiB");
    assert!(full > 0);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let victim = Victim::start(Limits::default()).await;
    let error = Router::bind(&victim.endpoint, Limits::default()).await.unwrap_err();
    assert!(matches!(error, BindError::Taken { .. }));
    assert!(error.to_string().contains(&victim.endpoint.to_string()), "{error}");
}
