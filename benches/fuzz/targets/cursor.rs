//! See `dsv2_fuzz::cursor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dsv2_fuzz::cursor(data));
