//! Consul for Millgate: a client, a watcher, a lease for services that register themselves, and an embedded
//! registry that speaks the part of Consul's HTTP API which development and tests need.
//!
//! A fact travels from the registry to the gateway in four steps: [`Client::health_service`] makes a blocking query, the
//! module `gate` decides whether the answer is believed and `settle` what is used of it, [`watch`] sends a [`ServiceUpdate`]
//! when the set of instances changed, and [`LastKnownGood`] keeps the set on disk for the next start.
//!
//! The rooms, from the lowest floor to the highest. Imports go down only, which a test checks:
//!
//! - `types`: the JSON of Consul's API.
//! - `http`: the control plane's HTTP client, TLS settings, and a listener for tools. `store`: the embedded registry's tables
//!   and journal.
//! - `client`: calls to an agent, and the lease. `server`: the embedded registry's HTTP API over `store`.
//! - `watch`: loops that follow services, keys and the list of services.
//! - `state`: the state on disk between two runs.
//!
//! The behaviour of Consul 1.8.7 is the reference; differences of later releases are noted where they matter.

#![warn(missing_docs)]

mod client;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod server;
mod state;
mod store;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
pub mod types;
pub mod watch;

pub use client::{
    Catalog, Client, ClientConfig, ClientError, Consistency, HealthAnswer, KeyValue, KeyValues, Lease, Probe,
    QueryOptions, ServiceRegistration,
};
pub use http::{
    Hosts, HttpClient, HttpError, HttpOptions, HttpResponse, SideCounts, SideLimits, TlsOptions, serve_aside,
};
pub use server::{Compat, EmbeddedRegistry, MasterToken, NoToken, RegistryOptions, ServerLimits, StartError};
pub use state::{LastKnownGood, RegistryIdentity, Saver};
pub use store::StoreLimits;
pub use store::journal::{JournalError, JournalLimits};
pub use types::CheckStatus;
pub use watch::{
    FollowHandle, FollowOptions, FollowStats, History, Instance, Seed, ServiceUpdate, Sight, Status,
    TaggedAddress, Transition, WatchHandle, WatchMonitor, WatchOptions, WatchState, WatchStats, WatchTarget,
    follow_catalog, follow_key,
};
