//! Consul for Millgate: a client, a watcher, a lease for services that register themselves, and an embedded
//! registry that speaks the part of Consul's HTTP API which development and tests need.
//!
//! The way of a fact from the registry to the gateway: [`Client::health_service`] asks (a blocking query),
//! `gate` decides whether the answer may be believed and `settle` what of it is used, [`watch`] sends a
//! [`ServiceUpdate`] when the set of instances changed, [`LastKnownGood`] keeps it on disk for the next start.
//!
//! The behaviour of Consul 1.8.7 is the reference; what later releases do differently is noted where it matters.

mod agents;
mod backoff;
mod budget;
mod catalog;
mod client;
mod client_config;
mod crowd;
mod damping;
mod error;
mod follow;
mod gate;
mod history;
mod http;
mod identity;
mod instance;
mod kv;
mod last_known_good;
mod lease;
mod mass_drop;
mod pace;
mod patience;
mod registration;
mod rights;
mod saver;
mod server;
mod settle;
mod store;
#[doc(hidden)]
pub mod testing;
mod token;
pub mod types;
pub mod watch;
mod watcher;

pub use catalog::{Catalog, follow_catalog};
pub use client::{Client, HealthAnswer};
pub use client_config::ClientConfig;
pub use error::ClientError;
pub use follow::{FollowHandle, FollowOptions, FollowStats};
pub use history::{History, Transition};
pub use http::{
    Hosts, HttpClient, HttpError, HttpOptions, HttpResponse, SideCounts, SideLimits, TlsOptions, serve_aside,
};
pub use identity::RegistryIdentity;
pub use instance::{Instance, Status, TaggedAddress};
pub use kv::{KeyValue, follow_key};
pub use last_known_good::LastKnownGood;
pub use lease::Lease;
pub use registration::{Probe, ServiceRegistration};
pub use rights::Sight;
pub use saver::Saver;
pub use server::{Compat, EmbeddedRegistry, MasterToken, NoToken, RegistryOptions, ServerLimits, StartError};
pub use store::StoreLimits;
pub use store::journal::{JournalError, JournalLimits};
pub use types::{CheckStatus, Consistency, QueryOptions};
pub use watch::{
    Seed, ServiceUpdate, WatchHandle, WatchMonitor, WatchOptions, WatchState, WatchStats, WatchTarget,
};
