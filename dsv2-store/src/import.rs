//! Reading the data of other programs of the family.
//!
//! They keep `users.json` and `channels.json` as one array, or as JSON Lines; messages as JSON Lines in
//! `messages/messages.jsonl`, and publications in `messages/publishes.jsonl` or, misspelt, `messages/publishs.jsonl`.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::{fmt, vec};

use dsv2_core::{Clock, EventBody, EventKind, Name, RawTimestamp, Timestamp};
use serde_json::{Map, Value};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::jsonl::LINE_CAP_BYTES;

/// The largest array: it is read at once.
const ARRAY_CAP_BYTES: u64 = 256 << 20;

/// The files that are looked for, users and channels before what mentions them.
const FILES: [(&str, EventKind); 5] = [
    ("users.json", EventKind::UserLogin),
    ("channels.json", EventKind::ChannelCreate),
    ("messages/publishes.jsonl", EventKind::Publish),
    ("messages/publishs.jsonl", EventKind::Publish),
    ("messages/messages.jsonl", EventKind::Message),
];

/// A write that another program had stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// What was written.
    pub body: EventBody,
    /// When, if it says so in any form of [`RawTimestamp`].
    pub timestamp: Option<Timestamp>,
    /// The logical clock, if it says so.
    pub clock: Option<Clock>,
    /// Where it was found.
    pub place: ImportPlace,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportPlace {
    /// The file's path in the directory.
    pub file: &'static str,
    /// The line, or in a file that is an array the element, counted from 1; 0 for the whole file.
    pub number: u64,
}

/// Something that could not be imported. What comes after it can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ImportProblem {
    /// Where.
    pub place: ImportPlace,
    /// Why.
    pub reason: String,
}

impl fmt::Display for ImportPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.number == 0 { f.write_str(self.file) } else { write!(f, "{}, entry {}", self.file, self.number) }
    }
}

/// Reads what another program of the family stored in a directory, file by file: users, channels, publications,
/// messages. Files that are not there are passed over; what cannot be understood is reported in its place.
///
/// ```
/// use dsv2_store::{MemDisk, import_family};
/// let disk = MemDisk::new();
/// disk.put("users.json", r#"[{"name": "ana", "login_timestamp": 1795407353.9}, {"nome": "bob"}]"#);
/// let (events, problems): (Vec<_>, Vec<_>) = import_family(&disk).partition(Result::is_ok);
/// assert_eq!((events.len(), problems.len()), (1, 1));
/// ```
pub fn import_family(disk: &dyn Disk) -> impl Iterator<Item = Result<Imported, ImportProblem>> {
    FILES.into_iter().flat_map(move |(path, kind)| Entries::open(disk, path, kind))
}

/// The entries of one file.
struct Entries {
    path: &'static str,
    kind: EventKind,
    number: u64,
    source: Source,
}

enum Source {
    Lines(BufReader<FileReader>),
    Array(vec::IntoIter<Value>),
    /// To be reported once.
    Unusable(String),
    Done,
}

impl Entries {
    fn open(disk: &dyn Disk, path: &'static str, kind: EventKind) -> Self {
        let source = match disk.open(path, OpenMode::Read) {
            Ok(file) => Source::of(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Source::Done,
            Err(e) => Source::Unusable(format!("cannot be opened: {e}")),
        };
        Self { path, kind, number: 0, source }
    }

    fn problem(&self, reason: impl Into<String>) -> ImportProblem {
        ImportProblem { place: ImportPlace { file: self.path, number: self.number }, reason: reason.into() }
    }

    fn import(&self, value: &Value) -> Result<Imported, ImportProblem> {
        let body = body(self.kind, value).map_err(|reason| self.problem(reason))?;
        let place = ImportPlace { file: self.path, number: self.number };
        Ok(Imported { body, timestamp: timestamp(value), clock: clock(value), place })
    }
}

impl Iterator for Entries {
    type Item = Result<Imported, ImportProblem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let value = match &mut self.source {
                Source::Done => return None,
                Source::Unusable(reason) => {
                    let reason = std::mem::take(reason);
                    (self.source, self.number) = (Source::Done, 0);
                    return Some(Err(self.problem(reason)));
                }
                Source::Array(values) => Ok(values.next()?),
                Source::Lines(reader) => match next_line(reader) {
                    Ok(None) => return None,
                    Ok(Some(line)) if line.trim_ascii().is_empty() => continue,
                    Ok(Some(line)) => serde_json::from_slice(&line).map_err(|e| format!("is no JSON: {e}")),
                    Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(e.to_string()),
                    Err(e) => {
                        self.source = Source::Done;
                        Err(format!("cannot be read: {e}"))
                    }
                },
            };
            return Some(value.map_err(|reason| self.problem(reason)).and_then(|value| self.import(&value)));
        }
    }
}

