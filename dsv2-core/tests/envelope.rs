//! Laws of the envelope: what we emit we understand, and nothing that arrives can do harm.

use dsv2_core::{
    Clock, Code, EventBody, EventId, Failure, Format, Level, Limits, MessageId, Outcome, Position, Publication,
    PublicationBody, RawTimestamp, Receipt, ReplicationEvent, Reply, ReplyBody, Request, RequestBody, RequestExt,
    Service, Timestamp,
};
use proptest::prelude::*;

const LIMITS: Limits = Limits { body_bytes: 1 << 20, depth: 32, items: 100_000 };

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Zà-ú0-9日本 .#:-]{1,20}".prop_filter("must be a name", |text| dsv2_core::UserName::new(text).is_ok())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,200}"]
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Json), Just(Format::MsgPack)]
}

fn event_id() -> impl Strategy<Value = EventId> {
    (name(), any::<u64>(), 1..u64::MAX).prop_map(|(server, incarnation, seq)| EventId {
        origin: dsv2_core::Origin { server: server.parse().expect("a name"), incarnation },
        seq,
    })
}

fn clock() -> impl Strategy<Value = Clock> {
    (0..=Clock::MAX.get()).prop_filter_map("in range", Clock::new)
}

fn message_id() -> impl Strategy<Value = MessageId> {
    prop_oneof![
        any::<u128>().prop_map(MessageId::Foreign),
        (clock(), any::<u128>(), any::<u64>()).prop_map(|(opened, random, number)| MessageId::Request {
            session: dsv2_core::SessionId::new(opened, random),
            number
        }),
        "[a-z0-9:.-]{1,30}".prop_map(|key| MessageId::Key(dsv2_core::IdempotencyKey::new(&key).expect("valid"))),
    ]
}

