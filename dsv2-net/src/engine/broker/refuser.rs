use crate::engine::dispatch::Refusal;

/// Writes what the broker answers in a server's place.
///
/// ```
/// use dsv2_net::engine::{Refusal, Refuser};
///
/// #[derive(Debug)]
/// struct Plain;
///
/// impl Refuser for Plain {
///     fn refuse(&self, _request_body: &[u8], why: Refusal) -> Vec<u8> {
///         why.describe().into()
///     }
/// }
/// ```
pub trait Refuser: std::fmt::Debug + Send + Sync {
    /// The body of the answer to a request with this body. It should say [`Refusal::outcome`]: whether anything may
    /// have changed.
    fn refuse(&self, request_body: &[u8], why: Refusal) -> Vec<u8>;
}

/// Answers with an empty body: for brokers whose clients know no errors.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyRefuser;

impl Refuser for EmptyRefuser {
    fn refuse(&self, _request_body: &[u8], _why: Refusal) -> Vec<u8> {
        Vec::new()
    }
}
