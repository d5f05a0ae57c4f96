use super::*;
use crate::testing::Sampler;

#[derive(Clone, Copy, Debug)]
struct Nowhere;

impl Place for Nowhere {
    fn bytes(&self) -> usize {
        1
    }
}

fn entry(event: &Event) -> Entry<Nowhere> {
    Entry::new(event.clock, event.timestamp.ms, Nowhere)
}

#[test]
fn missing_events_are_the_gaps_before_waiting_ones() {
    let mut index = Index::default();
    let event = Sampler::new(1).event();
    let id = index.origin_id(&event.id.origin);
    for seq in [3, 4, 7] {
        assert!(index.wait(id, seq, entry(&event)));
    }
    assert!(!index.wait(id, 4, entry(&event)), "that number is taken");
    let gaps = |index: &Index<Nowhere>| index.missing().into_iter().map(|(_, a, b)| (a, b)).collect::<Vec<_>>();
    assert_eq!(gaps(&index), [(1, 2), (5, 6)]);
    assert!(index.vector().is_empty());
    for left in [3, 3, 2, 1] {
        index.push(id, entry(&event), FeedNames::None);
        assert_eq!(index.waiting(), left);
    }
    assert_eq!(gaps(&index), [(5, 6)]);
    assert_eq!(index.vector().get(&event.id.origin), 4);
}

#[test]
fn memory_per_event_is_bounded() {
    #[derive(Clone, Copy, Debug)]
    struct Loc([u32; 3]);
    impl Place for Loc {
        fn bytes(&self) -> usize {
            self.0[2] as usize
        }
    }
    let mut index = Index::default();
    for event in Sampler::new(1).batch(50_000) {
        let id = index.origin_id(&event.id.origin);
        index.push(id, Entry::new(event.clock, event.timestamp.ms, Loc([0; 3])), FeedNames::of(&event.body));
    }
    let per_event = index.memory_bytes() / index.events();
    assert!(per_event <= 40, "{per_event} bytes");
}
