//! See [`millgate::fuzzing::tag`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::tag(data));
