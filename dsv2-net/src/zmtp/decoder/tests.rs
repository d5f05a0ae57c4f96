use proptest::prelude::*;

use super::super::{Item, Message, batch::Batch};
use super::*;

const LIMITS: DecoderLimits = DecoderLimits { message_cap_bytes: 4096, frame_cap: 8, command_cap_bytes: 512 };

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(Vec<Vec<u8>>),
    Subscribe(Vec<u8>),
    Cancel(Vec<u8>),
    Control(Command),
}

/// Feeds `wire` in pieces that end at `cuts`, and collects everything.
fn decode_all(decoder: &mut Decoder, wire: &[u8], cuts: &[usize]) -> Result<Vec<Seen>, ZmtpError> {
    let (mut seen, mut batch, mut at) = (Vec::new(), Batch::new(), 0);
    let mut ends: Vec<usize> = cuts.iter().map(|c| c % (wire.len() + 1)).chain([wire.len()]).collect();
    ends.sort_unstable();
    for end in ends {
        decoder.buffer().extend_from_slice(&wire[at..end]);
        at = end;
        while decoder.decode(&mut batch)? {
            seen.extend(batch.drain_controls().map(Seen::Control));
            for (i, item) in batch.items().enumerate() {
                seen.push(match item {
                    Item::Subscribe(topic) => Seen::Subscribe(topic.to_vec()),
                    Item::Cancel(topic) => Seen::Cancel(topic.to_vec()),
                    Item::Message { first, frames } => {
                        let message = batch.message(i);
                        assert_eq!((message.first(), message.frame_count()), (first, frames));
                        Seen::Message(message.slices().map(<[u8]>::to_vec).collect())
                    }
                });
            }
            if batch.has_messages() {
                let joined: Vec<u8> = batch.messages().flat_map(|m| m.wire().to_vec()).collect();
                assert_eq!(batch.wire(0..batch.len()), joined, "messages of a batch lie side by side");
            }
        }
    }
    Ok(seen)
}

fn message(frames: &[&[u8]]) -> Seen {
    Seen::Message(frames.iter().map(|f| f.to_vec()).collect())
}

fn decoder() -> Decoder {
    Decoder::new(LIMITS, false)
}

#[test]
fn an_announcement_beyond_the_limit_is_refused_at_its_header() {
    let mut decoder = decoder();
    let mut wire = vec![0b010];
    wire.extend_from_slice(&(1u64 << 62).to_be_bytes());
    let refused = decode_all(&mut decoder, &wire, &[]);
    assert_eq!(refused, Err(ZmtpError::MessageTooLarge { announced: 1 << 62, cap_bytes: 4096 }));
    assert!(decoder.buffer().capacity() < 1024, "nothing was reserved");
    assert!(decode_all(&mut decoder, b"\0\0", &[]).is_err(), "and it stays refused");
    wire[0] = 0b110;
    let refused = decode_all(&mut self::decoder(), &wire, &[]);
    assert_eq!(refused, Err(ZmtpError::CommandTooLarge { announced: 1 << 62, cap_bytes: 512 }));
}

#[test]
fn the_largest_length_does_not_overflow() {
    let mut wire = Message::prefix(b"x").to_vec();
    wire.push(0b010);
    wire.extend_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(decode_all(&mut decoder(), &wire, &[]), Err(ZmtpError::MessageTooLarge { .. })));
}

#[test]
fn frames_and_bytes_of_one_message_are_counted_together() {
    let endless = Message::prefix(b"").repeat(9);
    assert_eq!(decode_all(&mut decoder(), &endless, &[]), Err(ZmtpError::TooManyFrames { cap: 8 }));
    let heavy = Message::prefix(&[0; 2000]).repeat(3);
    assert_eq!(
        decode_all(&mut decoder(), &heavy, &[]),
        Err(ZmtpError::MessageTooLarge { announced: 6000, cap_bytes: 4096 })
    );
}

#[test]
fn what_came_before_an_error_is_delivered_first() {
    let mut wire = Message::single(b"good").wire().to_vec();
    wire.push(0xFF);
    let mut decoder = decoder();
    decoder.buffer().extend_from_slice(&wire);
    let mut batch = Batch::new();
    assert_eq!(decoder.decode(&mut batch), Ok(true));
    assert_eq!(batch.message(0), Message::single(b"good"));
    assert_eq!(decoder.decode(&mut batch), Err(ZmtpError::InvalidFlags(0xFF)));
}

#[test]
fn a_ping_between_frames_leaves_the_message_whole() {
    let ping = Command::Ping { ttl_ds: 7, context: Bytes::from_static(b"c") };
    let mut wire = Message::single(b"before").wire().to_vec();
    wire.extend_from_slice(&Message::prefix(b"one"));
    wire.extend_from_slice(&ping.encode());
    wire.extend_from_slice(&Message::prefix(b"two"));
    wire.extend_from_slice(&ping.encode());
    wire.extend_from_slice(Message::single(b"three").wire());
    wire.extend_from_slice(Message::single(b"after").wire());
    let expected = [
        message(&[b"before"]),
        Seen::Control(ping.clone()),
        Seen::Control(ping),
        message(&[b"one", b"two", b"three"]),
        message(&[b"after"]),
    ];
    for cut in 0..wire.len() {
        assert_eq!(decode_all(&mut decoder(), &wire, &[cut]).unwrap(), expected, "cut at {cut}");
    }
}

