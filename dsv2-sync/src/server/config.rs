//! What a server is told at its start.

use std::collections::BTreeSet;
use std::time::Duration;

use dsv2_core::{Clock, Floors, Format, Level, Limits, Retention, Retirement, ServerName};

use crate::clock_sync::BerkeleyConfig;
use crate::election::{BullyConfig, ElectionForm, Epoch, NodeId};

/// What a server is told at its start. Fields are public; [`ServerConfig::new`] fills in the defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Its name.
    pub name: ServerName,
    /// The random identity of its data directory.
    pub node: NodeId,
    /// The random number of this life.
    pub incarnation: u64,
    /// The servers that may write and that count for `quorum`. None: every server may, and `local` is the only level.
    pub voters: BTreeSet<ServerName>,
    /// Where others reach its link.
    pub address: Option<String>,
    /// Which serialization its publications and its questions to the reference use.
    pub format: Format,
    /// The level of writes that ask for none; `quorum` with voters, `local` without.
    pub level: Option<Level>,
    /// What it remembered: clocks up to here may have been used.
    pub clock_limit: Clock,
    /// What it remembered: the highest epoch it saw.
    pub epoch: Epoch,
    /// What it remembered: the last vote it gave.
    pub vote: Epoch,
    /// What it remembered: the rank that the reference gave it.
    pub rank: Option<u64>,
    /// The seed of its random delays.
    pub seed: u64,
    /// Which election it takes part in: with a quorum where there are voters, or else the classic one.
    pub form: ElectionForm,
    /// The parameters of the classic election; the other one takes the rule of the ranks from here.
    pub election: BullyConfig,
    /// The clock agreement's parameters.
    pub wall: BerkeleyConfig,
    /// How much is kept, once it is final at every voter; the coordinator's counts.
    pub retention: Retention,
    /// What it remembered: below which clocks messages are retired.
    pub floors: Floors,
    /// What it remembered: these floors, and those that are to be raised.
    pub retirement: Retirement,
    /// What it remembered: voters that are gone for good.
    pub departed: BTreeSet<ServerName>,
    /// How long things may take.
    pub timing: Timing,
    /// How much it holds at once.
    pub caps: Caps,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// Until a write whose level was not reached is answered *unknown*.
    pub write: Duration,
    /// Until a request that needs events this server lacks is refused.
    pub catch_up: Duration,
    /// Between signs of life on links.
    pub ping: Duration,
    /// Silence after which a peer no longer counts as reachable.
    pub silence: Duration,
    /// Between exchanges of vectors with a peer chosen at random, and between bounds.
    pub exchange: Duration,
    /// Between heartbeats to the reference.
    pub heartbeat: Duration,
    /// Between announcements of the own link on `_links`.
    pub notice: Duration,
    /// The longest delay before a foreign event is adopted.
    pub adopt: Duration,
    /// Between looks at what may be retired.
    pub retention: Duration,
}

impl Default for Timing {
    /// 5 s, 2 s, 250 ms, 1.5 s, 500 ms, 5 s, 30 s, 400 ms, 10 s.
    fn default() -> Self {
        Self {
            write: Duration::from_secs(5),
            catch_up: Duration::from_secs(2),
            ping: Duration::from_millis(250),
            silence: Duration::from_millis(1_500),
            exchange: Duration::from_millis(500),
            heartbeat: Duration::from_secs(5),
            notice: Duration::from_secs(30),
            adopt: Duration::from_millis(400),
            retention: Duration::from_secs(10),
        }
    }
}

/// How much a server holds at once. What is beyond is refused, or waits at its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// Writes waiting for their level.
    pub waiting: usize,
    /// Requests waiting for events.
    pub parked: usize,
    /// Own events on their way to a peer that has not acknowledged them.
    pub unacknowledged: u64,
    /// Events in one message on a link.
    pub batch: usize,
    /// The texts of the events in one message on a link, in bytes; the last of them may go beyond.
    pub batch_bytes: usize,
    /// The longest text of a message, in bytes.
    pub text_bytes: usize,
    /// Events in one page of a history.
    pub page: usize,
    /// Foreign events waiting to be adopted.
    pub adoptions: usize,
    /// Other servers known.
    pub peers: usize,
}

impl Default for Caps {
    /// 65,536 · 4,096 · 16,384 · 1,024 · 512 KiB · 256 KiB · 1,000 · 4,096 · 64.
    fn default() -> Self {
        Self {
            waiting: 65_536,
            parked: 4_096,
            unacknowledged: 16_384,
            batch: 1_024,
            batch_bytes: 512 << 10,
            text_bytes: 256 << 10,
            page: 1_000,
            adoptions: 4_096,
            peers: 64,
        }
    }
}

impl ServerConfig {
    /// A server of that name and node, in the life of that number; everything else by default.
    #[must_use]
    pub fn new(name: ServerName, node: NodeId, incarnation: u64) -> Self {
        Self {
            name,
            node,
            incarnation,
            voters: BTreeSet::new(),
            address: None,
            format: Format::Json,
            level: None,
            clock_limit: Clock::ZERO,
            epoch: Epoch::ZERO,
            vote: Epoch::ZERO,
            rank: None,
            seed: incarnation,
            form: ElectionForm::default(),
            election: BullyConfig::default(),
            wall: BerkeleyConfig::default(),
            retention: Retention::default(),
            floors: Floors::default(),
            retirement: Retirement::default(),
            departed: BTreeSet::new(),
            timing: Timing::default(),
            caps: Caps::default(),
        }
    }

    /// The level of writes that ask for none.
    #[must_use]
    pub fn default_level(&self) -> Level {
        self.level.unwrap_or(if self.voters.is_empty() { Level::Local } else { Level::Quorum })
    }

    /// Whether it may write.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.voters.is_empty() || self.voters.contains(&self.name)
    }

    /// A digest of the list of voters, and of how they elect; 0 without voters.
    #[must_use]
    pub fn voters_digest(&self) -> u64 {
        if self.voters.is_empty() {
            return 0;
        }
        let mut hash = crate::state::Fnv::default();
        self.voters.iter().for_each(|voter| hash.text(voter.as_str()));
        if self.form == ElectionForm::Bully {
            // Servers that elect differently would never agree.
            hash.text("bully");
        }
        hash.0
    }

    /// What a decoder accepts of one body.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits::default()
    }
}
