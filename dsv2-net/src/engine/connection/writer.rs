use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep};

use super::CloseReason;
use crate::endpoint::WriteHalf;
use crate::engine::outbox::{Chunk, Outbox};
use crate::zmtp::FrameHeader;

/// Slices handed to one vectored write.
const SLICES: usize = 64;

/// Longest wait for the other end to see our end of the stream.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Empties an outbox into the stream until either ends. All that is queued at a moment goes out in as few writes as
/// the system takes.
pub(super) async fn write_loop(mut half: WriteHalf, outbox: Outbox, stall_timeout: Duration) {
    let mut chunks = VecDeque::new();
    let mut partial = 0;
    let mut stall = pin!(sleep(stall_timeout));
    // Whoever closed the outbox has left the reason there.
    while poll_fn(|cx| outbox.poll_take(cx, &mut chunks)).await.is_ok() {
        if let Err(reason) =
            write_all(&mut half, &outbox, &mut chunks, &mut partial, stall.as_mut(), stall_timeout).await
        {
            outbox.close(reason);
            break;
        }
    }
    if let Some(front) = chunks.front() {
        // Exact, although the chunk may hold hundreds of messages: those that ended before the cut did leave.
        let gone = messages_within(front, partial);
        outbox.counters().messages_out.add(gone as u64);
        outbox.release(0, gone);
    }
    drop(chunks);
    outbox.finish();
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, half.shutdown()).await;
}

async fn write_all(
    half: &mut WriteHalf,
    outbox: &Outbox,
    chunks: &mut VecDeque<Chunk>,
    partial: &mut usize,
    mut stall: Pin<&mut Sleep>,
    stall_timeout: Duration,
) -> Result<(), CloseReason> {
    while !chunks.is_empty() {
        let written = write_some(half, outbox, chunks, *partial, stall.as_mut(), stall_timeout).await?;
        let mut messages = 0;
        let mut end = *partial + written;
        while let Some(front) = chunks.front()
            && end >= front.bytes.len()
        {
            end -= front.bytes.len();
            messages += front.messages;
            chunks.pop_front();
        }
        *partial = end;
        let counters = outbox.counters();
        counters.writes.add(1);
        counters.bytes_out.add(written as u64);
        counters.messages_out.add(messages as u64);
        outbox.release(written, messages);
    }
    Ok(())
}

/// One successful write call, however long the peer lets it wait (within the stall timeout).
async fn write_some(
    half: &mut WriteHalf,
    outbox: &Outbox,
    chunks: &VecDeque<Chunk>,
    partial: usize,
    mut stall: Pin<&mut Sleep>,
    stall_timeout: Duration,
) -> Result<usize, CloseReason> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        let skip = if count == 0 { partial } else { 0 };
        *slice = IoSlice::new(&chunk.bytes.chunk()[skip..]);
        count += 1;
    }
    let slices = &slices[..count];
    let mut waited = false;
    poll_fn(|cx| match Pin::new(&mut *half).poll_write_vectored(cx, slices) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(CloseReason::Io(io::ErrorKind::WriteZero))),
        Poll::Ready(Ok(n)) => {
            if waited {
                outbox.note_progress();
            }
            Poll::Ready(Ok(n))
        }
        Poll::Ready(Err(e)) => Poll::Ready(Err(failure(&e))),
        Poll::Pending => {
            if !waited {
                waited = true;
                stall.as_mut().reset(Instant::now() + stall_timeout);
            }
            if let Poll::Ready(reason) = outbox.poll_abandoned(cx) {
                return Poll::Ready(Err(reason));
            }
            stall.as_mut().poll(cx).map(|()| Err(CloseReason::Stalled))
        }
    })
    .await
}

pub(super) fn failure(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            CloseReason::PeerClosed
        }
        kind => CloseReason::Io(kind),
    }
}

/// Messages that end within the first `written` bytes of a chunk (which consists of whole frames).
fn messages_within(chunk: &Chunk, written: usize) -> usize {
    let (mut at, mut messages) = (0, 0);
    while let Ok(Some(header)) = FrameHeader::parse(&chunk.bytes[at..]) {
        at = at.saturating_add(header.header_len).saturating_add(header.payload_len as usize);
        if at > written {
            break;
        }
        messages += usize::from(!header.more && !header.command);
    }
    messages.min(chunk.messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zmtp::Message;

    #[test]
    fn only_messages_that_left_whole_are_counted() {
        let one = Message::from_frames(["topic", "body"]);
        let chunk = Chunk { bytes: [one.wire().as_ref(), one.wire()].concat().into(), messages: 2 };
        let len = one.wire().len();
        for (written, messages) in [(0, 0), (len - 1, 0), (len, 1), (2 * len - 1, 1), (2 * len, 2)] {
            assert_eq!(messages_within(&chunk, written), messages, "{written} bytes");
        }
    }
}
