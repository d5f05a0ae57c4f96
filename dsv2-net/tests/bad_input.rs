//! What no client should send, sent to a running cluster over real sockets: an answer in the right field and in the
//! request's serialization, nothing stored, everything goes on. And what foreign servers ask at a server's link.
#![cfg(feature = "cluster")]

use std::time::Duration;

use dsv2_core::Format;
use dsv2_net::Endpoint;
use dsv2_net::cluster::{Cluster, ClusterOptions};
use dsv2_net::port::{Port, PortEvent, PortLimits, SendError, SocketKind, Transport, connect};
use dsv2_net::zmtp::Message;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A peer with a DEALER, as pyzmq would be: it knows nothing of this crate's types.
struct Peer {
    dealer: Box<dyn Port>,
    next: u64,
}

impl Peer {
    fn connect(to: &Endpoint) -> Self {
        let dealer = connect(Transport::Native, SocketKind::Dealer, to.clone(), PortLimits::default());
        Self { dealer: dealer.expect("a port"), next: 0 }
    }

    /// Sends a body as it is; yields the answer's body.
    async fn ask_raw(&mut self, body: &[u8]) -> Vec<u8> {
        self.next += 1;
        let id = self.next.to_be_bytes();
        let mut unsent = Some(Message::from_frames([&id[..], b"", body]));
        let mut events = Vec::new();
        loop {
            if let Some(message) = unsent.take() {
                unsent = self.dealer.send(message).err().map(SendError::into_message);
            }
            timeout(PATIENCE, self.dealer.recv(&mut events)).await.expect("an answer in time").expect("open");
            for event in events.drain(..) {
                match event {
                    PortEvent::Message(message) => {
                        assert_eq!(message.first(), &id[..], "answers come in order here");
                        return message.last().to_vec();
                    }
                    PortEvent::Down { .. } => panic!("the connection was dropped"),
                    _ => {}
                }
            }
        }
    }

    async fn ask(&mut self, format: Format, request: &Value) -> Value {
        let answer = self.ask_raw(&encode(format, request)).await;
        decode(format, &answer)
    }
}

fn encode(format: Format, value: &Value) -> Vec<u8> {
    match format {
        Format::MsgPack => rmp_serde::to_vec_named(value).expect("encodes"),
        _ => serde_json::to_vec(value).expect("encodes"),
    }
}

fn decode(format: Format, body: &[u8]) -> Value {
    match format {
        Format::MsgPack => rmp_serde::from_slice(body).expect("MessagePack, as the request"),
        _ => serde_json::from_slice(body).expect("JSON, as the request"),
    }
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(holds_null),
        Value::Object(map) => map.values().any(holds_null),
        _ => false,
    }
}

/// The answer says that it failed, why, where its sender looks, and that nothing changed.
fn assert_refused(answer: &Value, field: &str, code: &str, what: &str) {
    let data = &answer["data"];
    assert_eq!((data["status"].as_str(), data["code"].as_str()), (Some("erro"), Some(code)), "{what}: {answer}");
    assert_eq!(data["outcome"], "rejected", "{what}: {answer}");
    let text = data[field].as_str().unwrap_or_else(|| panic!("{what}: no {field} in {answer}"));
    assert!(text.len() > 5, "{what}: {text:?} explains nothing");
    assert!(data["clock"].as_u64().is_some_and(|clock| clock > 0), "{what}: {answer}");
    assert!(!holds_null(answer), "{what}: null kills peers of the family: {answer}");
}

