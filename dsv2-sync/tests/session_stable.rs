//! Scripts for subscriptions in stable order: only what is final, as history lists it.

mod session_topic;

use dsv2_core::{Code, HistorySpan};
use dsv2_sync::session::{Cursor, Order, SessionConfig};
use session_topic::{Rig, dev, event, position, publication};

#[test]
fn in_stable_order_only_what_is_final_is_delivered() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let request = rig.query().0;
    let page = [publication("s2", 1, 0), publication("s1", 2, 0), publication("s2", 3, 1)];
    rig.stable_page(request, &page, &[("s1", 2), ("s2", 3)], false, 2);
    assert!(rig.established());
    assert_eq!(rig.delivered(), ["s2.1", "s1.2"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 2), ("s2", 1)])), "what waits is not passed");
    // A live publication is a hint, and nothing else.
    rig.live(&publication("s1", 5, 2));
    assert!(rig.delivered().is_empty());
    rig.pass(250);
    let (request, query) = rig.query();
    assert_eq!(query.span, HistorySpan::After(position(&[("s1", 2), ("s2", 1)])));
    rig.stable_page(request, &page[2..], &[("s1", 2), ("s2", 3)], true, 9);
    assert_eq!(rig.delivered(), ["s2.3"]);
    let request = rig.query().0;
    rig.stable_page(request, &[publication("s1", 5, 2)], &[("s1", 5), ("s2", 3)], false, 9);
    assert_eq!(rig.delivered(), ["s1.5"]);
    assert!(rig.queries().is_empty());
}

/// One server had retired what another one still serves: it is not delivered out of order.
#[test]
fn what_comes_to_light_behind_the_last_delivery_is_told_as_a_gap() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let request = rig.query().0;
    rig.stable_page(request, &[publication("s2", 5, 0)], &[("s2", 5)], true, 9);
    assert_eq!(rig.delivered(), ["s2.5"]);
    let request = rig.query().0;
    let page = [publication("s1", 2, 0), publication("s1", 4, 2), publication("s2", 6, 5), publication("s1", 7, 4)];
    rig.stable_page(request, &page, &[("s1", 7), ("s2", 6)], false, 9);
    assert_eq!(rig.delivered(), ["[gap 4]", "s2.6", "s1.7"]);
    assert_eq!(rig.point.get(&dev()), Some(position(&[("s1", 7), ("s2", 6)])));
}

/// s1's event 3 counts by s2's event 2, so the page does not list it; what stood before it is retired.
#[test]
fn what_is_retired_before_an_event_that_is_not_listed_is_told() {
    for order in [Order::Stable, Order::Arrival] {
        let mut rig = Rig::new(SessionConfig::default());
        rig.subscribe_in(Cursor::Beginning, order);
        let request = rig.query().0;
        let page = [publication("s2", 2, 0), publication("s1", 4, 3), publication("s2", 5, 2)];
        rig.page_after_retired(request, &page, &[("s1", 4), ("s2", 5)], &[("s1", 1)]);
        assert_eq!(rig.delivered(), ["s2.2", "[gap 1]", "s1.4", "s2.5"], "{order:?}");
    }
}

/// What is retired may be of an earlier life of the server: an event names it as its predecessor all the same.
#[test]
fn what_is_retired_of_an_earlier_life_is_told_before_what_follows_it() {
    for order in [Order::Stable, Order::Arrival] {
        let mut rig = Rig::new(SessionConfig::default());
        rig.subscribe_in(Cursor::Beginning, order);
        let request = rig.query().0;
        let (mut first, earlier) = (publication("s1", 1, 0), event("s1", 7));
        let life = first.event.as_mut().expect("an event");
        life.origin.incarnation += 1;
        first.prev = Some(earlier);
        let page = [first, publication("s2", 9, 0)];
        rig.page_after_retired(request, &page, &[("s2", 9)], &[("s1", 7)]);
        assert_eq!(rig.delivered(), ["[gap 7]", "s1.1", "s2.9"], "{order:?}");
    }
}

#[test]
fn a_stable_order_that_stalls_says_so_once() {
    let mut rig = Rig::new(SessionConfig::default());
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let mut told = Vec::new();
    for _ in 0..60 {
        for (request, _) in rig.queries() {
            rig.stable_page(request, &[publication("s1", 5, 0)], &[("s1", 5)], false, 4);
        }
        told.extend(rig.delivered());
        rig.pass(250);
    }
    assert_eq!(told, ["[stalled at 4]"]);
    let request = rig.query().0;
    rig.stable_page(request, &[publication("s1", 5, 0)], &[("s1", 5)], false, 5);
    assert_eq!(rig.delivered(), ["s1.5"]);
    // Without voters there is no such order.
    for cursor in [Cursor::Beginning, Cursor::Last] {
        let mut rig = Rig::new(SessionConfig::default());
        rig.subscribe_in(cursor, Order::Stable);
        for _ in 0..120 {
            for (request, _) in rig.queries() {
                rig.page(request, &[], &[], &[], false);
            }
            rig.pass(100);
        }
        assert_eq!(rig.failure(), Some(Code::NotReady));
    }
}

#[test]
fn a_full_consumer_of_a_stable_order_is_served_as_soon_as_it_has_room() {
    let mut rig = Rig::new(SessionConfig { window: 2, ..SessionConfig::default() });
    rig.subscribe_in(Cursor::Beginning, Order::Stable);
    let mut next = 1;
    let mut got = Vec::new();
    for _ in 0..10 {
        for (request, query) in rig.queries() {
            let HistorySpan::After(after) = query.span else { panic!("{query:?}") };
            next = after.get(&event("s1", 1).origin) + 1;
            let page: Vec<_> = (next..next + query.limit).map(|seq| publication("s1", seq, seq - 1)).collect();
            rig.stable_page(request, &page, &[("s1", next + query.limit - 1)], true, 1_000);
        }
        got.extend(rig.delivered());
        rig.consumed(2);
    }
    assert!(next > 15, "{next}");
    assert_eq!(got, (1..=got.len()).map(|seq| format!("s1.{seq}")).collect::<Vec<_>>());
}
