//! The examples stand beside this folder, one file each; `tests/run.rs` runs every one of them.

/// Compiles and runs the programs in the README, so that they stay true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
