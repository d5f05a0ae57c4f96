use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn index(mode: MatchMode) -> Subscriptions {
    Subscriptions::new(mode, SubscriptionLimits::default())
}

fn matched(index: &mut Subscriptions, topic: &[u8]) -> BTreeSet<PeerIndex> {
    let found = index.matching(topic);
    let set: BTreeSet<_> = found.iter().copied().collect();
    assert_eq!(set.len(), found.len(), "a subscriber was found twice");
    set
}

#[test]
fn exact_never_delivers_to_a_prefix() {
    let mut index = index(MatchMode::Exact);
    index.subscribe(0, b"an").unwrap();
    index.subscribe(1, b"").unwrap();
    assert!(matched(&mut index, b"ana").is_empty());
    assert_eq!(matched(&mut index, b"an"), BTreeSet::from([0]));
    assert_eq!(matched(&mut index, b""), BTreeSet::from([1]));
}

/// All names of up to three characters out of four, each against each.
#[test]
fn exact_delivers_each_name_to_its_subscriber_only() {
    let mut names: Vec<Vec<u8>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..3 {
        let longer: Vec<Vec<u8>> = names[from..]
            .iter()
            .flat_map(|name| b"ab_-".iter().map(move |&last| [&name[..], &[last]].concat()))
            .collect();
        from = names.len();
        names.extend(longer);
    }
    assert_eq!(names.len(), 1 + 4 + 16 + 64);
    let mut index = index(MatchMode::Exact);
    for (subscriber, name) in (0..).zip(&names) {
        index.subscribe(subscriber, name).unwrap();
    }
    for (subscriber, name) in (0..).zip(&names) {
        assert_eq!(matched(&mut index, name), BTreeSet::from([subscriber]), "{name:?}");
    }
}

#[test]
fn prefix_delivers_once_per_subscriber() {
    let mut index = index(MatchMode::Prefix);
    for topic in [&b""[..], b"a", b"an", b"ana", b"anab", b"b"] {
        index.subscribe(7, topic).unwrap();
    }
    index.subscribe(3, b"an").unwrap();
    assert_eq!(matched(&mut index, b"ana"), BTreeSet::from([3, 7]));
    assert_eq!(matched(&mut index, b"x"), BTreeSet::from([7]));
}

#[test]
fn the_other_subscriber_of_a_topic_keeps_it() {
    let mut index = index(MatchMode::Exact);
    assert_eq!(index.subscribe(0, b"t"), Ok(Subscribed::First(Bytes::from_static(b"t"))));
    assert_eq!(index.subscribe(1, b"t"), Ok(Subscribed::Joined));
    assert_eq!(index.subscribe(1, b"t"), Ok(Subscribed::Already));
    assert_eq!(index.unsubscribe(0, b"t"), Unsubscribed::Left);
    assert_eq!(index.unsubscribe(0, b"t"), Unsubscribed::NotHeld);
    assert_eq!(matched(&mut index, b"t"), BTreeSet::from([1]));
    assert_eq!(
        index.remove_peer(1),
        vec![Bytes::from_static(b"t")],
        "a repeated subscription must not survive its peer"
    );
    assert_eq!((index.topic_count(), index.subscription_count()), (0, 0));
}

#[test]
fn every_bound_refuses_and_changes_nothing() {
    let limits =
        SubscriptionLimits { topic_cap_bytes: 4, topics_per_peer: 2, topics: 3, subscriptions: 5, names_cap_bytes: 9 };
    let mut index = Subscriptions::new(MatchMode::Prefix, limits);
    let refused = SubscribeRefused::TopicTooLong;
    assert_eq!(index.subscribe(0, b"12345"), Err(refused));
    index.subscribe(0, b"aaaa").unwrap();
    index.subscribe(0, b"bbbb").unwrap();
    assert_eq!(index.subscribe(0, b"c"), Err(SubscribeRefused::PeerFull));
    // Ten bytes of names would pass the cap of nine.
    assert_eq!(index.subscribe(1, b"cc"), Err(SubscribeRefused::TableFull));
    index.subscribe(1, b"c").unwrap();
    assert_eq!(index.subscribe(2, b""), Err(SubscribeRefused::TableFull));
    index.subscribe(1, b"aaaa").unwrap();
    index.subscribe(2, b"aaaa").unwrap();
    assert_eq!(index.subscribe(3, b"c"), Err(SubscribeRefused::TableFull));
    assert_eq!(index.topic_count(), 3);
    assert_eq!(index.subscription_count(), 5);
    assert_eq!(matched(&mut index, b"cc"), BTreeSet::from([1]));
}

