//! The products service: a catalogue with stock, and reservations that set stock aside for an order.
//!
//! Whoever changes a product says which version they have seen (`If-Match`), because prices and stock are
//! edited by several people and by orders at once. Who may write is the gateway's business
//! (`require: {scope: catalog:write}`); inside the network, orders reserves stock without a user.

mod handlers;
mod model;
mod reservations;
mod store;

use sqlx::migrate::Migrator;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::model::{Product, ProductFilter, ProductInput, QUANTITY_MAX, Reservation, ReservationRequest};
use self::store::ProductStore;
use crate::database::Database;

/// The tables of this service.
pub static SCHEMA: Migrator = sqlx::migrate!("migrations/products");

pub fn router(database: Database) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(handlers::create, handlers::list))
        .routes(routes!(handlers::fetch, handlers::replace, handlers::patch, handlers::remove))
        .routes(routes!(reservations::reserve))
        .routes(routes!(reservations::release))
        .with_state(ProductStore::new(database))
}
