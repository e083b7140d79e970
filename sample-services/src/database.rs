//! One SQLite database per service.
//!
//! A file is opened in WAL mode with one connection that writes and a few that read, so writers queue in this
//! process instead of failing with `SQLITE_BUSY`; `busy_timeout` covers other processes on the same file.
//! An in-memory database lives as long as its only connection, which serves both purposes.

use std::{path::PathBuf, str::FromStr, time::Duration};

use sqlx::{
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

/// The place of a service's data: a file, or `:memory:`, which loses everything at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseLocation {
    Memory,
    File(PathBuf),
}

impl FromStr for DatabaseLocation {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == ":memory:" { Self::Memory } else { Self::File(text.into()) })
    }
}

/// Pools for reading and writing. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Database {
    pub reader: SqlitePool,
    pub writer: SqlitePool,
}

impl Database {
    /// Opens the database, creates it if it does not exist, and brings its schema up to date.
    pub async fn open(location: &DatabaseLocation, schema: &Migrator) -> anyhow::Result<Self> {
        let database = match location {
            DatabaseLocation::Memory => {
                // A second connection, or a new one after an idle time, would see another, empty database.
                let only = SqlitePoolOptions::new()
                    .min_connections(1)
                    .max_connections(1)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_with(SqliteConnectOptions::new().in_memory(true).foreign_keys(true))
                    .await?;
                Self { reader: only.clone(), writer: only }
            }
            DatabaseLocation::File(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .foreign_keys(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // Safe in WAL mode: a power cut may lose the last commits, never the database.
                    .synchronous(SqliteSynchronous::Normal)
                    .busy_timeout(BUSY_TIMEOUT);
                let writer =
                    SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
                let reader =
                    SqlitePoolOptions::new().max_connections(READERS_MAX).connect_with(options).await?;
                Self { reader, writer }
            }
        };
        schema.run(&database.writer).await?;
        Ok(database)
    }

    /// Checks that the database answers, for `/readyz`.
    pub async fn check(&self) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map(|_| ())
    }

    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Whether a statement failed because a value that must be unique exists already.
pub fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Enough for one page of disk waits on a small machine; further readers wait for a connection.
const READERS_MAX: u32 = 4;
/// How long a statement waits for another process that holds the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
