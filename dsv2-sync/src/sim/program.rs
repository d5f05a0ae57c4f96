//! Programs that run in the simulated world: yours, and the built-in ones.

use dsv2_core::{Failure, Mono, Now};

use crate::session::{Answer, CallOptions, Command, Delivery, ResumePoint};

/// A client program: what it calls on its session follows from what happened to it, and from nothing else.
///
/// It must be as pure as the machines are: no clock, no threads, no randomness but what its maker gave it. Its state
/// survives crashes of its client, as a program's files do; what it does not want to survive it drops at
/// [`Happened::Started`].
///
/// ```
/// use dsv2_core::Now;
/// use dsv2_sync::session::{CallOptions, Command};
/// use dsv2_sync::sim::{Act, Happened, Program, SimConfig, Simulation};
///
/// /// Creates a channel and is content.
/// #[derive(Default)]
/// struct Founder { founded: bool }
///
/// impl Program for Founder {
///     fn step(&mut self, _now: Now, event: Happened, out: &mut Vec<Act>) {
///         match event {
///             Happened::Started { .. } => out.push(Act::Call {
///                 token: 1,
///                 command: Command::CreateChannel { channel: "news".parse().expect("a name") },
///                 options: CallOptions::default(),
///             }),
///             Happened::Done { result, .. } => self.founded = result.is_ok(),
///             _ => {}
///         }
///     }
///     fn is_done(&self) -> bool { self.founded }
/// }
///
/// let mut simulation = Simulation::new(SimConfig::quiet(1));
/// simulation.add(Box::new(Founder::default()));
/// assert_eq!(simulation.run().violations, Vec::<String>::new());
/// ```
pub trait Program {
    /// Something happened.
    fn step(&mut self, now: Now, event: Happened, out: &mut Vec<Act>);

    /// When to be woken if nothing happens.
    fn deadline(&self) -> Option<Mono> {
        None
    }

    /// Whether it has done what it wanted. A run ends when all programs have, and is broken if they never do.
    fn is_done(&self) -> bool {
        true
    }

    /// What the program found wrong, asked when the run has ended. Each is a violation of the run.
    fn verdict(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Something happened to a program.
#[derive(Clone, Debug)]
pub enum Happened {
    /// Its client's process started: the first time, or after a crash. Calls that were under way will not be answered, and
    /// subscriptions are gone.
    Started {
        /// Counts the starts, from 1.
        life: u64,
        /// The name under which its client is logged in.
        user: dsv2_core::UserName,
    },
    /// A call was answered.
    Done {
        /// Which.
        token: u64,
        /// How.
        result: Result<Answer, Failure>,
    },
    /// A subscription delivered.
    Delivered {
        /// Which: the token of its call.
        subscription: u64,
        /// What.
        delivery: Delivery,
        /// Where it stands after that; to be stored together with what the delivery does.
        point: ResumePoint,
    },
    /// The time that [`Program::deadline`] named has come.
    Wake,
}

/// What a program does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Calls its session.
    Call {
        /// Comes back with the answer; used once in a life of the process.
        token: u64,
        /// What is wanted.
        command: Command,
        /// How.
        options: CallOptions,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// Which.
        subscription: u64,
    },
}
