//! See [`millgate::fuzzing::token`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::token(data));
