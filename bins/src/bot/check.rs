//! What a bot checks: no duplicate, no gap, the servers' order, and nothing acknowledged missing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use dsv2_core::{ChannelName, Feed, Origin};
use dsv2_net::client::{Delivery, Message};
use hdrhistogram::Histogram;

use super::BotPlan;
use super::publish::{Fact, Fate, Mark, Run};
use super::summary::Summary;
use crate::error::Error;
use crate::latency::{self, Latency, us};

/// The bots that are told apart; the messages of further ones are counted, but not checked for duplicates.
const RUNS: usize = 4_096;
/// How many numbers above a hole are remembered for each of them.
const AHEAD: usize = 65_536;

/// Counts, and compares.
#[derive(Debug)]
pub(super) struct Checker {
    name: String,
    run: Run,
    seen: HashMap<(String, u32, ChannelName), Numbers>,
    /// The last event of each server in each channel.
    last: HashMap<(Feed, Origin), u64>,
    /// Acknowledged, and not yet received.
    awaited: HashSet<(ChannelName, u64)>,
    /// Received, and not yet acknowledged.
    early: HashSet<(ChannelName, u64)>,
    acknowledgement_us: Histogram<u64>,
    delivery_us: Histogram<u64>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    published: u64,
    acknowledged: u64,
    unknown: u64,
    rejected: u64,
    received: u64,
    received_own: u64,
    duplicates: u64,
    out_of_order: u64,
    gaps: u64,
    recovered: u64,
    reconnections: u64,
}

impl Checker {
    pub(super) fn new(name: String, run: Run) -> Result<Self, Error> {
        Ok(Self {
            name,
            run,
            seen: HashMap::new(),
            last: HashMap::new(),
            awaited: HashSet::new(),
            early: HashSet::new(),
            acknowledgement_us: latency::histogram()?,
            delivery_us: latency::histogram()?,
            counts: Counts::default(),
        })
    }

    pub(super) fn fact(&mut self, fact: &Fact) {
        self.counts.published += 1;
        match fact.fate {
            Fate::Acknowledged(took) => {
                self.counts.acknowledged += 1;
                self.acknowledgement_us.saturating_record(us(took));
                let message = (fact.channel.clone(), fact.number);
                if !self.early.remove(&message) {
                    self.awaited.insert(message);
                }
            }
            Fate::Unknown => self.counts.unknown += 1,
            Fate::Rejected => self.counts.rejected += 1,
        }
    }

    pub(super) fn delivery(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Message(message) => self.message(message),
            Delivery::Gap { topic, missing, .. } => {
                tracing::error!(bot = self.name, ?topic, ?missing, "a gap");
                self.counts.gaps += 1;
            }
            Delivery::Recovered { messages, .. } => self.counts.recovered += messages,
            Delivery::Reconnected => self.counts.reconnections += 1,
            _ => {}
        }
    }

    fn message(&mut self, message: &Message) {
        self.counts.received += 1;
        let event = message.publication.event.as_ref();
        if let Some(event) = event {
            let last = self.last.entry((message.topic.clone(), event.origin.clone())).or_default();
            if event.seq <= *last {
                self.counts.out_of_order += 1;
                tracing::error!(bot = self.name, %event, last = *last, "out of order");
            }
            *last = event.seq.max(*last);
        }
        let (Some(mark), Feed::Channel(channel)) = (Mark::of(message.text()), &message.topic) else { return };
        let whose = (message.author().to_owned(), mark.run, channel.clone());
        let is_known = self.seen.len() < RUNS || self.seen.contains_key(&whose);
        if is_known && !self.seen.entry(whose).or_default().insert(mark.number) {
            self.counts.duplicates += 1;
            tracing::error!(bot = self.name, author = message.author(), number = mark.number, ?event, "a duplicate");
            return;
        }
        if mark.run == self.run.number && message.author() == self.name {
            self.own(channel, mark);
        }
    }

    fn own(&mut self, channel: &ChannelName, mark: Mark) {
        self.counts.received_own += 1;
        let took = us(self.run.started.elapsed()).saturating_sub(mark.sent_us);
        self.delivery_us.saturating_record(took.max(1));
        let message = (channel.clone(), mark.number);
        if !self.awaited.remove(&message) {
            self.early.insert(message);
        }
    }

    /// Whether everything that was acknowledged was received.
    pub(super) fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    pub(super) fn progress(&self) -> String {
        let Counts { acknowledged, received, duplicates, gaps, out_of_order, .. } = self.counts;
        format!(
            "{acknowledged} acknowledged, {received} received, {duplicates} duplicates, {gaps} gaps, {out_of_order} out of order"
        )
    }

    pub(super) fn summary(&self, plan: &BotPlan, publishing_for: Duration) -> Summary {
        let counts = self.counts;
        let seconds = publishing_for.as_secs_f64();
        Summary {
            name: self.name.clone(),
            channels: plan.channels.iter().map(ToString::to_string).collect(),
            published: counts.published,
            acknowledged: counts.acknowledged,
            unknown: counts.unknown,
            rejected: counts.rejected,
            received: counts.received,
            received_own: counts.received_own,
            lost: self.awaited.len() as u64,
            duplicates: counts.duplicates,
            out_of_order: counts.out_of_order,
            gaps: counts.gaps,
            recovered: counts.recovered,
            reconnections: counts.reconnections,
            seconds,
            messages_per_second: if seconds > 0.0 { counts.acknowledged as f64 / seconds } else { 0.0 },
            acknowledgement_us: Latency::of(&self.acknowledgement_us),
            delivery_us: Latency::of(&self.delivery_us),
        }
    }
}

