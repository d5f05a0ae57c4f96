//! The output queue of one connection: bounded in bytes, filled without waiting, emptied in large writes.

mod hand;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

pub(crate) use self::hand::{Chunk, InHand};
use super::connection::CloseReason;
use super::counters::{Budget, Counters};
use super::limits::Limits;
use crate::endpoint::DirectWrite;
use crate::zmtp::{Batch, Message};

/// Pushes of at least this many bytes are kept by reference, smaller ones are copied side by side into one buffer.
/// A slice shares a read buffer of at most `Limits::read_chunk_bytes`, so a queue keeps alive at most
/// `read_chunk_bytes / BY_REFERENCE_BYTES` times the bytes it accounts for.
pub(crate) const BY_REFERENCE_BYTES: usize = 16 << 10;

/// A coalescing buffer is sealed at this size.
const TAIL_CAP_BYTES: usize = 64 << 10;

/// What PONGs and other control frames may take on top of the queue's own bound.
const CONTROL_RESERVE_BYTES: usize = 16 << 10;

/// Why a push was refused. Nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The queue, or the budget it shares with others, has no room. [`Outbox::writable`] tells when to try again.
    #[error("the output queue is full")]
    Full,
    /// The connection is closed, or is being drained.
    #[error("the connection is closed")]
    Closed,
}

/// How the output of a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Why the connection ended.
    pub reason: CloseReason,
    /// Messages that had been accepted and were not handed to the system whole.
    pub unsent_messages: usize,
}

/// Handle to the output queue of one connection. Clones share the queue.
///
/// The `append_*` methods queue without waking the writer; call [`Outbox::flush`] once after a batch of them.
/// [`Outbox::push`] does both. A message is queued whole or not at all. That a message was accepted says that it is
/// queued here, not that it was delivered.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    cap_bytes: usize,
    cap_messages: usize,
    budget: Budget,
    counters: Arc<Counters>,
    /// Mirrors `phase`, for a look without the lock.
    closed: AtomicBool,
    /// Grows when the peer takes output that it had not been ready for: a sign of life.
    progress: AtomicU64,
    space: Notify,
    finished: Notify,
}

#[derive(Debug)]
struct State {
    sealed: VecDeque<Chunk>,
    /// How much of the first sealed chunk is written.
    written_bytes: usize,
    tail: BytesMut,
    tail_messages: usize,
    /// Size of the last sealed tail: what the next one probably needs.
    tail_hint_bytes: usize,
    /// Bytes queued, those in the writer's hands included.
    bytes: usize,
    /// The part of `bytes` in the writer's hands.
    taken_bytes: usize,
    /// Messages queued, those in the writer's hands included.
    messages: usize,
    /// Messages ever queued.
    messages_pushed: u64,
    phase: Phase,
    starved: bool,
    /// The socket, for writes by those who queue.
    direct: Option<DirectWrite>,
    /// Somebody who queued is writing: the writer stays aside.
    is_written_directly: bool,
    /// The writer, while there is nothing to write.
    writer: Option<Waker>,
    /// The writer, while the peer takes nothing: pushes are no news to it.
    blocked_writer: Option<Waker>,
    reader: Option<Waker>,
}

#[derive(Debug, Clone)]
enum Phase {
    Open,
    /// No more pushes; closed once empty.
    Draining,
    Closed(CloseReason),
    /// The writer has stopped: counts are final.
    Finished(CloseReason),
}