fn body() -> impl Strategy<Value = RequestBody> {
    prop_oneof![
        name().prop_map(|user| RequestBody::Login { user: user.parse().expect("a name") }),
        Just(RequestBody::Users),
        Just(RequestBody::Status),
        name().prop_map(|channel| RequestBody::Channel { channel: channel.parse().expect("a name") }),
        (name(), name(), text()).prop_map(|(user, channel, message)| RequestBody::Publish {
            user: user.parse().expect("a name"),
            channel: channel.parse().expect("a name"),
            message
        }),
        (name(), name(), text()).prop_map(|(src, dst, message)| RequestBody::Message {
            src: src.parse().expect("a name"),
            dst: dst.parse().expect("a name"),
            message
        }),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    proptest::collection::vec(event_id(), 0..4).prop_map(|ids| ids.into_iter().map(|id| (id.origin, id.seq)).collect())
}

proptest! {
    #[test]
    fn requests_round_trip(
        format in format(), body in body(), ms in any::<i64>(), clock in proptest::option::of(clock()),
        position in proptest::option::of(position()), number in any::<u64>(), opened in clock(), random in any::<u128>(),
    ) {
        let ext = RequestExt {
            id: None, session: Some(dsv2_core::SessionId::new(opened, random)), number: Some(number),
            level: Some(Level::Quorum), position,
        };
        let request = Request { format, timestamp: Some(RawTimestamp::Integer(ms)), clock, ext, body };
        prop_assert_eq!(Request::decode(&request.encode(), &LIMITS), Ok(request));
    }

    #[test]
    fn receipts_and_refusals_round_trip(
        format in format(), id in message_id(), event in event_id(), clock in clock(), text in text(), unknown in any::<bool>(),
    ) {
        let outcome = if unknown { Outcome::Unknown } else { Outcome::Rejected };
        for body in [
            ReplyBody::Done(Some(Receipt { id, event, level: Level::All })),
            ReplyBody::Failed(Failure { code: Code::UnknownUser, outcome, text }),
        ] {
            for service in [Service::Login, Service::Publish, Service::Heartbeat] {
                let reply = Reply {
                    format, service: service.as_str().into(), timestamp: RawTimestamp::Integer(5), clock: Some(clock),
                    position: None, body: body.clone(),
                };
                prop_assert_eq!(Reply::decode(service, &reply.encode(), &LIMITS), Ok(reply));
            }
        }
    }

    #[test]
    fn publications_and_events_round_trip(
        format in format(), id in message_id(), event in event_id(), prev in proptest::option::of(event_id()), clock in clock(),
        user in name(), channel in name(), message in text(), ms in 0..10_000_000_000_000i64,
    ) {
        let event = dsv2_core::Event {
            id: event, clock, prev, message_id: id, timestamp: Timestamp { ms },
            body: EventBody::Publish { user: user.parse().expect("a name"), channel: channel.parse().expect("a name"), message },
        };
        let publication = Publication::of_event(&event, false).expect("has a topic");
        // Below 1e11 the number would be read as seconds, as the family's rule has it.
        prop_assume!(ms >= 100_000_000_000);
        let encoded = publication.encode(format);
        let mut at_once = Vec::new();
        Publication::encode_event(&event, format, &mut at_once);
        prop_assert_eq!(&at_once, &encoded);
        prop_assert_eq!(Publication::decode(&encoded, &LIMITS), Ok(publication));
        let encoded = ReplicationEvent::encode(&event, format);
        prop_assert!(ReplicationEvent::is_ours(&encoded, &LIMITS));
        let read = ReplicationEvent::decode(&encoded, &LIMITS).expect("ours");
        prop_assert_eq!((read.body, read.event, read.clock), (event.body, Some(event.id), Some(clock)));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(first in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        for first in [first, b'{', 0x82, 0xde, 0xdf] {
            let mut bytes = vec![first];
            bytes.extend_from_slice(&rest);
            drop(Request::decode(&bytes, &LIMITS));
            drop(Publication::decode(&bytes, &LIMITS));
            let event = ReplicationEvent::decode(&bytes, &LIMITS);
            prop_assert!(!ReplicationEvent::is_ours(&bytes, &LIMITS) || !matches!(event, Ok(event) if event.event.is_none()));
            for service in Service::ALL {
                drop(Reply::decode(service, &bytes, &LIMITS));
            }
        }
    }

    /// What the family publishes, and what only resembles ours, is not taken for ours.
    #[test]
    fn an_event_without_an_identity_is_not_ours(format in format(), origin in any::<bool>(), seq in proptest::option::of(-1..2i64)) {
        let mut event = serde_json::json!({"type": "user_login", "server_id": 7, "clock": 3, "data": {"user": "ana", "seq": 4}});
        if origin {
            event["origin"] = "s1/00000000000000ff".into();
        }
        if let Some(seq) = seq {
            event["seq"] = seq.into();
        }
        let bytes = match format {
            Format::Json => serde_json::to_vec(&event).expect("JSON"),
            Format::MsgPack => rmp_serde::to_vec_named(&event).expect("MessagePack"),
        };
        prop_assert_eq!(ReplicationEvent::is_ours(&bytes, &LIMITS), origin && seq == Some(1));
    }

    #[test]
    fn a_flipped_byte_is_refused_or_read_but_never_panics(format in format(), body in body(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let request = Request { format, timestamp: None, clock: None, ext: RequestExt::default(), body };
        let mut bytes = request.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Err(refusal) = Request::decode(&bytes, &LIMITS) {
            let reply = refusal.reply(Clock::ZERO, Timestamp { ms: 0 });
            prop_assert_eq!(Format::detect(&reply.encode()), Some(refusal.format));
        }
    }
}

/// Every refusal is in the request's serialization, with a text in the field where its service explains failures.
#[test]
fn bad_requests_are_answered_where_their_sender_looks() {
    let deep = format!(r#"{{"service":"publish","data":{{"user":{}1{}}}}}"#, "[".repeat(100), "]".repeat(100));
    let wide = format!(r#"{{"service":"login","data":{{"user":[{}1]}}}}"#, "1,".repeat(200_000));
    for (body, code, field, part) in [
        (r#"{"service":"dance","data":{}}"#, Code::UnknownService, "description", "dance"),
        (r#"{"data":{}}"#, Code::UnknownService, "description", "service is missing"),
        (r#"{"service":5,"data":{}}"#, Code::UnknownService, "description", "service is missing"),
        (r#"{"service":"login"}"#, Code::BadField, "description", "user is missing"),
        (r#"{"service":"login","data":null}"#, Code::BadField, "description", "user is missing"),
        (r#"{"service":"login","data":[]}"#, Code::Malformed, "description", "an object as data"),
        (r#"{"service":"login","data":{"user":null}}"#, Code::BadField, "description", "user is null"),
        (r#"{"service":"login","data":{"user":5}}"#, Code::BadField, "description", "user is a number"),
        (r#"{"service":"login","data":{"user":"servers"}}"#, Code::BadField, "description", "is reserved"),
        (r#"{"service":"channel","data":{"channel":"../x"}}"#, Code::BadField, "description", "may hold"),
        (
            r#"{"service":"publish","data":{"user":"ana","channel":"dev"}}"#,
            Code::BadField,
            "message",
            "message is missing",
        ),
        (
            r#"{"service":"publish","data":{"user":"ana","channel":"dev","message":{}}}"#,
            Code::BadField,
            "message",
            "an object",
        ),
        (r#"{"service":"message","data":{"src":"ana","message":"x"}}"#, Code::BadField, "message", "dst is missing"),
        (
            r#"{"service":"login","data":{"user":"ana","clock":9223372036854775808}}"#,
            Code::BadClock,
            "description",
            "2^53",
        ),
        (r#"{"service":"login","data":{"user":"ana","clock":-1}}"#, Code::BadClock, "description", "non-negative"),
        (r#"{"service":"login","data":{"user":"ana","clock":"7"}}"#, Code::BadClock, "description", "a text"),
        (r#"{"service":"login","data":{"user":"ana""#, Code::Malformed, "description", "EOF"),
        (deep.as_str(), Code::Malformed, "message", "deeper than 32"),
        (wide.as_str(), Code::Malformed, "description", "too many"),
        ("hello", Code::Malformed, "description", "neither"),
        ("", Code::Malformed, "description", "neither"),
    ] {
        let refusal = Request::decode(body.as_bytes(), &LIMITS).expect_err(body);
        assert_eq!(refusal.failure.code, code, "{body:.60}");
        let reply: serde_json::Value =
            serde_json::from_slice(&refusal.reply(Clock::ZERO, Timestamp { ms: 1 }).encode()).expect("JSON");
        let text = reply["data"][field].as_str().unwrap_or_else(|| panic!("no {field} in {reply}"));
        assert!(text.contains(part), "{text:?} lacks {part:?}");
        assert_eq!(reply["data"]["status"], "erro");
        assert_eq!(reply["data"]["outcome"], "rejected");
    }
    let mut invalid = br#"{"service":"login","data":{"user":"a"#.to_vec();
    invalid.extend_from_slice(&[0xff, 0xfe]);
    invalid.extend_from_slice(br#""}}"#);
    assert_eq!(Request::decode(&invalid, &LIMITS).expect_err("UTF-8").failure.code, Code::Malformed);
    let packed = b"\x82\xa7service\xa5login\xa4data\x81\xa4user\xa2\xff\xfe";
    let refusal = Request::decode(packed, &LIMITS).expect_err("UTF-8");
    assert_eq!((refusal.format, refusal.failure.text.as_str()), (Format::MsgPack, "user is not UTF-8, not a text"));
    let large = vec![b'{'; LIMITS.body_bytes + 1];
    assert!(Request::decode(&large, &LIMITS).expect_err("large").failure.text.contains("1048576"));
}

#[test]
fn the_familys_own_bytes_are_read() {
    let login = "82a773657276696365a56c6f67696ea46461746183a475736572a3616e61a974696d657374616d70cf000001a2069e1844a5636c6f636b01";
    let bytes: Vec<u8> =
        (0..login.len()).step_by(2).map(|at| u8::from_str_radix(&login[at..at + 2], 16).expect("hex")).collect();
    let request = Request::decode(&bytes, &LIMITS).expect("seen on the wire");
    assert_eq!(request.body, RequestBody::Login { user: "ana".parse().expect("a name") });
    assert_eq!((request.format, request.clock), (Format::MsgPack, Clock::new(1)));
    assert_eq!(request.encode(), bytes, "what we emit is what the family emits");
}

#[test]
fn success_and_failure_are_read_in_every_dialect() {
    for (service, body, success) in [
        (Service::Login, r#"{"service":"login","data":{"status":"sucesso","timestamp":1,"clock":2}}"#, true),
        (Service::Login, r#"{"status":"ok"}"#, true),
        (Service::Publish, r#"{"service":"publish","data":{"success":true}}"#, true),
        (Service::Publish, r#"{"service":"publish","data":{"status":"erro","message":"no such channel"}}"#, false),
        (Service::Login, r#"{"success":false,"description":"no"}"#, false),
        (Service::Heartbeat, r#"{"status":"error","message":"who?"}"#, false),
    ] {
        let reply = Reply::decode(service, body.as_bytes(), &LIMITS).expect(body);
        assert_eq!(matches!(reply.body, ReplyBody::Done(_)), success, "{body}");
    }
    assert!(Reply::decode(Service::Login, b"{}", &LIMITS).is_err(), "no word of success is no success");
    for body in
        [r#"{"data":{"users":["dev"]}}"#, r#"{"data":{"channels":[{"name":"dev"}]}}"#, r#"{"channels":["dev"]}"#]
    {
        let reply = Reply::decode(Service::Channels, body.as_bytes(), &LIMITS).expect(body);
        assert_eq!(reply.body, ReplyBody::Channels(vec!["dev".to_owned()]));
    }
}

#[test]
fn publications_are_read_flat_and_wrapped() {
    for body in [
        r#"{"src":"ana","message":"psiu","timestamp":1795407353924,"clock":106}"#,
        r#"{"from":"ana","message":"psiu","timestamp":1795407353.924,"lamport_clock":106.0}"#,
        r#"{"service":"private_message","data":{"from":"ana","message":"psiu","timestamp":"2026-11-23T04:15:53.924Z","clock":106}}"#,
    ] {
        let publication = Publication::decode(body.as_bytes(), &LIMITS).expect(body);
        assert_eq!(
            publication.body,
            PublicationBody::Private { src: "ana".into(), dst: None, message: "psiu".into() },
            "{body}"
        );
        assert_eq!(publication.timestamp, Some(Timestamp { ms: 1_795_407_353_924 }));
        assert_eq!(publication.clock, Clock::new(106));
    }
}

/// A fraction is echoed as it came, to the last digit.
#[test]
fn timestamps_with_a_fraction_come_back_verbatim() {
    for text in ["1795407353.9299998", "1.7954073539299997e102", "0.1", "1795407353.93", "123456789.12345679"] {
        let body = format!(r#"{{"service":"users","data":{{"timestamp":{text},"clock":1}}}}"#);
        let request = Request::decode(body.as_bytes(), &LIMITS).expect("a request");
        let again = Request::decode(&request.encode(), &LIMITS).expect("a request");
        assert_eq!(again.timestamp, request.timestamp, "{text}");
        let Some(RawTimestamp::Float(value)) = request.timestamp else { panic!("{:?}", request.timestamp) };
        assert_eq!(value, text.parse::<f64>().expect("a number"), "{text} was read as {value}");
    }
}

#[test]
fn a_page_of_history_round_trips_with_all_that_it_tells() {
    let id = |seq| format!("s1/00000000000000ff#{seq}").parse::<dsv2_core::EventId>().expect("an id");
    let position = dsv2_core::Position::from_iter([(id(1).origin, 9)]);
    let page = dsv2_core::HistoryPage {
        events: Vec::new(),
        next: position.clone(),
        heads: position,
        more: true,
        stable: Clock::new(7),
        retired: vec![id(3), id(4)],
    };
    for format in [Format::Json, Format::MsgPack] {
        let reply = Reply {
            format,
            service: "history".into(),
            timestamp: RawTimestamp::from(Timestamp { ms: 1 }),
            clock: Clock::new(8),
            position: None,
            body: ReplyBody::History(page.clone()),
        };
        let decoded = Reply::decode(Service::History, &reply.encode(), &Limits::default()).expect("decodes");
        assert_eq!(decoded.body, ReplyBody::History(page.clone()));
    }
}
