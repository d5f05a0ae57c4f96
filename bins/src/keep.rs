//! The flags that say how long messages are kept.

use std::time::Duration;

use clap::Args;
use dsv2_core::{Keep, Retention};

/// How long messages are kept.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Keeping {
    /// How long publications are kept: a number and s, m, h or d, as in 30d [default: for ever]
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = "Retention")]
    keep_age: Option<Duration>,
    /// How many bytes of publications are kept, the newest: a number, alone or with K, M or G, as in 2G
    /// [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Retention")]
    keep_bytes: Option<u64>,
    /// How long private messages are kept [default: for ever]
    #[arg(long, value_name = "AGE", value_parser = age, help_heading = "Retention")]
    keep_private_age: Option<Duration>,
    /// How many bytes of private messages are kept, the newest [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Retention")]
    keep_private_bytes: Option<u64>,
}

impl Keeping {
    /// As the servers take it.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        Retention {
            publish: Keep { age: self.keep_age, bytes: self.keep_bytes },
            message: Keep { age: self.keep_private_age, bytes: self.keep_private_bytes },
        }
    }
}

/// A number and its unit, the number whole and not zero.
fn scaled(text: &str, units: &[(&str, u64)], form: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, scale)| *scale);
    let value = number.parse::<u64>().ok().zip(unit).and_then(|(number, scale)| number.checked_mul(scale));
    value.filter(|&value| value > 0).ok_or_else(|| format!("is not {form}"))
}

/// # Errors
/// What it must be.
fn age(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    scaled(text, &units, "a number with s, m, h or d, as in 30d").map(Duration::from_secs)
}

/// # Errors
/// What it must be.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units = [("", 1), ("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30), ("t", 1 << 40)];
    scaled(text, &units, "a number of bytes, alone or with K, M or G, as in 500M")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_have_units() {
        assert_eq!((age("30d"), age("90s")), (Ok(Duration::from_secs(2_592_000)), Ok(Duration::from_secs(90))));
        assert_eq!((size("2G"), size("512"), size("3k")), (Ok(2 << 30), Ok(512), Ok(3 << 10)));
        for bad in ["", "d", "30", "-3d", "3w", "1.5h", "0d", "99999999999999999999s"] {
            assert!(age(bad).is_err(), "{bad}");
        }
        for bad in ["", "G", "-1", "1.5G", "0", "20000000000G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
