//! The fault-tolerant average.

use super::Part;

/// One clock's difference to a common one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// How far it is ahead, in microseconds.
    pub ahead_us: i64,
    /// How far that may be wrong, in microseconds.
    pub error_us: u64,
}

/// What clocks agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The agreed time, as a difference to the common clock, in microseconds.
    pub average_us: i64,
    /// Every clock's part, in the order of the readings.
    pub parts: Vec<Part>,
}

impl Agreement {
    /// How many clocks agree or confirm.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.iter().filter(|part| **part != Part::Outlier).count()
    }
}

/// The mean of the largest set of clocks of which no two differ by more than `gamma_us`; `None` where no reading is
/// precise enough. Of sets of the same size, the one that is closest together counts, then the earliest.
///
/// A reading takes part if its error is at most half of `gamma_us`; coarser ones confirm the average if their interval
/// comes within `gamma_us` of it. Whether the set is large enough is for the caller to judge.
///
/// Source: Gusella and Zatti 1989, section III.
///
/// ```
/// use dsv2_sync::clock_sync::{Part, Reading, fault_tolerant_average};
/// let clock = |ahead_us| Reading { ahead_us, error_us: 500 };
/// let readings = [clock(0), clock(8_000), clock(3_600_000_000), clock(-2_000)];
/// let agreement = fault_tolerant_average(&readings, 20_000).ok_or("no clock")?;
/// assert_eq!(agreement.average_us, 2_000);
/// assert_eq!(agreement.parts[2], Part::Outlier);
/// # Ok::<(), &str>(())
/// ```
#[must_use]
pub fn fault_tolerant_average(readings: &[Reading], gamma_us: u64) -> Option<Agreement> {
    let is_precise = |reading: &Reading| reading.error_us <= gamma_us / 2;
    let mut precise: Vec<i64> = readings.iter().filter(|r| is_precise(r)).map(|r| r.ahead_us).collect();
    precise.sort_unstable();
    let set = largest_set(&precise, gamma_us)?;
    let (first, last) = (*set.first()?, *set.last()?);
    let sum: i128 = set.iter().map(|&ahead| i128::from(ahead)).sum();
    // The mean of values between two i64 is one, too.
    let average_us = i64::try_from(sum.div_euclid(set.len() as i128)).ok()?;
    let part = |reading: &Reading| {
        if is_precise(reading) {
            if (first..=last).contains(&reading.ahead_us) { Part::Agrees } else { Part::Outlier }
        } else if reading.ahead_us.abs_diff(average_us) <= gamma_us.saturating_add(reading.error_us) {
            Part::Confirms
        } else {
            Part::Outlier
        }
    };
    Some(Agreement { average_us, parts: readings.iter().map(part).collect() })
}

/// The longest run of sorted values that spans at most `gamma_us`; the narrowest, then the first of equally long ones.
fn largest_set(sorted: &[i64], gamma_us: u64) -> Option<&[i64]> {
    let runs = (0..sorted.len()).map(|start| {
        let end = sorted.partition_point(|&value| value <= sorted[start].saturating_add_unsigned(gamma_us));
        &sorted[start..end]
    });
    // `min_by_key` keeps the first of equals.
    runs.min_by_key(|run| (std::cmp::Reverse(run.len()), run[run.len() - 1].abs_diff(run[0])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn exact(ahead_us: i64) -> Reading {
        Reading { ahead_us, error_us: 0 }
    }

    #[test]
    fn the_closest_of_the_largest_sets_counts() {
        let average = |ahead: &[i64]| {
            let readings: Vec<Reading> = ahead.iter().copied().map(exact).collect();
            fault_tolerant_average(&readings, 100).map(|agreement| (agreement.average_us, agreement.count()))
        };
        assert_eq!(average(&[]), None);
        assert_eq!(average(&[7]), Some((7, 1)));
        assert_eq!(average(&[0, 100, 201]), Some((50, 2)), "exactly gamma is within");
        assert_eq!(average(&[0, 100, 900, 950]), Some((925, 2)), "the narrower of two");
        assert_eq!(average(&[900, 950, 0, 50]), Some((25, 2)), "the earlier of two equals");
        assert_eq!(average(&[-1, -2]), Some((-2, 2)), "rounded down, always");
        assert_eq!(average(&[i64::MIN, i64::MAX]), Some((i64::MIN, 1)));
    }

    #[test]
    fn coarse_readings_confirm_and_never_pull() {
        let coarse = |ahead_us| Reading { ahead_us, error_us: 500_000 };
        let readings = [exact(0), coarse(400_000), coarse(601_000), exact(10)];
        let agreement = fault_tolerant_average(&readings, 100_000).expect("two precise ones");
        assert_eq!(agreement.average_us, 5);
        assert_eq!(agreement.parts, [Part::Agrees, Part::Confirms, Part::Outlier, Part::Agrees]);
        assert_eq!(fault_tolerant_average(&[coarse(0), coarse(0)], 100_000), None);
    }

    proptest! {
        /// Liars outside do not move the average at all; the average stays among the good ones.
        #[test]
        fn a_minority_of_liars_does_not_pull(
            good in proptest::collection::vec(-25_000i64..25_000, 3..8),
            lies in proptest::collection::vec(prop_oneof![-HOUR_US..-200_000, 200_000..HOUR_US], 0..3),
        ) {
            prop_assume!(lies.len() < good.len());
            let alone: Vec<Reading> = good.iter().copied().map(exact).collect();
            let together: Vec<Reading> = good.iter().chain(&lies).copied().map(exact).collect();
            let alone = fault_tolerant_average(&alone, 100_000).expect("good clocks");
            let together = fault_tolerant_average(&together, 100_000).expect("good clocks");
            prop_assert_eq!(alone.average_us, together.average_us);
            prop_assert_eq!(together.count(), good.len());
            let (low, high) = (good.iter().min(), good.iter().max());
            prop_assert!(low <= Some(&together.average_us) && high >= Some(&together.average_us));
        }

        /// No two of the agreeing set differ by more than gamma, and no set is larger (checked by trying every start).
        #[test]
        fn the_set_is_the_largest(values in proptest::collection::vec(-300i64..300, 1..12)) {
            let readings: Vec<Reading> = values.iter().copied().map(exact).collect();
            let agreement = fault_tolerant_average(&readings, 100).expect("a clock");
            let set: Vec<i64> = values.iter().zip(&agreement.parts).filter(|(_, p)| **p == Part::Agrees).map(|(v, _)| *v).collect();
            prop_assert!(set.iter().all(|a| set.iter().all(|b| a.abs_diff(*b) <= 100)));
            let best = values.iter().map(|a| values.iter().filter(|b| (*a..=*a + 100).contains(*b)).count()).max();
            prop_assert_eq!(Some(set.len()), best);
        }
    }
}