/// Requests that are wrong, with the field and the code of the answer.
fn wrong_requests() -> Vec<(Value, &'static str, &'static str)> {
    let (description, message) = ("description", "message");
    let mut cases = vec![
        (json!({"service": "dance", "data": {}}), description, "unknown-service"),
        (json!({"data": {}}), description, "unknown-service"),
        (json!({"service": null, "data": {}}), description, "unknown-service"),
        (json!({"service": 7, "data": {}}), description, "unknown-service"),
        (json!({"service": "login"}), description, "bad-field"),
        (json!({"service": "login", "data": null}), description, "bad-field"),
        (json!({"service": "login", "data": []}), description, "malformed"),
        (json!({"service": "login", "data": {}}), description, "bad-field"),
        (json!({"service": "channel", "data": {"user": "ana"}}), description, "bad-field"),
        (json!({"service": "channel", "data": {"channel": "ana"}}), description, "name-taken"),
        (json!({"service": "login", "data": {"user": "dev"}}), description, "name-taken"),
        (json!({"service": "publish", "data": {"user": "ana", "channel": "dev"}}), message, "bad-field"),
        (
            json!({"service": "publish", "data": {"user": "eve", "channel": "dev", "message": "x"}}),
            message,
            "unknown-user",
        ),
        (
            json!({"service": "publish", "data": {"user": "ana", "channel": "x", "message": "x"}}),
            message,
            "unknown-channel",
        ),
        (json!({"service": "message", "data": {"src": "ana", "message": "x"}}), message, "bad-field"),
        (json!({"service": "message", "data": {"src": "ana", "dst": "dev", "message": "x"}}), message, "unknown-user"),
        (json!({"service": "history", "data": {"topic": "nowhere"}}), description, "unknown-channel"),
        (
            json!({"service": "publish", "data": {"user": "ana", "channel": "dev", "message": "x".repeat(300 << 10)}}),
            message,
            "bad-field",
        ),
        (
            json!({"service": "publish", "data": {"user": "ana", "channel": "dev", "message": "x", "level": "most"}}),
            message,
            "bad-field",
        ),
    ];
    for wrong in [json!(null), json!(7), json!(true), json!(["ana"]), json!({"name": "ana"})] {
        cases.push((json!({"service": "login", "data": {"user": wrong}}), description, "bad-field"));
        cases.push((json!({"service": "channel", "data": {"channel": wrong}}), description, "bad-field"));
        let data = json!({"user": "ana", "channel": "dev", "message": wrong});
        cases.push((json!({"service": "publish", "data": data}), message, "bad-field"));
    }
    let long = "x".repeat(129);
    for name in [
        "",
        "servers",
        "replication",
        "replica",
        "replicate",
        "_links",
        "_x",
        ".",
        "..",
        "../etc/passwd",
        "/etc",
        "a/b",
        "a\\b",
        " ana",
        "ana\n",
        "a\u{0}b",
        "\u{202e}ana",
        &long,
    ] {
        cases.push((json!({"service": "login", "data": {"user": name}}), description, "bad-field"));
        cases.push((json!({"service": "channel", "data": {"channel": name}}), description, "bad-field"));
    }
    for clock in [json!(1_u64 << 63), json!(1_u64 << 53), json!((1_u64 << 53) - 1), json!(-1), json!("7"), json!(1.5)] {
        let data = json!({"user": "mallory", "clock": clock});
        cases.push((json!({"service": "login", "data": data}), description, "bad-clock"));
        let data = json!({"user": "ana", "channel": "dev", "message": "x", "clock": clock});
        cases.push((json!({"service": "publish", "data": data}), message, "bad-clock"));
    }
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    cases.push((json!({"service": "login", "data": {"user": "mallory", "extra": deep}}), description, "malformed"));
    let deep = (0..100).fold(json!(1), |inner, _| json!({"a": inner}));
    // `data` is encoded first here: which service it is was not read when it gets too deep.
    cases.push((json!({"service": "publish", "data": {"user": deep}}), description, "malformed"));
    cases.push((
        json!({"service": "login", "data": {"user": "mallory", "extra": "x".repeat(2 << 20)}}),
        description,
        "malformed",
    ));
    cases
}

/// Bytes that are no message at all, or not in UTF-8.
fn wrong_bytes() -> Vec<(Format, Vec<u8>, &'static str)> {
    let json = |bytes: &[u8]| (Format::Json, bytes.to_vec(), "malformed");
    vec![
        json(b""),
        json(b"hello"),
        json(b"[1]"),
        json(b"null"),
        json(&[0xff; 64]),
        json(b"{\"service\":\"login\",\"data\":{\"user\":\"mal"),
        json(b"{\"service\":\"login\",\"data\":{\"user\":\"m\xff\xfe\"}}"),
        (Format::MsgPack, b"\x82\xa7service\xa5login\xa4data\x81\xa4user\xa2\xff\xfe".to_vec(), "bad-field"),
        (Format::MsgPack, b"\x82\xa7service\xa5login\xa4data\x81\xa4user".to_vec(), "malformed"),
        // A text of 4 GiB is announced.
        (Format::MsgPack, b"\x82\xa7service\xa5login\xa4data\x81\xa4user\xdb\xff\xff\xff\xff".to_vec(), "malformed"),
    ]
}

