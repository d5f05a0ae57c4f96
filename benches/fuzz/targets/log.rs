//! See `dsv2_fuzz::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dsv2_fuzz::log(data));
