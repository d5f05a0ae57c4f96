//! What can be judged only when it is known where each message stands at the end.

use std::collections::{BTreeMap, HashMap};

use dsv2_core::{Clock, EventId, Level, OrderKey};

use super::{Checker, From, Kind, Later, Message, Page, Violation};

/// What a client has seen.
#[derive(Debug, Default)]
struct Seen {
    /// By topic and place: since which line, and whether the client wrote it.
    places: BTreeMap<(u32, u32), (u64, bool)>,
    clock: Clock,
}

impl Checker {
    /// Ends the history; yields what was broken, in the order of the lines.
    #[must_use]
    pub fn finish(mut self) -> Vec<Violation> {
        self.judge_writes();
        self.judge_shown();
        self.judge_clients();
        self.judge_subscriptions();
        self.violations.sort_by_key(|violation| (violation.line, violation.kind));
        self.violations
    }

    fn has_final(&self, topic: u32) -> bool {
        self.finals.get(topic as usize).is_some_and(Option::is_some)
    }

    /// Whether retention may have taken a message: it is not among those that are left, and was not shown with a logical
    /// time above.
    fn may_be_retired(&self, message: usize) -> bool {
        let message = &self.messages[message];
        let retired = self.retired.get(&message.topic);
        retired.is_some_and(|retired| message.clock.is_none_or(|clock| clock <= *retired))
    }

    /// Whether what stands at a place of a topic at the end may be missing from a read.
    fn is_below_floor(&self, topic: u32, place: u32) -> bool {
        let Some(retired) = self.retired.get(&topic) else { return false };
        let clock =
            self.message_at(topic, place).and_then(|message| message.place.as_ref()).map(|(_, _, clock)| *clock);
        clock.is_some_and(|clock| clock <= *retired)
    }

    /// Whether what stands at a place of a topic at the end need not have stood there on a line: retention may have taken it
    /// since, or it counts there only since the copy by which it counted went with a disk.
    fn is_excused(&self, topic: u32, place: u32, line: u64) -> bool {
        let moved = self.message_at(topic, place).and_then(|message| message.moved);
        self.is_below_floor(topic, place) || moved.is_some_and(|moved| line < moved)
    }

    fn message_at(&self, topic: u32, place: u32) -> Option<&Message> {
        let list = self.finals.get(topic as usize)?.as_ref()?;
        list.list.get(place as usize).map(|&message| &self.messages[message])
    }

    fn is_lost(&self, server: Option<u32>) -> bool {
        server.is_some_and(|server| self.lost.contains(&server))
    }

    /// Whether the last copy of an event went with a disk.
    fn is_gone(&self, event: Option<&EventId>) -> bool {
        let among = |event: &EventId| {
            self.gone.iter().any(|(origin, from, to)| event.origin == *origin && (*from..=*to).contains(&event.seq))
        };
        event.is_some_and(among)
    }

    fn judge_writes(&mut self) {
        let mut broken = Vec::new();
        for (name, write) in &self.writes {
            let message = &self.messages[write.message];
            if !self.has_final(message.topic) {
                continue;
            }
            let text = &message.text;
            match (&write.ok, message.place.is_some()) {
                (Some((line, level, event)), false) => {
                    let server = event.as_ref().map(|event| event.origin.server.as_str());
                    let gone = server.is_some_and(|server| self.is_lost(self.names.find_server(server)))
                        || self.is_gone(event.as_ref());
                    if (*level > Level::Local || !gone) && !self.may_be_retired(write.message) {
                        let text = format!("{text:?}, acknowledged at {level} as write {name:?}, is lost");
                        broken.push((*line, Kind::Lost, text));
                    }
                }
                (None, true) if !write.unknown && message.write.as_ref() == Some(name) => {
                    if let Some(line) = write.rejected {
                        let text =
                            format!("{text:?}, of which write {name:?} said that nothing had happened, is there");
                        broken.push((line, Kind::RejectedYetThere, text));
                    }
                }
                _ => {}
            }
        }
        // The table's order differs from run to run; what is said must not.
        broken.sort();
        broken.into_iter().for_each(|(line, kind, text)| self.broken(line, kind, text));
    }

