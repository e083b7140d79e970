//! Accounts in SQLite.

use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;

use super::model::{NewUser, User, UserInput, canonical_email};
use crate::{
    database::Database,
    http::{Page, PageQuery, Result, Role},
    timestamp::Timestamp,
};

#[derive(Debug, Clone)]
pub(super) struct UserStore {
    database: Database,
}

impl UserStore {
    pub(super) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) async fn insert(&self, user: &NewUser, password_hash: &str) -> Result<User, sqlx::Error> {
        let now = Timestamp::now();
        sqlx::query_as(
            "INSERT INTO users (id, email, name, role, password_hash, created_at, updated_at)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             RETURNING id, email, name, role, version, created_at, updated_at",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(canonical_email(&user.email))
        .bind(&user.name)
        .bind(Role::Customer)
        .bind(password_hash)
        .bind(now)
        .bind(now)
        .fetch_one(&self.database.writer)
        .await
    }

    pub(super) async fn find(&self, id: &str) -> Result<Option<User>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, email, name, role, version, created_at, updated_at FROM users WHERE id = ?",
        )
        .bind(id)
        .fetch_optional(&self.database.reader)
        .await
    }

    /// The account behind an address, with the hash that its password must match.
    pub(super) async fn find_for_login(&self, email: &str) -> Result<Option<(User, String)>, sqlx::Error> {
        let email = canonical_email(email);
        let hash: Option<(String, String)> =
            sqlx::query_as("SELECT id, password_hash FROM users WHERE email = ?")
                .bind(email)
                .fetch_optional(&self.database.reader)
                .await?;
        let Some((id, hash)) = hash else { return Ok(None) };
        Ok(self.find(&id).await?.map(|user| (user, hash)))
    }

    /// `email` limits the list to the account with that address.
    pub(super) async fn list(&self, email: Option<&str>, page: &PageQuery) -> Result<Page<User>> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, email, name, role, version, created_at, updated_at FROM users WHERE 1 = 1",
        );
        if let Some(email) = email {
            query.push(" AND email = ").push_bind(canonical_email(email));
        }
        page.fetch(query, &self.database.reader).await
    }

    /// `None` if the account is not at `version` any more. Without a new hash, the old one stays.
    pub(super) async fn replace(
        &self,
        id: &str,
        version: i64,
        input: &UserInput,
        password_hash: Option<&str>,
    ) -> Result<Option<User>, sqlx::Error> {
        sqlx::query_as(
            "UPDATE users
             SET email = ?, name = ?, role = ?, password_hash = coalesce(?, password_hash),
                 version = version + 1, updated_at = ?
             WHERE id = ? AND version = ?
             RETURNING id, email, name, role, version, created_at, updated_at",
        )
        .bind(canonical_email(&input.email))
        .bind(&input.name)
        .bind(input.role)
        .bind(password_hash)
        .bind(Timestamp::now())
        .bind(id)
        .bind(version)
        .fetch_optional(&self.database.writer)
        .await
    }

    /// `false` if the account is not at `version` any more.
    pub(super) async fn remove(&self, id: &str, version: i64) -> Result<bool, sqlx::Error> {
        let done = sqlx::query("DELETE FROM users WHERE id = ? AND version = ?")
            .bind(id)
            .bind(version)
            .execute(&self.database.writer)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
