//! What was received and waits for its user: a queue bounded in bytes, whose full state stops the reading.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Items that may wait, whatever their size.
const ITEM_CAP: usize = 4096;

/// Bytes are granted in units of this size, one at least to each item.
const UNIT_BYTES: usize = 1024;

/// The sending end: clones share the bound. Senders that wait are served in order, so one flooding peer takes no more
/// than its turn.
#[derive(Debug)]
pub(crate) struct InboxSender<T> {
    queue: mpsc::Sender<(T, OwnedSemaphorePermit)>,
    units: Arc<Semaphore>,
    unit_cap: u32,
}

/// The receiving end. Dropping it ends every wait of a sender.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: mpsc::Receiver<(T, OwnedSemaphorePermit)>,
    units: Arc<Semaphore>,
}

/// The receiver is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InboxClosed;

/// A queue of items that weigh `cap_bytes` together at most. A single heavier item passes when it is alone.
pub(crate) fn inbox<T>(cap_bytes: usize) -> (InboxSender<T>, Inbox<T>) {
    let unit_cap = u32::try_from((cap_bytes / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
    let units = Arc::new(Semaphore::new(unit_cap as usize));
    let (sender, receiver) = mpsc::channel(ITEM_CAP);
    (InboxSender { queue: sender, units: Arc::clone(&units), unit_cap }, Inbox { queue: receiver, units })
}

impl<T> InboxSender<T> {
    /// Waits for room. If the future is dropped, nothing was queued.
    pub(crate) async fn send(&self, item: T, weight_bytes: usize) -> Result<(), InboxClosed> {
        let units = u32::try_from(weight_bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).clamp(1, self.unit_cap);
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await.map_err(|_| InboxClosed)?;
        self.queue.send((item, permit)).await.map_err(|_| InboxClosed)
    }

    /// Queues a light item if there is room for it now, and says whether it did.
    pub(crate) fn offer(&self, item: T) -> bool {
        match Arc::clone(&self.units).try_acquire_owned() {
            Ok(permit) => self.queue.try_send((item, permit)).is_ok(),
            Err(_) => false,
        }
    }
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), units: Arc::clone(&self.units), unit_cap: self.unit_cap }
    }
}

impl<T> Inbox<T> {
    /// The next item, or `None` when all senders are gone. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        self.queue.recv().await.map(|(item, _)| item)
    }

    /// The next item if it is there already.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        self.queue.try_recv().ok().map(|(item, _)| item)
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.units.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn weight_stops_the_sender_until_it_is_taken() {
        let (sender, mut inbox) = inbox(10 * UNIT_BYTES);
        sender.send(1, 6 * UNIT_BYTES).await.unwrap();
        let mut blocked = Box::pin(sender.send(2, 6 * UNIT_BYTES));
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(blocked.as_mut().poll(cx).is_pending())).await);
        assert!(!sender.offer(3), "those who wait come first");
        assert_eq!(inbox.recv().await, Some(1));
        blocked.await.unwrap();
        assert_eq!(inbox.try_recv(), Some(2));
    }

    #[tokio::test]
    async fn an_item_beyond_the_bound_passes_alone() {
        let (sender, mut inbox) = inbox(2 * UNIT_BYTES);
        sender.send("huge", usize::MAX).await.unwrap();
        assert!(!sender.offer("more"));
        assert_eq!(inbox.recv().await, Some("huge"));
        assert!(sender.offer("more"));
    }

    #[tokio::test]
    async fn dropping_the_receiver_ends_the_waits() {
        let (sender, inbox) = inbox(UNIT_BYTES);
        sender.send(1, 1).await.unwrap();
        let waiting = tokio::spawn({
            let sender = sender.clone();
            async move { sender.send(2, 1).await }
        });
        drop(inbox);
        assert_eq!(waiting.await.unwrap(), Err(InboxClosed));
        assert_eq!(sender.send(3, 1).await, Err(InboxClosed));
    }
}
