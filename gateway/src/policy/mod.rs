//! Request policies, one file each, all of one shape.
pub mod circuit_breaker;
pub mod client_address;
pub mod concurrency;
pub mod jwt;
pub mod limit_check;
pub mod limit_key;
pub mod outlier;
pub mod rate_limit;
pub mod redirect;
pub mod retry;
pub mod timeout;
