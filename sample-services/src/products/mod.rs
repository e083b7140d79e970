//! The products service: a catalogue with stock, and reservations that set stock aside for an order.
//!
//! A change of a product needs the version that the client has seen (`If-Match`), because prices and stock are
//! edited by several people and by orders at once. The gateway decides who may write
//! (`require: {scope: catalog:write}`); inside the network, orders reserves stock without a user.

mod handlers;
mod model;
mod reservation_store;
mod reservations;
mod store;

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use tracing::Instrument;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::model::{
    Product, ProductFilter, ProductInput, ProductPatch, QUANTITY_MAX, Reservation, ReservationRequest,
};
use self::{model::SORT_KEYS, reservation_store::ReservationStore, store::ProductStore};
use crate::{database::Database, http::describe_sort, rows::migrator};

/// The tables of this service.
pub static SCHEMA: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (1, "products", include_str!("../../migrations/products/0001_products.sql")),
        (2, "named reservations", include_str!("../../migrations/products/0002_named_reservations.sql")),
    ])
});

/// Must be called within a tokio runtime: expired reservations are given back by a task, until the database is
/// closed.
pub fn router(database: Database) -> OpenApiRouter {
    let reservations = ReservationStore::new(database.clone());
    tokio::spawn(reservations.clone().expire().in_current_span());
    let reservations = OpenApiRouter::new()
        .routes(routes!(reservations::reserve, reservations::release))
        .with_state(reservations);
    let mut router = OpenApiRouter::new()
        .routes(routes!(handlers::create, handlers::list))
        .routes(routes!(handlers::fetch, handlers::replace, handlers::patch, handlers::remove))
        .with_state(ProductStore::new(database))
        .merge(reservations);
    describe_sort(router.get_openapi_mut(), "/products", SORT_KEYS);
    router
}
