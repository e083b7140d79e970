//! The orders service: it reads prices and stock from products, sets stock aside, and keeps the orders.
//!
//! Customers see their own orders, staff see all. A pending order can be edited or deleted by its customer;
//! from then on its status moves through [`OrderStatus`]'s steps, which staff take.

mod catalog;
mod discovery;
mod handlers;
mod keys;
mod model;
mod placing;
mod status;
mod stock_changes;
mod store;

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use tracing::Instrument;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    catalog::Catalog,
    discovery::ProductsLocation,
    model::{NewItem, NewOrder, Order, OrderInput, OrderItem, OrderPatch},
    status::OrderStatus,
};
use self::{keys::KeyStore, model::SORT_KEYS, store::OrderStore};
use crate::{database::Database, http::describe_sort, rows::migrator};

/// The tables of this service.
pub static SCHEMA: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        (1, "orders", include_str!("../../migrations/orders/0001_orders.sql")),
        (2, "nothing is lost", include_str!("../../migrations/orders/0002_nothing_is_lost.sql")),
    ])
});

/// Must be called within a tokio runtime: a task carries out pending changes of stock until the database is
/// closed.
pub fn router(database: Database, catalog: Catalog) -> OpenApiRouter {
    let orders = Orders { store: OrderStore::new(database.clone()), keys: KeyStore::new(database), catalog };
    tokio::spawn(orders.clone().catch_up().in_current_span());
    let mut router = OpenApiRouter::new()
        .routes(routes!(handlers::create, handlers::list))
        .routes(routes!(handlers::fetch, handlers::replace, handlers::patch, handlers::remove))
        .routes(routes!(handlers::change_status))
        .with_state(orders);
    describe_sort(router.get_openapi_mut(), "/orders", SORT_KEYS);
    router
}

/// The state that the handlers share.
#[derive(Debug, Clone)]
struct Orders {
    store: OrderStore,
    keys: KeyStore,
    catalog: Catalog,
}
