//! Numbers of a running part, asked of its own loop: nothing is counted twice, and no answer means that the loop stands still.

use dsv2_core::{Code, Outcome, Reply, ReplyBody, Service};
use tokio::sync::{mpsc, oneshot};

/// How many questions may wait for a loop. One more is answered as if it had ended.
const QUESTIONS_CAP: usize = 16;

/// Where a loop finds the questions put to it.
pub(crate) type Questions<T> = mpsc::Receiver<oneshot::Sender<T>>;

/// Asks a loop for its numbers. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Asker<T>(mpsc::Sender<oneshot::Sender<T>>);

impl<T> Clone for Asker<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Asker<T> {
    pub(crate) fn new() -> (Self, Questions<T>) {
        let (sender, questions) = mpsc::channel(QUESTIONS_CAP);
        (Self(sender), questions)
    }

    /// The answer; `None` where the loop has ended, or too many ask. Takes as long as the loop does: give it a deadline.
    pub(crate) async fn ask(&self) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.0.try_send(sender).ok()?;
        answer.await.ok()
    }
}

/// Answers that were given, by service, outcome and code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The last row is for services of others.
    by_service: [[u64; OUTCOMES.len()]; Service::ALL.len() + 1],
    by_code: [u64; Code::ALL.len()],
}

/// How a request may end. `rejected` changed nothing; after `unknown` only a retry tells.
pub const OUTCOMES: [&str; 3] = ["ok", "rejected", "unknown"];

/// What an answer counts as, once it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    service: u8,
    outcome: u8,
    code: Option<u8>,
}

impl Mark {
    pub(crate) fn of(reply: &Reply) -> Self {
        let service = Service::ALL.iter().position(|service| service.as_str() == reply.service);
        let mark = Self { service: index(service.unwrap_or(Service::ALL.len())), outcome: 0, code: None };
        match &reply.body {
            ReplyBody::Failed(failure) => mark.failed(failure.code, failure.outcome),
            _ => mark,
        }
    }

    /// The same, where it became a failure.
    pub(crate) fn failed(self, code: Code, outcome: Outcome) -> Self {
        let code = Code::ALL.iter().position(|known| *known == code).map(index);
        Self { outcome: if outcome == Outcome::Unknown { 2 } else { 1 }, code, ..self }
    }
}

/// The tables are short.
fn index(of: usize) -> u8 {
    u8::try_from(of).unwrap_or(u8::MAX)
}

impl Default for Answers {
    fn default() -> Self {
        Self { by_service: [[0; OUTCOMES.len()]; Service::ALL.len() + 1], by_code: [0; Code::ALL.len()] }
    }
}

impl Answers {
    pub(crate) fn count(&mut self, mark: Mark) {
        let cell = self.by_service.get_mut(usize::from(mark.service)).map(|row| &mut row[usize::from(mark.outcome)]);
        cell.into_iter().for_each(|count| *count += 1);
        let code = mark.code.and_then(|code| self.by_code.get_mut(usize::from(code)));
        code.into_iter().for_each(|count| *count += 1);
    }

    /// How many answers each service gave with each of the [`OUTCOMES`]; services that are not ours are `other`.
    pub fn by_service(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let names = Service::ALL.iter().map(|service| service.as_str()).chain(["other"]);
        names.zip(&self.by_service).flat_map(|(service, row)| {
            OUTCOMES.iter().zip(row).map(move |(outcome, count)| (service, *outcome, *count))
        })
    }

    /// How many answers were failures with each code.
    pub fn by_code(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Code::ALL.iter().zip(&self.by_code).map(|(code, count)| (code.as_str(), *count))
    }
}

#[cfg(test)]
mod tests {
    use dsv2_core::{Clock, Failure, Format, RawTimestamp};

    use super::*;

    fn reply(service: &'static str, body: ReplyBody) -> Reply {
        let timestamp = RawTimestamp::Integer(0);
        Reply {
            format: Format::Json,
            service: service.into(),
            timestamp,
            clock: Some(Clock::ZERO),
            position: None,
            body,
        }
    }

    #[test]
    fn every_answer_counts_once_in_its_cell() {
        let mut answers = Answers::default();
        answers.count(Mark::of(&reply("publish", ReplyBody::Done(None))));
        answers.count(Mark::of(&reply("sing", ReplyBody::Failed(Failure::rejected(Code::UnknownService, "")))));
        let waited = Mark::of(&reply("publish", ReplyBody::Done(None)));
        answers.count(waited.failed(Code::Timeout, Outcome::Unknown));
        let given: Vec<_> = answers.by_service().filter(|(.., count)| *count > 0).collect();
        assert_eq!(given, [("publish", "ok", 1), ("publish", "unknown", 1), ("other", "rejected", 1)]);
        let refused: Vec<_> = answers.by_code().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refused, [("unknown-service", 1), ("timeout", 1)]);
    }

    #[tokio::test]
    async fn a_loop_that_ended_answers_nothing() {
        let (asker, mut questions) = Asker::<u32>::new();
        let answer = tokio::spawn({
            let asker = asker.clone();
            async move { asker.ask().await }
        });
        questions.recv().await.expect("a question").send(7).expect("somebody waits");
        assert_eq!(answer.await.expect("it ends"), Some(7));
        drop(questions);
        assert_eq!(asker.ask().await, None);
    }
}
