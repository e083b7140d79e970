//! Integration tests of the registry package: the same suite against the embedded registry and a real Consul,
//! a raw server that misbehaves, both registries side by side, and the embedded one by itself.

mod acl;
mod agents;
mod backend;
mod bad_answers;
mod checks;
mod clients;
mod command;
mod durable;
mod embedded;
mod fake;
mod follow;
mod rights;
mod same_answers;
mod settling;
mod suite;
mod support;
mod waiting;
