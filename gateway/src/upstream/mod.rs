//! Endpoints: clusters, balancing, pooled connections.
pub mod cluster;
pub mod connect;
pub mod endpoint;
mod health;
pub mod host_port;
pub mod load_balancer;
pub mod pool;
pub mod protocol;
mod response_time;
pub mod settings;
pub mod sink;
pub mod split;
pub mod timer;
pub mod tls;
