//! What must hold for any bytes whatever, one function a parser. The targets only call them.
//!
//! Each function panics where a law is broken; that the parsers themselves never panic is the first law of all.

mod envelope;
mod store;
mod wire;

pub use envelope::{cursor, json, msgpack};
pub use store::{FILES, log, sample, snapshot};
pub use wire::{link, zmtp};
