//! See [`millgate_registry::fuzzing::consul_json`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millgate_registry::fuzzing::consul_json(data));
