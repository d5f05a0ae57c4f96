//! Scripts for subscriptions: live publications and history become one stream.

mod session_topic;

use dsv2_core::{
    Clock, Code, EventBody, Failure, Format, HistorySpan, Limits, Machine, Position, ReplyBody, Request, Timestamp,
};
use dsv2_sync::session::{Answer, Cursor, Effect, Input, ResumePoint, SessionConfig, Side};
use session_topic::{Rig, dev, event, position, publication};

#[test]
fn live_publications_are_delivered_once_and_in_order() {
    let mut rig = Rig::following();
    for (seq, prev) in [(1, 0), (2, 1), (2, 1), (5, 2), (2, 1)] {
        rig.live(&publication("s1", seq, prev));
    }
    assert_eq!(rig.delivered(), ["s1.2", "s1.5"]);
    assert!(rig.queries().is_empty());
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 5)])));
    // What a prefix match brings is not for us, nor what cannot be.
    let stray = publication("s1", 6, 5);
    rig.step(Input::Published { topic: b"devel".to_vec(), body: stray.encode(Format::Json) });
    rig.step(Input::Published { topic: b"dev".to_vec(), body: b"{".to_vec() });
    let mut odd = publication("s1", 6, 5);
    odd.prev = Some(event("s2", 1));
    rig.live(&odd);
    assert!(rig.delivered().is_empty());
}

#[test]
fn what_came_before_the_baseline_is_not_delivered_and_what_came_after_is() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Last);
    rig.live(&publication("s1", 3, 2));
    rig.live(&publication("s1", 4, 3));
    assert!(rig.delivered().is_empty());
    let request = rig.query().0;
    rig.page(request, &[], &[("s1", 3)], &[("s1", 3)], true);
    assert_eq!(rig.delivered(), ["s1.4"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 4)])));
}

#[test]
fn a_gap_is_repaired_before_anything_behind_it() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    rig.live(&publication("s1", 5, 4));
    rig.live(&publication("s2", 1, 0));
    assert_eq!(rig.delivered(), ["s2.1"], "another server's are not held back");
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 1)])));
    let page = [publication("s1", 2, 1), publication("s1", 3, 2), publication("s1", 4, 3)];
    rig.page(request, &page, &[("s1", 4)], &[("s1", 5)], false);
    assert_eq!(rig.delivered(), ["s1.2", "s1.3", "s1.4", "s1.5", "[recovered 3]"]);
}

#[test]
fn a_server_that_does_not_have_it_yet_is_told_what_is_missing_and_asked_again() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    let effects = std::mem::take(&mut rig.out);
    let sent = effects.iter().find_map(|effect| match effect {
        Effect::Send { body, .. } => Request::decode(body, &Limits::default()).ok(),
        _ => None,
    });
    assert_eq!(sent.and_then(|request| request.ext.position).map(|p| p.get(&event("s1", 1).origin)), Some(3));
    rig.out = effects;
    for _ in 0..5 {
        rig.answer_idle(&[("s1", 1)]);
        rig.pass(1_000);
    }
    assert!(rig.delivered().is_empty());
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 3, 1)], &[("s1", 3)], &[("s1", 3)], false);
    assert_eq!(rig.delivered(), ["s1.3", "s1.4", "[recovered 1]"]);
}

/// Nobody may have what is missing: it is asked for where history ends, and not again with every page.
#[test]
fn a_long_history_is_read_without_waiting_for_what_is_missing() {
    let beyond = |rig: &Rig| {
        let sent = rig.out.iter().find_map(|effect| match effect {
            Effect::Send { body, .. } => Request::decode(body, &Limits::default()).ok(),
            _ => None,
        });
        let position = sent.and_then(|request| request.ext.position).unwrap_or_default();
        position.get(&event("s2", 1).origin)
    };
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Beginning);
    rig.live(&publication("s2", 9, 8));
    for seq in 1..5 {
        assert_eq!(beyond(&rig), 0, "page {seq}");
        let request = rig.query().0;
        rig.page(request, &[publication("s1", seq, seq - 1)], &[("s1", seq)], &[("s1", 5)], true);
    }
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 5, 4)], &[("s1", 5)], &[("s1", 5)], false);
    rig.pass(250);
    assert_eq!(beyond(&rig), 8, "history has ended, and it is still missing");
    assert_eq!(rig.delivered(), ["s1.1", "s1.2", "s1.3", "s1.4", "s1.5"]);
}

