//! Medians of several rounds, beside those of the system that the others are compared with.

use std::fmt;

use serde::Serialize;

use crate::loads::Sample;
use crate::scenarios::Scenario;

/// One system in one scenario.
#[derive(Debug)]
pub(crate) struct Row {
    system: &'static str,
    durability: &'static str,
    pub(crate) samples: Vec<Sample>,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) scenario: &'static str,
    pub(crate) what: &'static str,
    pub(crate) base: &'static str,
    pub(crate) systems: Vec<Medians>,
}

/// Medians, each by itself.
#[derive(Debug, Serialize)]
pub(crate) struct Medians {
    pub(crate) system: &'static str,
    pub(crate) durability: &'static str,
    pub(crate) per_second: f64,
    pub(crate) least_per_second: f64,
    pub(crate) most_per_second: f64,
    /// Of the base's, round by round; none where there is no base.
    pub(crate) ratio: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_seconds_per_million: f64,
    pub(crate) rounds: usize,
}

impl Row {
    pub(crate) fn new(system: &'static str, durability: &'static str) -> Self {
        Self { system, durability, samples: Vec::new() }
    }

    fn medians(&self, base: Option<&Self>) -> Medians {
        let all = |of: fn(&Sample) -> f64| self.samples.iter().map(of).collect::<Vec<_>>();
        let rates = all(|sample| sample.per_second);
        let ratios = base.map_or_else(
            || vec![f64::NAN],
            |base| rates.iter().zip(&base.samples).map(|(rate, base)| rate / base.per_second).collect(),
        );
        Medians {
            system: self.system,
            durability: self.durability,
            per_second: median(rates.clone()),
            least_per_second: rates.iter().copied().fold(f64::INFINITY, f64::min),
            most_per_second: rates.iter().copied().fold(0.0, f64::max),
            ratio: median(ratios),
            p50_us: median(all(|sample| sample.p50_us)),
            p99_us: median(all(|sample| sample.p99_us)),
            cpu_seconds_per_million: median(all(|sample| sample.cpu_seconds_per_million)),
            rounds: self.samples.len(),
        }
    }
}

impl Figures {
    pub(crate) fn new(scenario: &Scenario, rows: Vec<Row>) -> Self {
        let base = rows.iter().find(|row| row.system == scenario.base);
        let systems = rows.iter().map(|row| row.medians(base)).collect();
        Self { scenario: scenario.name, what: scenario.what, base: scenario.base, systems }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.scenario, self.what)?;
        writeln!(
            f,
            "  {:<18} {:>11} {:>7} {:>10} {:>10} {:>10}  acknowledged means",
            "system", "a second", "ratio", "p50 us", "p99 us", "cpu s/M"
        )?;
        for row in &self.systems {
            writeln!(
                f,
                "  {:<18} {:>11.0} {:>7.2} {:>10.0} {:>10.0} {:>10.2}  {}",
                row.system,
                row.per_second,
                row.ratio,
                row.p50_us,
                row.p99_us,
                row.cpu_seconds_per_million,
                row.durability
            )?;
        }
        Ok(())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
