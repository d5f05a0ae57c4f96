//! What a bot tells at its end.

use serde::Serialize;

use crate::latency::Latency;

/// What a bot did, and what it found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Where it published.
    pub channels: Vec<String>,
    /// How many messages have their fate.
    pub published: u64,
    /// How many of them are acknowledged.
    pub acknowledged: u64,
    /// How many may or may not have happened.
    pub unknown: u64,
    /// How many surely did not happen.
    pub rejected: u64,
    /// How many messages it received, of all publishers.
    pub received: u64,
    /// How many of them were its own.
    pub received_own: u64,
    /// How many of its own are acknowledged, and were not received.
    pub lost: u64,
    /// How many were received twice.
    pub duplicates: u64,
    /// How many came behind a later one of the same server.
    pub out_of_order: u64,
    /// How often something was missing that no server could supply.
    pub gaps: u64,
    /// How many were lost on the publish side and read back.
    pub recovered: u64,
    /// How often the connection to the proxy was lost and came back.
    pub reconnections: u64,
    /// How long it published, in seconds.
    pub seconds: f64,
    /// Acknowledged messages a second.
    pub messages_per_second: f64,
    /// From the call to its acknowledgement, in microseconds.
    pub acknowledgement_us: Latency,
    /// From the call to its own delivery, in microseconds.
    pub delivery_us: Latency,
}

impl Summary {
    /// Whether every check passed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.lost == 0 && self.duplicates == 0 && self.out_of_order == 0 && self.gaps == 0
    }

    /// What did not pass.
    #[must_use]
    pub fn complaints(&self) -> String {
        let all = [
            (self.lost, "lost"),
            (self.duplicates, "duplicates"),
            (self.out_of_order, "out of order"),
            (self.gaps, "gaps"),
        ];
        let found: Vec<String> =
            all.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        found.join(", ")
    }

    /// A few lines for people.
    #[must_use]
    pub fn people(&self) -> String {
        let verdict =
            if self.is_sound() { "no duplicate, no gap, in order, nothing lost".to_owned() } else { self.complaints() };
        format!(
            "{name} in {channels}: {verdict}\n\
             \x20 published  {published}: {acknowledged} acknowledged, {unknown} unknown, {rejected} rejected, in {seconds:.1} s: {rate:.1} a second\n\
             \x20 received   {received}, {own} of them its own; {recovered} read back, {reconnections} reconnections\n\
             \x20 latency    50 90 99 99.9 100 %: acknowledged {acknowledgement}, delivered {delivery}",
            name = self.name,
            channels = self.channels.join(", "),
            published = self.published,
            acknowledged = self.acknowledged,
            unknown = self.unknown,
            rejected = self.rejected,
            seconds = self.seconds,
            rate = self.messages_per_second,
            received = self.received,
            own = self.received_own,
            recovered = self.recovered,
            reconnections = self.reconnections,
            acknowledgement = self.acknowledgement_us.people(),
            delivery = self.delivery_us.people(),
        )
    }
}
