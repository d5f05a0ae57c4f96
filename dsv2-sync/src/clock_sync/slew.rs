//! An offset that moves slowly, and the wall clock made from it.

use dsv2_core::{Mono, Now, Wall};

/// An offset on its way to a target, at a limited rate.
///
/// ```
/// use dsv2_core::Mono;
/// use dsv2_sync::clock_sync::Slew;
/// let mut slew = Slew::new(500);
/// slew.aim(Mono::ZERO, -1_000);
/// assert_eq!(slew.offset_us(Mono::from_ms(1_000)), -500);
/// assert_eq!(slew.offset_us(Mono::from_ms(9_000)), -1_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slew {
    /// In millionths of a microsecond: a rate in ppm then needs no rounding, however often it is looked at.
    from: i128,
    target_us: i64,
    since: Mono,
    /// Microseconds in a second.
    rate_ppm: u32,
}

const MICRO: i128 = 1_000_000;

impl Slew {
    /// No offset; it moves by at most so many microseconds a second.
    #[must_use]
    pub const fn new(rate_ppm: u32) -> Self {
        Self { from: 0, target_us: 0, since: Mono::ZERO, rate_ppm }
    }

    fn exact(&self, now: Mono) -> i128 {
        let elapsed_us = now.us.saturating_sub(self.since.us);
        let most = i128::from(elapsed_us) * i128::from(self.rate_ppm);
        let target = i128::from(self.target_us) * MICRO;
        target.clamp(self.from - most, self.from + most)
    }

    /// The offset now. It only depends on the time, not on how often it is asked for.
    #[must_use]
    pub fn offset_us(&self, now: Mono) -> i64 {
        let whole = self.exact(now).div_euclid(MICRO);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Where it is going.
    #[must_use]
    pub const fn target_us(&self) -> i64 {
        self.target_us
    }

    /// Whether it is still on its way.
    #[must_use]
    pub fn is_slewing(&self, now: Mono) -> bool {
        self.exact(now) != i128::from(self.target_us) * MICRO
    }

    /// From now on, goes there.
    pub fn aim(&mut self, now: Mono, target_us: i64) {
        (self.from, self.since) = (self.exact(now), now);
        self.target_us = target_us;
    }

    /// Is there at once.
    pub fn set(&mut self, now: Mono, target_us: i64) {
        (self.from, self.since) = (i128::from(target_us) * MICRO, now);
        self.target_us = target_us;
    }

    /// Is moved by so much at once, and its target too.
    fn shift(&mut self, by_us: i64) {
        self.from += i128::from(by_us) * MICRO;
        self.target_us = self.target_us.saturating_add(by_us);
    }
}

/// The system's wall clock and an offset: a wall clock that can be corrected without touching the system's.
///
/// It runs on the monotonic clock: small moves of the system's wall clock are taken out of it again. So it never goes back,
/// and never gains or loses more than the rate. Only where the system clock is *set*, by more than a bound, it goes along
/// at once, and says so.
#[derive(Clone, Copy, Debug)]
pub struct VirtualWall {
    slew: Slew,
    jump_us: u64,
    /// The last look at the system's clocks.
    anchor: Option<Now>,
}

impl VirtualWall {
    /// No offset yet. Between two looks, a disagreement of the system's clocks by more than `jump_us` and a thousandth
    /// of the time between means that the wall clock was set.
    #[must_use]
    pub const fn new(rate_ppm: u32, jump_us: u64) -> Self {
        Self { slew: Slew::new(rate_ppm), jump_us, anchor: None }
    }

    /// The offset's way.
    #[must_use]
    pub const fn slew(&self) -> &Slew {
        &self.slew
    }

    /// By how much the system's wall clock moved more than its monotonic clock since the last look, in microseconds, and
    /// whether that is too much for anything but a setting.
    fn moved(&self, now: Now) -> (i64, bool) {
        let Some(last) = self.anchor else { return (0, false) };
        let (moved_us, elapsed_us) = extra_us(last, now);
        (moved_us, moved_us.unsigned_abs() > self.jump_us.saturating_add(elapsed_us / 1_000))
    }

    /// The time now.
    #[must_use]
    pub fn read(&self, now: Now) -> Wall {
        let (moved_us, was_set) = self.moved(now);
        let system = if was_set { now.wall } else { now.wall.offset(moved_us.saturating_neg()) };
        system.offset(self.slew.offset_us(now.mono))
    }

    /// Looks at the system's clocks. Returns by how much the wall clock was set since the last look, if it was: in
    /// microseconds, forward or back.
    pub fn look(&mut self, now: Now) -> Option<i64> {
        let (moved_us, was_set) = self.moved(now);
        self.anchor = Some(now);
        if was_set {
            return Some(moved_us);
        }
        self.slew.shift(moved_us.saturating_neg());
        None
    }

