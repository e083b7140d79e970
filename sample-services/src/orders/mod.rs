//! The orders service: asks products for prices and stock, sets stock aside, and keeps what was ordered.
//!
//! Customers see their own orders, staff see all. A pending order can be edited or deleted by its customer;
//! from then on its status moves through [`OrderStatus`]'s steps, which staff take.

mod catalog;
mod discovery;
mod handlers;
mod model;
mod placing;
mod status;
mod store;

use sqlx::migrate::Migrator;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::store::OrderStore;
pub use self::{
    catalog::Catalog,
    discovery::ProductsLocation,
    model::{NewItem, NewOrder, Order, OrderInput, OrderItem},
    status::OrderStatus,
};
use crate::database::Database;

/// The tables of this service.
pub static SCHEMA: Migrator = sqlx::migrate!("migrations/orders");

pub fn router(database: Database, catalog: Catalog) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(handlers::create, handlers::list))
        .routes(routes!(handlers::fetch, handlers::replace, handlers::patch, handlers::remove))
        .routes(routes!(handlers::change_status))
        .with_state(Orders { store: OrderStore::new(database), catalog })
}

/// What the handlers share.
#[derive(Debug, Clone)]
struct Orders {
    store: OrderStore,
    catalog: Catalog,
}
