//! Feeds random bytes to `netconn_fuzz::records`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netconn_fuzz::records::run(data));
