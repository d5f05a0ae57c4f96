//! What the session wants said, in the log's words.

use dsv2_sync::session::Note;

pub(super) fn log(note: &Note) {
    match note {
        Note::Opened(session) => tracing::debug!(%session, "session opened"),
        Note::Renewed(session) => tracing::info!(%session, "a server forgot the session; it is renewed"),
        Note::Extensions(true) => tracing::debug!("the server has the extensions"),
        Note::Extensions(false) => tracing::warn!("the server lacks the extensions: no safe retries, no history"),
        Note::Behind(forgotten) => tracing::warn!(?forgotten, "no server has all that was seen; going on without"),
        Note::LoginRefused(failure) => tracing::warn!(%failure, "the login was refused"),
        Note::UnreadableReply(why) => tracing::warn!(%why, "a reply cannot be read"),
        Note::UnreadablePublication(why) => tracing::debug!(%why, "a publication cannot be read"),
        Note::AbsurdClock(clock) => tracing::warn!(%clock, "a clock is beyond what any honest one can be"),
        other => tracing::debug!(?other, "session"),
    }
}
