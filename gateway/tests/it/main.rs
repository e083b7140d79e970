//! All integration tests of the gateway, in one binary.

mod support;

mod admin;
mod admin_limits;
mod allocations;
mod broken_config;
mod commands;
mod config_key;
mod connection_totals;
mod connections;
mod consul_commands;
mod control;
mod declared_routes;
mod discovery;
mod durable_registry;
mod faults;
mod files_account;
mod framing;
mod instances;
mod log_losses;
mod policies;
mod proxying;
mod reload;
mod shares;
mod shutdown_waits;
#[path = "../tidy.rs"]
mod tidy;
mod upstream_tls;
