use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Requests handed to a transport whose writes cannot be seen: bounded by what was answered.
///
/// Each answer is taken for the oldest request. Which one it really answers is the session's business; here only
/// their number and size matter.
#[derive(Debug)]
pub(super) struct Outstanding {
    state: Mutex<State>,
    cap_messages: usize,
    cap_bytes: usize,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    sent: VecDeque<(Instant, usize)>,
    bytes: usize,
    answered_at: Instant,
    /// Somebody was refused, or waits.
    awaited: bool,
}

/// What the age of the oldest request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Look again then.
    Until(Instant),
    /// Nothing was answered since the oldest request was sent, and that is too long ago.
    Lost,
}

impl Outstanding {
    pub(super) fn new(cap_messages: usize, cap_bytes: usize) -> Self {
        let state = State { sent: VecDeque::new(), bytes: 0, answered_at: Instant::now(), awaited: false };
        Self { state: Mutex::new(state), cap_messages, cap_bytes, changed: Notify::new() }
    }

    /// Counts one more; `false`, and nothing counted, if that breaks a bound. One alone may be of any size.
    pub(super) fn try_add(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        let fits =
            state.sent.is_empty() || (state.sent.len() < self.cap_messages && state.bytes + bytes <= self.cap_bytes);
        if fits {
            state.sent.push_back((Instant::now(), bytes));
            state.bytes += bytes;
        } else {
            state.awaited = true;
        }
        fits
    }

    /// Takes back the last one: it was not handed over after all.
    pub(super) fn undo(&self) {
        let mut state = self.lock();
        if let Some((_, bytes)) = state.sent.pop_back() {
            state.bytes -= bytes;
        }
    }

    /// That many answers arrived.
    pub(super) fn answered(&self, messages: usize) {
        let mut state = self.lock();
        state.answered_at = Instant::now();
        for _ in 0..messages {
            state.drop_oldest();
        }
        self.tell(state);
    }

    /// Judges the oldest request. One that is too old although others were answered since is written off.
    pub(super) fn patience(&self, answer_timeout: Duration) -> Patience {
        let mut state = self.lock();
        let now = Instant::now();
        let mut written_off = false;
        while let Some(&(sent_at, _)) = state.sent.front() {
            if sent_at + answer_timeout > now {
                break;
            }
            if state.answered_at <= sent_at {
                return Patience::Lost;
            }
            state.drop_oldest();
            written_off = true;
        }
        let next = state.sent.front().map_or(now, |&(sent_at, _)| sent_at) + answer_timeout;
        if written_off {
            self.tell(state);
        }
        Patience::Until(next)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().sent.len()
    }

    /// Waits until at most half of both bounds is in use. Cancel-safe.
    pub(super) async fn roomy(&self) {
        self.until(|state| state.sent.len() <= self.cap_messages / 2 && state.bytes <= self.cap_bytes / 2).await;
    }

    /// Waits until nothing is outstanding. Cancel-safe.
    pub(super) async fn empty(&self) {
        self.until(|state| state.sent.is_empty()).await;
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if condition(&state) {
                    return;
                }
                state.awaited = true;
            }
            changed.await;
        }
    }

    fn tell(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.awaited) {
            drop(state);
            self.changed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some((_, bytes)) = self.sent.pop_front() {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_from_a_lost_answer() {
        let outstanding = Outstanding::new(10, 1000);
        assert!(outstanding.try_add(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(outstanding.try_add(1) && outstanding.try_add(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        outstanding.answered(1);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(matches!(outstanding.patience(TIMEOUT), Patience::Until(_)));
        assert_eq!(outstanding.len(), 0, "two answers are lost, the peer is not");
        assert!(outstanding.try_add(1));
        tokio::time::advance(TIMEOUT).await;
        assert_eq!(outstanding.patience(TIMEOUT), Patience::Lost);
    }

    #[tokio::test]
    async fn both_bounds_hold_and_room_is_announced() {
        let outstanding = Outstanding::new(4, 100);
        assert!(outstanding.try_add(500), "one alone may be of any size");
        assert!(!outstanding.try_add(1));
        outstanding.answered(1);
        assert!((0..4).all(|_| outstanding.try_add(10)));
        assert!(!outstanding.try_add(10));
        let mut roomy = Box::pin(outstanding.roomy());
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(roomy.as_mut().poll(cx).is_pending())).await);
        outstanding.answered(2);
        roomy.await;
        outstanding.undo();
        outstanding.answered(5);
        outstanding.empty().await;
    }
}