    /// Moves the offset to a target: slowly, or at once, which may go back.
    pub fn adjust(&mut self, now: Mono, target_us: i64, at_once: bool) {
        if at_once {
            self.slew.set(now, target_us);
        } else {
            self.slew.aim(now, target_us);
        }
    }
}

/// By how much the wall clock moved more than the monotonic one between two readings, and how far that one moved; in
/// microseconds.
pub(super) fn extra_us(from: Now, to: Now) -> (i64, u64) {
    let elapsed_us = to.mono.us.saturating_sub(from.mono.us);
    let walked_us = to.wall.us.saturating_sub(from.wall.us);
    (walked_us.saturating_sub_unsigned(elapsed_us), elapsed_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the targets and however often it is looked at, the offset never moves faster than its rate, and it
        /// arrives no later than at that rate.
        #[test]
        fn the_rate_is_kept(
            rate_ppm in 1u32..5_000,
            steps in proptest::collection::vec((0u64..3_000_000, proptest::option::of(-10_000_000i64..10_000_000)), 1..60),
        ) {
            let mut slew = Slew::new(rate_ppm);
            let mut now = Mono::ZERO;
            for (span_us, target_us) in steps {
                let before_us = slew.offset_us(now);
                now.us += span_us;
                let after_us = slew.offset_us(now);
                let most_us = (u128::from(span_us) * u128::from(rate_ppm)).div_ceil(1_000_000);
                prop_assert!(u128::from(after_us.abs_diff(before_us)) <= most_us);
                slew.shift(7);
                slew.shift(-7);
                if let Some(target_us) = target_us {
                    slew.aim(now, target_us);
                }
                prop_assert_eq!(slew.offset_us(now), after_us);
            }
            let target_us = slew.target_us();
            let rest_us = target_us.abs_diff(slew.offset_us(now));
            now.us += (rest_us * 1_000_000).div_ceil(u64::from(rate_ppm));
            prop_assert!(slew.offset_us(now).abs_diff(target_us) <= 1);
            now.us += 1_000_000;
            prop_assert_eq!(slew.offset_us(now), target_us);
            prop_assert!(!slew.is_slewing(now));
        }

        /// The wall clock never goes back while it slews, and gains or loses no more than the rate, even while the
        /// system's wall clock trembles; in the end it is where the system and the offset say.
        #[test]
        fn time_never_goes_back(
            spans in proptest::collection::vec(
                (0u64..2_000_000, proptest::option::of(-5_000_000i64..5_000_000), 0i64..90_000, any::<bool>()),
                1..80,
            ),
        ) {
            let mut wall = VirtualWall::new(500, 100_000);
            let (mut now, mut shaken_us) = (Now { mono: Mono::ZERO, wall: Wall { us: 1_000_000_000 } }, 0);
            wall.look(now);
            let mut last = wall.read(now);
            for (span_us, target_us, shake_us, looks) in spans {
                now.mono.us += span_us;
                now.wall.us += i64::try_from(span_us).unwrap_or(0) + shake_us - shaken_us;
                shaken_us = shake_us;
                let read = wall.read(now);
                prop_assert!(read >= last);
                prop_assert!((read.us - last.us).abs_diff(i64::try_from(span_us).unwrap_or(0)) <= span_us * 500 / 1_000_000 + 1);
                if looks {
                    prop_assert_eq!(wall.look(now), None);
                }
                if let Some(target_us) = target_us {
                    wall.adjust(now.mono, target_us, false);
                }
                prop_assert_eq!(wall.read(now), read);
                last = read;
            }
            let hours = 10 * 3_600_000_000;
            wall.look(now);
            let later = Now { mono: Mono { us: now.mono.us + hours }, wall: now.wall.offset(hours as i64) };
            prop_assert_eq!(wall.read(later), later.wall.offset(wall.slew().target_us()));
        }
    }

    #[test]
    fn a_system_clock_that_was_set_is_noticed_and_followed() {
        let mut wall = VirtualWall::new(500, 100_000);
        let at = |ms: u64, wall_ms: i64| Now { mono: Mono::from_ms(ms), wall: Wall::from_ms(wall_ms) };
        assert_eq!(wall.look(at(0, 50_000)), None);
        assert_eq!(wall.look(at(1_000, 51_090)), None, "90 ms is no setting");
        assert_eq!(wall.read(at(1_000, 51_090)), Wall::from_ms(51_000), "it is taken out");
        let forward = at(2_000, 3_652_090);
        assert_eq!(wall.read(forward), Wall::from_ms(3_652_000), "followed even before it is looked at");
        assert_eq!(wall.look(forward), Some(3_600_000_000));
        assert_eq!(wall.look(at(3_000, 53_090)), Some(-3_600_000_000));
        assert_eq!(wall.read(at(3_000, 53_090)), Wall::from_ms(53_000), "it goes back with the system");
        assert_eq!(wall.look(at(1_003_000, 1_053_990)), None, "a slow system slew over a long silence");
    }
}
