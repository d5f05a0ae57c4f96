//! The one shape of every decision in this project.

use crate::time::{Mono, Now};

/// A pure state machine: inputs in, effects out.
///
/// Two loops run machines: the driver (tokio, sockets, files) and the simulator (virtual time, faulty disks and
/// networks). What is proven in the one is what runs in the other, because a machine cannot tell them apart: it never
/// blocks and never reads a clock, a file, a socket or a random source.
///
/// ```
/// use dsv2_core::{Machine, Mono, Now};
///
/// /// Asks to be woken two seconds after the last input, and then says so.
/// struct Silence { deadline: Option<Mono> }
/// enum Input { Noise, Wake }
///
/// impl Machine for Silence {
///     type Input = Input;
///     type Effect = &'static str;
///     fn step(&mut self, now: Now, input: Input, out: &mut Vec<&'static str>) {
///         match input {
///             Input::Noise => self.deadline = Some(now.mono + std::time::Duration::from_secs(2)),
///             Input::Wake if self.deadline.is_some_and(|at| at <= now.mono) => {
///                 self.deadline = None;
///                 out.push("silence");
///             }
///             Input::Wake => {}
///         }
///     }
///     fn deadline(&self) -> Option<Mono> { self.deadline }
/// }
/// ```
pub trait Machine {
    /// What happens to it.
    type Input;
    /// What it wants done.
    type Effect;

    /// Decides. Appends its effects to `out`, in the order in which they are to be carried out.
    fn step(&mut self, now: Now, input: Self::Input, out: &mut Vec<Self::Effect>);

    /// When to be woken if nothing arrives before; `None` to sleep until something does.
    fn deadline(&self) -> Option<Mono>;
}
