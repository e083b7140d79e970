//! Pending changes of reservations in products: a reservation is confirmed once its order is written, and released once the
//! order is deleted or cancelled.
//!
//! Each change is written in the transaction that makes it necessary ([`super::store`]), carried out at once by the
//! request that made it, and by [`Orders::catch_up`] if that did not work: after an outage of products, or after a
//! crash of this process. Both may carry out the same change: for products, a repeat is no second change.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite, Transaction};

use super::{Orders, catalog::CatalogError, model::OrderItem, status::OrderStatus, store::OrderStore};
use crate::{
    http::RequestContext,
    rows::{read_from_row, stored_by_name},
    timestamp::Timestamp,
};

/// A change that must be sent to products.
#[derive(Debug, Clone)]
pub(super) struct StockChange {
    reservation_id: String,
    order_id: String,
    product_id: String,
    quantity: i64,
    change: Change,
    attempts: u32,
}

read_from_row!(StockChange { reservation_id, order_id, product_id, quantity, change, attempts });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Confirm,
    Release,
}

stored_by_name!(Change { Confirm = "confirm", Release = "release" });

impl StockChange {
    /// One for each item of an order.
    pub(super) fn of_items(change: Change, order_id: &str, items: &[OrderItem]) -> Vec<Self> {
        let of_item = |item: &OrderItem| Self {
            reservation_id: item.reservation_id.clone(),
            order_id: order_id.to_owned(),
            product_id: item.product_id.clone(),
            quantity: item.quantity,
            change,
            attempts: 0,
        };
        items.iter().map(of_item).collect()
    }
}

impl Orders {
    /// Carries out the changes that were just written. A failed one is repeated later.
    pub(super) async fn carry_out(&self, context: &RequestContext, changes: &[StockChange]) {
        for change in changes {
            if !self.carry_out_one(context, change).await {
                return;
            }
        }
    }

    /// Carries out due changes, for ever. Returns when the database is closed.
    pub(super) async fn catch_up(self) {
        loop {
            tokio::time::sleep(LOOKED_AT_EVERY).await;
            match self.store.due_changes().await {
                Ok(due) if due.is_empty() => {}
                Ok(due) => self.carry_out(&RequestContext::of_background_work(), &due).await,
                Err(sqlx::Error::PoolClosed) => return,
                Err(error) => tracing::warn!(%error, "what products has yet to hear cannot be read"),
            }
        }
    }

    /// `false` if products cannot be reached, so that the next change would fail too.
    async fn carry_out_one(&self, context: &RequestContext, change: &StockChange) -> bool {
        let StockChange { reservation_id, order_id, product_id, quantity, .. } = change;
        let done = match change.change {
            Change::Confirm => self.catalog.confirm(context, product_id, reservation_id, *quantity).await,
            Change::Release => self.catalog.release(context, product_id, reservation_id).await,
        };
        let (written, reached) = match done {
            // Released: the order was cancelled while its confirmation was on its way.
            Ok(()) | Err(CatalogError::Released) => (self.store.forget_change(change).await, true),
            // The reservation expired before it was confirmed, and others have the stock now.
            Err(CatalogError::UnknownProduct { .. } | CatalogError::InsufficientStock { .. }) => {
                tracing::warn!(order_id, product_id, "the stock of an order is gone; the order is cancelled");
                (self.store.cancel_for_want_of_stock(change).await, true)
            }
            Err(error) => {
                tracing::warn!(%error, order_id, product_id, reservation_id, "the change of stock is sent to products again later");
                (self.store.postpone_change(change).await, !matches!(error, CatalogError::Unavailable(_)))
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, reservation_id, "what products has heard was not noted; it will hear it again");
        }
        reached
    }
}

