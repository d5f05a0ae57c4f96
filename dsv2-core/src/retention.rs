//! Retention: how long messages are kept, and the clocks below which they are gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::event::EventKind;
use crate::position::Position;

/// Below which logical clocks messages are *retired*: no longer served, and removed from disks in time.
///
/// Users and channels are never retired. Of every feed the last event of each origin is kept, whatever its clock: from
/// it a reader sees that something before it is gone. Floors only rise; two servers' floors merge to the higher ones.
///
/// ```
/// use dsv2_core::{Clock, EventKind, Floors};
/// let clock = |value| Clock::new(value).unwrap_or(Clock::ZERO);
/// let mut floors = Floors { publish: clock(7), message: clock(2) };
/// floors.merge(Floors { publish: clock(3), message: clock(5) });
/// assert_eq!(floors, Floors { publish: clock(7), message: clock(5) });
/// assert_eq!(floors.of(EventKind::UserLogin), Clock::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Floors {
    /// Publications with clocks up to here are retired; [`Clock::ZERO`]: none.
    pub publish: Clock,
    /// Private messages with clocks up to here are retired; [`Clock::ZERO`]: none.
    pub message: Clock,
}

impl Floors {
    /// The same floor for both kinds of messages.
    #[must_use]
    pub const fn both(clock: Clock) -> Self {
        Self { publish: clock, message: clock }
    }

    /// The floor of a kind; [`Clock::ZERO`] for those that are never retired.
    #[must_use]
    pub const fn of(&self, kind: EventKind) -> Clock {
        match kind {
            EventKind::UserLogin | EventKind::ChannelCreate => Clock::ZERO,
            EventKind::Publish => self.publish,
            EventKind::Message => self.message,
        }
    }

    /// Whether an event of that kind and clock is below the floor.
    #[must_use]
    pub fn retires(&self, kind: EventKind, clock: Clock) -> bool {
        let floor = self.of(kind);
        floor > Clock::ZERO && clock <= floor
    }

    /// Raises each floor to the other's, where that is higher.
    pub fn merge(&mut self, other: Self) {
        self.publish = self.publish.max(other.publish);
        self.message = self.message.max(other.message);
    }

    /// Lowers each floor to `clock`, where it is higher.
    #[must_use]
    pub fn up_to(self, clock: Clock) -> Self {
        Self { publish: self.publish.min(clock), message: self.message.min(clock) }
    }

    /// The higher floor.
    #[must_use]
    pub fn highest(&self) -> Clock {
        self.publish.max(self.message)
    }

    /// Whether no floor is below the other's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.publish >= other.publish && self.message >= other.message
    }
}

/// Floors that are to be raised, and what must be held before they are.
///
/// Whoever lacks messages because another server has retired them remembers this durably first: the other may be lost with
/// its floors, and then nobody else would ever retire what this one does not have.
///
/// ```
/// use dsv2_core::{Clock, Floors, Position, Retirement};
/// let floors = Floors::both(Clock::new(7).unwrap_or(Clock::ZERO));
/// let mut known = Retirement::default();
/// assert!(known.merge(&Retirement { floors, at: Position::default() }));
/// assert!(!known.merge(&Retirement { floors, at: Position::default() }), "that was known");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// The floors.
    pub floors: Floors,
    /// All events with clocks up to the floors, among others.
    pub at: Position,
}

impl Retirement {
    /// Whether it raises nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.floors == Floors::default()
    }

    /// Raises the floors to another's, where one of those is higher; yields whether one was. Where none is lower, the other's
    /// position takes the place of this one's, which it covers or which cannot be reached any more.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.floors.covers(&other.floors) {
            return false;
        }
        if other.floors.covers(&self.floors) {
            self.clone_from(other);
        } else {
            self.floors.merge(other.floors);
            self.at.merge(&other.at);
        }
        true
    }
}

/// How much is kept of each kind of messages. The default keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Of publications.
    pub publish: Keep,
    /// Of private messages.
    pub message: Keep,
}

/// How much of one kind is kept: what breaks either limit may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// So long, by the time of writing; for ever where there is none.
    pub age: Option<Duration>,
    /// So many bytes, as the store holds them, the newest first; without limit where there is none.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Whether nothing is ever retired.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }

    /// What is kept of a kind; everything of those that are never retired.
    #[must_use]
    pub fn of(&self, kind: EventKind) -> Keep {
        match kind {
            EventKind::UserLogin | EventKind::ChannelCreate => Keep::default(),
            EventKind::Publish => self.publish,
            EventKind::Message => self.message,
        }
    }
}
