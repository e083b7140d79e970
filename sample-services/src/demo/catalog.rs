//! The products of the demo's shop.

use serde_json::{Value, json};

/// The documents for `POST /products`.
pub(super) fn products() -> impl Iterator<Item = Value> {
    PRODUCTS.iter().map(|(name, category, price_cents, stock, description)| {
        json!({
            "name": name,
            "category": category,
            "price_cents": price_cents,
            "currency": "EUR",
            "stock": stock,
            "description": description,
        })
    })
}

const PRODUCTS: &[(&str, &str, i64, i64, &str)] = &[
    ("Sencha", "green tea", 1250, 200, "Steamed leaves, fresh and grassy, 100 g"),
    ("Gyokuro", "green tea", 3900, 40, "Shaded for three weeks before harvest, 50 g"),
    ("Assam", "black tea", 890, 500, "Malty and strong, takes milk, 100 g"),
    ("Darjeeling", "black tea", 1490, 120, "First flush, flowery, 100 g"),
    ("Rooibos", "herbal tea", 690, 300, "No caffeine, naturally sweet, 100 g"),
    ("Teapot", "ware", 4500, 25, "Cast iron, 0.8 l"),
    ("Cup", "ware", 950, 150, "Porcelain, 0.2 l"),
];
