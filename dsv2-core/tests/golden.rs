//! Every frame that we emit, byte for byte: `tests/golden/frames.txt`, to be read by whoever writes a peer. JSON stands there
//! as it is, MessagePack in hex. `UPDATE_GOLDEN=1 cargo nextest run -p dsv2-core --test golden` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use dsv2_core::{
    Announcement, Clock, Code, Event, EventBody, EventId, Failure, Format, HistoryPage, HistoryQuery, HistorySpan,
    IdempotencyKey, Level, LinkNotice, MessageId, OrderKey, Origin, Position, Publication, RankedServer, RawTimestamp,
    Receipt, ReplicationEvent, Reply, ReplyBody, Request, RequestBody, RequestExt, ServerCard, SessionId, StatusReport,
    Subject, Timestamp, Wall,
};

const BOTH: [Format; 2] = [Format::Json, Format::MsgPack];

fn clock(clock: u64) -> Clock {
    Clock::new(clock).expect("in range")
}

fn moment() -> Timestamp {
    Wall { us: 1_795_407_353_924_000 }.timestamp()
}

fn event_id(seq: u64) -> EventId {
    EventId { origin: Origin { server: "server1".parse().expect("a name"), incarnation: 0x9f3a_c01d_22e4_b6aa }, seq }
}

fn position() -> Position {
    Position::from_iter([(event_id(12).origin, 12)])
}

fn session() -> MessageId {
    MessageId::Request { session: SessionId::new(clock(100), 7), number: 3 }
}

fn event(body: EventBody) -> Event {
    let prev = body.topic().map(|_| event_id(9));
    Event { id: event_id(12), clock: clock(102), prev, message_id: session(), timestamp: moment(), body }
}

fn bodies() -> Vec<EventBody> {
    let (ana, bob) = (|| "ana".parse().expect("a name"), || "bob".parse().expect("a name"));
    let dev = || "dev".parse().expect("a name");
    vec![
        EventBody::UserLogin { user: ana() },
        EventBody::ChannelCreate { channel: dev() },
        EventBody::Publish { user: ana(), channel: dev(), message: "olá".into() },
        EventBody::Message { src: ana(), dst: bob(), message: "psiu".into() },
    ]
}

fn card() -> ServerCard {
    ServerCard {
        name: "server1".parse().expect("a name"),
        address: Some("tcp://127.0.0.1:5560".into()),
        node: Some(format!("{:032x}", 0xfba8)),
        rank: Some(1),
    }
}

fn requests() -> Vec<(&'static str, RequestBody, RequestExt)> {
    let (ana, bob) = (|| "ana".parse().expect("a name"), || "bob".parse().expect("a name"));
    let dev = || "dev".parse().expect("a name");
    let numbered = RequestExt {
        session: Some(SessionId::new(clock(100), 7)),
        number: Some(3),
        level: Some(Level::Quorum),
        position: Some(position()),
        ..RequestExt::default()
    };
    let keyed = RequestExt { id: Some(IdempotencyKey::new("order-7").expect("a key")), ..RequestExt::default() };
    let none = RequestExt::default;
    let history = |subject, span| RequestBody::History(HistoryQuery { subject, span, limit: 50 });
    let before = OrderKey { clock: clock(102), id: event_id(12) };
    vec![
        ("login", RequestBody::Login { user: ana() }, none()),
        ("users", RequestBody::Users, none()),
        ("channel", RequestBody::Channel { channel: dev() }, none()),
        ("channels", RequestBody::Channels, none()),
        ("publish", RequestBody::Publish { user: ana(), channel: dev(), message: "olá".into() }, none()),
        ("publish, numbered", RequestBody::Publish { user: ana(), channel: dev(), message: "olá".into() }, numbered),
        ("message, with a key", RequestBody::Message { src: ana(), dst: bob(), message: "psiu".into() }, keyed),
        ("history of a channel", history(Subject::Channel(dev()), HistorySpan::After(position())), none()),
        ("history of an inbox", history(Subject::Inbox(ana()), HistorySpan::After(Position::default())), none()),
        (
            "history of a conversation, backwards",
            history(Subject::Conversation { user: ana(), with: bob() }, HistorySpan::Before(Some(before))),
            none(),
        ),
        ("status", RequestBody::Status, none()),
        ("rank", RequestBody::Rank(card()), none()),
        ("heartbeat", RequestBody::Heartbeat(card()), none()),
        ("list", RequestBody::List, none()),
        ("clock", RequestBody::Clock, none()),
        ("election", RequestBody::Election, none()),
    ]
}

