//! The services from outside: requests in process, and real listeners where services talk to each other.

mod common;
mod demo;
mod endpoints;
mod idempotency;
mod lifecycle;
mod openapi;
mod orders;
mod products;
mod reservations;
mod schemathesis;
mod stock_is_not_lost;
mod support;
mod users;