/// A set of numbers that come nearly in order, in little memory: all from the first one to a floor, and some above.
#[derive(Debug, Default)]
struct Numbers {
    first: Option<u64>,
    floor: u64,
    above: BTreeSet<u64>,
}

impl Numbers {
    /// Takes a number; `false` if it was there.
    fn insert(&mut self, number: u64) -> bool {
        let first = *self.first.get_or_insert_with(|| {
            self.floor = number.saturating_sub(1);
            number
        });
        if number < first {
            // From before the bot listened; it cannot tell.
            return true;
        }
        if number <= self.floor || !self.above.insert(number) {
            return false;
        }
        while self.above.remove(&(self.floor + 1)) {
            self.floor += 1;
        }
        if self.above.len() > AHEAD
            && let Some(lowest) = self.above.pop_first()
        {
            // The hole below is given up: what fills it later counts as a duplicate no bot of ours can make.
            self.floor = lowest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_known_whatever_their_order() {
        let mut numbers = Numbers::default();
        for number in [5, 7, 6, 9] {
            assert!(numbers.insert(number), "{number}");
        }
        for number in [5, 6, 7, 9] {
            assert!(!numbers.insert(number), "{number}");
        }
        assert!(numbers.insert(8) && numbers.insert(3));
        assert_eq!((numbers.floor, numbers.above.len()), (9, 0));
    }

    #[test]
    fn a_hole_costs_bounded_memory() {
        let mut numbers = Numbers::default();
        assert!(numbers.insert(1));
        for number in 3..(AHEAD as u64 * 2) {
            assert!(numbers.insert(number));
        }
        assert!(numbers.above.len() <= AHEAD);
    }

    fn checker() -> Checker {
        Checker::new("bot".into(), Run { number: 1, started: tokio::time::Instant::now() }).expect("bounds")
    }

    #[test]
    fn acknowledged_and_received_meet_in_either_order() {
        let dev: ChannelName = "dev".parse().expect("a name");
        let fact = |number, fate| Fact { channel: "dev".parse().expect("a name"), number, fate };
        let mut checker = checker();
        checker.fact(&fact(1, Fate::Acknowledged(Duration::from_millis(1))));
        assert!(!checker.is_complete());
        checker.own(&dev, Mark { run: 1, number: 1, sent_us: 0 });
        assert!(checker.is_complete());
        checker.own(&dev, Mark { run: 1, number: 2, sent_us: 0 });
        checker.fact(&fact(2, Fate::Acknowledged(Duration::from_millis(1))));
        checker.fact(&fact(3, Fate::Unknown));
        assert!(checker.is_complete());
        checker.fact(&fact(4, Fate::Acknowledged(Duration::from_millis(1))));
        let summary = checker.summary(&BotPlan::default(), Duration::from_secs(2));
        assert_eq!((summary.lost, summary.acknowledged, summary.unknown), (1, 3, 1));
        assert!(!summary.is_sound() && summary.complaints().contains("1 lost"));
    }
}
