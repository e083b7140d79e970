//! See [`millgate::fuzzing::yaml`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::yaml(data));
