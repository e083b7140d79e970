//! See [`millgate::fuzzing::http1_response`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate::fuzzing::http1_response(data));
