//! All integration tests of the gateway, in one binary.

mod support;

mod admin;
mod allocations;
mod broken_config;
mod commands;
mod connections;
mod control;
mod discovery;
mod faults;
mod framing;
mod instances;
mod policies;
mod proxying;
mod reload;
#[path = "../tidy.rs"]
mod tidy;
