//! SQLite connections that were left inside a transaction.
//!
//! The driver counts transactions. If SQLite rolls back by itself (disk full, I/O error), the driver's own `ROLLBACK`
//! fails and its count stays above 0. The next `BEGIN` on that connection becomes a savepoint, and what it writes is
//! never committed. Such a connection must not be used again.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use crate::database::error_kind::DbResult;

/// How many connections of a pool are tried.
const TRIES: usize = 20;

/// Begins an immediate transaction, on a connection that was not left inside another one.
pub(crate) async fn begin(db: &DatabaseConnection, pool_is_checked: bool) -> DbResult<DatabaseTransaction> {
    for _ in 0..TRIES {
        let tx = db.begin_with_options(immediate()).await?;
        if pool_is_checked {
            return Ok(tx);
        }
        let Some(depth) = savepoint(&tx).await else { return Ok(tx) };
        crate::log::warn!(
            "an error (such as a full disk) made SQLite roll back a transaction without the driver's knowledge; its connection \
             is not used again"
        );
        // Restores the driver's count, and leaves no transaction open.
        let _ = tx.execute_unprepared(&format!("ROLLBACK; SAVEPOINT {}", savepoint_name(depth))).await;
        discard(db, tx).await;
    }
    Err(DbErr::Custom(
        "20 connections of the pool in a row were still inside a transaction: reopen the pool, or restart the program"
            .to_owned(),
    ))
}

/// Ends a transaction that may have ended already. Afterwards, its connection is inside a transaction neither for
/// SQLite nor for the driver.
pub(crate) async fn restore(tx: DatabaseTransaction) {
    let _ = tx.execute_unprepared("ROLLBACK").await;
    // The kind of the transaction that the driver begins now shows how many transactions it counts.
    let Ok(next) = tx.begin().await else { return };
    match savepoint(&next).await {
        None => drop(next.rollback().await),
        Some(1) => {
            let _ = next.rollback().await;
            let _ = tx.rollback().await;
        }
        // A savepoint was lost. The connection cannot be used again, but no transaction stays open.
        Some(_) => drop(next.commit().await),
    }
}

/// Closes the pool's idle connections.
#[cfg(feature = "sqlite")]
pub(crate) async fn close_idle(db: &DatabaseConnection) {
    use sea_orm::sqlx::Connection;

    while let Some(connection) = crate::database::driver::sqlite_pool(db).and_then(|pool| pool.try_acquire()) {
        let _ = connection.detach().close_hard().await;
    }
}

/// Does nothing: closing a connection needs the type of the driver, which the application brings.
#[cfg(not(feature = "sqlite"))]
pub(crate) async fn close_idle(_db: &DatabaseConnection) {}

/// The number of transactions that the driver counted when this one began, if it counted any: then this one is a
/// savepoint, named by that number.
async fn savepoint(tx: &DatabaseTransaction) -> Option<u32> {
    for depth in 1..=3 {
        let rollback = format!("ROLLBACK TO SAVEPOINT {}", savepoint_name(depth));
        if tx.execute_unprepared(&rollback).await.is_ok() {
            return Some(depth);
        }
    }
    None
}

fn savepoint_name(depth: u32) -> String {
    format!("_sqlx_savepoint_{depth}")
}

fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

/// Closes the pool's connections that are inside a transaction for the driver.
#[cfg(feature = "sqlite")]
async fn discard(db: &DatabaseConnection, tx: DatabaseTransaction) {
    use sea_orm::sqlx::Connection;

    let _ = tx.commit().await;
    let pool = db.get_sqlite_connection_pool();
    let (mut usable, mut is_closed) = (Vec::new(), false);
    for _ in 0..TRIES {
        while let Some(connection) = pool.try_acquire() {
            if connection.is_in_transaction() {
                let _ = connection.detach().close_hard().await;
                is_closed = true;
            } else {
                usable.push(connection);
            }
        }
        if is_closed {
            return;
        }
        // The connection returns to the pool in a task of its own.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Keeps the connection out of the pool without closing it: that needs the type of the driver, which the application
/// brings.
#[cfg(not(feature = "sqlite"))]
async fn discard(_db: &DatabaseConnection, tx: DatabaseTransaction) {
    use crate::sync::Mutex;

    static UNUSABLE: Mutex<Vec<DatabaseTransaction>> = Mutex::new(Vec::new());
    UNUSABLE.lock().push(tx);
}
