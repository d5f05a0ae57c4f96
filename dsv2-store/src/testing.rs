//! For tests of stores, and of what is built on them: a disk that fails, laws that every store keeps, sample events.
//!
//! Feature `testing`.

pub mod conformance;
mod faulty;
mod model;
mod random;
mod sample;

pub use faulty::{Call, Fault, FaultyDisk};
pub use model::Model;
pub use random::SplitMix64;
pub use sample::Sampler;
