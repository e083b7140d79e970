//! What an order is: items with the price that they had, an address, a note, and a status.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::{IntoParams, ToSchema};

use super::status::OrderStatus;
use crate::{
    http::{ColumnKind, FieldErrors, Result, SortKey},
    products::QUANTITY_MAX,
    timestamp::Timestamp,
};

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Order {
    pub id: String,
    pub customer_id: String,
    pub status: OrderStatus,
    pub items: Vec<OrderItem>,
    /// ISO 4217; the same for all items.
    #[schema(example = "EUR")]
    pub currency: String,
    pub total_cents: i64,
    pub note: String,
    pub shipping_address: String,
    /// Counts changes; the number in `ETag`.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct OrderItem {
    pub product_id: String,
    pub product_name: String,
    /// The price when the order was placed.
    pub unit_price_cents: i64,
    pub quantity: i64,
    /// The stock that was set aside, in the products service.
    #[serde(skip)]
    pub reservation_id: String,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    #[schema(min_items = 1, max_items = 50)]
    pub items: Vec<NewItem>,
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: String,
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub shipping_address: String,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    pub product_id: String,
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: i64,
}

/// What may be changed about a pending order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderInput {
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: String,
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub shipping_address: String,
}

/// The next step of an order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusChange {
    pub status: OrderStatus,
}

/// Which orders a list holds.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OrderFilter {
    pub status: Option<OrderStatus>,
}

impl NewOrder {
    pub fn check(&self) -> Result<()> {
        let mut errors = FieldErrors::default();
        let count = self.items.len();
        errors.check((1..=ITEMS_MAX).contains(&count), "items", format!("must be 1 to {ITEMS_MAX} items"));
        let mut seen = HashSet::new();
        for (position, item) in self.items.iter().enumerate() {
            let fits = (1..=QUANTITY_MAX).contains(&item.quantity);
            let field = format!("items[{position}].quantity");
            errors.check(fits, &field, format!("must be 1 to {QUANTITY_MAX}"));
            let field = format!("items[{position}].product_id");
            errors.check(seen.insert(&item.product_id), &field, "is there twice; add up the quantities");
        }
        check_texts(&mut errors, &self.note, &self.shipping_address);
        errors.into_result()
    }
}

impl OrderInput {
    pub fn check(&self) -> Result<()> {
        let mut errors = FieldErrors::default();
        check_texts(&mut errors, &self.note, &self.shipping_address);
        errors.into_result()
    }
}

impl From<Order> for OrderInput {
    fn from(order: Order) -> Self {
        Self { note: order.note, shipping_address: order.shipping_address }
    }
}

fn check_texts(errors: &mut FieldErrors, note: &str, shipping_address: &str) {
    for (field, text) in [("note", note), ("shipping_address", shipping_address)] {
        errors.check(text.len() <= TEXT_BYTES_MAX, field, format!("must be at most {TEXT_BYTES_MAX} bytes"));
    }
}

pub(super) const SORT_KEYS: &[SortKey] = &[
    SortKey { name: "created_at", column: "created_at", kind: ColumnKind::Integer },
    SortKey { name: "total", column: "total_cents", kind: ColumnKind::Integer },
    SortKey { name: "status", column: "status", kind: ColumnKind::Text },
];

/// Each item costs two requests to products while the client waits.
const ITEMS_MAX: usize = 50;
const TEXT_BYTES_MAX: usize = 1000;
