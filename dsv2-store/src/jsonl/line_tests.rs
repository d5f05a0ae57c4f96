use super::*;
use crate::testing::Sampler;
use dsv2_core::{IdempotencyKey, SessionId};
use proptest::prelude::*;

fn encoded(n: u64, d: u64, event: &Event) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, n, d, None, event);
    out
}

fn decoded(line: &[u8]) -> Option<Event> {
    Line::parse(unseal(line.strip_suffix(b"\n")?)?)?.to_event(&mut Interner::default())
}

/// Any text, made to fit where it does not.
fn name<K>() -> impl Strategy<Value = dsv2_core::Name<K>>
where
    dsv2_core::Name<K>: std::fmt::Debug,
{
    any::<String>().prop_filter_map("not a name", |text| dsv2_core::Name::new(&text).ok())
}

fn event_id() -> impl Strategy<Value = EventId> {
    let server = prop_oneof![3 => Just("server1".parse().expect("a name")), 1 => name()];
    (server, 0..3u64, any::<u64>(), 1..=u64::MAX).prop_map(|(server, few, incarnation, seq)| {
        let incarnation = if few == 0 { incarnation } else { few };
        EventId { origin: Origin { server, incarnation }, seq }
    })
}

fn message_id() -> impl Strategy<Value = MessageId> {
    prop_oneof![
        (0..=Clock::MAX.get(), any::<u128>(), any::<u64>()).prop_map(|(clock, random, number)| MessageId::Request {
            session: SessionId::new(Clock::new(clock).expect("in range"), random),
            number
        }),
        any::<String>().prop_filter_map("not a key", |text| IdempotencyKey::new(&text).ok()).prop_map(MessageId::Key),
        any::<u128>().prop_map(MessageId::Foreign),
    ]
}

fn body() -> impl Strategy<Value = EventBody> {
    prop_oneof![
        name().prop_map(|user| EventBody::UserLogin { user }),
        name().prop_map(|channel| EventBody::ChannelCreate { channel }),
        (name(), name(), any::<String>()).prop_map(|(user, channel, message)| EventBody::Publish {
            user,
            channel,
            message
        }),
        (name(), name(), any::<String>()).prop_map(|(src, dst, message)| EventBody::Message { src, dst, message }),
    ]
}

prop_compose! {
    fn event()(
        id in event_id(),
        clock in 0..=Clock::MAX.get(),
        prev in proptest::option::of(event_id()),
        message_id in message_id(),
        ms: i64,
        body in body(),
    ) -> Event {
        Event { id, clock: Clock::new(clock).expect("in range"), prev, message_id, timestamp: Timestamp { ms }, body }
    }
}

