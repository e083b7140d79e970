//! Millgate: an API gateway for services that register in Consul.
//!
//! `request/mod.rs` shows the way of one request; `docs/ARCHITECTURE.md` is the map of the modules. An embedder
//! starts a [`Gateway`] from a `routes.yaml`.

pub mod access_log;
#[cfg(feature = "acme")]
mod acme;
pub mod admission;
pub mod auth;
pub mod auto_routes;
pub mod body;
mod bounded_file;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod config;
pub mod connection;
pub mod control;
pub mod declaration;
pub mod downstream;
pub mod file_account;
mod freed_memory;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod headers;
mod interner;
pub mod listen;
pub mod message;
pub mod metrics;
pub mod policy;
pub mod printable;
pub mod proxy_protocol;
pub mod request;
pub mod router;
mod seldom;
mod small_writes;
pub mod snapshot;
pub mod syntax;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
pub mod tls;
pub mod token;
mod tunnel;
pub mod upstream;
pub mod worker;
pub mod worker_thread;
pub mod world;

pub use config::ConfigSource;
pub use gateway::{Gateway, RunOptions, StartError};
