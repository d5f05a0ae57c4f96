//! How a client shows things: lines for people, or objects for programs.

use dsv2_core::{Clock, Feed, Publication, PublicationBody};
use dsv2_net::client::{Delivery, Receipt};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::output::{self, clean};

/// Whether it is people or programs who look.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) json: bool,
}

impl View {
    /// A message of a feed.
    pub(super) fn message(self, publication: &Publication) -> Result<String, Error> {
        if !self.json {
            return Ok(people(publication));
        }
        let mut object = object("message");
        object.insert("private".into(), matches!(publication.body, PublicationBody::Private { .. }).into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(publication) {
            object.extend(fields);
        }
        output::json(&object)
    }

    /// Something that a subscription yields.
    pub(super) fn delivery(self, delivery: &Delivery) -> Result<String, Error> {
        match delivery {
            Delivery::Message(message) => self.message(&message.publication),
            Delivery::Gap { topic: feed, missing, .. } => {
                let missing = missing.as_ref().map(ToString::to_string);
                let people = format!(
                    "! {} has a gap{}",
                    topic(feed),
                    missing.as_ref().map_or(String::new(), |id| format!(" up to {id}"))
                );
                self.either(|| people, || json!({"type": "gap", "topic": topic(feed), "missing": missing}))
            }
            Delivery::Recovered { topic: feed, messages } => self.either(
                || format!("! {} was repaired: {messages} lost messages were read back", topic(feed)),
                || json!({"type": "recovered", "topic": topic(feed), "messages": messages}),
            ),
            Delivery::Reconnected => self.either(|| "! connected again".to_owned(), || json!({"type": "reconnected"})),
            _ => self.either(|| "! something of a newer version happened".to_owned(), || json!({"type": "unknown"})),
        }
    }

    /// An acknowledged write.
    pub(super) fn written(self, command: &str, what: &str, receipt: Option<&Receipt>) -> Result<String, Error> {
        let clock = receipt.and_then(|receipt| receipt.clock).map(Clock::get);
        let level = receipt.and_then(|receipt| receipt.level);
        self.either(
            || match (level, clock) {
                (Some(level), Some(clock)) => format!("ok: {what} ({level}, clock {clock})"),
                _ => format!("ok: {what}"),
            },
            || {
                let event = receipt.and_then(|receipt| receipt.event.as_ref());
                json!({
                    "type": "ok", "command": command, "clock": clock, "level": level,
                    "id": receipt.and_then(|receipt| receipt.id.as_ref()).map(ToString::to_string),
                    "origin": event.map(|event| event.origin.to_string()),
                    "seq": event.map(|event| event.seq),
                })
            },
        )
    }

    /// A list of names: a name a line for people, one object for programs.
    pub(super) fn names(self, kind: &str, names: &[String]) -> Result<String, Error> {
        self.either(
            || names.iter().map(|name| clean(name)).collect::<Vec<_>>().join("\n"),
            || json!({"type": kind, kind: names}),
        )
    }

    /// A remark, which programs get as an object too.
    pub(super) fn note(self, text: &str) -> Result<String, Error> {
        self.either(|| text.to_owned(), || json!({"type": "note", "text": text}))
    }

    /// A failure, as an answer to a line.
    pub(super) fn failure(self, error: &Error) -> Result<String, Error> {
        self.either(
            || match error.hint() {
                Some(hint) => format!("! {error}: {hint}"),
                None => format!("! {error}"),
            },
            || failure(error),
        )
    }

    /// A failure that ends the program; programs that read stdout are told there.
    pub(super) fn failed(self, error: Error) -> Error {
        if self.json && !matches!(error, Error::OutputClosed) {
            // The error itself is what counts, and is told on stderr in any case.
            let _told = output::object(&failure(&error)).is_ok();
        }
        error
    }

    fn either(self, people: impl FnOnce() -> String, programs: impl FnOnce() -> Value) -> Result<String, Error> {
        if self.json { output::json(&without_nulls(programs())) } else { Ok(people()) }
    }
}

fn object(kind: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), kind.into())])
}

fn failure(error: &Error) -> Value {
    match error {
        Error::Refused(failure) => json!({
            "type": "error", "message": failure.text, "code": failure.code.as_str(), "outcome": failure.outcome.as_str(),
        }),
        other => json!({"type": "error", "message": other.to_string()}),
    }
}

/// Absent is absent, here as on the wire.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}

fn topic(feed: &Feed) -> String {
    match feed {
        Feed::Channel(channel) => channel.to_string(),
        Feed::Inbox(user) => user.to_string(),
        Feed::Conversation(a, b) => format!("{a} and {b}"),
    }
}

fn people(publication: &Publication) -> String {
    let time = publication.timestamp.map_or_else(|| "--:--:--".to_owned(), |time| of_day(time.ms));
    let (author, text) = (clean(publication.body.author()), clean(publication.body.text()));
    match &publication.body {
        PublicationBody::Channel { channel, .. } => {
            format!("{time} #{} {author}: {text}", channel.as_ref().map_or("?", |channel| channel.as_str()))
        }
        PublicationBody::Private { dst, .. } => {
            format!("{time} {author} → {}: {text}", dst.as_ref().map_or("you", |dst| dst.as_str()))
        }
    }
}

/// The time of day, in UTC: a client need not know where it is.
fn of_day(ms: i64) -> String {
    let seconds = ms.div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use dsv2_core::Timestamp;

    use super::*;

    fn publication() -> Publication {
        Publication {
            body: PublicationBody::Channel {
                user: "a\u{7}na".into(),
                channel: Some("dev".parse().expect("a name")),
                message: "oi\n".into(),
            },
            timestamp: Some(Timestamp { ms: 1_795_407_353_924 }),
            clock: None,
            id: None,
            event: None,
            prev: None,
        }
    }

    #[test]
    fn people_see_a_clean_line_and_programs_the_text_itself() -> Result<(), Box<dyn std::error::Error>> {
        assert_eq!(View { json: false }.message(&publication())?, "04:15:53 #dev a\\u{7}na: oi\\n");
        let object: Value = serde_json::from_str(&View { json: true }.message(&publication())?)?;
        let expected = json!({"type": "message", "private": false, "user": "a\u{7}na", "channel": "dev", "message": "oi\n", "timestamp": 1_795_407_353_924_u64});
        assert_eq!(object, expected);
        Ok(())
    }

    #[test]
    fn what_is_absent_is_left_out() -> Result<(), Error> {
        assert_eq!(View { json: true }.written("publish", "x", None)?, r#"{"command":"publish","type":"ok"}"#);
        Ok(())
    }
}
