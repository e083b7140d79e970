//! Products in SQLite. A write names the version that it replaces, so the slower of two writers has no
//! effect.

use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;

use super::model::{Product, ProductFilter, ProductInput};
use crate::{
    database::Database,
    http::{Page, PageQuery, Result},
    timestamp::Timestamp,
};

#[derive(Debug, Clone)]
pub(super) struct ProductStore {
    database: Database,
}

impl ProductStore {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) async fn insert(&self, input: &ProductInput) -> Result<Product, sqlx::Error> {
        let now = Timestamp::now();
        sqlx::query_as(
            "INSERT INTO products
                 (id, name, description, category, price_cents, currency, stock, created_at, updated_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
             RETURNING id, name, description, category, price_cents, currency, stock, version,
                       created_at, updated_at",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(&input.name)
        .bind(&input.description)
        .bind(&input.category)
        .bind(input.price_cents)
        .bind(&input.currency)
        .bind(input.stock)
        .bind(now)
        .bind(now)
        .fetch_one(&self.database.writer)
        .await
    }

    pub(super) async fn find(&self, id: &str) -> Result<Option<Product>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, name, description, category, price_cents, currency, stock, version, created_at, updated_at
             FROM products WHERE id = ?",
        )
        .bind(id)
        .fetch_optional(&self.database.reader)
        .await
    }

    pub(super) async fn list(&self, filter: &ProductFilter, page: &PageQuery) -> Result<Page<Product>> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, name, description, category, price_cents, currency, stock, version, created_at, updated_at
             FROM products WHERE 1 = 1",
        );
        if let Some(category) = &filter.category {
            query.push(" AND category = ").push_bind(category.clone());
        }
        if let Some(min_price) = filter.min_price {
            query.push(" AND price_cents >= ").push_bind(min_price);
        }
        if let Some(max_price) = filter.max_price {
            query.push(" AND price_cents <= ").push_bind(max_price);
        }
        if let Some(words) = filter.q.as_deref().and_then(full_text_query) {
            query
                .push(" AND number IN (SELECT rowid FROM products_text WHERE products_text MATCH ")
                .push_bind(words)
                .push(")");
        }
        page.fetch(query, &self.database.reader).await
    }

    /// `None` if the product is not at `version` any more.
    pub(super) async fn replace(
        &self,
        id: &str,
        version: i64,
        input: &ProductInput,
    ) -> Result<Option<Product>, sqlx::Error> {
        sqlx::query_as(
            "UPDATE products
             SET name = ?, description = ?, category = ?, price_cents = ?, currency = ?, stock = ?,
                 version = version + 1, updated_at = ?
             WHERE id = ? AND version = ?
             RETURNING id, name, description, category, price_cents, currency, stock, version,
                       created_at, updated_at",
        )
        .bind(&input.name)
        .bind(&input.description)
        .bind(&input.category)
        .bind(input.price_cents)
        .bind(&input.currency)
        .bind(input.stock)
        .bind(Timestamp::now())
        .bind(id)
        .bind(version)
        .fetch_optional(&self.database.writer)
        .await
    }

    /// `false` if the product is not at `version` any more.
    pub(super) async fn remove(&self, id: &str, version: i64) -> Result<bool, sqlx::Error> {
        let done = sqlx::query("DELETE FROM products WHERE id = ? AND version = ?")
            .bind(id)
            .bind(version)
            .execute(&self.database.writer)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// The words of `q` as an FTS5 query: each one quoted, so that it cannot be an operator, and taken as the
/// beginning of a word. `None` if there is no word.
fn full_text_query(q: &str) -> Option<String> {
    let words = q.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let quoted: Vec<_> = words.take(WORDS_MAX).map(|word| format!("\"{word}\"*")).collect();
    (!quoted.is_empty()).then(|| quoted.join(" "))
}

/// Words of one search; further words are ignored.
const WORDS_MAX: usize = 10;
