//! What a server's log adds up to: folded from events at the start, or kept in a snapshot.

use dsv2_core::{Clock, Event, Floors, OrderKey, Position, ServerName};
use serde::{Deserialize, Serialize};

use super::own::Own;
use crate::state::{State, put, take};

/// The version of the bytes of a saved one.
const VERSION: u8 = 1;

/// What the events of a store add up to, for [`super::Server::restore`].
///
/// ```
/// use dsv2_sync::server::Replay;
/// # use dsv2_core::Floors;
/// let replay = Replay::new("s1".parse()?, Floors::default());
/// let bytes = replay.save();
/// assert!(Replay::load("s1".parse()?, Floors::default(), &bytes).is_some());
/// assert!(Replay::load("s2".parse()?, Floors::default(), &bytes).is_none(), "it is another server's");
/// # Ok::<(), dsv2_core::NameError>(())
/// ```
#[derive(Debug)]
pub struct Replay {
    pub(super) this: ServerName,
    pub(super) state: State,
    pub(super) held: Position,
    pub(super) own: Own,
    pub(super) clock: Clock,
}

/// All but the state.
#[derive(Serialize, Deserialize)]
struct Rest {
    this: ServerName,
    held: Position,
    last: Position,
    heads: Vec<OrderKeyOf>,
    clock: Clock,
    digest: u64,
}

/// The last own event on a topic: whether it is a user's, its name, and the event's key.
type OrderKeyOf = (bool, String, OrderKey);

impl Replay {
    /// Nothing yet, for the server of that name; messages below the floors will not count.
    #[must_use]
    pub fn new(this: ServerName, floors: Floors) -> Self {
        let mut state = State::default();
        state.retire(floors);
        Self { this, state, held: Position::default(), own: Own::default(), clock: Clock::ZERO }
    }

    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &ServerName {
        &self.this
    }

    /// Takes the next event into account.
    pub fn apply(&mut self, event: &Event) {
        self.state.apply(event);
        self.held.advance(&event.id);
        if event.id.origin.server == self.this {
            self.own.note(event, None);
        }
        self.clock = self.clock.max(event.clock);
    }

    /// Counts numbers without events, because they are retired, as held.
    pub fn pass(&mut self, held: &Position) {
        self.held.merge(held);
    }

    /// The same as bytes.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let rest = Rest {
            this: self.this.clone(),
            held: self.held.clone(),
            last: self.own.last.clone(),
            heads: self.own.heads().collect(),
            clock: self.clock,
            digest: self.state.digest(&self.held),
        };
        put(&mut out, &rest);
        self.state.save(&mut out);
        out
    }

    /// Reads what [`Replay::save`] wrote for the server of that name; `None` where it is another's, or something else.
    /// Messages below the floors no longer count.
    #[must_use]
    pub fn load(this: ServerName, floors: Floors, bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.strip_prefix(&[VERSION])?;
        let rest: Rest = take(&mut bytes)?;
        let mut state = State::restore(&mut bytes)?;
        if rest.this != this || !bytes.is_empty() || state.digest(&rest.held) != rest.digest {
            return None;
        }
        state.retire(floors);
        let own = Own::restored(rest.last, rest.heads)?;
        Some(Self { this, state, held: rest.held, own, clock: rest.clock })
    }
}
