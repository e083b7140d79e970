//! Tests that promise times of less than a second. They are a binary of their own, because `cargo test` runs one binary after the
//! other: what the suite does at the same time would be their time.

#[allow(dead_code, reason = "each binary of tests uses a part of it")]
#[path = "../it/backend.rs"]
mod backend;
#[allow(dead_code, reason = "each binary of tests uses a part of it")]
#[path = "../it/support.rs"]
mod support;

mod appearing;
