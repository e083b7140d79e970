//! All integration tests of the gateway, in one binary.

mod support;

mod admin;
mod allocations;
mod body_ends;
mod body_time;
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
mod framing;
mod gathered_bodies;
mod instances;
mod policies;
mod proxying;
mod reload;
mod stalled_clients;
#[path = "../tidy.rs"]
mod tidy;
mod unread_bodies;
mod upstream_tls;
