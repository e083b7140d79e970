//! See [`millgate::fuzzing::jwks`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::jwks(data));
