//! An order: items with the price at that time, an address, a note, and a status.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::status::OrderStatus;
use crate::{
    http::{ColumnKind, FieldErrors, Result, SortKey, integer},
    products::QUANTITY_MAX,
    rows::read_from_row,
    timestamp::Timestamp,
};

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198f2c4-7b1e-7000-8000-000000000003",
    "customer_id": "0198f2c4-7b1e-7000-8000-000000000004",
    "status": "pending",
    "items": [{
        "product_id": "0198f2c4-7b1e-7000-8000-000000000001",
        "product_name": "Sencha",
        "unit_price_cents": 1250,
        "quantity": 2,
    }],
    "currency": "EUR",
    "total_cents": 2500,
    "note": "ring twice",
    "shipping_address": "1 Tea Lane",
    "version": 1,
    "created_at": "2026-01-31T12:00:00.000000Z",
    "updated_at": "2026-01-31T12:00:00.000000Z",
}))]
pub struct Order {
    pub id: String,
    pub customer_id: String,
    pub status: OrderStatus,
    pub items: Vec<OrderItem>,
    /// ISO 4217; the same for all items.
    pub currency: String,
    pub total_cents: i64,
    pub note: String,
    pub shipping_address: String,
    /// Counts changes; the number in `ETag`.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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

read_from_row!(OrderItem { product_id, product_name, unit_price_cents, quantity, reservation_id });

/// Its serialised form is bound to the idempotency key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "items": [{"product_id": "0198f2c4-7b1e-7000-8000-000000000001", "quantity": 2}],
    "note": "ring twice",
    "shipping_address": "1 Tea Lane",
}))]
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

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    #[schema(format = "uuid")]
    pub product_id: String,
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: i64,
}

/// The editable fields of a pending order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"note": "ring once", "shipping_address": "2 Tea Lane"}))]
pub struct OrderInput {
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: String,
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub shipping_address: String,
}

/// The fields to change, as a merge patch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"note": "ring once"}))]
pub struct OrderPatch {
    /// Only of a pending order; `null` removes it.
    #[schema(max_length = 1000)]
    pub note: Option<String>,
    /// Only of a pending order; `null` removes it.
    #[schema(max_length = 1000)]
    pub shipping_address: Option<String>,
    /// The next step; staff only.
    #[schema(required = false)]
    pub status: OrderStatus,
}

/// The next step of an order.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"status": "confirmed"}))]
pub(super) struct StatusChange {
    pub status: OrderStatus,
}

/// Which orders a list holds.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OrderFilter {
    /// The user who placed them. Customers see their own orders only.
    pub customer_id: Option<String>,
    #[param(inline)]
    pub status: Option<OrderStatus>,
    /// Placed at this time or later; a date is its first moment in UTC.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-01-31T12:00:00Z")]
    pub created_from: Option<Timestamp>,
    /// Placed before this time.
    #[param(value_type = Option<String>, format = DateTime, example = "2026-02-28T12:00:00Z")]
    pub created_before: Option<Timestamp>,
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

impl From<&Order> for OrderInput {
    fn from(order: &Order) -> Self {
        Self { note: order.note.clone(), shipping_address: order.shipping_address.clone() }
    }
}

impl From<&Order> for OrderPatch {
    fn from(order: &Order) -> Self {
        let OrderInput { note, shipping_address } = order.into();
        Self { note: Some(note), shipping_address: Some(shipping_address), status: order.status }
    }
}

impl OrderPatch {
    /// The wanted fields and status of the order.
    pub(super) fn into_parts(self) -> (OrderInput, OrderStatus) {
        let Self { note, shipping_address, status } = self;
        let input = OrderInput {
            note: note.unwrap_or_default(),
            shipping_address: shipping_address.unwrap_or_default(),
        };
        (input, status)
    }
}

fn check_texts(errors: &mut FieldErrors, note: &str, shipping_address: &str) {
    for (field, text) in [("note", note), ("shipping_address", shipping_address)] {
        errors.check_text(field, text, 0, TEXT_CHARACTERS_MAX);
    }
}

pub(super) const SORT_KEYS: &[SortKey] = &[
    SortKey { name: "created_at", column: "created_at", kind: ColumnKind::Integer },
    SortKey { name: "total", column: "total_cents", kind: ColumnKind::Integer },
    SortKey { name: "status", column: "status", kind: ColumnKind::Text },
];

/// Each item costs two requests to products while the client waits.
const ITEMS_MAX: usize = 50;
const TEXT_CHARACTERS_MAX: usize = 1000;
