//! Events as JSON, without a serializer between: every write of a server leaves in these two forms.
//!
//! They are byte for byte what the serializers of [`Publication`](super::Publication) and of a
//! [`ReplicationEvent`](super::ReplicationEvent) make, in a third of the instructions; the tests compare them.

use crate::event::{Event, EventBody};
use crate::id::{Origin, Spell};
use crate::json::{push_number, push_signed, push_string};

/// Appends the event as it stands on its topic. It must have one.
pub(super) fn publication(event: &Event, out: &mut Vec<u8>) {
    match &event.body {
        EventBody::Publish { user, message, .. } => {
            push_text(out, r#"{"user":"#, user.as_str());
            push_text(out, r#","message":"#, message);
        }
        EventBody::Message { src, message, .. } => {
            push_text(out, r#"{"src":"#, src.as_str());
            push_text(out, r#","message":"#, message);
        }
        EventBody::UserLogin { .. } | EventBody::ChannelCreate { .. } => {}
    }
    out.extend_from_slice(br#","timestamp":"#);
    push_signed(out, event.timestamp.ms);
    out.extend_from_slice(br#","clock":"#);
    push_number(out, event.clock.get());
    push_identity(out, r#","id":""#, &event.message_id);
    push_identity(out, r#","origin":""#, &event.id.origin);
    out.extend_from_slice(br#","seq":"#);
    push_number(out, event.id.seq);
    if let Some(prev) = &event.prev {
        push_identity(out, r#","prev":""#, prev);
    }
    out.push(b'}');
}

/// Appends the event as it stands on `replication`.
pub(super) fn replication(event: &Event, out: &mut Vec<u8>) {
    push_text(out, r#"{"type":"#, event.body.kind().as_str());
    push_text(out, r#","server_id":"#, event.id.origin.server.as_str());
    out.extend_from_slice(br#","clock":"#);
    push_number(out, event.clock.get());
    // Before the rest: see `ReplicationEvent::is_ours`.
    push_identity(out, r#","origin":""#, &event.id.origin);
    out.extend_from_slice(br#","seq":"#);
    push_number(out, event.id.seq);
    out.extend_from_slice(br#","data":{"#);
    let kind = push_written(out, &event.body);
    out.extend_from_slice(br#","timestamp":"#);
    push_signed(out, event.timestamp.ms);
    if let Some(kind) = kind {
        out.extend_from_slice(br#","clock":"#);
        push_number(out, event.clock.get());
        push_text(out, r#","type":"#, kind);
    }
    out.extend_from_slice(br#"},"timestamp":"#);
    push_signed(out, event.timestamp.ms);
    push_identity(out, r#","id":""#, &event.message_id);
    if let Some(prev) = &event.prev {
        push_identity(out, r#","prev":""#, prev);
    }
    out.push(b'}');
}

/// Whether a body begins as [`replication`] writes it, up to its identity. What is written otherwise may be ours too.
pub(super) fn begins_as_ours(body: &[u8]) -> bool {
    let identity = || {
        let (_, body) = text_and_rest(body.strip_prefix(br#"{"type":""#)?)?;
        let (_, body) = text_and_rest(body.strip_prefix(br#","server_id":""#)?)?;
        let body = body.strip_prefix(br#","clock":"#)?;
        let body = &body[body.iter().position(|byte| !byte.is_ascii_digit())?..];
        let (origin, body) = text_and_rest(body.strip_prefix(br#","origin":""#)?)?;
        let seq = body.strip_prefix(br#","seq":"#)?;
        Some(Origin::is_spelled(std::str::from_utf8(origin).ok()?) && matches!(seq.first(), Some(b'1'..=b'9')))
    };
    identity() == Some(true)
}

/// Splits behind a text whose opening quote is passed; `None` where something in it is escaped.
fn text_and_rest(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|&byte| byte == b'"' || byte == b'\\')?;
    (body[end] == b'"').then(|| (&body[..end], &body[end + 1..]))
}

/// Appends the fields that depend on the kind; yields what the family calls it within `data`.
fn push_written(out: &mut Vec<u8>, body: &EventBody) -> Option<&'static str> {
    match body {
        EventBody::UserLogin { user } => {
            push_text(out, r#""user":"#, user.as_str());
            None
        }
        EventBody::ChannelCreate { channel } => {
            push_text(out, r#""channel":"#, channel.as_str());
            None
        }
        EventBody::Publish { user, channel, message } => {
            push_text(out, r#""user":"#, user.as_str());
            push_text(out, r#","channel":"#, channel.as_str());
            push_text(out, r#","message":"#, message);
            Some("publish")
        }
        EventBody::Message { src, dst, message } => {
            push_text(out, r#""src":"#, src.as_str());
            push_text(out, r#","dst":"#, dst.as_str());
            push_text(out, r#","message":"#, message);
            Some("message")
        }
    }
}

/// Appends what stands before a text, and the text with its quotes.
fn push_text(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    push_string(out, text);
}

/// Appends what stands before an identity, the opening quote included, and the identity.
fn push_identity(out: &mut Vec<u8>, before: &str, id: &impl Spell) {
    out.extend_from_slice(before.as_bytes());
    let spelled = id.spell(out);
    debug_assert!(spelled.is_ok(), "a vector takes every write");
    out.push(b'"');
}
