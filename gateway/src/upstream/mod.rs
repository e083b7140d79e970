//! Endpoints: clusters, balancing, pooled connections.
pub mod cluster;
pub mod connect;
pub mod endpoint;
pub(crate) mod informational;
mod last_words;
pub mod load_balancer;
pub mod pool;
pub mod read_size;
mod response_time;
pub mod settings;
pub mod split;
pub mod tls;
