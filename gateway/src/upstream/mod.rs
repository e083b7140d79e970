//! Endpoints: clusters, balancing, pooled connections.
pub mod attempt;
pub mod cluster;
pub mod connect;
pub mod endpoint;
mod informational;
mod last_words;
pub mod load_balancer;
pub mod pool;
pub(crate) mod probe;
pub mod read_size;
pub mod search;
pub mod send;
mod silence;
mod spare;
pub mod split;
pub mod tls;
pub mod tried;
mod verdict;
