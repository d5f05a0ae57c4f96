use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;

fn outbox(cap_bytes: usize) -> Outbox {
    Outbox::new(
        &Limits { outbox_cap_bytes: cap_bytes, ..Limits::default() },
        Budget::new(1 << 20),
        Arc::default(),
        None,
    )
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the writer would get now.
fn take(outbox: &Outbox, wakes: &Arc<Wakes>) -> Poll<Result<VecDeque<Chunk>, CloseReason>> {
    let waker = Waker::from(Arc::clone(wakes));
    let mut hand = InHand::default();
    outbox.poll_take(&mut Context::from_waker(&waker), &mut hand).map_ok(|()| hand.chunks)
}

fn taken(outbox: &Outbox) -> VecDeque<Chunk> {
    match take(outbox, &Arc::default()) {
        Poll::Ready(Ok(chunks)) => chunks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_messages_share_a_chunk_and_one_wake() {
    let (outbox, wakes) = (outbox(1 << 20), Arc::new(Wakes::default()));
    assert!(take(&outbox, &wakes).is_pending());
    let message = Message::from_frames(["topic", "body"]);
    for _ in 0..100 {
        outbox.push(&message).unwrap();
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    let chunks = taken(&outbox);
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].messages, &chunks[0].bytes[..]), (100, &message.wire().repeat(100)[..]));
    assert_eq!(outbox.queued_messages(), 100, "counted until written");
    outbox.release(chunks[0].bytes.len(), 100);
    assert_eq!((outbox.queued_messages(), outbox.queued_bytes(), outbox.0.budget.used_bytes()), (0, 0, 0));
}

#[test]
fn large_messages_go_by_reference_and_keep_their_place() {
    let outbox = outbox(1 << 20);
    let (small, large) = (Message::single(b"small"), Message::single(&[1; BY_REFERENCE_BYTES]));
    outbox.append(&small).unwrap();
    outbox.append(&large).unwrap();
    outbox.append_parts(&[&Message::prefix(b"id"), large.wire()]).unwrap();
    outbox.append(&small).unwrap();
    let chunks = taken(&outbox);
    assert_eq!(chunks.iter().map(|c| c.messages).collect::<Vec<_>>(), [1, 1, 0, 1, 1]);
    assert_eq!(chunks[1].bytes.as_ptr(), large.wire().as_ptr(), "not copied");
    assert_eq!(chunks[3].bytes.as_ptr(), large.wire().as_ptr());
    assert_eq!((&chunks[0].bytes, &chunks[2].bytes), (small.wire(), &Message::prefix(b"id")));
}

#[test]
fn appending_wakes_nobody_until_the_flush() {
    let (outbox, wakes) = (outbox(1 << 20), Arc::new(Wakes::default()));
    assert!(take(&outbox, &wakes).is_pending());
    outbox.flush();
    outbox.append(&Message::single(b"x")).unwrap();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    outbox.flush();
    outbox.flush();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_refused_push_leaves_no_trace() {
    let outbox = outbox(100);
    let message = Message::single(&[0; 58]);
    outbox.push(&message).unwrap();
    assert_eq!(outbox.push(&message), Err(PushError::Full));
    assert_eq!(outbox.append_parts(&[message.wire()]), Err(PushError::Full));
    assert_eq!((outbox.queued_bytes(), outbox.queued_messages(), outbox.0.budget.used_bytes()), (60, 1, 60));
    assert_eq!(outbox.counters().messages_refused.get(), 2);
    outbox.push(&Message::single(&[0; 38])).unwrap();
    // Control frames have a reserve of their own.
    assert_eq!(outbox.push_control(&Bytes::from_static(&[0; 100])), Ok(()));
    assert_eq!(outbox.push_control(&Bytes::from(vec![0; CONTROL_RESERVE_BYTES])), Err(PushError::Full));
}

#[test]
fn an_empty_queue_takes_one_message_of_any_size() {
    let outbox = outbox(100);
    outbox.push(&Message::single(&[0; 10_000])).unwrap();
    assert_eq!(outbox.push(&Message::single(b"")), Err(PushError::Full));
}

#[tokio::test]
async fn room_in_the_shared_budget_is_waited_for() {
    let (budget, limits) = (Budget::new(1000), Limits::default());
    let [greedy, modest] = [(); 2].map(|()| Outbox::new(&limits, budget.clone(), Arc::default(), None));
    greedy.push(&Message::single(&[0; 950])).unwrap();
    assert_eq!(modest.push(&Message::single(&[0; 100])), Err(PushError::Full));
    let waiting = tokio::spawn({
        let modest = modest.clone();
        async move { modest.writable().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    greedy.close(CloseReason::Stalled);
    greedy.finish();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    modest.push(&Message::single(&[0; 100])).unwrap();
    drop(modest);
    assert_eq!(budget.used_bytes(), 0, "a queue that is dropped gives everything back");
}

#[tokio::test]
async fn writable_waits_for_half_and_flushed_for_nothing() {
    let outbox = outbox(100);
    for _ in 0..10 {
        outbox.append(&Message::single(&[0; 8])).unwrap();
    }
    taken(&outbox);
    let [writable, flushed] = [false, true].map(|all| {
        let outbox = outbox.clone();
        tokio::spawn(async move { if all { outbox.flushed().await } else { outbox.writable().await } })
    });
    tokio::task::yield_now().await;
    outbox.release(40, 4);
    tokio::task::yield_now().await;
    assert!(!writable.is_finished());
    outbox.release(10, 1);
    assert_eq!(writable.await.unwrap(), Ok(()));
    assert!(!flushed.is_finished());
    outbox.release(50, 5);
    assert_eq!(flushed.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn the_end_is_final_counted_and_told_to_all() {
    let (outbox, wakes) = (outbox(50), Arc::new(Wakes::default()));
    assert!(take(&outbox, &wakes).is_pending());
    for _ in 0..5 {
        outbox.append(&Message::single(&[0; 8])).unwrap();
    }
    let waiting = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.writable().await }
    });
    tokio::task::yield_now().await;
    outbox.close(CloseReason::Stalled);
    outbox.close(CloseReason::Local);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the writer is woken to stop");
    assert!(matches!(take(&outbox, &wakes), Poll::Ready(Err(CloseReason::Stalled))));
    assert_eq!(waiting.await.unwrap(), Err(PushError::Closed));
    outbox.finish();
    assert_eq!(outbox.finished().await, Finished { reason: CloseReason::Stalled, unsent_messages: 5 });
    assert_eq!(outbox.push(&Message::single(b"")), Err(PushError::Closed));
    assert_eq!((outbox.counters().messages_unsent.get(), outbox.queued_bytes()), (5, 0));
}

#[test]
fn closing_gives_back_what_the_writer_does_not_hold() {
    let outbox = outbox(1000);
    outbox.push(&Message::single(&[0; 98])).unwrap();
    let in_hand = taken(&outbox);
    outbox.push(&Message::single(&[0; 198])).unwrap();
    outbox.close(CloseReason::Stalled);
    assert_eq!((outbox.queued_bytes(), outbox.0.budget.used_bytes()), (100, 100));
    assert_eq!(outbox.queued_messages(), 2, "neither was sent");
    outbox.release(in_hand[0].bytes.len(), 1);
    outbox.finish();
    assert_eq!((outbox.queued_messages(), outbox.0.budget.used_bytes()), (1, 0));
}

#[test]
fn only_messages_that_left_whole_are_counted() {
    let one = Message::from_frames(["topic", "body"]);
    let chunk = Chunk { bytes: [one.wire().as_ref(), one.wire()].concat().into(), messages: 2 };
    let len = one.wire().len();
    for (written, messages) in [(0, 0), (len - 1, 0), (len, 1), (2 * len - 1, 1), (2 * len, 2)] {
        assert_eq!(chunk.messages_within(written), messages, "{written} bytes");
    }
}

/// Its timer may wake the writer at any moment.
#[test]
fn a_writer_that_took_is_not_taken_for_idle() {
    let (outbox, wakes) = (outbox(1000), Arc::new(Wakes::default()));
    assert!(take(&outbox, &wakes).is_pending());
    outbox.append(&Message::single(b"one")).unwrap();
    assert!(take(&outbox, &wakes).is_ready(), "not woken, it looks all the same");
    outbox.append(&Message::single(b"two")).unwrap();
    outbox.flush();
    outbox.flush_now(0);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "it takes the second after the first");
}

#[test]
fn a_writer_that_waits_holds_nothing() {
    let outbox = outbox(1000);
    let message = Message::single(&[0; 98]);
    outbox.push(&message).unwrap();
    outbox.push(&message).unwrap();
    let mut hand = InHand { chunks: taken(&outbox), written_bytes: 150 };
    outbox.release(150, 0);
    outbox.push(&message).unwrap();
    outbox.put_back(&mut hand);
    assert!(hand.chunks.is_empty());
    let again = taken(&outbox);
    assert_eq!(again.iter().map(|chunk| chunk.bytes.len()).collect::<Vec<_>>(), [200, 100], "in the old order");
    let mut hand = InHand { chunks: again, written_bytes: 150 };
    outbox.put_back(&mut hand);
    outbox.close(CloseReason::Stalled);
    assert_eq!((outbox.queued_bytes(), outbox.0.budget.used_bytes()), (0, 0), "free at once");
    outbox.finish();
    assert_eq!(outbox.counters().messages_out.get(), 1, "one had left whole");
    assert_eq!(outbox.counters().messages_unsent.get(), 2);
}

#[test]
fn draining_refuses_the_new_and_keeps_the_old() {
    let outbox = outbox(100);
    outbox.append(&Message::single(b"last")).unwrap();
    outbox.drain();
    assert_eq!(outbox.append(&Message::single(b"late")), Err(PushError::Closed));
    assert_eq!(outbox.close_reason(), None);
    assert_eq!(&taken(&outbox)[0].bytes, Message::single(b"last").wire());
    outbox.release(6, 1);
    assert!(matches!(take(&outbox, &Arc::default()), Poll::Ready(Err(CloseReason::Drained))));
    assert_eq!(outbox.close_reason(), Some(CloseReason::Drained));
}
