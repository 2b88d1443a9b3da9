//! The station's database: opened once, with every table in place before a service starts.

use std::time::Duration;

use sea_orm::sqlx::sqlite::SqliteJournalMode;
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr};

use crate::tables;

/// A file in the working directory, unless `DATABASE_URL` says otherwise.
const DEFAULT: &str = "sqlite://station.db?mode=rwc";

/// Opens the database and creates what is missing in it.
pub async fn open() -> Result<DatabaseConnection, DbErr> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| DEFAULT.to_owned());
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).min_connections(1).max_connections(4).map_sqlx_sqlite_opts(|sqlite| {
        // Readers and the writer do not wait for each other, and writers wait instead of failing.
        sqlite.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(10))
    });
    let db = Database::connect(options).await?;
    tables::create(&db).await?;
    Ok(db)
}
