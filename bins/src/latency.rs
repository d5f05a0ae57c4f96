//! How long things took: histograms of a thousandth's precision, and the percentiles that are told of them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::error::Error;

/// Whatever takes longer counts as so long.
const LONGEST: Duration = Duration::from_secs(600);

/// Percentiles, in microseconds; zeros where there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// The median.
    pub p50: u64,
    /// 90 % take no longer.
    pub p90: u64,
    /// 99 % take no longer.
    pub p99: u64,
    /// 99.9 % take no longer.
    pub p999: u64,
    /// None takes longer.
    pub max: u64,
}

impl Latency {
    /// The percentiles of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }

    /// The five figures in milliseconds.
    pub(crate) fn people(self) -> String {
        let Self { p50, p90, p99, p999, max } = self;
        let all = [p50, p90, p99, p999, max].map(|us| format!("{:.2}", us as f64 / 1_000.0));
        format!("{} ms", all.join(" "))
    }
}

/// An empty histogram of microseconds, up to ten minutes.
///
/// # Errors
/// None in fact: the bounds are valid.
pub(crate) fn histogram() -> Result<Histogram<u64>, Error> {
    Histogram::new_with_bounds(1, us(LONGEST), 3).map_err(|error| Error::Failed(error.to_string()))
}

/// A duration as histograms have it: at least one microsecond.
pub(crate) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