/// What the server has stored.
async fn stored(peer: &mut Peer) -> (Value, Value, Value) {
    let status = peer.ask(Format::Json, &json!({"service": "status", "data": {}})).await;
    let users = peer.ask(Format::Json, &json!({"service": "users", "data": {}})).await;
    let channels = peer.ask(Format::Json, &json!({"service": "channels", "data": {}})).await;
    let of = |answer: &Value, field: &str| answer["data"][field].clone();
    (of(&status, "report")["events"].clone(), of(&users, "users"), of(&channels, "channels"))
}

/// A cluster of one over TCP, with the user ana and the channel dev.
async fn furnished() -> (Cluster, Peer) {
    let cluster = Cluster::start(ClusterOptions::local(1, 0)).await.expect("starts");
    let mut peer = Peer::connect(&cluster.endpoints().clients);
    let by = Instant::now() + PATIENCE;
    for body in [
        json!({"service": "login", "data": {"user": "ana"}}),
        json!({"service": "channel", "data": {"channel": "dev"}}),
    ] {
        loop {
            let answer = peer.ask(Format::Json, &body).await;
            if answer["data"]["status"] == "sucesso" {
                break;
            }
            assert!(Instant::now() < by && answer["data"]["code"] == "no-server", "{answer}");
        }
    }
    (cluster, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_answered_and_changes_nothing() {
    let (cluster, mut peer) = furnished().await;
    let before = stored(&mut peer).await;
    assert_eq!(before.0, json!(2));
    let mut asked = 0;
    for (request, field, code) in wrong_requests() {
        for format in [Format::Json, Format::MsgPack] {
            let what = format!("{format:?} {:.120}", request.to_string());
            assert_refused(&peer.ask(format, &request).await, field, code, &what);
            asked += 1;
        }
    }
    for (format, body, code) in wrong_bytes() {
        let what = format!("{format:?} {:.80?}", String::from_utf8_lossy(&body));
        let answer = peer.ask_raw(&body).await;
        assert_refused(&decode(format, &answer), "description", code, &what);
        asked += 1;
    }
    println!("{asked} bad requests, all refused");
    assert_eq!(stored(&mut peer).await, before, "nothing was stored");
    let publish = json!({"service": "publish", "data": {"user": "ana", "channel": "dev", "message": "still here"}});
    for format in [Format::Json, Format::MsgPack] {
        assert_eq!(peer.ask(format, &publish).await["data"]["status"], "OK");
    }
    cluster.stop().await.expect("stops cleanly");
}

/// A foreign server asks at our link as the table of the protocol has it, in its own serialization.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_answers_the_familys_clock_and_election() {
    let (cluster, _) = furnished().await;
    let mut foreign = Peer::connect(&cluster.endpoints().links[0]);
    for format in [Format::MsgPack, Format::Json] {
        let ask = |service: &str| json!({"service": service, "data": {"timestamp": 1_795_407_353_924_u64, "clock": 3}});
        let clock = foreign.ask(format, &ask("clock")).await;
        let ms = clock["data"]["time"].as_f64().unwrap_or_else(|| panic!("no time in {clock}"));
        let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let off_ms = (here.as_secs_f64() * 1e3 - ms).abs();
        assert!(off_ms < 60_000.0, "milliseconds of the wall clock: {clock}");
        let election = foreign.ask(format, &ask("election")).await;
        assert_eq!((&election["service"], &election["data"]["election"]), (&json!("election"), &json!("OK")));
        for answer in [clock, election] {
            assert!(answer["data"]["clock"].as_u64().is_some_and(|clock| clock > 3), "{answer}");
            assert!(!holds_null(&answer), "{answer}");
        }
        let refused = foreign.ask(format, &json!({"service": "dance", "data": {}})).await;
        assert_refused(&refused, "description", "unknown-service", "at the link");
    }
    cluster.stop().await.expect("stops cleanly");
}