impl Source {
    fn of(file: Arc<dyn DiskFile>) -> Self {
        let mut reader = BufReader::new(FileReader { file: Arc::clone(&file), at: 0 });
        match first_character(&mut reader) {
            Ok(Some(b'[')) => {}
            Ok(_) => return Self::Lines(BufReader::new(FileReader { file, at: 0 })),
            Err(e) => return Self::Unusable(format!("cannot be read: {e}")),
        }
        if file.len_bytes().is_ok_and(|len| len > ARRAY_CAP_BYTES) {
            return Self::Unusable(format!("is an array of more than {ARRAY_CAP_BYTES} bytes"));
        }
        match serde_json::from_reader::<_, Vec<Value>>(reader) {
            Ok(values) => Self::Array(values.into_iter()),
            Err(e) => Self::Unusable(format!("is no JSON array: {e}")),
        }
    }
}

/// The first byte that is no white space, which stays to be read.
fn first_character(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        if let Some(byte) = buffer.iter().find(|byte| !byte.is_ascii_whitespace()) {
            return Ok(Some(*byte));
        }
        let len = buffer.len();
        if len == 0 {
            return Ok(None);
        }
        reader.consume(len);
    }
}

/// The next line; [`io::ErrorKind::InvalidData`] for one that is too long, which is passed over.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader.take(LINE_CAP_BYTES as u64).read_until(b'\n', &mut line)?;
    if read == LINE_CAP_BYTES && !line.ends_with(b"\n") {
        reader.skip_until(b'\n')?;
        let reason = format!("has more than {LINE_CAP_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok((read > 0).then_some(line))
}

struct FileReader {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn body(kind: EventKind, value: &Value) -> Result<EventBody, String> {
    let user = ["user", "username", "name"];
    Ok(match kind {
        EventKind::UserLogin => EventBody::UserLogin { user: lone_name(value, &user)? },
        EventKind::ChannelCreate => EventBody::ChannelCreate { channel: lone_name(value, &["channel", "name"])? },
        EventKind::Publish => EventBody::Publish {
            user: name(value, &["user", "username", "src", "from"])?,
            channel: name(value, &["channel"])?,
            message: text(value, &["message"])?.to_owned(),
        },
        EventKind::Message => EventBody::Message {
            src: name(value, &["src", "from", "user"])?,
            dst: name(value, &["dst", "to"])?,
            message: text(value, &["message"])?.to_owned(),
        },
    })
}

/// A name that may stand alone instead of in an object.
fn lone_name<K>(value: &Value, keys: &[&str]) -> Result<Name<K>, String> {
    match value {
        Value::String(text) => Name::new(text).map_err(|e| format!("{text:?} is no name: it {e}")),
        _ => name(value, keys),
    }
}

fn name<K>(value: &Value, keys: &[&str]) -> Result<Name<K>, String> {
    let text = text(value, keys)?;
    Name::new(text).map_err(|e| format!("{:?} is no {}: it {e}", text, keys[0]))
}

fn text<'a>(value: &'a Value, keys: &[&str]) -> Result<&'a str, String> {
    field(value, keys).and_then(Value::as_str).ok_or_else(|| format!("has no {}", keys[0]))
}

/// The field with one of the names, in the object itself or, in an envelope, in its `data`.
fn field<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    let in_object = |object: &'a Map<String, Value>| keys.iter().find_map(|key| object.get(*key));
    let object = value.as_object()?;
    in_object(object).or_else(|| in_object(object.get("data")?.as_object()?))
}

fn timestamp(value: &Value) -> Option<Timestamp> {
    let raw = match field(value, &["timestamp", "login_timestamp", "created_timestamp", "created_at", "ts"])? {
        Value::Number(number) => {
            number.as_i64().map(RawTimestamp::Integer).or(number.as_f64().map(RawTimestamp::Float))?
        }
        Value::String(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => RawTimestamp::Float(number),
            _ => RawTimestamp::Text(text.trim().to_owned()),
        },
        _ => return None,
    };
    raw.wall().map(dsv2_core::Wall::timestamp)
}

fn clock(value: &Value) -> Option<Clock> {
    let number = field(value, &["clock", "lamport_clock"])?;
    let integral = |float: f64| (float >= 0.0 && float.fract() == 0.0).then_some(float as u64);
    Clock::new(number.as_u64().or_else(|| number.as_f64().and_then(integral))?)
}

#[cfg(test)]
mod tests;
