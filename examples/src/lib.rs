//! The examples stand beside this folder, one file each; `tests/run.rs` runs every one of them.
