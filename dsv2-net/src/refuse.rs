//! What the broker answers itself, in the envelope of the family.

use std::sync::{Mutex, PoisonError};

use dsv2_core::{Code, Failure, Lamport, Limits, LogicalClock};

use crate::engine::{Outcome, Refusal, Refuser};
use crate::time::Clocks;

/// A [`Refuser`] that answers in the request's serialization, with the error in the field where its service explains
/// failures, and with a Lamport clock of the broker's own.
#[derive(Debug)]
pub struct EnvelopeRefuser {
    clock: Mutex<Lamport>,
    clocks: Clocks,
}

impl Default for EnvelopeRefuser {
    fn default() -> Self {
        Self { clock: Mutex::default(), clocks: Clocks::start() }
    }
}

impl Refuser for EnvelopeRefuser {
    fn refuse(&self, request_body: &[u8], why: Refusal) -> Vec<u8> {
        let code = match why {
            Refusal::NoServer => Code::NoServer,
            Refusal::WaitedTooLong | Refusal::NoAnswer => Code::Timeout,
            Refusal::Stopping => Code::NotReady,
            _ => Code::ServerLost,
        };
        let outcome = match why.outcome() {
            Outcome::Rejected => dsv2_core::Outcome::Rejected,
            Outcome::Unknown => dsv2_core::Outcome::Unknown,
        };
        let failure = Failure { code, outcome, text: why.describe().to_owned() };
        let refusal = dsv2_core::Refusal::of(request_body, &Limits::default(), failure);
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.clock.map(|received| clock.observe(received));
        refusal.reply(clock.tick(), self.clocks.now().wall.timestamp()).encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_in_the_requests_serialization_and_field() {
        let refuser = EnvelopeRefuser::default();
        let body = br#"{"service":"publish","data":{"user":"ana","clock":41}}"#;
        let reply: serde_json::Value =
            serde_json::from_slice(&refuser.refuse(body, Refusal::ServerLost)).expect("JSON");
        assert_eq!(reply["service"], "publish");
        assert_eq!((&reply["data"]["status"], &reply["data"]["outcome"]), (&"erro".into(), &"unknown".into()));
        assert!(reply["data"]["message"].is_string() && reply["data"]["clock"].as_u64() > Some(41));
        let packed = refuser.refuse(b"\x81\xa7service\xa5login", Refusal::NoServer);
        assert_eq!(dsv2_core::Format::detect(&packed), Some(dsv2_core::Format::MsgPack));
        assert!(!refuser.refuse(b"garbage", Refusal::NoServer).is_empty());
    }
}