proptest! {
    #[test]
    fn any_event_comes_back(n: u64, d: u64, event in event()) {
        let line = encoded(n, d, &event);
        prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let covered = unseal(&line[..line.len() - 1]).expect("sealed");
        prop_assert_eq!(indices(covered), Some((n, d)));
        let text = std::str::from_utf8(covered).expect("UTF-8");
        let exact = Line::parse_exact(text);
        prop_assert_eq!(exact.as_ref().map(|line| (line.n, line.d)), Some((n, d)));
        prop_assert_eq!(exact, Line::parse_loosely(text), "both parsers agree");
        prop_assert_eq!(decoded(&line), Some(event));
    }

    #[test]
    fn any_line_is_json_that_others_can_read(event in event()) {
        let json: serde_json::Value = serde_json::from_slice(&encoded(1, 0, &event)).expect("JSON");
        prop_assert_eq!(&json["ev"], &event.id.to_string());
        prop_assert_eq!(&json["id"], &event.message_id.to_string());
        let prev = match &json["p"] {
            serde_json::Value::Number(seq) => Some(format!("{}#{seq}", event.id.origin)),
            other => other.as_str().map(str::to_owned),
        };
        prop_assert_eq!(prev, event.prev.as_ref().map(ToString::to_string));
        if let EventBody::Publish { message, .. } | EventBody::Message { message, .. } = &event.body {
            prop_assert_eq!(json["message"].as_str(), Some(message.as_str()));
        }
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, text: String) {
        let _ = unseal(&bytes);
        let _ = indices(&bytes);
        let _ = Line::parse(&bytes).map(|line| line.to_event(&mut Interner::default()));
        let _ = Line::parse(text.as_bytes()).map(|line| line.to_event(&mut Interner::default()));
    }

    #[test]
    fn no_cut_or_changed_line_makes_the_parsers_panic(event in event(), at: prop::sample::Index, byte: u8) {
        let line = encoded(7, 3, &event);
        let covered = unseal(&line[..line.len() - 1]).expect("sealed");
        let at = at.index(covered.len());
        let mut changed = covered.to_vec();
        changed[at] = byte;
        for bytes in [&covered[..at], &changed] {
            let _ = indices(bytes);
            if let (Some(line), Ok(text)) = (Line::parse(bytes), std::str::from_utf8(bytes)) {
                let loosely = Line::parse_loosely(text);
                prop_assert!(Line::parse_exact(text).is_none_or(|exact| loosely.is_none_or(|loose| exact == loose)));
                let _ = line.to_event(&mut Interner::default());
            }
        }
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_noticed() {
    for event in Sampler::new(1).batch(20) {
        let line = encoded(17, 12, &event);
        assert_eq!(decoded(&line).as_ref(), Some(&event));
        for bit in 0..8 * line.len() {
            let mut flipped = line.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decoded(&flipped), None, "bit {bit} of {}", String::from_utf8_lossy(&line));
        }
        assert!((0..line.len()).all(|len| decoded(&line[..len]).is_none()));
    }
}

#[test]
fn the_form_is_the_documented_one() {
    let event = Event {
        id: "server1/9f3ac01d22e4b6aa#4".parse().expect("an id"),
        clock: Clock::new(102).expect("in range"),
        prev: "server1/9f3ac01d22e4b6aa#3".parse().ok(),
        message_id: "s:000102030405060708090a0b0c0d0e0f.7".parse().expect("an id"),
        timestamp: Timestamp { ms: 1_795_407_353_924 },
        body: EventBody::Publish {
            user: "ana".parse().expect("a name"),
            channel: "dev".parse().expect("a name"),
            message: "oi".to_owned(),
        },
    };
    let line = String::from_utf8(encoded(17, 12, &event)).expect("UTF-8");
    let (covered, crc) = line.split_at(line.len() - 19);
    assert_eq!(
        covered,
        r#"{"n":17,"d":12,"user":"ana","channel":"dev","message":"oi","ts":1795407353924,"clock":102,"ev":"server1/9f3ac01d22e4b6aa#4","p":3,"id":"s:000102030405060708090a0b0c0d0e0f.7""#
    );
    assert_eq!(crc, format!(",\"crc\":\"{:08x}\"}}\n", crc32fast::hash(covered.as_bytes())));
}

#[test]
fn a_message_of_128_bytes_takes_at_most_350() {
    let origin: Origin = "server1/9f3ac01d22e4b6aa".parse().expect("an origin");
    for (number, most) in [(1_234_567, 345), (12_345_678, 350)] {
        let event = Event {
            id: EventId { origin: origin.clone(), seq: number },
            clock: Clock::new(number).expect("in range"),
            prev: Some(EventId { origin: origin.clone(), seq: number - 9 }),
            message_id: "s:000102030405060708090a0b0c0d0e0f.42".parse().expect("an id"),
            timestamp: Timestamp { ms: 1_795_407_353_924 },
            body: EventBody::Publish {
                user: "ana".parse().expect("a name"),
                channel: "dev".parse().expect("a name"),
                message: "x".repeat(128),
            },
        };
        let len = encoded(number, number - 100, &event).len();
        assert!(len <= most, "{len} bytes");
    }
}

#[test]
fn later_versions_may_add_fields() {
    let mut line = br#"{"n":3,"d":2,"zone":"x","id":"k:7","clock":5,"ts":-1,"ev":"s\u0031/00000000000000ff#2","lang":null,"user":"ana","p":"s2/0000000000000001#9""#.to_vec();
    seal(&mut line, 0);
    let event = unseal(&line).and_then(Line::parse).and_then(|line| line.to_event(&mut Interner::default()));
    let event = event.expect("understood");
    assert_eq!((event.id.to_string().as_str(), event.timestamp.ms), ("s1/00000000000000ff#2", -1));
    assert_eq!(event.prev.map(|prev| prev.to_string()).as_deref(), Some("s2/0000000000000001#9"));
    for missing in ["\"n\":3", "\"clock\":5", "\"user\":\"ana\"", "\"ev\":\"s\\u0031/00000000000000ff#2\""] {
        let text = String::from_utf8_lossy(&line).replace(missing, "\"x\":1");
        assert!(Line::parse(&text.as_bytes()[..text.len() - CRC_LEN]).is_none(), "without {missing}");
    }
}

#[test]
fn the_number_that_an_event_follows_is_kept() {
    let mut out = Vec::new();
    encode(&mut out, 7, 3, Some(12), &Sampler::new(1).event());
    let covered = unseal(out.strip_suffix(b"\n").expect("a line")).expect("sealed");
    let line = Line::parse(covered).expect("a line");
    assert_eq!(line.after, Some(12));
    let loose = String::from_utf8(covered.to_vec()).expect("text").replace(",\"g\":12", "").replacen(
        ",\"ts\"",
        ",\"g\":12,\"ts\"",
        1,
    );
    assert_eq!(Line::parse(loose.as_bytes()), Some(line), "wherever it stands");
}
