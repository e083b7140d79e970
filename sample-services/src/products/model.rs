//! What a product is. Money is an integer of the currency's smallest unit (cents).

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::{IntoParams, ToSchema};

use crate::{
    http::{ColumnKind, FieldErrors, Result, SortKey},
    timestamp::Timestamp,
};

#[derive(Debug, Clone, Serialize, FromRow, ToSchema)]
pub struct Product {
    pub id: String,
    pub name: String,
    pub description: String,
    pub category: String,
    pub price_cents: i64,
    /// ISO 4217.
    #[schema(example = "EUR")]
    pub currency: String,
    /// Pieces that can still be reserved.
    pub stock: i64,
    /// Counts changes; the number in `ETag`.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a client may say about a product, with POST and PUT.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductInput {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    #[serde(default)]
    #[schema(max_length = 2000)]
    pub description: String,
    #[schema(min_length = 1, max_length = 100)]
    pub category: String,
    #[schema(minimum = 0, maximum = 100_000_000)]
    pub price_cents: i64,
    #[schema(example = "EUR")]
    pub currency: String,
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub stock: i64,
}

impl ProductInput {
    pub fn check(&self) -> Result<()> {
        let mut errors = FieldErrors::default();
        errors.check((1..=200).contains(&self.name.trim().len()), "name", "must be 1 to 200 bytes");
        errors.check(self.description.len() <= 2000, "description", "must be at most 2000 bytes");
        errors.check((1..=100).contains(&self.category.trim().len()), "category", "must be 1 to 100 bytes");
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
    pub min_price: Option<i64>,
    /// Highest price, in cents.
    pub max_price: Option<i64>,
    /// Words that begin words of the name or the description; all of them.
    pub q: Option<String>,
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReservationRequest {
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: i64,
}

impl ReservationRequest {
    pub fn check(&self) -> Result<()> {
        let mut errors = FieldErrors::default();
        errors.check((1..=QUANTITY_MAX).contains(&self.quantity), "quantity", "must be 1 to 1000");
        errors.into_result()
    }
}

/// Stock that was taken out of a product for an order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reservation {
    pub id: String,
    pub product_id: String,
    pub quantity: i64,
}

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
