//! Who waits for which call.

use dsv2_core::Failure;
use dsv2_sync::session::Answer;
use tokio::sync::oneshot;

use crate::client::publisher::Pledge;

/// Where an answer goes.
#[derive(Debug)]
pub(in crate::client) enum Answerer {
    /// To one who waits for it.
    Once(oneshot::Sender<Result<Answer, Failure>>),
    /// To a publisher's count.
    Tally(Pledge),
}

impl Answerer {
    pub(in crate::client) fn answer(self, result: Result<Answer, Failure>) {
        match self {
            // Who asked may have stopped waiting.
            Self::Once(sender) => drop(sender.send(result)),
            Self::Tally(pledge) => pledge.keep(result),
        }
    }
}

/// All that wait, by token. Tokens are used again once they are answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    places: Vec<Option<Answerer>>,
    free: Vec<usize>,
}

impl Answers {
    /// Keeps who waits; yields the token.
    pub(super) fn expect(&mut self, answerer: Answerer) -> u64 {
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(answerer);
                place
            }
            None => {
                self.places.push(Some(answerer));
                self.places.len() - 1
            }
        };
        place as u64
    }

    /// Answers who waits.
    pub(super) fn answer(&mut self, token: u64, result: Result<Answer, Failure>) {
        let place = usize::try_from(token).unwrap_or(usize::MAX);
        if let Some(answerer) = self.places.get_mut(place).and_then(Option::take) {
            self.free.push(place);
            answerer.answer(result);
        }
    }
}