#[test]
fn what_no_server_can_supply_is_told_as_a_gap() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    rig.live(&publication("s1", 5, 4));
    let mut told = Vec::new();
    for _ in 0..70 {
        rig.answer_idle(&[("s1", 1)]);
        rig.pass(1_000);
        told.extend(rig.delivered());
    }
    assert_eq!(told, ["[gap 3]", "s1.4", "s1.5"]);
}

#[test]
fn the_loss_of_the_last_message_shows_within_two_seconds() {
    let mut rig = Rig::following();
    rig.pass(300);
    rig.answer_idle(&[("s1", 1)]);
    assert!(rig.delivered().is_empty());
    // Event 2 is written now, and its publication is lost.
    let lost = publication("s1", 2, 1);
    rig.pass(1_500);
    let (request, query) = rig.query();
    assert_eq!(query.limit, 1, "a comparison is cheap");
    rig.page(request, &[lost], &[("s1", 2)], &[("s1", 3)], true);
    assert_eq!(rig.delivered(), ["s1.2"]);
    rig.pass(200);
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 2)])));
    rig.page(request, &[publication("s1", 3, 2)], &[("s1", 3)], &[("s1", 3)], false);
    assert_eq!(rig.delivered(), ["s1.3", "[recovered 1]"]);
}

#[test]
fn a_message_in_two_events_is_delivered_once_and_both_are_passed() {
    let mut rig = Rig::following();
    let first = publication("s1", 2, 1);
    let mut twin = publication("s2", 7, 0);
    twin.id.clone_from(&first.id);
    twin.body.clone_from(&first.body);
    rig.live(&first);
    rig.live(&twin);
    rig.live(&publication("s2", 8, 7));
    assert_eq!(rig.delivered(), ["s1.2", "s2.8"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 2), ("s2", 8)])));
    // A page leaves out a twin; its position passes it.
    rig.live(&publication("s2", 10, 9));
    let request = rig.query().0;
    rig.page(request, &[], &[("s1", 2), ("s2", 9)], &[("s1", 2), ("s2", 9)], false);
    assert_eq!(rig.delivered(), ["s2.10"]);
}

#[test]
fn another_life_of_a_server_continues_its_chain() {
    let mut rig = Rig::following();
    let mut reborn = publication("s1", 1, 0);
    reborn.event = Some("s1/0000000000000001#1".parse().expect("an id"));
    reborn.id = None;
    reborn.prev = Some(event("s1", 2));
    rig.live(&reborn);
    assert!(rig.delivered().is_empty(), "event 2 of the life before is missing");
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 2, 1)], &[("s1", 2)], &[("s1", 2)], false);
    assert_eq!(rig.delivered(), ["s1.2", "s1.1", "[recovered 1]"]);
}

#[test]
fn foreign_publications_are_delivered_once_even_when_a_server_adopts_them() {
    let mut rig = Rig::following();
    let foreign = r#"{"user":"eva","message":"oi","timestamp":1795407353924,"clock":102}"#;
    rig.step(Input::Published { topic: b"dev".to_vec(), body: foreign.as_bytes().to_vec() });
    rig.step(Input::Published { topic: b"dev".to_vec(), body: foreign.as_bytes().to_vec() });
    assert_eq!(rig.delivered(), ["oi"]);
    let body = EventBody::Publish {
        user: "eva".parse().expect("a name"),
        channel: "dev".parse().expect("a name"),
        message: "oi".into(),
    };
    let mut adopted = publication("s1", 2, 1);
    adopted.id = Some(body.foreign_id(Some(Timestamp { ms: 1_795_407_353_924 }), Clock::new(102)));
    // The adopting server's next event names the adopted one, which was never published.
    rig.live(&publication("s1", 3, 2));
    let request = rig.query().0;
    rig.page(request, &[adopted], &[("s1", 2)], &[("s1", 3)], false);
    assert_eq!(rig.delivered(), ["s1.3"]);
}

