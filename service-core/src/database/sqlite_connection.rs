//! SQLite connections that were left inside a transaction.
//!
//! The driver counts transactions. If SQLite rolls back by itself (disk full, I/O error), the driver's own `ROLLBACK` fails and
//! its count stays above 0. The next `BEGIN` on that connection becomes a savepoint, and what it writes is never
//! committed. Such a connection must not be used again.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

/// How many connections in a row may be found unusable.
const TRIES: usize = 20;

/// Begins an immediate transaction, on a connection that was not left inside another one.
pub(crate) async fn begin(db: &DatabaseConnection, pool_is_checked: bool) -> Result<DatabaseTransaction, DbErr> {
    for _ in 0..TRIES {
        let tx = db.begin_with_options(immediate()).await?;
        if pool_is_checked || tx.execute_unprepared("ROLLBACK TO SAVEPOINT _sqlx_savepoint_1").await.is_err() {
            // There is no such savepoint, so this is a transaction of its own.
            return Ok(tx);
        }
        crate::log::warn!(
            "a connection of the registry's pool was left inside a transaction, after an error that SQLite ended the transaction \
             for; the connection is discarded"
        );
        let _ = tx.execute_unprepared("ROLLBACK").await;
        discard(db, tx).await;
    }
    Err(DbErr::Custom("the pool's connections were left inside transactions: open the pool again".to_owned()))
}

fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

/// Closes the pool's connections that the driver believes to be inside a transaction.
#[cfg(feature = "sqlite")]
async fn discard(db: &DatabaseConnection, tx: DatabaseTransaction) {
    use sea_orm::sqlx::Connection;

    drop(tx);
    // The connection returns to the pool in a task of its own.
    tokio::task::yield_now().await;
    let pool = db.get_sqlite_connection_pool();
    let mut usable = Vec::new();
    while let Some(connection) = pool.try_acquire() {
        if connection.is_in_transaction() {
            let _ = connection.detach().close_hard().await;
        } else {
            usable.push(connection);
        }
    }
}

/// Keeps the connection out of the pool, as the application's driver cannot be named here to close it.
#[cfg(not(feature = "sqlite"))]
async fn discard(_db: &DatabaseConnection, tx: DatabaseTransaction) {
    use std::sync::{Mutex, PoisonError};

    static UNUSABLE: Mutex<Vec<DatabaseTransaction>> = Mutex::new(Vec::new());
    UNUSABLE.lock().unwrap_or_else(PoisonError::into_inner).push(tx);
}