    /// What was shown must be there at the end.
    fn judge_shown(&mut self) {
        let mut told = vec![false; self.messages.len()];
        let mut broken = Vec::new();
        for (line, later) in &self.later {
            let mut look = |message: usize, key: Option<&OrderKey>| {
                let known = &self.messages[message];
                let missing = known.place.is_none()
                    && self.has_final(known.topic)
                    && !self.is_lost(known.seen_at)
                    && !self.may_be_retired(message);
                let gone = self.is_gone(key.map(|key| &key.id));
                if missing && !gone && !std::mem::replace(&mut told[message], true) {
                    broken.push((*line, format!("{:?} was shown, and is not there at the end", known.text)));
                }
            };
            match later {
                Later::Saw { message, key, .. } => look(*message, key.as_ref()),
                Later::Read(page) => page.entries.iter().for_each(|(message, key)| look(*message, key.as_ref())),
                Later::Wrote { .. } | Later::Acknowledged { .. } | Later::Forget { .. } => {}
            }
        }
        broken.into_iter().for_each(|(line, text)| self.broken(line, Kind::Vanished, text));
    }

    /// Walks through the history once more, with what each client has seen.
    fn judge_clients(&mut self) {
        let mut clients: HashMap<u32, Seen> = HashMap::new();
        let mut written: BTreeMap<usize, (u64, Clock)> = BTreeMap::new();
        for (line, later) in std::mem::take(&mut self.later) {
            match later {
                Later::Wrote { client, message } => {
                    // It stands where one of the attempts put it, and one of another session may have seen less.
                    let clock = clients.get(&client).map_or(Clock::ZERO, |seen| seen.clock);
                    let (_, least) = written.entry(message).or_insert((line, clock));
                    *least = clock.min(*least);
                }
                Later::Acknowledged { client, message, event } => {
                    let seen = clients.entry(client).or_default();
                    self.saw(seen, line, message, event.as_ref().map(|event| (event, Clock::ZERO)), true);
                }
                Later::Saw { client, message, key } => {
                    let seen = clients.entry(client).or_default();
                    self.saw(seen, line, message, key.as_ref().map(|key| (&key.id, key.clock)), false);
                }
                Later::Forget { client } => drop(clients.remove(&client)),
                Later::Read(page) => {
                    let seen = clients.entry(page.client).or_default();
                    self.judge_stable(line, &page);
                    self.judge_session(line, seen, &page);
                    for (message, key) in &page.entries {
                        self.saw(seen, line, *message, key.as_ref().map(|key| (&key.id, key.clock)), false);
                    }
                }
            }
        }
        self.judge_causes(&written);
    }

    /// No message stands before one that its author had seen.
    fn judge_causes(&mut self, written: &BTreeMap<usize, (u64, Clock)>) {
        for (&message, &(line, seen)) in written {
            let Message { text, place: Some((_, _, clock)), .. } = &self.messages[message] else { continue };
            if *clock > Clock::ZERO && *clock <= seen {
                let text = format!("{text:?} has clock {clock}, and its author had seen one of {seen}");
                self.broken(line, Kind::CausalOrder, text);
            }
        }
    }

    /// A client saw a message, in the event given, if it is known in which. Another one may hold the message in the end,
    /// where the first was lost with its server and the write was repeated: its clock nobody had seen then, and where its
    /// last copy went with a disk, it was there no longer.
    fn saw(&self, seen: &mut Seen, line: u64, message: usize, event: Option<(&EventId, Clock)>, own: bool) {
        let known = &self.messages[message];
        if let Some((place, holds, clock)) = &known.place {
            let clock = match event {
                Some((event, _)) if Some(event) != holds.as_ref() && self.is_gone(Some(event)) => return,
                Some((event, shown)) if Some(event) != holds.as_ref() => shown,
                _ => *clock,
            };
            let (_, wrote) = seen.places.entry((known.topic, *place)).or_insert((line, own));
            *wrote |= own;
            seen.clock = seen.clock.max(clock);
        }
    }

    /// The places of a page's first and last message that stand where they will stay.
    fn span(&self, page: &Page) -> Option<(u32, u32)> {
        let settled = |(message, key): &(usize, Option<dsv2_core::OrderKey>)| {
            let (place, event, _) = self.messages[*message].place.as_ref()?;
            let stays = key.as_ref().map(|key| &key.id) == event.as_ref();
            stays.then_some(*place)
        };
        let first = page.entries.iter().find_map(settled)?;
        let last = if page.end { u32::MAX } else { page.entries.iter().rev().find_map(settled)? };
        Some((first, last))
    }

