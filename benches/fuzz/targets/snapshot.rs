//! See `dsv2_fuzz::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dsv2_fuzz::snapshot(data));