#[test]
fn a_private_message_is_not_a_channels() {
    let mut rig = Rig::following();
    let body = r#"{"src":"eva","message":"psst","timestamp":1795407353924,"clock":102}"#;
    rig.step(Input::Published { topic: b"dev".to_vec(), body: body.as_bytes().to_vec() });
    assert!(rig.delivered().is_empty());
}

#[test]
fn a_slow_consumer_bounds_what_is_delivered_and_kept() {
    let mut rig = Rig::new(SessionConfig { window: 2, held: 3, ..SessionConfig::default() });
    rig.subscribe(Cursor::Last);
    let request = rig.query().0;
    rig.page(request, &[], &[], &[], false);
    for seq in 1..=5 {
        rig.live(&publication("s1", seq, seq - 1));
    }
    assert_eq!(rig.delivered(), ["s1.1", "s1.2"]);
    rig.consumed(1);
    assert_eq!(rig.delivered(), ["s1.3"]);
    // Too many to keep: they are forgotten, and read back when there is room.
    for seq in 6..=20 {
        rig.live(&publication("s1", seq, seq - 1));
    }
    rig.pass(5_000);
    assert!(rig.delivered().is_empty() && rig.queries().is_empty(), "nothing is asked that could not be delivered");
    rig.consumed(2);
    assert_eq!(rig.delivered(), Vec::<String>::new());
    let (request, query) = rig.query();
    assert_eq!(query.limit, 2, "no more than there is room for");
    rig.page(request, &[publication("s1", 4, 3), publication("s1", 5, 4)], &[("s1", 5)], &[("s1", 20)], true);
    assert_eq!(rig.delivered(), ["s1.4", "s1.5"]);
    let mut next = 6;
    for _ in 0..40 {
        rig.consumed(2);
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let from = after.get(&event("s1", 1).origin) + 1;
            let to = (from + query.limit - 1).min(20);
            let page: Vec<_> = (from..=to).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.page(request, &page, &[("s1", to)], &[("s1", 20)], to < 20);
        }
        for text in rig.delivered().iter().filter(|text| !text.starts_with('[')) {
            assert_eq!(*text, format!("s1.{next}"));
            next += 1;
        }
        rig.pass(300);
    }
    assert_eq!(next, 21);
}

#[test]
fn a_resume_point_continues_exactly() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 2, 1));
    rig.live(&publication("s1", 4, 3));
    assert_eq!(rig.delivered(), ["s1.2"]);
    let stored = rmp_serde::to_vec_named(&rig.point).expect("serializable");
    let point: ResumePoint = rmp_serde::from_slice(&stored).expect("its own form");
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::At(point));
    rig.live(&publication("s1", 4, 3));
    assert!(rig.delivered().is_empty(), "history comes first");
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 2)])));
    rig.page(request, &[publication("s1", 3, 2)], &[("s1", 3)], &[("s1", 3)], false);
    assert!(rig.established());
    assert_eq!(rig.delivered(), ["s1.3", "s1.4"]);
}

#[test]
fn history_from_the_beginning_is_paged() {
    let mut rig = Rig::new(SessionConfig { page: 2, ..SessionConfig::default() });
    rig.subscribe(Cursor::Beginning);
    let (request, query) = rig.query();
    assert_eq!((query.span, query.limit), (HistorySpan::After(Position::default()), 2));
    rig.page(
        request,
        &[publication("s1", 1, 0), publication("s2", 1, 0)],
        &[("s1", 1), ("s2", 1)],
        &[("s1", 2), ("s2", 1)],
        true,
    );
    rig.live(&publication("s2", 2, 1));
    let request = rig.query().0;
    rig.page(request, &[publication("s1", 2, 1)], &[("s1", 2), ("s2", 1)], &[("s1", 2), ("s2", 1)], false);
    assert_eq!(rig.delivered(), ["s1.1", "s2.1", "s1.2", "s2.2"]);
}