impl Outbox {
    pub(crate) fn new(limits: &Limits, budget: Budget, counters: Arc<Counters>, direct: Option<DirectWrite>) -> Self {
        let state = State {
            sealed: VecDeque::new(),
            written_bytes: 0,
            tail: BytesMut::new(),
            tail_messages: 0,
            tail_hint_bytes: 0,
            bytes: 0,
            taken_bytes: 0,
            messages: 0,
            messages_pushed: 0,
            phase: Phase::Open,
            starved: false,
            direct,
            is_written_directly: false,
            writer: None,
            blocked_writer: None,
            reader: None,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            cap_bytes: limits.outbox_cap_bytes,
            cap_messages: limits.outbox_cap_messages,
            budget,
            counters,
            closed: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            space: Notify::new(),
            finished: Notify::new(),
        }))
    }

    /// Queues one message and wakes the writer.
    ///
    /// # Errors
    /// `Full` or `Closed`; nothing was queued.
    pub fn push(&self, message: &Message) -> Result<(), PushError> {
        let waker = {
            let mut state = self.admit(message.wire().len(), 1)?;
            state.queue(message.wire(), 1);
            state.writer.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Queues one message; [`Outbox::flush`] must follow.
    ///
    /// # Errors
    /// `Full` or `Closed`; nothing was queued.
    pub fn append(&self, message: &Message) -> Result<(), PushError> {
        self.append_wire(message.wire(), 1)
    }

    /// Queues bytes that encode `messages` whole messages; [`Outbox::flush`] must follow.
    ///
    /// # Errors
    /// `Full` or `Closed`; nothing was queued.
    pub fn append_wire(&self, wire: &Bytes, messages: usize) -> Result<(), PushError> {
        self.admit(wire.len(), messages)?.queue(wire, messages);
        Ok(())
    }

    /// Queues a run of messages of a batch; [`Outbox::flush`] must follow. All of the run or nothing: on `Full`,
    /// shorter runs may still fit.
    ///
    /// # Errors
    /// `Full` or `Closed`; nothing was queued.
    ///
    /// # Panics
    /// If the run is not within the batch.
    pub fn append_run(&self, batch: &Batch, run: Range<usize>) -> Result<(), PushError> {
        let messages = run.len();
        let wire = batch.wire_slice(run.clone());
        let mut state = self.admit(wire.len(), messages)?;
        if wire.len() < BY_REFERENCE_BYTES {
            state.copy(wire, messages);
        } else {
            state.share(batch.wire(run), messages);
        }
        Ok(())
    }

    /// Like [`Outbox::append_wire`], by reference whatever the size: for bytes that have a memory of their own, and are
    /// shared with other queues.
    pub(crate) fn append_shared(&self, wire: &Bytes, messages: usize) -> Result<(), PushError> {
        self.admit(wire.len(), messages)?.share(wire.clone(), messages);
        Ok(())
    }

    /// Queues one message that consists of several encoded pieces (see `Message::prefix`); [`Outbox::flush`] must
    /// follow.
    ///
    /// # Errors
    /// `Full` or `Closed`; nothing was queued.
    pub fn append_parts(&self, parts: &[&Bytes]) -> Result<(), PushError> {
        let total = parts.iter().map(|p| p.len()).sum();
        let mut state = self.admit(total, 1)?;
        for (i, part) in parts.iter().enumerate() {
            // The message counts where it ends.
            let messages = usize::from(i + 1 == parts.len());
            state.queue(part, messages);
        }
        Ok(())
    }

    /// Wakes the writer, if it sleeps and there is something to write.
    pub fn flush(&self) {
        let waker = {
            let mut state = self.lock();
            if state.is_empty() { None } else { state.writer.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Like [`Outbox::flush`], but if at least so much is queued, writes it at once, in the caller's task: that spares
    /// waking the writer. For forwarders, which queue a batch and not single messages; not under a lock.
    pub(crate) fn flush_now(&self, from_bytes: usize) {
        let mut hand = InHand::default();
        let direct = {
            let mut state = self.lock();
            // Who writes already finds what is queued.
            if state.is_empty() || state.is_written_directly {
                return;
            }
            let Some(waker) = state.writer.take() else { return };
            match state.direct.clone().filter(|_| state.bytes >= from_bytes) {
                Some(direct) => {
                    state.writer = Some(waker);
                    state.is_written_directly = true;
                    state.move_to(&mut hand);
                    direct
                }
                None => {
                    drop(state);
                    return waker.wake();
                }
            }
        };
        // A failure is the writer's to meet, which is woken because something remains.
        let written = hand.with_slices(|slices| direct.try_write(slices)).unwrap_or(0);
        if written > 0 {
            self.wrote(&mut hand, written);
        }
        self.put_back(&mut hand);
        self.forget(&hand);
        let waker = {
            let mut state = self.lock();
            state.is_written_directly = false;
            let done = state.is_empty() && matches!(state.phase, Phase::Open);
            if done { None } else { state.writer.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Bytes queued and not yet handed to the system.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Messages queued and not yet handed to the system whole.
    #[must_use]
    pub fn queued_messages(&self) -> usize {
        self.lock().messages
    }

    /// Whether the queue's own bounds would admit this much more; what it shares with others may be used up all the same.
    pub(crate) fn admits(&self, bytes: usize, messages: usize) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Open) && self.fits(&state, bytes, messages)
    }

    /// The bound on [`Outbox::queued_bytes`].
    #[must_use]
    pub fn cap_bytes(&self) -> usize {
        self.0.cap_bytes
    }

    /// Whether pushes are refused for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Waits until at most half of the queue's bounds is in use, and the budget it shares has room. Cancel-safe.
    ///
    /// # Errors
    /// `Closed` if the connection ends first.
    pub async fn writable(&self) -> Result<(), PushError> {
        loop {
            self.below(self.0.cap_bytes / 2, self.0.cap_messages / 2).await?;
            if self.0.budget.has_room() {
                return Ok(());
            }
            tokio::select! {
                () = self.0.budget.room() => {}
                // Only to notice the end of the connection.
                _ = self.finished() => return Err(PushError::Closed),
            }
        }
    }

    /// Waits until everything that was queued has been handed to the system. Cancel-safe.
    ///
    /// # Errors
    /// `Closed` if the connection ends first.
    pub async fn flushed(&self) -> Result<(), PushError> {
        self.below(0, 0).await
    }

    async fn below(&self, bytes: usize, messages: usize) -> Result<(), PushError> {
        loop {
            let mut space = std::pin::pin!(self.0.space.notified());
            // Registered before the look, so that a release between the two is not missed.
            space.as_mut().enable();
            {
                let mut state = self.lock();
                if state.is_closed() {
                    return Err(PushError::Closed);
                }
                if state.bytes <= bytes && state.messages <= messages {
                    return Ok(());
                }
                state.starved = true;
            }
            space.await;
        }
    }

    /// Closes the connection at once: what is queued is not written. The first reason stands. The memory of what is
    /// queued is free, and given back to the budget, when this returns; only a write under way in another thread keeps
    /// its part until the system call returns.
    pub fn close(&self, reason: CloseReason) {
        let mut state = self.lock();
        if !state.is_closed() {
            state.phase = Phase::Closed(reason);
            self.0.budget.release(state.bytes - state.taken_bytes);
            state.bytes = state.taken_bytes;
            // Exact, although a chunk may hold hundreds of messages: those that ended before the cut did leave.
            let written = state.written_bytes;
            let left = state.sealed.front().map_or(0, |front| front.messages_within(written));
            state.messages -= left;
            self.0.counters.messages_out.add(left as u64);
            state.sealed = VecDeque::new();
            state.tail = BytesMut::new();
            self.announce(state);
        }
    }

    /// Refuses further pushes, and closes the connection with [`CloseReason::Drained`] when all is written.
    pub fn drain(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = if state.bytes == 0 { Phase::Closed(CloseReason::Drained) } else { Phase::Draining };
            self.announce(state);
        }
    }

    /// Waits until the connection is closed and the writer has stopped. Cancel-safe.
    pub async fn finished(&self) -> Finished {
        loop {
            let mut finished = std::pin::pin!(self.0.finished.notified());
            finished.as_mut().enable();
            {
                let state = self.lock();
                if let Phase::Finished(reason) = &state.phase {
                    return Finished { reason: reason.clone(), unsent_messages: state.messages };
                }
            }
            finished.await;
        }
    }

    /// Why the connection is closed, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        match &self.lock().phase {
            Phase::Open | Phase::Draining => None,
            Phase::Closed(reason) | Phase::Finished(reason) => Some(reason.clone()),
        }
    }

    /// Queues a control frame and wakes the writer. A full queue has a small reserve for these.
    pub(crate) fn push_control(&self, frame: &Bytes) -> Result<(), PushError> {
        {
            let mut state = self.lock();
            if !matches!(state.phase, Phase::Open) {
                return Err(PushError::Closed);
            }
            if state.bytes + frame.len() > self.0.cap_bytes + CONTROL_RESERVE_BYTES {
                return Err(PushError::Full);
            }
            if !self.0.budget.try_reserve(frame.len()) {
                return Err(PushError::Full);
            }
            state.bytes += frame.len();
            state.copy(frame, 0);
        }
        self.flush();
        Ok(())
    }

    /// The reader's look at the end of the connection: registers its waker.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut state = self.lock();
        match &state.phase {
            Phase::Open | Phase::Draining => {
                remember(&mut state.reader, cx.waker());
                Poll::Pending
            }
            Phase::Closed(reason) | Phase::Finished(reason) => Poll::Ready(reason.clone()),
        }
    }

    /// The writer's side: moves all that is queued to its hand (which is empty). `Err`: stop.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, hand: &mut InHand) -> Poll<Result<(), CloseReason>> {
        let mut state = self.lock();
        if state.is_written_directly {
            remember(&mut state.writer, cx.waker());
            return Poll::Pending;
        }
        match &state.phase {
            Phase::Closed(reason) | Phase::Finished(reason) => return Poll::Ready(Err(reason.clone())),
            Phase::Draining if state.bytes == 0 => {
                state.phase = Phase::Closed(CloseReason::Drained);
                self.announce(state);
                return Poll::Ready(Err(CloseReason::Drained));
            }
            Phase::Open | Phase::Draining => {}
        }
        if state.is_empty() {
            remember(&mut state.writer, cx.waker());
            return Poll::Pending;
        }
        // Also where something else woke it: while the writer writes, nobody else must.
        state.writer = None;
        state.move_to(hand);
        Poll::Ready(Ok(()))
    }

    /// The peer takes nothing: what the writer has in hand goes back to the front of the queue. If that is closed, the
    /// writer keeps it, for the last count.
    pub(crate) fn put_back(&self, hand: &mut InHand) {
        let mut state = self.lock();
        if !state.is_closed() {
            hand.chunks.append(&mut state.sealed);
            std::mem::swap(&mut state.sealed, &mut hand.chunks);
            state.written_bytes = std::mem::take(&mut hand.written_bytes);
            state.taken_bytes = 0;
        }
    }

    /// While a write waits for the peer: has the connection been closed meanwhile?
    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut state = self.lock();
        match &state.phase {
            Phase::Closed(reason) | Phase::Finished(reason) => Poll::Ready(reason.clone()),
            Phase::Open | Phase::Draining => {
                remember(&mut state.blocked_writer, cx.waker());
                Poll::Pending
            }
        }
    }

    /// So much of what is in hand is written.
    pub(crate) fn wrote(&self, hand: &mut InHand, written: usize) {
        let messages = hand.advance(written);
        let counters = self.counters();
        counters.writes.add(1);
        counters.bytes_out.add(written as u64);
        counters.messages_out.add(messages as u64);
        self.release(written, messages);
    }

    /// What is still in hand at the end: of the first chunk, some messages may have left.
    pub(crate) fn forget(&self, hand: &InHand) {
        if let Some(front) = hand.chunks.front() {
            let left = front.messages_within(hand.written_bytes);
            self.counters().messages_out.add(left as u64);
            self.release(0, left);
        }
    }

    fn release(&self, bytes: usize, messages: usize) {
        self.0.budget.release(bytes);
        let mut state = self.lock();
        state.bytes -= bytes;
        state.taken_bytes -= bytes;
        state.messages -= messages;
        let enough = state.bytes <= self.0.cap_bytes / 2 && state.messages <= self.0.cap_messages / 2;
        if state.starved && enough {
            // Waiters for an empty queue set the mark again.
            state.starved = false;
            drop(state);
            self.0.space.notify_waiters();
        }
    }

    /// The writer stops: what remains is counted and released.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        let reason = match &state.phase {
            Phase::Closed(reason) | Phase::Finished(reason) => reason.clone(),
            Phase::Open | Phase::Draining => CloseReason::Local,
        };
        state.phase = Phase::Finished(reason);
        // The connection ends with its last handle.
        state.direct = None;
        self.0.budget.release(std::mem::take(&mut state.bytes));
        state.taken_bytes = 0;
        self.0.counters.messages_unsent.add(state.messages as u64);
        state.sealed = VecDeque::new();
        state.tail = BytesMut::new();
        self.announce(state);
        self.0.finished.notify_waiters();
    }

    pub(crate) fn note_progress(&self) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// How many messages were queued so far.
    pub(crate) fn messages_pushed(&self) -> u64 {
        self.lock().messages_pushed
    }

    pub(crate) fn progress(&self) -> u64 {
        self.0.progress.load(Ordering::Relaxed)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    fn admit(&self, bytes: usize, messages: usize) -> Result<MutexGuard<'_, State>, PushError> {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Open) {
            return Err(PushError::Closed);
        }
        if !self.fits(&state, bytes, messages) || !self.0.budget.try_reserve(bytes) {
            state.starved = true;
            drop(state);
            self.0.counters.messages_refused.add(messages as u64);
            return Err(PushError::Full);
        }
        state.bytes += bytes;
        state.messages += messages;
        state.messages_pushed += messages as u64;
        Ok(state)
    }

    /// An empty queue takes one message of any size: its limit is `message_cap_bytes`.
    fn fits(&self, state: &State, bytes: usize, messages: usize) -> bool {
        state.bytes == 0
            || (state.bytes + bytes <= self.0.cap_bytes
                && state.messages.saturating_add(messages) <= self.0.cap_messages)
    }

    /// Tells everybody about a change of phase.
    fn announce(&self, mut state: MutexGuard<'_, State>) {
        self.0.closed.store(!matches!(state.phase, Phase::Open), Ordering::Release);
        let wakers = [state.writer.take(), state.blocked_writer.take(), state.reader.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.0.space.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nothing left after `finish`; something if the writer's task was dropped with its runtime.
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.release(state.bytes);
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.tail.is_empty()
    }

    fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_) | Phase::Finished(_))
    }

    fn queue(&mut self, wire: &Bytes, messages: usize) {
        if wire.len() < BY_REFERENCE_BYTES { self.copy(wire, messages) } else { self.share(wire.clone(), messages) }
    }

    fn copy(&mut self, wire: &[u8], messages: usize) {
        if self.tail.len() + wire.len() > TAIL_CAP_BYTES {
            self.seal();
        }
        if self.tail.capacity() - self.tail.len() < wire.len() {
            self.tail.reserve(wire.len().max(self.tail_hint_bytes));
        }
        self.tail.extend_from_slice(wire);
        self.tail_messages += messages;
    }

    fn share(&mut self, bytes: Bytes, messages: usize) {
        self.seal();
        self.sealed.push_back(Chunk { bytes, messages });
    }

    fn move_to(&mut self, hand: &mut InHand) {
        self.seal();
        self.taken_bytes = self.bytes;
        std::mem::swap(&mut self.sealed, &mut hand.chunks);
        hand.written_bytes = std::mem::take(&mut self.written_bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.tail_hint_bytes = self.tail.len();
            let messages = std::mem::take(&mut self.tail_messages);
            self.sealed.push_back(Chunk { bytes: self.tail.split().freeze(), messages });
        }
    }
}

fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(old) if old.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests;
