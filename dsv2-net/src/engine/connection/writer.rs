use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep};

use super::CloseReason;
use crate::endpoint::WriteHalf;
use crate::engine::outbox::{InHand, Outbox};

/// Longest wait for the other end to see our end of the stream.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Empties an outbox into the stream until either ends. All that is queued at a moment goes out in as few writes as
/// the system takes.
pub(super) async fn write_loop(half: WriteHalf, outbox: Outbox, stall_timeout: Duration) {
    let stall = Box::pin(sleep(stall_timeout));
    let mut writer = Writer { half, outbox, hand: InHand::default(), stall, stall_timeout, waits: false };
    let reason = poll_fn(|cx| writer.poll_end(cx)).await;
    let Writer { mut half, outbox, hand, .. } = writer;
    // If the outbox was closed by somebody else, the reason that was left there stands.
    outbox.close(reason);
    outbox.forget(&hand);
    drop(hand);
    outbox.finish();
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, half.shutdown()).await;
}

struct Writer {
    half: WriteHalf,
    outbox: Outbox,
    hand: InHand,
    /// Runs from the moment when the peer stopped taking output.
    stall: Pin<Box<Sleep>>,
    stall_timeout: Duration,
    waits: bool,
}

impl Writer {
    /// Writes what there is. Ready when no more can be written, with the reason.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            if self.hand.chunks.is_empty()
                && let Err(reason) = ready!(self.outbox.poll_take(cx, &mut self.hand))
            {
                return Poll::Ready(reason);
            }
            match self.poll_write(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(CloseReason::Io(io::ErrorKind::WriteZero)),
                Poll::Ready(Ok(n)) => self.wrote(n),
                Poll::Ready(Err(error)) => return Poll::Ready(failure(&error)),
                Poll::Pending => return self.poll_patience(cx),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.hand.with_slices(|slices| Pin::new(&mut self.half).poll_write_vectored(cx, slices))
    }

    fn wrote(&mut self, written: usize) {
        if std::mem::take(&mut self.waits) {
            self.outbox.note_progress();
        }
        self.outbox.wrote(&mut self.hand, written);
    }

    /// The peer takes nothing at present. Ready if that has lasted too long, or the connection was closed.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.outbox.put_back(&mut self.hand);
        if !self.waits {
            self.waits = true;
            self.stall.as_mut().reset(Instant::now() + self.stall_timeout);
        }
        if let Poll::Ready(reason) = self.outbox.poll_abandoned(cx) {
            return Poll::Ready(reason);
        }
        self.stall.as_mut().poll(cx).map(|()| CloseReason::Stalled)
    }
}

pub(super) fn failure(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            CloseReason::PeerClosed
        }
        kind => CloseReason::Io(kind),
    }
}
