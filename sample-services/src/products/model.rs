//! A product. Money is an integer of the currency's smallest unit (cents).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    http::{ColumnKind, FieldErrors, Problem, Result, SortKey, integer},
    rows::read_from_row,
    timestamp::Timestamp,
};

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198f2c4-7b1e-7000-8000-000000000001",
    "name": "Sencha",
    "description": "Steamed leaves, fresh and grassy, 100 g",
    "category": "green tea",
    "price_cents": 1250,
    "currency": "EUR",
    "stock": 200,
    "version": 1,
    "created_at": "2026-01-31T12:00:00.000000Z",
    "updated_at": "2026-01-31T12:00:00.000000Z",
}))]
pub struct Product {
    pub id: String,
    pub name: String,
    pub description: String,
    pub category: String,
    pub price_cents: i64,
    /// ISO 4217.
    pub currency: String,
    /// Pieces that can still be reserved.
    pub stock: i64,
    /// Counts changes; the number in `ETag`.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

read_from_row!(Product {
    id,
    name,
    description,
    category,
    price_cents,
    currency,
    stock,
    version,
    created_at,
    updated_at
});

/// The fields of a product in POST and PUT.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "Sencha",
    "description": "Steamed leaves, fresh and grassy, 100 g",
    "category": "green tea",
    "price_cents": 1250,
    "currency": "EUR",
    "stock": 200,
}))]
pub struct ProductInput {
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2000)]
    pub description: String,
    #[schema(min_length = 1, max_length = 100, pattern = r"\S")]
    pub category: String,
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 100_000_000)]
    pub price_cents: i64,
    /// ISO 4217.
    #[schema(min_length = 3, max_length = 3, pattern = "^[A-Z]{3}$")]
    pub currency: String,
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub stock: i64,
}

/// The fields to change, as a merge patch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"price_cents": 1150, "description": null}))]
pub struct ProductPatch {
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    /// `null`: none.
    #[serde(default)]
    #[schema(max_length = 2000)]
    pub description: Option<String>,
    #[serde(default)]
    #[schema(min_length = 1, max_length = 100, pattern = r"\S")]
    pub category: String,
    #[serde(default)]
    #[schema(minimum = 0, maximum = 100_000_000)]
    pub price_cents: i64,
    #[serde(default)]
    #[schema(min_length = 3, max_length = 3, pattern = "^[A-Z]{3}$")]
    pub currency: String,
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub stock: i64,
}

impl ProductInput {
    pub fn check(&self) -> Result<()> {
        let mut errors = FieldErrors::default();
        errors.check_text("name", &self.name, 1, 200);
        errors.check_text("description", &self.description, 0, 2000);
        errors.check_text("category", &self.category, 1, 100);
        errors.check(
            (0..=PRICE_CENTS_MAX).contains(&self.price_cents),
            "price_cents",
            format!("must be 0 to {PRICE_CENTS_MAX}"),
        );
        errors.check(
            self.currency.len() == 3 && self.currency.bytes().all(|byte| byte.is_ascii_uppercase()),
            "currency",
            "must be three capital letters (ISO 4217)",
        );
        errors.check((0..=STOCK_MAX).contains(&self.stock), "stock", format!("must be 0 to {STOCK_MAX}"));
        errors.into_result()
    }
}

impl From<Product> for ProductInput {
    fn from(product: Product) -> Self {
        let Product { name, description, category, price_cents, currency, stock, .. } = product;
        Self { name, description, category, price_cents, currency, stock }
    }
}

/// Which products a list holds.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ProductFilter {
    pub category: Option<String>,
    /// Lowest price, in cents.
    #[param(minimum = 0, maximum = 100_000_000)]
    pub min_price: Option<i64>,
    /// Highest price, in cents.
    #[param(minimum = 0, maximum = 100_000_000)]
    pub max_price: Option<i64>,
    /// Words that begin words of the name or the description; all of them.
    pub q: Option<String>,
}

impl ProductFilter {
    pub fn check(&self) -> Result<()> {
        for (name, price) in [("min_price", self.min_price), ("max_price", self.max_price)] {
            if price.is_some_and(|price| !(0..=PRICE_CENTS_MAX).contains(&price)) {
                let detail = format!("{name} must be 0 to {PRICE_CENTS_MAX} cents");
                return Err(Problem::bad_request("invalid_parameter", detail));
            }
        }
        Ok(())
    }
}

/// How much stock to set aside, and for how long.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"quantity": 2, "hold_seconds": 600}))]
pub struct ReservationRequest {
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: i64,
    /// A confirmed reservation lasts until it is released.
    #[serde(default)]
    pub confirmed: bool,
    /// A new reservation that is not confirmed within this time is given back.
    #[serde(default = "hold_seconds_default", deserialize_with = "integer")]
    #[schema(minimum = 1, maximum = 3600)]
    pub hold_seconds: i64,
}

impl ReservationRequest {
    pub fn check(&self) -> Result<()> {
        let mut errors = FieldErrors::default();
        errors.check((1..=QUANTITY_MAX).contains(&self.quantity), "quantity", "must be 1 to 1000");
        errors.check(
            (1..=HOLD_SECONDS_MAX).contains(&self.hold_seconds),
            "hold_seconds",
            "must be 1 to 3600",
        );
        errors.into_result()
    }

    pub(super) fn hold(&self) -> Duration {
        Duration::from_secs(self.hold_seconds.unsigned_abs())
    }
}

fn hold_seconds_default() -> i64 {
    HOLD_SECONDS_DEFAULT
}

/// Stock that was taken out of a product for an order.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198f2c4-7b1e-7000-8000-000000000002",
    "product_id": "0198f2c4-7b1e-7000-8000-000000000001",
    "quantity": 2,
    "confirmed": false,
    "expires_at": "2026-01-31T12:10:00.000000Z",
}))]
pub struct Reservation {
    pub id: String,
    pub product_id: String,
    pub quantity: i64,
    pub confirmed: bool,
    /// Absent once the reservation is confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

read_from_row!(Reservation { id, product_id, quantity, confirmed, expires_at });

pub(super) const SORT_KEYS: &[SortKey] = &[
    SortKey { name: "name", column: "name", kind: ColumnKind::Text },
    SortKey { name: "category", column: "category", kind: ColumnKind::Text },
    SortKey { name: "price", column: "price_cents", kind: ColumnKind::Integer },
    SortKey { name: "stock", column: "stock", kind: ColumnKind::Integer },
    SortKey { name: "created_at", column: "created_at", kind: ColumnKind::Integer },
];

/// A million euros: far past any product, and small enough that no order's total overflows.
const PRICE_CENTS_MAX: i64 = 100_000_000;
const STOCK_MAX: i64 = 1_000_000_000;
/// Pieces of one product in one order.
pub const QUANTITY_MAX: i64 = 1000;
/// Orders confirms within a second or two, unless it was killed in between; then it needs the time of a restart.
const HOLD_SECONDS_DEFAULT: i64 = 600;
const HOLD_SECONDS_MAX: i64 = 3600;