impl OrderStore {
    async fn due_changes(&self) -> Result<Vec<StockChange>, sqlx::Error> {
        sqlx::query_as(
            "SELECT reservation_id, order_id, product_id, quantity, change, attempts
             FROM stock_changes WHERE due_at <= ? ORDER BY due_at LIMIT ?",
        )
        .bind(Timestamp::now())
        .bind(CHANGES_AT_ONCE)
        .fetch_all(&self.database.reader)
        .await
    }

    /// Forgets exactly this change: a release may have replaced a confirmation meanwhile.
    async fn forget_change(&self, change: &StockChange) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM stock_changes WHERE reservation_id = ? AND change = ?")
            .bind(&change.reservation_id)
            .bind(change.change)
            .execute(&self.database.writer)
            .await
            .map(|_| ())
    }

    async fn postpone_change(&self, change: &StockChange) -> Result<(), sqlx::Error> {
        let pause = PAUSE_MIN.saturating_mul(1 << change.attempts.min(10)).min(PAUSE_MAX);
        sqlx::query(
            "UPDATE stock_changes SET attempts = attempts + 1, due_at = ? WHERE reservation_id = ? AND change = ?",
        )
        .bind(Timestamp::now().after(pause))
        .bind(&change.reservation_id)
        .bind(change.change)
        .execute(&self.database.writer)
        .await
        .map(|_| ())
    }

    /// Cancels the order of a change that cannot be carried out, and gives back its stock of other products. A shipped
    /// order stays as it is.
    async fn cancel_for_want_of_stock(&self, change: &StockChange) -> Result<(), sqlx::Error> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM stock_changes WHERE reservation_id = ? AND change = ?")
            .bind(&change.reservation_id)
            .bind(change.change)
            .execute(&mut *transaction)
            .await?;
        let cancelled = sqlx::query(
            "UPDATE orders SET status = ?, version = version + 1, updated_at = ?
             WHERE id = ? AND status IN (?, ?, ?)",
        )
        .bind(OrderStatus::Cancelled)
        .bind(Timestamp::now())
        .bind(&change.order_id)
        .bind(OrderStatus::Pending)
        .bind(OrderStatus::Confirmed)
        .bind(OrderStatus::Paid)
        .execute(&mut *transaction)
        .await?;
        if cancelled.rows_affected() == 1 {
            let items: Vec<OrderItem> = sqlx::query_as(
                "SELECT product_id, product_name, unit_price_cents, quantity, reservation_id
                 FROM order_items WHERE order_id = ? AND reservation_id <> ?",
            )
            .bind(&change.order_id)
            .bind(&change.reservation_id)
            .fetch_all(&mut *transaction)
            .await?;
            let releases = StockChange::of_items(Change::Release, &change.order_id, &items);
            write_changes(&mut transaction, &releases, Timestamp::now()).await?;
        }
        transaction.commit().await
    }
}

/// Writes changes down; each takes the place of an earlier one for the same reservation.
pub(super) async fn write_changes(
    transaction: &mut Transaction<'_, Sqlite>,
    changes: &[StockChange],
    due_at: Timestamp,
) -> Result<(), sqlx::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT OR REPLACE INTO stock_changes
             (reservation_id, order_id, product_id, quantity, change, due_at) ",
    );
    query.push_values(changes, |mut values, change| {
        values
            .push_bind(change.reservation_id.clone())
            .push_bind(change.order_id.clone())
            .push_bind(change.product_id.clone())
            .push_bind(change.quantity)
            .push_bind(change.change)
            .push_bind(due_at);
    });
    query.build().execute(&mut **transaction).await.map(|_| ())
}

/// The request that writes a change down carries it out within this time, or [`Orders::catch_up`] does.
pub(super) const OWN_ATTEMPT_LASTS: Duration = Duration::from_secs(3);
/// One read of an index.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Read into memory at once; the next ones follow a second later.
const CHANGES_AT_ONCE: i64 = 100;
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Once a minute is soon enough after a long outage, and no load.
const PAUSE_MAX: Duration = Duration::from_mins(1);
