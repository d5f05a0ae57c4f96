//! What happened, as a digest and as lines that one can read.

use dsv2_core::{Change, EventBody, ReplyBody};

/// A digest of all that happens, and the lines where they are wanted.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn mix(&mut self, word: u64) {
        // A multiply and a rotation for each eight bytes; differences must show, nobody attacks.
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn start_telling(&mut self) {
        self.lines.get_or_insert_with(Vec::new);
    }

    pub(super) fn is_told(&self) -> bool {
        self.lines.is_some()
    }

    /// One line: when, at which of the nine stops of a message, who, what.
    pub(super) fn tell(&mut self, at_us: u64, stop: u8, who: &str, what: &str) {
        if let Some(lines) = &mut self.lines {
            let stop = if stop == 0 { ' ' } else { char::from(b'0' + stop) };
            lines.push(format!("{:>9}.{:03} ms  {stop}  {who:<10} {what}", at_us / 1_000, at_us % 1_000));
        }
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

/// An event's body for people.
fn body(body: &EventBody) -> String {
    use EventBody::{ChannelCreate, Message, Publish, UserLogin};
    match body {
        UserLogin { user } => format!("user_login {user}"),
        ChannelCreate { channel } => format!("channel_create {channel}"),
        Publish { user, channel, message } => format!("message_publish {channel} {user}: {message:?}"),
        Message { src, dst, message } => format!("message_send {src} to {dst}: {message:?}"),
    }
}

/// An answer for people.
pub(super) fn answer(body: &ReplyBody) -> String {
    match body {
        ReplyBody::Done(Some(receipt)) => format!("done, {} at {}", receipt.event, receipt.level),
        ReplyBody::Failed(failure) => format!("{}, {}", failure.code, failure.outcome.as_str()),
        ReplyBody::History(page) => format!("a page of {} message(s)", page.events.len()),
        _ => "done".to_owned(),
    }
}

/// A change of a log for people.
pub(super) fn written(change: &Change) -> String {
    match change {
        Change::Append(event) => format!("appends {} {}, and syncs", event.id, body(&event.body)),
        Change::Skip { origin, upto } => format!("passes over what is retired of {origin} up to {upto}"),
        Change::Retire { floors, .. } => format!("retires up to {} and {}", floors.publish, floors.message),
    }
}
