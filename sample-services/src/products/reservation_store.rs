//! Stock that is set aside: a reservation has the name that its caller gave it, so that a repeat is the same one;
//! until it is confirmed it expires, so that a caller that is gone keeps no stock.
//!
//! A name that was released is remembered for [`RELEASED_KEPT`]: a request that was on its way for longer than its
//! caller waited takes no stock when it arrives.

use std::time::Duration;

use sqlx::{Sqlite, Transaction};

use super::model::{Reservation, ReservationRequest};
use crate::{database::Database, timestamp::Timestamp};

#[derive(Debug, Clone)]
pub(super) struct ReservationStore {
    database: Database,
}

/// How an attempt to take stock ended.
#[derive(Debug)]
pub(super) enum Reserved {
    Taken(Reservation),
    /// The reservation existed already.
    Same(Reservation),
    /// A reservation with this name is for another product or quantity.
    Differs,
    Released,
    OutOfStock {
        available: i64,
    },
    NoSuchProduct,
}

/// How an attempt to give stock back ended.
#[derive(Debug)]
pub(super) enum Released {
    /// Nothing is reserved under this name, from now on.
    Done,
    /// A reservation with this name is for another product.
    Differs,
    NoSuchProduct,
}

impl ReservationStore {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) async fn reserve(
        &self,
        product_id: &str,
        id: &str,
        request: &ReservationRequest,
    ) -> Result<Reserved, sqlx::Error> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = Timestamp::now();
        give_back_expired(&mut transaction, now).await?;
        let reserved = match find(&mut transaction, id).await? {
            Some(found) if found.product_id != product_id || found.quantity != request.quantity => {
                Reserved::Differs
            }
            Some(found) => Reserved::Same(confirm(&mut transaction, found, request.confirmed).await?),
            None if is_released(&mut transaction, id).await? => Reserved::Released,
            None => take(&mut transaction, product_id, id, request, now).await?,
        };
        transaction.commit().await?;
        Ok(reserved)
    }

    /// Gives reserved stock back; once, however often it is called.
    pub(super) async fn release(&self, product_id: &str, id: &str) -> Result<Released, sqlx::Error> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = Timestamp::now();
        let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM products WHERE id = ?)")
            .bind(product_id)
            .fetch_one(&mut *transaction)
            .await?;
        if !known {
            return Ok(Released::NoSuchProduct);
        }
        if let Some(found) = find(&mut transaction, id).await? {
            if found.product_id != product_id {
                return Ok(Released::Differs);
            }
            put_back(&mut transaction, &found, now).await?;
        }
        sqlx::query("INSERT OR REPLACE INTO released_reservations (id, forget_at) VALUES (?, ?)")
            .bind(id)
            .bind(now.after(RELEASED_KEPT))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Released::Done)
    }

    /// Gives back reservations that were not confirmed in time, also without requests. Returns when the database is closed.
    pub(super) async fn expire(self) {
        loop {
            tokio::time::sleep(EXPIRY_LOOKED_AT_EVERY).await;
            match self.expire_once().await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "reservations that were not confirmed have expired"),
                Err(sqlx::Error::PoolClosed) => return,
                Err(error) => tracing::warn!(%error, "expired reservations were not given back"),
            }
        }
    }

    /// The number of reservations that have expired.
    async fn expire_once(&self) -> Result<u64, sqlx::Error> {
        // Readers do not wait for one another; the writer is taken only if there is something to write.
        let due: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM reservations WHERE expires_at <= ?1)
                 OR EXISTS (SELECT 1 FROM released_reservations WHERE forget_at <= ?1)",
        )
        .bind(Timestamp::now())
        .fetch_one(&self.database.reader)
        .await?;
        if !due {
            return Ok(0);
        }
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let count = give_back_expired(&mut transaction, Timestamp::now()).await?;
        transaction.commit().await?;
        Ok(count)
    }
}

