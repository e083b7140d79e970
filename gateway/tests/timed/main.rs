//! Tests of times below a second. They are a separate binary, because `cargo test` runs one binary after the other: what the
//! other tests do at the same time would count in these times.

#[allow(dead_code, reason = "each binary of tests uses a part of it")]
#[path = "../it/support/mod.rs"]
mod support;

mod balancers;
mod body_time;
mod header_time;
mod late_endpoints;
