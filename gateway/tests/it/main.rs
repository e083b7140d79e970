//! All integration tests of the gateway, in one binary.

mod support;

mod admin;
mod allocations;
mod both_protocols;
mod broken_config;
mod commands;
mod config_key;
mod connections;
mod consul_commands;
mod control;
mod declared_routes;
mod discovery;
mod durable_registry;
mod faults;
mod frame_floods;
mod framing;
mod header_time;
mod instances;
mod policies;
mod proxying;
mod reload;
#[path = "../tidy.rs"]
mod tidy;
mod upstream_tls;
