//! Three sample services behind Millgate: users, products and orders, each on its own SQLite database.
//!
//! They are ordinary services: each registers itself in Consul, answers JSON over HTTP, describes itself at
//! `/openapi.json`, and trusts the identity headers (`X-User-Id`, `X-User-Role`) of the gateway, so clients must not
//! reach it without the gateway. [`service::RunningService`] runs one inside any process;
//! the binaries `users-service`, `products-service` and `orders-service` run one each.
#![forbid(unsafe_code)]

pub mod cli;
pub mod database;
pub mod demo;
pub mod http;
mod log_format;
pub mod orders;
pub mod products;
pub mod registration;
mod rows;
pub mod service;
pub mod timestamp;
pub mod users;