/// The obvious implementation: a set of (peer, topic).
#[derive(Default)]
struct Model(BTreeSet<(PeerIndex, Vec<u8>)>);

impl Model {
    fn holders(&self, topic: &[u8]) -> usize {
        self.0.iter().filter(|(_, held)| held == topic).count()
    }

    fn matching(&self, mode: MatchMode, topic: &[u8]) -> BTreeSet<PeerIndex> {
        let hit = |held: &[u8]| match mode {
            MatchMode::Exact => held == topic,
            MatchMode::Prefix => topic.starts_with(held),
        };
        let all = self.0.iter().filter(|(_, held)| hit(held));
        all.map(|(peer, _)| *peer).collect()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Subscribe(PeerIndex, Vec<u8>),
    Unsubscribe(PeerIndex, Vec<u8>),
    RemovePeer(PeerIndex),
}

/// Few letters and short topics, so that prefixes, splits and merges happen all the time.
fn topic() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&b"ab\0"[..]), 0..6)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6u32, topic()).prop_map(|(peer, topic)| Op::Subscribe(peer, topic)),
        4 => (0..6u32, topic()).prop_map(|(peer, topic)| Op::Unsubscribe(peer, topic)),
        1 => (0..6u32).prop_map(Op::RemovePeer),
    ]
}

fn apply(mode: MatchMode, index: &mut Subscriptions, model: &mut Model, op: &Op) {
    match op {
        Op::Subscribe(peer, topic) => {
            let expected = if model.holders(topic) == 0 {
                Subscribed::First(Bytes::copy_from_slice(topic))
            } else if model.0.contains(&(*peer, topic.clone())) {
                Subscribed::Already
            } else {
                Subscribed::Joined
            };
            assert_eq!(index.subscribe(*peer, topic), Ok(expected));
            model.0.insert((*peer, topic.clone()));
        }
        Op::Unsubscribe(peer, topic) => {
            let held = model.0.remove(&(*peer, topic.clone()));
            let expected = match (held, model.holders(topic)) {
                (false, _) => Unsubscribed::NotHeld,
                (true, 0) => Unsubscribed::Last(Bytes::copy_from_slice(topic)),
                (true, _) => Unsubscribed::Left,
            };
            assert_eq!(index.unsubscribe(*peer, topic), expected);
        }
        Op::RemovePeer(peer) => {
            let before: BTreeSet<_> = model.0.iter().map(|(_, topic)| topic.clone()).collect();
            model.0.retain(|(other, _)| other != peer);
            let gone: BTreeSet<_> =
                before.into_iter().filter(|topic| model.holders(topic) == 0).map(Bytes::from).collect();
            let withdrawn: BTreeSet<_> = index.remove_peer(*peer).into_iter().collect();
            assert_eq!(withdrawn, gone);
        }
    }
    assert_eq!(index.subscription_count(), model.0.len(), "{mode:?}");
}

proptest! {
    #[test]
    fn agrees_with_a_naive_model(
        prefix in any::<bool>(),
        ops in prop::collection::vec(op(), 1..120),
        probes in prop::collection::vec(topic(), 1..20),
    ) {
        let mode = if prefix { MatchMode::Prefix } else { MatchMode::Exact };
        let mut index = index(mode);
        let mut model = Model::default();
        for op in &ops {
            apply(mode, &mut index, &mut model, op);
            for probe in &probes {
                prop_assert_eq!(matched(&mut index, probe), model.matching(mode, probe));
            }
        }
        for peer in 0..6 {
            index.remove_peer(peer);
        }
        prop_assert_eq!(index.topic_count(), 0);
        prop_assert_eq!(index.topics().count(), 0);
        prop_assert_eq!(index.names_bytes, 0);
        if let Some(trie) = &index.trie {
            prop_assert_eq!(trie.node_count(), 1, "the trie kept nodes of withdrawn topics");
        }
    }
}
