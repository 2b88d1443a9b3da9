//! The station's tables, and their creation.
//!
//! `reading` and `delivery` hold work: their rows wait as `pending` and end as `completed` or `failed`. Every start
//! creates the tables that are missing.

pub mod daily;
pub mod delivery;
pub mod digest;
pub mod extreme;
pub mod imported_file;
pub mod monthly;
pub mod reading;
pub mod record;
pub mod rejected_line;

use sea_orm::sea_query::{Index, IndexCreateStatement};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, Schema, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};
use service_core::prelude::*;

/// The status of a row that waits to be processed.
pub const PENDING: &str = "pending";
/// The status of a row that was processed.
pub const COMPLETED: &str = "completed";
/// The status of a row that cannot be processed; the row has the reason.
pub const FAILED: &str = "failed";

/// Creates the tables and indexes that are missing. Many processes may do so at once.
pub async fn create(db: &DatabaseConnection) -> Result<()> {
    // Two processes at once would both find a table missing. An immediate transaction (SQLite) or a lock (PostgreSQL)
    // prevents that.
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let tx = db.begin_with_options(options).await?;
    if db.get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared("SELECT pg_advisory_xact_lock(hashtext('station.tables'))").await?;
        // The last of them: one transaction creates all. `CREATE INDEX IF NOT EXISTS` locks its table even if the index
        // exists, and such locks on several tables can deadlock with the transactions of a station that runs.
        let last = Statement::from_string(DbBackend::Postgres, "SELECT to_regclass('delivery_status') IS NOT NULL");
        if tx.query_one_raw(last).await?.map(|row| row.try_get_by_index(0)).transpose()? == Some(true) {
            return Ok(());
        }
    }
    table(&tx, imported_file::Entity).await?;
    table(&tx, rejected_line::Entity).await?;
    table(&tx, reading::Entity).await?;
    table(&tx, daily::Entity).await?;
    table(&tx, monthly::Entity).await?;
    table(&tx, record::Entity).await?;
    table(&tx, extreme::Entity).await?;
    table(&tx, digest::Entity).await?;
    table(&tx, delivery::Entity).await?;
    // At most one reading for each line of a file.
    let unique = index("reading_file_line").table(reading::Entity).unique().to_owned();
    add(&tx, unique.to_owned().col(reading::Column::FileId).col(reading::Column::Line).to_owned()).await?;
    // For `claim`: pending rows, oldest first.
    let claim = index("reading_status").table(reading::Entity).to_owned();
    add(&tx, claim.to_owned().col(reading::Column::Status).col(reading::Column::Id).to_owned()).await?;
    let claim = index("delivery_status").table(delivery::Entity).to_owned();
    add(&tx, claim.to_owned().col(delivery::Column::Status).col(delivery::Column::Id).to_owned()).await?;
    tx.commit().await?;
    Ok(())
}

async fn table(db: &impl ConnectionTrait, entity: impl EntityTrait) -> Result<(), DbErr> {
    let schema = Schema::new(db.get_database_backend());
    db.execute(schema.create_table_from_entity(entity).if_not_exists()).await?;
    for mut index in schema.create_index_from_entity(entity) {
        db.execute(index.if_not_exists()).await?;
    }
    Ok(())
}

fn index(name: &str) -> IndexCreateStatement {
    Index::create().if_not_exists().name(name).to_owned()
}

async fn add(db: &impl ConnectionTrait, index: IndexCreateStatement) -> Result<(), DbErr> {
    db.execute(&index).await.map(drop)
}
