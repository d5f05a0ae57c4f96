//! A topic in stable order: only what is final is delivered, in the one order that every subscriber sees.
//!
//! Live publications only hint that there is something to read. History lists a topic in the total order, and says below
//! which logical time nothing will be inserted any more: what it lists below that is delivered as it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use dsv2_core::{Clock, EventId, HistoryPage, Mono, OrderKey, Origin, Publication};

use super::{Sink, Track};
use crate::session::config::SessionConfig;
use crate::session::io::Delivery;
use crate::session::resume::Step;

/// What waits to become final.
#[derive(Debug, Default)]
pub(super) struct Unstable {
    /// Up to here everything is final.
    bound: Option<Clock>,
    /// Since when something waits for the bound to rise.
    since: Option<Mono>,
    /// The stall was told.
    told: bool,
    /// The last event that was delivered: what comes to light before it is passed over.
    passed: Option<OrderKey>,
}

impl Track {
    /// A live publication hints that there is something to read.
    pub(super) fn hint(&mut self, now: Mono, config: &SessionConfig) {
        self.compare_at = self.compare_at.min(now + Duration::from_millis(config.grace_ms));
    }

    /// Delivers what is final of a page. `false` if the servers have no stable order.
    pub(super) fn read_stable(
        &mut self,
        now: Mono,
        page: HistoryPage,
        config: &SessionConfig,
        sink: &mut Sink<'_>,
    ) -> bool {
        self.failures = 0;
        let Some(bound) = page.stable else {
            self.back_off(now, config);
            return false;
        };
        let (mut waits, mut full) = (false, !self.pass_late(&page.events, sink));
        let left = if full { Vec::new() } else { page.events };
        for mut publication in left {
            let Some(event) = publication.event.clone() else { continue };
            if self.resume.contains(&event) || !self.address(&mut publication) {
                continue;
            }
            waits = publication.clock.is_none_or(|clock| clock > bound);
            full = !waits && (!self.tell_retired(&page.retired, Some(&publication), sink) || sink.is_full());
            if waits || full {
                break;
            }
            let key = publication.clock.map(|clock| OrderKey { clock, id: event });
            self.take(publication, sink);
            self.unstable.passed = key;
        }
        full = full || (!waits && !self.tell_retired(&page.retired, None, sink));
        if !waits && !full && !self.resume.covers(&page.next) {
            self.resume.merge(&page.next);
            sink.advance(Step::Vector(self.feed.clone(), page.next));
        }
        let pause_ms = match waits {
            true => config.poll_ms,
            false if full || page.more => 0,
            false => config.compare_ms,
        };
        (self.compare_at, self.not_before) = (now + Duration::from_millis(pause_ms), now);
        self.watch_bound(now, bound, waits, config, sink);
        true
    }

    /// Passes over what stands before the last delivery: another server, which was read before, had retired it already. It
    /// is not delivered out of order; of each origin, one gap is told. `false` if there was no room.
    fn pass_late(&mut self, events: &[Publication], sink: &mut Sink<'_>) -> bool {
        let Some(passed) = self.unstable.passed.clone() else { return true };
        let mut late: BTreeMap<&Origin, &EventId> = BTreeMap::new();
        for publication in events {
            let (Some(event), Some(clock)) = (&publication.event, publication.clock) else { continue };
            let is_late = OrderKey { clock, id: event.clone() } < passed;
            if is_late && !self.resume.contains(event) {
                late.insert(&event.origin, event);
            }
        }
        late.into_values().all(|last| self.tell_missing(last, sink))
    }

    /// Tells once if what waits does not become final.
    fn watch_bound(&mut self, now: Mono, bound: Clock, waits: bool, config: &SessionConfig, sink: &mut Sink<'_>) {
        let unstable = &mut self.unstable;
        if !waits || unstable.bound.is_none_or(|before| before < bound) {
            (unstable.bound, unstable.since, unstable.told) = (Some(bound), waits.then_some(now), false);
            return;
        }
        let since = *unstable.since.get_or_insert(now);
        let is_over = since + Duration::from_millis(config.silence_ms) <= now;
        if is_over && !unstable.told && !sink.is_full() {
            unstable.told = true;
            sink.deliver(Delivery::Stalled { feed: self.feed.clone(), stable: bound }, None);
        }
    }
}
