//! All integration tests of the gateway, in one binary.

mod support;

mod admin;
mod admin_limits;
mod allocations;
mod attacks;
mod blame;
mod body_ends;
mod body_time;
mod both_protocols;
mod broken_config;
mod bypass;
mod commands;
mod config_key;
mod connection_totals;
mod connections;
mod consul_commands;
mod control;
mod dead_endpoints;
mod declared_routes;
mod decoded_paths;
mod discovery;
mod durable_registry;
mod faults;
mod files_account;
mod frame_floods;
mod framing;
mod gathered_bodies;
mod header_time;
mod inherited_trust;
mod instances;
mod log_losses;
mod look_alike_names;
mod order_of_cost;
mod policies;
mod proxying;
mod reload;
mod repeated_bodies;
mod shares;
mod shutdown_waits;
mod soak;
mod stalled_clients;
#[path = "../tidy.rs"]
mod tidy;
mod unread_bodies;
mod upstream_tls;
