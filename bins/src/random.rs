//! Random numbers from the system.

use crate::error::Error;

/// 64 random bits.
///
/// # Errors
/// [`Error::Failed`] where the system gives none.
pub fn bits() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| Error::Failed(format!("the system gives no random numbers: {error}")))
}

/// 128 random bits.
///
/// # Errors
/// As [`bits`].
pub fn wide_bits() -> Result<u128, Error> {
    Ok(u128::from(bits()?) << 64 | u128::from(bits()?))
}
