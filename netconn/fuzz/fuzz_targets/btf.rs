//! Feeds random bytes to `netconn_fuzz::btf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netconn_fuzz::btf::run(data));
