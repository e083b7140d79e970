//! Orders and their items in SQLite.

use std::collections::HashMap;

use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqlitePool};
use uuid::Uuid;

use super::{
    keys::Claim,
    model::{Order, OrderFilter, OrderInput, OrderItem},
    placing::Placed,
    status::OrderStatus,
    stock_changes::{Change, OWN_ATTEMPT_LASTS, StockChange, write_changes},
};
use crate::{
    database::Database,
    http::{Page, PageQuery, Problem, Result},
    rows::read_from_row,
    timestamp::Timestamp,
};

#[derive(Debug, Clone)]
pub(super) struct OrderStore {
    pub(super) database: Database,
}

/// A row of `orders`; its items are read apart.
#[derive(Debug)]
struct OrderRow {
    id: String,
    customer_id: String,
    status: OrderStatus,
    currency: String,
    total_cents: i64,
    note: String,
    shipping_address: String,
    version: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
}

read_from_row!(OrderRow {
    id,
    customer_id,
    status,
    currency,
    total_cents,
    note,
    shipping_address,
    version,
    created_at,
    updated_at
});

/// An order that is about to be written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) customer_id: String,
    pub(super) currency: String,
    pub(super) total_cents: i64,
    pub(super) input: OrderInput,
    pub(super) items: Vec<OrderItem>,
}

/// A written order, with its changes for products.
#[derive(Debug)]
pub(super) struct Inserted {
    pub(super) placed: Placed,
    pub(super) owed: Vec<StockChange>,
}

impl OrderStore {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    /// With a claim, the order is the answer that its key is kept with.
    pub(super) async fn insert(&self, draft: &Draft, claim: Option<&Claim>) -> Result<Inserted> {
        let now = Timestamp::now();
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let row: OrderRow = sqlx::query_as(
            "INSERT INTO orders
                 (id, customer_id, status, currency, total_cents, note, shipping_address, created_at, updated_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
             RETURNING id, customer_id, status, currency, total_cents, note, shipping_address, version,
                       created_at, updated_at",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(&draft.customer_id)
        .bind(OrderStatus::Pending)
        .bind(&draft.currency)
        .bind(draft.total_cents)
        .bind(&draft.input.note)
        .bind(&draft.input.shipping_address)
        .bind(now)
        .bind(now)
        .fetch_one(&mut *transaction)
        .await?;
        let mut items = QueryBuilder::<Sqlite>::new(
            "INSERT INTO order_items
                 (order_id, position, product_id, product_name, unit_price_cents, quantity, reservation_id) ",
        );
        items.push_values((0_i64..).zip(&draft.items), |mut values, (position, item)| {
            values
                .push_bind(row.id.clone())
                .push_bind(position)
                .push_bind(item.product_id.clone())
                .push_bind(item.product_name.clone())
                .push_bind(item.unit_price_cents)
                .push_bind(item.quantity)
                .push_bind(item.reservation_id.clone());
        });
        items.build().execute(&mut *transaction).await?;
        let owed = StockChange::of_items(Change::Confirm, &row.id, &draft.items);
        write_changes(&mut transaction, &owed, now.after(OWN_ATTEMPT_LASTS)).await?;
        let order = row.with_items(draft.items.clone());
        let json = serde_json::to_string(&order).map_err(|error| Problem::internal(&error))?;
        let placed = Placed { id: order.id, json };
        if let Some(claim) = claim {
            claim.answer(&mut transaction, &placed).await?;
        }
        transaction.commit().await?;
        Ok(Inserted { placed, owed })
    }

    pub(super) async fn find(&self, id: &str) -> Result<Option<Order>, sqlx::Error> {
        let row: Option<OrderRow> = sqlx::query_as(
            "SELECT id, customer_id, status, currency, total_cents, note, shipping_address, version,
                    created_at, updated_at
             FROM orders WHERE id = ?",
        )
        .bind(id)
        .fetch_optional(&self.database.reader)
        .await?;
        match row {
            Some(row) => Ok(with_items(&self.database.reader, vec![row]).await?.pop()),
            None => Ok(None),
        }
    }

    pub(super) async fn list(&self, filter: &OrderFilter, page: &PageQuery) -> Result<Page<Order>> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, customer_id, status, currency, total_cents, note, shipping_address, version,
                    created_at, updated_at
             FROM orders WHERE 1 = 1",
        );
        if let Some(customer_id) = &filter.customer_id {
            query.push(" AND customer_id = ").push_bind(customer_id.clone());
        }
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(status);
        }
        if let Some(from) = filter.created_from {
            query.push(" AND created_at >= ").push_bind(from);
        }
        if let Some(before) = filter.created_before {
            query.push(" AND created_at < ").push_bind(before);
        }
        let Page { items, next } = page.fetch(query, &self.database.reader).await?;
        Ok(Page { items: with_items(&self.database.reader, items).await?, next })
    }

    /// Writes the editable fields and the status. `None` if the order is not at its version any more; otherwise its
    /// changes for products.
    pub(super) async fn update(
        &self,
        order: &Order,
        input: &OrderInput,
        status: OrderStatus,
    ) -> Result<Option<Vec<StockChange>>, sqlx::Error> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = Timestamp::now();
        let done = sqlx::query(
            "UPDATE orders
             SET note = ?, shipping_address = ?, status = ?, version = version + 1, updated_at = ?
             WHERE id = ? AND version = ?",
        )
        .bind(&input.note)
        .bind(&input.shipping_address)
        .bind(status)
        .bind(now)
        .bind(&order.id)
        .bind(order.version)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let owed = match status {
            OrderStatus::Cancelled => StockChange::of_items(Change::Release, &order.id, &order.items),
            _ => Vec::new(),
        };
        write_changes(&mut transaction, &owed, now.after(OWN_ATTEMPT_LASTS)).await?;
        transaction.commit().await?;
        Ok(Some(owed))
    }

    /// `None` if the order is not at its version any more; otherwise its changes for products.
    pub(super) async fn remove(&self, order: &Order) -> Result<Option<Vec<StockChange>>, sqlx::Error> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query("DELETE FROM orders WHERE id = ? AND version = ?")
            .bind(&order.id)
            .bind(order.version)
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let owed = StockChange::of_items(Change::Release, &order.id, &order.items);
        write_changes(&mut transaction, &owed, Timestamp::now().after(OWN_ATTEMPT_LASTS)).await?;
        transaction.commit().await?;
        Ok(Some(owed))
    }
}

/// Reads the items of many orders with one query.
async fn with_items(pool: &SqlitePool, rows: Vec<OrderRow>) -> Result<Vec<Order>, sqlx::Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT order_id, product_id, product_name, unit_price_cents, quantity, reservation_id
         FROM order_items WHERE order_id IN (",
    );
    let mut ids = query.separated(", ");
    for row in &rows {
        ids.push_bind(row.id.clone());
    }
    query.push(") ORDER BY order_id, position");
    let mut items: HashMap<String, Vec<OrderItem>> = HashMap::new();
    for row in query.build().fetch_all(pool).await? {
        items.entry(row.try_get("order_id")?).or_default().push(OrderItem::from_row(&row)?);
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let own = items.remove(&row.id).unwrap_or_default();
            row.with_items(own)
        })
        .collect())
}

impl OrderRow {
    fn with_items(self, items: Vec<OrderItem>) -> Order {
        Order {
            id: self.id,
            customer_id: self.customer_id,
            status: self.status,
            items,
            currency: self.currency,
            total_cents: self.total_cents,
            note: self.note,
            shipping_address: self.shipping_address,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}
