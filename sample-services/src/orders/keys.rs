//! Idempotency keys in SQLite: the answer to a request with a key, for its repeats.
//!
//! A key belongs to one customer and to one request body. It is claimed before the first request has any effect, and
//! gets its answer in the transaction that writes the order, so there is never an order without its answer. A
//! request that fails frees its key. Kept: for [`KEPT_FOR`], and at most [`KEYS_PER_CUSTOMER_MAX`] of a customer and
//! [`KEYS_MAX`] in all, the latest.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::header::RETRY_AFTER;
use sqlx::{Sqlite, Transaction};

use super::{model::NewOrder, placing::Placed};
use crate::{
    database::Database,
    http::{IdempotencyKey, Problem, Result},
    rows::read_from_row,
    timestamp::Timestamp,
};

#[derive(Debug, Clone)]
pub(super) struct KeyStore {
    database: Database,
}

/// The claim of a request on its key.
#[derive(Debug)]
pub(super) struct Claim {
    number: i64,
    claimed_at: Timestamp,
}

struct Row {
    number: i64,
    fingerprint: Vec<u8>,
    order_id: Option<String>,
    answer: Option<String>,
    claimed_at: Timestamp,
}

read_from_row!(Row { number, fingerprint, order_id, answer, claimed_at });

/// The state of a key for the request that came with it.
#[derive(Debug)]
pub(super) enum Claimed {
    /// The request is the first one.
    First(Claim),
    /// The request is a repeat; this was the answer.
    Answered(Placed),
}

impl KeyStore {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    /// 422 if the key belongs to another request, 409 while the first one runs (§2.7 of the draft).
    pub(super) async fn claim(
        &self,
        customer_id: &str,
        key: &IdempotencyKey,
        request: &NewOrder,
    ) -> Result<Claimed> {
        let fingerprint = fingerprint(request)?;
        let now = Timestamp::now();
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM idempotency_keys WHERE claimed_at <= ?")
            .bind(now.before(KEPT_FOR))
            .execute(&mut *transaction)
            .await?;
        let found: Option<Row> = sqlx::query_as(
            "SELECT number, fingerprint, order_id, answer, claimed_at FROM idempotency_keys
             WHERE customer_id = ? AND key = ?",
        )
        .bind(customer_id)
        .bind(&key.0)
        .fetch_optional(&mut *transaction)
        .await?;
        let number = match found {
            Some(row) if row.fingerprint != fingerprint => return Err(reused()),
            Some(Row { order_id: Some(id), answer: Some(json), .. }) => {
                return Ok(Claimed::Answered(Placed { id, json }));
            }
            Some(row) if row.claimed_at > now.before(CLAIM_LASTS) => return Err(in_use()),
            // The first request died with the process that served it.
            Some(Row { number, .. }) => {
                sqlx::query("UPDATE idempotency_keys SET claimed_at = ? WHERE number = ?")
                    .bind(now)
                    .bind(number)
                    .execute(&mut *transaction)
                    .await?;
                number
            }
            None => {
                let number = sqlx::query_scalar(
                    "INSERT INTO idempotency_keys (customer_id, key, fingerprint, claimed_at)
                     VALUES (?, ?, ?, ?) RETURNING number",
                )
                .bind(customer_id)
                .bind(&key.0)
                .bind(fingerprint)
                .bind(now)
                .fetch_one(&mut *transaction)
                .await?;
                forget_oldest(&mut transaction, customer_id).await?;
                number
            }
        };
        transaction.commit().await?;
        Ok(Claimed::First(Claim { number, claimed_at: now }))
    }

    /// The key can be used again, also for another request.
    pub(super) async fn free(&self, claim: &Claim) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM idempotency_keys WHERE number = ? AND claimed_at = ? AND answer IS NULL")
            .bind(claim.number)
            .bind(claim.claimed_at)
            .execute(&self.database.writer)
            .await
            .map(|_| ())
    }
}

impl Claim {
    /// Keeps the answer. 409 if the claim has lapsed and another request has the key now.
    pub(super) async fn answer(
        &self,
        transaction: &mut Transaction<'_, Sqlite>,
        Placed { id, json }: &Placed,
    ) -> Result<()> {
        let kept = sqlx::query(
            "UPDATE idempotency_keys SET order_id = ?, answer = ?
             WHERE number = ? AND claimed_at = ? AND answer IS NULL",
        )
        .bind(id)
        .bind(json)
        .bind(self.number)
        .bind(self.claimed_at)
        .execute(&mut **transaction)
        .await?;
        if kept.rows_affected() == 1 { Ok(()) } else { Err(in_use()) }
    }
}

