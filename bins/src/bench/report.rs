//! What a load tells at its end.

use dsv2_core::Format;
use serde::Serialize;

use super::load::Measured;
use crate::error::Error;
use crate::latency::Latency;

/// What was done, how fast, and how long it took.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// publish, fanout, request or replay.
    pub work: &'static str,
    /// Connections that worked.
    pub clients: u32,
    /// Turns that each had under way.
    pub in_flight: u32,
    /// Turns a second that were asked for; 0 for as many as they could.
    pub rate: f64,
    /// The serialization of requests.
    pub serde: &'static str,
    /// Bytes of a text, where texts were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u32>,
    /// How safe writes were, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Turns measured: writes acknowledged, requests answered, pages read.
    pub turns: u64,
    /// Messages of the pages read; else as many as turns.
    pub messages: u64,
    /// Turns that failed, of all that were begun.
    pub failed: u64,
    /// Turns that began more than 10 ms after they were due, because all that may be under way were.
    pub late: u64,
    /// How long it measured.
    pub seconds: f64,
    /// Messages a second.
    pub messages_per_second: f64,
    /// From when a turn was due to its answer, in microseconds.
    pub latency_us: Latency,
    /// What subscribers received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Deliveries>,
    #[serde(skip)]
    first_failure: Option<String>,
}

/// What subscribers received.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Deliveries {
    /// How many subscribers.
    pub subscribers: u32,
    /// Deliveries measured, of all subscribers together.
    pub deliveries: u64,
    /// Deliveries a second.
    pub per_second: f64,
    /// Acknowledged, and not delivered to some subscriber, after nothing had come for ten seconds. Where calls failed, what
    /// they wrote all the same can make it too small.
    pub missing: u64,
    /// How often something was missing that no server could supply.
    pub gaps: u64,
    /// How many were lost on the publish side and read back.
    pub recovered: u64,
    /// From when the publication was due to its delivery, in microseconds.
    pub latency_us: Latency,
}

impl Report {
    pub(super) fn new(work: &'static str, load: &super::Load, in_flight: u32, measured: &Measured) -> Self {
        let seconds = measured.took.as_secs_f64();
        Self {
            work,
            clients: load.clients,
            in_flight,
            rate: load.rate,
            serde: match load.serde {
                Format::Json => "json",
                Format::MsgPack => "msgpack",
            },
            size_bytes: None,
            level: None,
            turns: measured.turns,
            messages: measured.amount,
            failed: measured.failed,
            late: measured.late,
            seconds,
            messages_per_second: measured.amount as f64 / seconds,
            latency_us: Latency::of(&measured.latency_us),
            deliveries: None,
            first_failure: measured.first_failure.as_ref().map(Error::to_string),
        }
    }

    pub(super) fn of_texts(mut self, writing: &super::Writing) -> Self {
        self.size_bytes = Some(writing.size);
        self.level = writing.level.map(|level| level.to_string());
        self
    }

    /// Why it is not to be trusted, if so.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let mut all = Vec::new();
        if let Some(why) = &self.first_failure {
            all.push(format!("{} of the calls failed; the first: {why}", self.failed));
        }
        if let Some(deliveries) = self.deliveries.filter(|deliveries| deliveries.missing + deliveries.gaps > 0) {
            all.push(format!("{} deliveries are missing, {} gaps", deliveries.missing, deliveries.gaps));
        }
        if self.turns == 0 {
            all.push("nothing was answered in the time that is measured".to_owned());
        }
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// A few lines for people.
    #[must_use]
    pub fn people(&self) -> String {
        let rate = if self.rate > 0.0 { format!(", {} a second asked for", self.rate) } else { String::new() };
        let size = self.size_bytes.map_or_else(String::new, |size| format!(", {size} B"));
        let level = self.level.as_ref().map_or_else(String::new, |level| format!(", level {level}"));
        let mut text = format!(
            "{}: {} clients, {} in flight each, {}{size}{level}{rate}\n\
             \x20 {} in {:.2} s: {:.0} a second\n\
             \x20 latency    50 90 99 99.9 100 %: {}",
            self.work,
            self.clients,
            self.in_flight,
            self.serde,
            self.messages,
            self.seconds,
            self.messages_per_second,
            self.latency_us.people(),
        );
        if self.late > 0 {
            text += &format!(
                "\n  late       {} turns began more than 10 ms after they were due: more --in-flight?",
                self.late
            );
        }
        if let Some(deliveries) = &self.deliveries {
            text += &format!(
                "\n  delivered  {} to {} subscribers: {:.0} a second; {} read back\n\
                 \x20 delivered  50 90 99 99.9 100 %: {}",
                deliveries.deliveries,
                deliveries.subscribers,
                deliveries.per_second,
                deliveries.recovered,
                deliveries.latency_us.people(),
            );
        }
        text
    }
}
