//! Tests that promise times of less than a second. They are a binary of their own, because `cargo test` runs one binary after the
//! other: what the suite does at the same time would be their time.

#[allow(dead_code, reason = "each binary of tests uses a part of it")]
#[path = "../it/support/mod.rs"]
mod support;

mod balancers;
mod body_time;
mod header_time;
mod late_endpoints;