    /// All that the client had seen or written before the read began must be in it, as far as it reaches.
    fn judge_session(&mut self, line: u64, seen: &Seen, page: &Page) {
        let (first, last) = match self.span(page) {
            Some(span) => span,
            None if page.end && page.entries.is_empty() => (0, u32::MAX),
            None => return,
        };
        if first > last {
            return;
        }
        let mut places: Vec<u32> = page
            .entries
            .iter()
            .filter_map(|(message, _)| self.messages[*message].place.as_ref().map(|(place, _, _)| *place))
            .collect();
        places.sort_unstable();
        let range = seen.places.range((page.topic, first)..=(page.topic, last));
        let missing = range.filter(|(_, (since, _))| *since < page.began).find(|((topic, place), _)| {
            let excused = self.is_excused(*topic, *place, page.began);
            places.binary_search(place).is_err() && !excused
        });
        if let Some((&(topic, place), &(since, own))) = missing {
            let message = self.finals[topic as usize].as_ref().map_or(0, |list| list.list[place as usize]);
            let kind = if own { Kind::ReadYourWrites } else { Kind::MonotonicReads };
            let text =
                format!("{:?}, which the client had seen on line {since}, is missing", self.messages[message].text);
            self.broken(line, kind, text);
        }
    }

    /// Up to the stable bound the page must be what stands there at the end.
    fn judge_stable(&mut self, line: u64, page: &Page) {
        let (Some(stable), Some(Some(last))) = (page.stable, self.finals.get(page.topic as usize)) else { return };
        let excused = |place: u32| self.is_excused(page.topic, place, line);
        let (mut expected, mut passed): (Option<u32>, bool) = (None, false);
        let mut broken = None;
        for (message, key) in &page.entries {
            let Some(key) = key.as_ref().filter(|key| key.clock <= stable) else { break };
            let Some((place, event, _)) = &self.messages[*message].place else { continue };
            if self.messages[*message].moved.is_some_and(|moved| line < moved) {
                passed = true;
                continue;
            }
            let moved = event.as_ref() != Some(&key.id);
            let fits = |expected: u32| expected == *place || (expected < *place && (expected..*place).all(&excused));
            if moved || expected.is_some_and(|expected| !fits(expected)) {
                broken = Some(format!(
                    "{:?} was final at clock {stable}, and is not where it was",
                    self.messages[*message].text
                ));
                break;
            }
            expected = Some(place + 1);
        }
        let ended =
            page.end && page.entries.last().is_none_or(|(_, key)| key.as_ref().is_some_and(|key| key.clock <= stable));
        if broken.is_none() && ended && (expected.is_some() || !passed) {
            let first = expected.unwrap_or(0);
            let all = last.list.len() as u32;
            let next = (first..all).find(|&place| !excused(place)).unwrap_or(all) as usize;
            let next = last.list.get(next).map(|message| &self.messages[*message]);
            if let Some((_, _, clock)) = next.and_then(|message| message.place.as_ref())
                && *clock <= stable
                && *clock > Clock::ZERO
            {
                broken = Some(format!("an event of clock {clock} was added below the final bound {stable}"));
            }
        }
        if let Some(text) = broken {
            self.broken(line, Kind::StablePrefix, text);
        }
    }

    /// What a subscription should have delivered, it did.
    fn judge_subscriptions(&mut self) {
        let mut broken = Vec::new();
        for subscription in &self.subscriptions {
            for &topic in &subscription.topics {
                let told = subscription.gaps.contains(&topic);
                // A gap may be of what a lost server had, or of what retention took; in the last case only of that.
                if told && (!self.lost.is_empty() || !self.retired.contains_key(&topic)) {
                    continue;
                }
                let Some(Some(last)) = self.finals.get(topic as usize) else { continue };
                for (place, &message) in (0..).zip(&last.list) {
                    if told && self.is_below_floor(topic, place) {
                        continue;
                    }
                    if subscription.delivered.contains_key(&message) {
                        continue;
                    }
                    let event = self.messages[message].place.as_ref().and_then(|(_, event, _)| event.as_ref());
                    let range = event.and_then(|event| {
                        subscription.origins.get(&(topic, event.origin.clone())).map(|range| (event.seq, range))
                    });
                    let due = match (subscription.from, subscription.closed, range) {
                        (From::Beginning, false, _) => true,
                        (From::Beginning, true, Some((seq, (_, to)))) => seq < *to,
                        (From::Last, false, Some((seq, (from, _)))) => seq > *from,
                        (From::Last, true, Some((seq, (from, to)))) => seq > *from && seq < *to,
                        (_, _, None) => false,
                    };
                    if due {
                        let text = format!(
                            "{:?} was never delivered to the subscription of this line",
                            self.messages[message].text
                        );
                        broken.push((subscription.line, text));
                        break;
                    }
                }
            }
        }
        broken.into_iter().for_each(|(line, text)| self.broken(line, Kind::Missed, text));
    }
}
