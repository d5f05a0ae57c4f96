//! What comes from sockets: ZMTP, and the messages of links.

use dsv2_net::zmtp::{Batch, Decoder, DecoderLimits, Greeting, Item};
use dsv2_sync::link::LinkMessage;

const LIMITS: DecoderLimits = DecoderLimits { message_cap_bytes: 4096, frame_cap: 8, command_cap_bytes: 512 };

/// ZMTP: the same bytes give the same messages and the same end however they were cut into reads, and the decoder
/// holds no more than it was fed. The first byte chooses the cuts and the kind of socket.
pub fn zmtp(data: &[u8]) {
    let Some((&choice, wire)) = data.split_first() else { return };
    let _ = Greeting::parse(wire);
    let subscriptions = choice & 1 == 1;
    let whole = decode(wire, wire.len(), subscriptions);
    let pieces = decode(wire, usize::from(choice >> 1) % 13 + 1, subscriptions);
    assert_eq!(whole, pieces, "what is read does not depend on how the bytes arrived");
}

/// All items in their textual form, and how it ended.
fn decode(wire: &[u8], piece: usize, subscriptions: bool) -> (Vec<String>, Option<String>) {
    let mut decoder = Decoder::new(LIMITS, subscriptions);
    let (mut batch, mut seen, mut fed) = (Batch::new(), Vec::new(), 0);
    for bytes in wire.chunks(piece.max(1)) {
        decoder.buffer().extend_from_slice(bytes);
        fed += bytes.len();
        loop {
            match decoder.decode(&mut batch) {
                Ok(true) => collect(&batch, &mut seen),
                Ok(false) => break,
                Err(why) => {
                    collect(&batch, &mut seen);
                    return (seen, Some(why.to_string()));
                }
            }
        }
        assert!(decoder.pending_bytes() <= fed, "it holds no more than it was fed");
    }
    (seen, None)
}

fn collect(batch: &Batch, seen: &mut Vec<String>) {
    for (index, item) in batch.items().enumerate() {
        seen.push(match item {
            Item::Message { first, frames } => {
                let message = batch.message(index);
                assert_eq!((message.first(), message.frame_count()), (first, frames));
                assert!(frames <= LIMITS.frame_cap && message.wire().len() <= LIMITS.message_cap_bytes + 9 * frames);
                format!("{:?}", message.slices().collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        });
    }
}

/// A message of a link: what can be read is written again as the same message.
pub fn link(data: &[u8]) {
    let _ = LinkMessage::detect(data);
    if let Ok(message) = LinkMessage::decode(data) {
        let again = LinkMessage::decode(&message.encode());
        assert_eq!(again.as_ref().ok(), Some(&message));
    }
}
