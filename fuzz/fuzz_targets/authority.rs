//! See [`millgate::fuzzing::authority`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::authority(data));
