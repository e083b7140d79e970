//! See [`millgate::fuzzing::path`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::path(data));
