//! Golden frames: what foreign libraries write, for every service and topic, is read as what they mean.
//!
//! The frames were written by Python (`json`, `msgpack`) and Node (`JSON`, `@msgpack/msgpack`); see `peers/golden`.

use dsv2_core::{
    Announcement, Code, Format, Limits, Publication, PublicationBody, RawTimestamp, ReplicationEvent, Reply, ReplyBody,
    Request, Service, Wall,
};
use serde_json::Value;

const LIMITS: Limits = Limits { body_bytes: 1 << 20, depth: 32, items: 100_000 };

fn entries() -> Vec<Value> {
    let mut entries = Vec::new();
    for file in ["python.json", "node.json"] {
        let path = format!("{}/tests/peers/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("the golden frames are there");
        entries.extend(serde_json::from_str::<Vec<Value>>(&text).expect("a list"));
    }
    entries
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn check_clock(context: &str, expect: &Value, clock: Option<dsv2_core::Clock>) {
    assert_eq!(clock.map(dsv2_core::Clock::get), expect["clock"].as_u64(), "{context}: clock");
}

/// `ms` as an entry expects it, which for float seconds may be off by the rounding.
fn check_ms(context: &str, expect: &Value, ms: Option<i64>) {
    let Some(wanted) = expect["timestamp_ms"].as_i64() else { return };
    let tolerance = expect["tolerance_ms"].as_i64().unwrap_or(1);
    let ms = ms.unwrap_or_else(|| panic!("{context}: no timestamp"));
    assert!((ms - wanted).abs() <= tolerance, "{context}: {ms} is not {wanted}");
}

fn raw_ms(raw: &RawTimestamp) -> Option<i64> {
    raw.wall().map(|wall| wall.timestamp().ms)
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

#[test]
fn requests() {
    let mut seen = 0;
    for entry in entries().iter().filter(|entry| entry["kind"] == "request") {
        let (context, expect) = (format!("{} in {}", entry["name"], entry["codec"]), &entry["expect"]);
        let body = bytes(entry["hex"].as_str().expect("hex"));
        seen += 1;
        let known = expect["service"].as_str().and_then(Service::parse);
        let decoded = Request::decode(&body, &LIMITS);
        let Some(service) = known else {
            let refusal = decoded.expect_err(&context);
            assert_eq!(refusal.failure.code, Code::UnknownService, "{context}");
            continue;
        };
        let request = decoded.unwrap_or_else(|refusal| panic!("{context}: {refusal}"));
        assert_eq!(request.body.service(), service, "{context}");
        let format = if entry["codec"] == "JSON" { Format::Json } else { Format::MsgPack };
        assert_eq!(request.format, format, "{context}");
        check_clock(&context, expect, request.clock);
        check_ms(&context, expect, request.timestamp.as_ref().and_then(raw_ms));
        // What we write for the same request is read back as the same, field by field.
        let again =
            Request::decode(&request.encode(), &LIMITS).unwrap_or_else(|refusal| panic!("{context}: {refusal}"));
        assert_eq!(again, request, "{context}");
        let emitted: Value = match format {
            Format::Json => serde_json::from_slice(&request.encode()).expect("JSON"),
            Format::MsgPack => rmp_serde::from_slice(&request.encode()).expect("MessagePack"),
        };
        for (field, value) in expect["data"].as_object().into_iter().flatten() {
            assert_eq!(&emitted["data"][field], value, "{context}: {field}");
        }
    }
    assert!(seen > 100, "only {seen} requests");
}

#[test]
fn replies() {
    let mut seen = 0;
    for entry in entries().iter().filter(|entry| entry["kind"] == "reply") {
        let (context, expect) = (format!("{} in {}", entry["name"], entry["codec"]), &entry["expect"]);
        let body = bytes(entry["hex"].as_str().expect("hex"));
        seen += 1;
        // Whoever asked for a service nobody knows looks for an error only.
        let service = entry["asked"].as_str().and_then(Service::parse).unwrap_or(Service::Login);
        let reply = Reply::decode(service, &body, &LIMITS).unwrap_or_else(|why| panic!("{context}: {why}"));
        check_clock(&context, expect, reply.clock);
        check_ms(&context, expect, raw_ms(&reply.timestamp).filter(|&ms| ms != 0));
        match reply.body {
            ReplyBody::Done(_) => assert_eq!(expect["ok"], true, "{context}"),
            ReplyBody::Failed(failure) => {
                assert_eq!(expect["ok"], false, "{context}");
                if let Some(reason) = expect["reason"].as_str() {
                    assert_eq!(failure.text, reason, "{context}");
                }
            }
            ReplyBody::Users(users) => assert_eq!(users, texts(&expect["users"]), "{context}"),
            ReplyBody::Channels(channels) => assert_eq!(channels, texts(&expect["channels"]), "{context}"),
            ReplyBody::Rank(rank) => assert_eq!(Some(rank), expect["rank"].as_u64(), "{context}"),
            ReplyBody::List(list) => {
                let list: Vec<_> =
                    list.iter().map(|server| serde_json::json!({"name": server.name, "rank": server.rank})).collect();
                assert_eq!(Value::Array(list), expect["list"], "{context}");
            }
            ReplyBody::Time { wall: Wall { us }, .. } => {
                assert_eq!(Some(us / 1_000), expect["time_ms"].as_i64(), "{context}")
            }
            ReplyBody::Election => assert_eq!(expect["election"], "OK", "{context}"),
            other => panic!("{context}: {other:?}"),
        }
    }
    assert!(seen > 150, "only {seen} replies");
}

#[test]
fn publications() {
    let mut seen = 0;
    for entry in entries().iter().filter(|entry| entry["kind"] == "publication") {
        let (context, expect) = (format!("{} in {}", entry["name"], entry["codec"]), &entry["expect"]);
        let body = bytes(entry["hex"].as_str().expect("hex"));
        seen += 1;
        match expect["type"].as_str().expect("a type") {
            "election" => {
                let announcement =
                    Announcement::decode(&body, &LIMITS).unwrap_or_else(|why| panic!("{context}: {why}"));
                assert_eq!(announcement.coordinator.as_str(), expect["coordinator"], "{context}");
                assert_eq!(announcement.epoch, None, "{context}: the family knows no epochs");
                check_clock(&context, expect, announcement.clock);
            }
            "replication" => {
                let decoded = ReplicationEvent::decode(&body, &LIMITS);
                if expect["event"] == "user_logout" {
                    assert!(decoded.is_err(), "{context}");
                    continue;
                }
                let event = decoded.unwrap_or_else(|why| panic!("{context}: {why}"));
                assert_eq!(event.body.kind().as_str(), expect["event"], "{context}");
                assert_eq!(event.event, None, "{context}: not one of ours");
                check_clock(&context, expect, event.clock);
                let id = &expect["server_id"];
                assert_eq!(event.server_id, id.as_str().map_or_else(|| id.to_string(), str::to_owned), "{context}");
                let message_clock = expect["data"]["clock"].as_u64().or(expect["clock"].as_u64());
                assert_eq!(event.message_clock.map(dsv2_core::Clock::get), message_clock, "{context}");
            }
            sort => {
                let publication = Publication::decode(&body, &LIMITS).unwrap_or_else(|why| panic!("{context}: {why}"));
                check_clock(&context, expect, publication.clock);
                check_ms(&context, expect, publication.timestamp.map(|timestamp| timestamp.ms));
                assert_eq!(publication.body.text(), expect["message"], "{context}");
                match publication.body {
                    PublicationBody::Channel { user, .. } => {
                        assert_eq!((sort, &user[..]), ("channel", expect["user"].as_str().expect("a user")))
                    }
                    PublicationBody::Private { src, .. } => {
                        assert_eq!((sort, &src[..]), ("private", expect["src"].as_str().expect("a source")))
                    }
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} publications");
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let mut seen = 0;
    for entry in entries().iter().filter(|entry| entry["kind"] == "garbage") {
        let body = bytes(entry["hex"].as_str().expect("hex"));
        seen += 1;
        assert!(Request::decode(&body, &LIMITS).is_err(), "{}", entry["name"]);
        assert!(Reply::decode(Service::Rank, &body, &LIMITS).is_err(), "{}", entry["name"]);
        assert!(Publication::decode(&body, &LIMITS).is_err(), "{}", entry["name"]);
        assert!(ReplicationEvent::decode(&body, &LIMITS).is_err(), "{}", entry["name"]);
    }
    assert!(seen > 10, "only {seen}");
}
