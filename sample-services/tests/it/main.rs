//! The services from outside: requests in process, and real listeners where services talk to each other.

mod common;
mod demo;
mod lifecycle;
mod openapi;
mod orders;
mod products;
mod support;
mod users;