async fn find(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &str,
) -> Result<Option<Reservation>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, product_id, quantity, expires_at IS NULL AS confirmed, expires_at
         FROM reservations WHERE id = ?",
    )
    .bind(id)
    .fetch_optional(&mut **transaction)
    .await
}

async fn is_released(transaction: &mut Transaction<'_, Sqlite>, id: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM released_reservations WHERE id = ?)")
        .bind(id)
        .fetch_one(&mut **transaction)
        .await
}

/// The reservation, confirmed if it was already or if the caller wants it.
async fn confirm(
    transaction: &mut Transaction<'_, Sqlite>,
    found: Reservation,
    confirmed: bool,
) -> Result<Reservation, sqlx::Error> {
    if found.confirmed || !confirmed {
        return Ok(found);
    }
    sqlx::query("UPDATE reservations SET expires_at = NULL WHERE id = ?")
        .bind(&found.id)
        .execute(&mut **transaction)
        .await?;
    Ok(Reservation { confirmed: true, expires_at: None, ..found })
}

/// One conditional update, so two orders cannot both get the last piece.
async fn take(
    transaction: &mut Transaction<'_, Sqlite>,
    product_id: &str,
    id: &str,
    request: &ReservationRequest,
    now: Timestamp,
) -> Result<Reserved, sqlx::Error> {
    let taken = sqlx::query(
        "UPDATE products SET stock = stock - ?1, version = version + 1, updated_at = ?2
         WHERE id = ?3 AND stock >= ?1",
    )
    .bind(request.quantity)
    .bind(now)
    .bind(product_id)
    .execute(&mut **transaction)
    .await?;
    if taken.rows_affected() == 0 {
        let available: Option<i64> = sqlx::query_scalar("SELECT stock FROM products WHERE id = ?")
            .bind(product_id)
            .fetch_optional(&mut **transaction)
            .await?;
        return Ok(available.map_or(Reserved::NoSuchProduct, |available| Reserved::OutOfStock { available }));
    }
    let expires_at = (!request.confirmed).then(|| now.after(request.hold()));
    sqlx::query(
        "INSERT INTO reservations (id, product_id, quantity, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(product_id)
    .bind(request.quantity)
    .bind(now)
    .bind(expires_at)
    .execute(&mut **transaction)
    .await?;
    Ok(Reserved::Taken(Reservation {
        id: id.to_owned(),
        product_id: product_id.to_owned(),
        quantity: request.quantity,
        confirmed: request.confirmed,
        expires_at,
    }))
}

async fn put_back(
    transaction: &mut Transaction<'_, Sqlite>,
    found: &Reservation,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE products SET stock = stock + ?, version = version + 1, updated_at = ? WHERE id = ?")
        .bind(found.quantity)
        .bind(now)
        .bind(&found.product_id)
        .execute(&mut **transaction)
        .await?;
    sqlx::query("DELETE FROM reservations WHERE id = ?").bind(&found.id).execute(&mut **transaction).await?;
    Ok(())
}

/// The number of reservations that have expired.
async fn give_back_expired(
    transaction: &mut Transaction<'_, Sqlite>,
    now: Timestamp,
) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "UPDATE products
         SET stock = stock + (SELECT sum(quantity) FROM reservations
                              WHERE product_id = products.id AND expires_at <= ?1),
             version = version + 1, updated_at = ?1
         WHERE id IN (SELECT product_id FROM reservations WHERE expires_at <= ?1)",
    )
    .bind(now)
    .execute(&mut **transaction)
    .await?;
    let expired = sqlx::query("DELETE FROM reservations WHERE expires_at <= ?")
        .bind(now)
        .execute(&mut **transaction)
        .await?;
    sqlx::query("DELETE FROM released_reservations WHERE forget_at <= ?")
        .bind(now)
        .execute(&mut **transaction)
        .await?;
    Ok(expired.rows_affected())
}

/// Far longer than any request is on its way.
const RELEASED_KEPT: Duration = Duration::from_mins(10);
/// Stock comes back at most so much later than it could; looking costs one read of two indexes.
const EXPIRY_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