#[test]
fn both_forms_of_subscription_are_read_by_publishers_only() {
    let mut wire = Command::subscription(b"a", true, false).to_vec();
    wire.extend_from_slice(&Command::subscription(b"b", true, true));
    wire.extend_from_slice(&Command::subscription(b"a", false, true));
    wire.extend_from_slice(&Command::subscription(b"b", false, false));
    wire.extend_from_slice(Message::from_frames([&b"\x01x"[..], b"y"]).wire());
    wire.extend_from_slice(Message::single(b"\x02upstream").wire());
    let (a, b) = (b"a".to_vec(), b"b".to_vec());
    let mut publisher = Decoder::new(LIMITS, true);
    assert_eq!(
        decode_all(&mut publisher, &wire, &[]).unwrap(),
        [
            Seen::Subscribe(a.clone()),
            Seen::Subscribe(b.clone()),
            Seen::Cancel(a),
            Seen::Cancel(b),
            message(&[b"\x01x", b"y"]),
            message(&[b"\x02upstream"])
        ]
    );
    let plain = Command::subscription(b"a", true, false);
    assert_eq!(decode_all(&mut decoder(), &plain, &[]).unwrap(), [message(&[b"\x01a"])]);
}

#[test]
fn ready_after_the_handshake_is_refused() {
    let ready = Command::Ready(super::super::Metadata::new()).encode();
    assert_eq!(decode_all(&mut decoder(), &ready, &[]), Err(ZmtpError::Unexpected("READY")));
}

#[test]
fn handshake_commands_leave_what_follows() {
    let mut wire = Command::Ready(super::super::Metadata::new()).encode().to_vec();
    wire.extend_from_slice(Message::single(b"early").wire());
    let mut decoder = decoder();
    decoder.buffer().extend_from_slice(&wire[..3]);
    assert_eq!(decoder.decode_command(), Ok(None));
    decoder.buffer().extend_from_slice(&wire[3..]);
    assert_eq!(decoder.decode_command(), Ok(Some(Command::Ready(super::super::Metadata::new()))));
    assert_eq!(decode_all(&mut decoder, &[], &[]).unwrap(), [message(&[b"early"])]);
    let mut impatient = self::decoder();
    impatient.buffer().extend_from_slice(Message::single(b"x").wire());
    assert_eq!(impatient.decode_command(), Err(ZmtpError::Unexpected("message")));
}

fn traffic() -> impl Strategy<Value = Seen> {
    let bytes = |cap| prop::collection::vec(any::<u8>(), 0..cap);
    prop_oneof![
        6 => prop::collection::vec(bytes(400), 1..6).prop_map(Seen::Message),
        1 => bytes(300).prop_map(Seen::Subscribe),
        1 => bytes(300).prop_map(Seen::Cancel),
        1 => (any::<u16>(), bytes(16)).prop_map(|(ttl_ds, c)| Seen::Control(Command::Ping { ttl_ds, context: c.into() })),
    ]
}

fn encode(seen: &Seen) -> Bytes {
    match seen {
        Seen::Message(frames) => Message::from_frames(frames).wire().clone(),
        Seen::Subscribe(topic) => Command::subscription(topic, true, true),
        Seen::Cancel(topic) => Command::subscription(topic, false, true),
        Seen::Control(command) => command.encode(),
    }
}

/// Controls overtake subscriptions of the same read, and nothing else changes places.
fn by_kind(seen: &[Seen]) -> (Vec<&Seen>, Vec<&Seen>) {
    seen.iter().partition(|s| matches!(s, Seen::Control(_)))
}

proptest! {
    #[test]
    fn any_traffic_survives_any_split(items in prop::collection::vec(traffic(), 0..20), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
        let wire: Vec<u8> = items.iter().flat_map(|i| encode(i).to_vec()).collect();
        let seen = decode_all(&mut decoder(), &wire, &cuts).unwrap();
        prop_assert_eq!(by_kind(&seen), by_kind(&items));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_hold_no_more_than_was_fed(wire in prop::collection::vec(any::<u8>(), 0..2000), cuts in prop::collection::vec(any::<usize>(), 0..5), publisher: bool) {
        let mut decoder = Decoder::new(LIMITS, publisher);
        let _ = decode_all(&mut decoder, &wire, &cuts);
        prop_assert!(decoder.pending_bytes() <= wire.len());
    }

    #[test]
    fn nearly_valid_bytes_never_panic(items in prop::collection::vec(traffic(), 1..6), at: usize, flip in 1u8.., cuts in prop::collection::vec(any::<usize>(), 0..5)) {
        let mut wire: Vec<u8> = items.iter().flat_map(|i| encode(i).to_vec()).collect();
        let at = at % wire.len();
        wire[at] ^= flip;
        let _ = decode_all(&mut decoder(), &wire, &cuts);
    }

    #[test]
    fn arbitrary_command_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Command::parse(&Bytes::from(body));
    }
}