fn replies() -> Vec<(&'static str, &'static str, ReplyBody)> {
    let receipt = || Receipt { id: session(), event: event_id(12), level: Level::Quorum };
    let listed = || RankedServer {
        name: "server1".into(),
        rank: 1,
        address: Some("tcp://127.0.0.1:5560".into()),
        node: Some(format!("{:032x}", 0xfba8)),
    };
    let events: Vec<Event> = bodies().into_iter().skip(2).map(event).collect();
    let page = HistoryPage {
        events: HistoryPage::publications(&events),
        next: position(),
        heads: position(),
        more: false,
        stable: Some(clock(90)),
        retired: vec![event_id(3)],
    };
    let report = StatusReport::new("server1".parse().expect("a name"), format!("{:032x}", 0xfba8));
    let failed = |code, text: &str| ReplyBody::Failed(Failure::rejected(code, text));
    vec![
        ("login", "login", ReplyBody::Done(Some(receipt()))),
        ("login refused", "login", failed(Code::NameTaken, "\"ana\" is a channel")),
        ("users", "users", ReplyBody::Users(vec!["ana".into(), "bob".into()])),
        ("channel", "channel", ReplyBody::Done(Some(receipt()))),
        ("channels", "channels", ReplyBody::Channels(vec!["dev".into()])),
        ("publish", "publish", ReplyBody::Done(Some(receipt()))),
        ("publish refused", "publish", failed(Code::UnknownChannel, "channel \"ops\" is not known")),
        (
            "publish unknown",
            "publish",
            ReplyBody::Failed(Failure::unknown(Code::Timeout, "level quorum was not reached in time")),
        ),
        ("message", "message", ReplyBody::Done(Some(receipt()))),
        ("history", "history", ReplyBody::History(page)),
        ("status", "status", ReplyBody::Status(Box::new(report))),
        ("rank", "rank", ReplyBody::Rank(1)),
        ("heartbeat", "heartbeat", ReplyBody::Done(None)),
        ("heartbeat refused", "heartbeat", failed(Code::UnknownServer, "server server1 has no rank here")),
        ("list", "list", ReplyBody::List(vec![listed()])),
        ("clock", "clock", ReplyBody::Time { wall: Wall { us: 1_795_407_353_924_000 }, resolution_us: 1_000 }),
        ("election", "election", ReplyBody::Election),
        ("a service that nobody knows", "dance", failed(Code::UnknownService, "this server does not know the service")),
    ]
}

/// All frames: what it is, and its bytes.
fn frames() -> Vec<(String, Format, Vec<u8>)> {
    let mut frames = Vec::new();
    for format in BOTH {
        for (name, body, ext) in requests() {
            let timestamp = Some(RawTimestamp::from(moment()));
            let request = Request { format, timestamp, clock: Some(clock(101)), ext, body };
            frames.push((format!("request: {name}"), format, request.encode()));
        }
        for (name, service, body) in replies() {
            let with_position = matches!(body, ReplyBody::Users(_) | ReplyBody::Channels(_) | ReplyBody::History(_));
            let reply = Reply {
                format,
                service: service.to_owned().into(),
                timestamp: RawTimestamp::from(moment()),
                clock: Some(clock(103)),
                position: with_position.then(position),
                body,
            };
            frames.push((format!("reply: {name}"), format, reply.encode()));
        }
        for event in bodies().into_iter().map(event) {
            if let (Some(publication), Some(topic)) = (Publication::of_event(&event, false), event.body.topic()) {
                frames.push((format!("topic {}", topic.as_str()), format, publication.encode(format)));
            }
            frames.push(("topic replication".to_owned(), format, ReplicationEvent::encode(&event, format)));
        }
        let announcement = Announcement {
            coordinator: "server1".parse().expect("a name"),
            epoch: Some(4),
            node: Some(format!("{:032x}", 0xfba8)),
            timestamp: Some(moment()),
            clock: Some(clock(104)),
        };
        frames.push(("topic servers".to_owned(), format, announcement.encode(format)));
        let notice = LinkNotice {
            name: "server1".parse().expect("a name"),
            address: "tcp://127.0.0.1:5560".into(),
            node: format!("{:032x}", 0xfba8),
            timestamp: Some(moment()),
            clock: Some(clock(105)),
        };
        frames.push(("topic _links".to_owned(), format, notice.encode(format)));
    }
    frames
}

#[test]
fn what_we_emit_is_written_down() {
    let mut text = String::new();
    for (name, format, bytes) in frames() {
        let shown = match format {
            Format::Json => String::from_utf8(bytes).expect("JSON is text"),
            _ => bytes.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
        };
        writeln!(text, "{name}\n    {shown}").expect("memory");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/frames.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the file is writable");
        return;
    }
    let written = std::fs::read_to_string(&path).expect("the file is there");
    for (found, expected) in text.lines().zip(written.lines()) {
        assert_eq!(found, expected, "tests/golden/frames.txt says something else: see the head of this test");
    }
    assert_eq!(text.lines().count(), written.lines().count());
}

/// No null, anywhere: it kills servers of the family.
#[test]
fn no_frame_holds_a_null() {
    fn has_null(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Null => true,
            serde_json::Value::Array(items) => items.iter().any(has_null),
            serde_json::Value::Object(fields) => fields.values().any(has_null),
            _ => false,
        }
    }
    for (name, format, bytes) in frames() {
        let value: serde_json::Value = match format {
            Format::Json => serde_json::from_slice(&bytes).expect("JSON"),
            _ => rmp_serde::from_slice(&bytes).expect("MessagePack"),
        };
        assert!(!has_null(&value), "{name}: {value}");
    }
}