/// The draft leaves to the server what makes two requests the same; here it is what they mean, so white space and the
/// order of fields do not count.
fn fingerprint(request: &NewOrder) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(request).map_err(|error| Problem::internal(&error))?;
    Ok(digest(&SHA256, &text).as_ref().to_vec())
}

async fn forget_oldest(
    transaction: &mut Transaction<'_, Sqlite>,
    customer_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM idempotency_keys WHERE answer IS NOT NULL AND number IN
             (SELECT number FROM idempotency_keys WHERE customer_id = ? ORDER BY number DESC LIMIT -1 OFFSET ?)",
    )
    .bind(customer_id)
    .bind(KEYS_PER_CUSTOMER_MAX)
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "DELETE FROM idempotency_keys
         WHERE answer IS NOT NULL AND number <= (SELECT max(number) FROM idempotency_keys) - ?",
    )
    .bind(KEYS_MAX)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn reused() -> Problem {
    Problem::unprocessable(
        "idempotency_key_reused",
        "this Idempotency-Key came with another request before; take a new one",
    )
}

fn in_use() -> Problem {
    let detail = "the first request with this Idempotency-Key is not answered yet; try again";
    Problem::conflict("idempotency_key_in_use", detail).with_header(RETRY_AFTER, "1")
}

/// Clients commonly try again within this time.
const KEPT_FOR: Duration = Duration::from_hours(24);
/// Longer than an order can take ([`super::placing`]), and short for a client whose first request was killed.
const CLAIM_LASTS: Duration = Duration::from_secs(30);
/// A customer with more keys only loses their own oldest ones.
const KEYS_PER_CUSTOMER_MAX: i64 = 1000;
/// Some kilobytes each: this bounds the table to less than a gigabyte.
const KEYS_MAX: i64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::DatabaseLocation,
        orders::{NewItem, SCHEMA},
    };

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey(text.to_owned())
    }

    fn request(quantity: i64) -> NewOrder {
        let items = vec![NewItem { product_id: "p".to_owned(), quantity }];
        NewOrder { items, note: String::new(), shipping_address: String::new() }
    }

    async fn keys() -> KeyStore {
        KeyStore::new(Database::open(&DatabaseLocation::Memory, &SCHEMA).await.unwrap())
    }

    /// As if so much time had passed.
    async fn age(keys: &KeyStore, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap();
        let update = sqlx::query("UPDATE idempotency_keys SET claimed_at = claimed_at - ?").bind(by);
        update.execute(&keys.database.writer).await.unwrap();
    }

    #[tokio::test]
    async fn a_claim_whose_process_died_passes_to_the_repeat_and_the_late_answer_is_not_kept() {
        let keys = keys().await;
        let Claimed::First(dead) = keys.claim("ada", &key("k"), &request(1)).await.unwrap() else {
            panic!("the first");
        };
        age(&keys, CLAIM_LASTS / 2).await;
        let early = keys.claim("ada", &key("k"), &request(1)).await.unwrap_err();
        assert_eq!(early.code(), "idempotency_key_in_use");
        age(&keys, CLAIM_LASTS).await;
        let next = keys.claim("ada", &key("k"), &request(1)).await.unwrap();
        assert!(matches!(next, Claimed::First(_)), "{next:?}");
        keys.free(&dead).await.unwrap();
        let held = keys.claim("ada", &key("k"), &request(1)).await.unwrap_err();
        assert_eq!(held.code(), "idempotency_key_in_use");
    }

    #[tokio::test]
    async fn the_table_is_bounded_in_time_and_per_customer_and_in_all() {
        let keys = keys().await;
        let fill = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
             INSERT INTO idempotency_keys (customer_id, key, fingerprint, order_id, answer, claimed_at)
             SELECT CASE WHEN i % 10 = 0 THEN 'ada' ELSE i END, i, x'00', i, '{}', ? FROM n";
        let insert = sqlx::query(fill).bind(KEYS_MAX + 10).bind(Timestamp::now());
        insert.execute(&keys.database.writer).await.unwrap();
        let count = async |of: &'static str| -> i64 {
            sqlx::query_scalar(of).fetch_one(&keys.database.reader).await.unwrap()
        };
        keys.claim("ada", &key("new"), &request(1)).await.unwrap();
        let of_ada = "SELECT count(*) FROM idempotency_keys WHERE customer_id = 'ada'";
        assert_eq!(count(of_ada).await, KEYS_PER_CUSTOMER_MAX);
        assert!(count("SELECT max(number) - min(number) FROM idempotency_keys").await < KEYS_MAX);
        assert_eq!(count("SELECT count(*) FROM idempotency_keys WHERE key = 'new'").await, 1);
        age(&keys, KEPT_FOR).await;
        keys.claim("bob", &key("new"), &request(1)).await.unwrap();
        assert_eq!(count("SELECT count(*) FROM idempotency_keys").await, 1);
    }
}
