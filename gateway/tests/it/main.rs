//! All integration tests of the gateway, in one binary.

mod support;

mod admin;
mod allocations;
mod broken_config;
mod bypass;
mod commands;
mod config_key;
mod connections;
mod consul_commands;
mod control;
mod declared_routes;
mod decoded_paths;
mod discovery;
mod durable_registry;
mod faults;
mod framing;
mod inherited_trust;
mod instances;
mod look_alike_names;
mod order_of_cost;
mod policies;
mod proxying;
mod reload;
#[path = "../tidy.rs"]
mod tidy;
mod upstream_tls;
