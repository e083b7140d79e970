//! See [`millgate::fuzzing::forwarded`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::forwarded(data));