#[test]
fn what_cannot_be_followed_is_said() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Beginning);
    let request = rig.query().0;
    rig.reply(request, ReplyBody::Failed(Failure::rejected(Code::UnknownChannel, "no such channel")));
    assert_eq!(rig.failure(), Some(Code::UnknownChannel));
    assert!(rig.out.iter().any(|effect| matches!(effect, Effect::Unlisten(topic) if topic == "dev")));
    // A server of the family has no past to read.
    for (cursor, expected) in [(Cursor::Beginning, Some(Code::Other)), (Cursor::Last, None)] {
        let mut rig = Rig::new(SessionConfig::default());
        rig.subscribe(cursor);
        let request = rig.query().0;
        rig.reply(request, ReplyBody::Failed(Failure::rejected(Code::Other, "serviço desconhecido")));
        assert_eq!(rig.failure(), expected);
    }
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Last);
    let request = rig.query().0;
    rig.reply(request, ReplyBody::Failed(Failure::rejected(Code::UnknownService, "no such service")));
    assert!(
        rig.out.iter().any(|e| matches!(e, Effect::Done { result: Ok(Answer::Subscribed { gapless: false }), .. }))
    );
    rig.live(&publication("s1", 9, 8));
    rig.live(&publication("s1", 9, 8));
    assert_eq!(rig.delivered(), ["s1.9"]);
    assert_eq!(rig.point.get(&dev()), None, "nothing is known to be complete");
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe(Cursor::Last);
    rig.queries();
    rig.pass(10_000);
    assert_eq!(rig.failure(), Some(Code::Timeout));
}

#[test]
fn a_lost_proxy_is_bridged_by_history_and_its_return_is_told() {
    let mut rig = Rig::following();
    rig.pass(250);
    rig.answer_idle(&[("s1", 1)]);
    rig.step(Input::ProxyDown);
    let mut told = Vec::new();
    for seq in 2..=4 {
        rig.pass(1_500);
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let from = after.get(&event("s1", 1).origin) + 1;
            let page: Vec<_> = (from..=seq).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.page(request, &page, &[("s1", seq)], &[("s1", seq)], false);
        }
        told.extend(rig.delivered());
    }
    assert_eq!(told.iter().filter(|text| !text.starts_with('[')).collect::<Vec<_>>(), ["s1.2", "s1.3", "s1.4"]);
    rig.queries();
    rig.step(Input::ProxyUp);
    assert_eq!(rig.delivered(), ["[reconnected]"]);
}

#[test]
fn unsubscribing_ends_everything() {
    let mut rig = Rig::following();
    rig.live(&publication("s1", 4, 3));
    let request = rig.query().0;
    rig.step(Input::Unsubscribe { subscription: 1 });
    assert!(rig.out.iter().any(|effect| matches!(effect, Effect::Unlisten(topic) if topic == "dev")));
    rig.page(request, &[publication("s1", 2, 1)], &[("s1", 2)], &[("s1", 2)], false);
    rig.live(&publication("s1", 5, 4));
    rig.consumed(1);
    rig.pass(20_000);
    assert!(rig.delivered().is_empty() && rig.queries().is_empty());
    assert_eq!(rig.session.deadline(), None);
}

#[test]
fn a_proxy_that_is_up_and_brings_nothing_is_given_up() {
    let mut rig = Rig::following();
    let mut reconnects = 0;
    for seq in 2..20 {
        rig.pass(1_000);
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            let from = after.get(&event("s1", 1).origin) + 1;
            let to = (from + query.limit - 1).min(seq);
            let page: Vec<_> = (from..=to).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.page(request, &page, &[("s1", to)], &[("s1", seq)], to < seq);
        }
        reconnects += rig.out.iter().filter(|effect| matches!(effect, Effect::Reconnect(Side::Proxy))).count();
        rig.out.retain(|effect| !matches!(effect, Effect::Reconnect(_)));
        rig.delivered();
    }
    assert!((1..=3).contains(&reconnects), "{reconnects}");
}
