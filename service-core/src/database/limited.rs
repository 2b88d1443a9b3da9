//! Limits of the registry's own statements on PostgreSQL, which no service waits for.
//!
//! Another session may lock a table or a row for hours. A statement whose future is dropped goes on at the server and
//! keeps its connection: without a limit there, each try would take one more connection from the services.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseExecutor, DatabaseTransaction, DbBackend, Statement,
    TransactionOptions, TransactionTrait,
};

use crate::database::error_kind::DbResult;
use crate::database::uncancelled::Uncancelled;

/// How long a statement waits for a lock. Short enough for two waits within the time that work has on the pool.
pub(crate) const LOCK_WAIT: Duration = Duration::from_millis(500);

/// Before a statement on PostgreSQL: how long it waits for a lock that keeps out readers, or that another session may
/// hold for hours.
pub(crate) const SHORT_LOCK_WAIT: &str = "SET LOCAL lock_timeout = '2s'; ";

/// The statements that set the limits, and an isolation level at which nothing fails because of other transactions.
/// They stand first in a transaction. PostgreSQL ends one whose process has been silent for 5 s, such as on a machine
/// without power: it has locked rows that other replicas need.
pub(crate) fn limits(lock_wait: Duration) -> String {
    format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}; \
         SET LOCAL statement_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '5s'; ",
        lock_wait.as_millis().max(1)
    )
}

/// Begins a transaction with these limits. On SQLite there is none: a reader waits for no lock, and each statement
/// commits by itself.
///
/// # Errors
/// The database's.
pub(crate) async fn begin(db: &DatabaseConnection) -> DbResult<DatabaseExecutor<'_>> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(db.into());
    }
    let tx = begin_uncancelled(db, TransactionOptions::default()).await?;
    tx.execute_unprepared(&limits(LOCK_WAIT)).await?;
    Ok(DatabaseExecutor::OwnedTransaction(tx))
}

/// Commits what [`begin`] has begun.
///
/// # Errors
/// The database's.
pub(crate) async fn commit(executor: DatabaseExecutor<'_>) -> DbResult<()> {
    match executor {
        DatabaseExecutor::OwnedTransaction(tx) => tx.commit().await,
        DatabaseExecutor::Connection(_) | DatabaseExecutor::Transaction(_) => Ok(()),
    }
}

/// Executes one statement with these limits on PostgreSQL, in one round trip: a text of several statements is a
/// transaction. Returns how many rows have changed.
///
/// # Errors
/// The database's.
pub(crate) async fn execute(db: &DatabaseConnection, lock_wait: Duration, statement: &Statement) -> DbResult<u64> {
    // Parameters need a statement of their own. So the values are in the text, quoted by the query builder.
    Ok(db.execute_unprepared(&format!("{}{statement}", limits(lock_wait))).await?.rows_affected())
}

/// Begins a transaction on PostgreSQL. If it were cancelled after `BEGIN` was sent, the connection would stay inside a
/// transaction without the driver's knowledge, and what is written on it later would be lost.
///
/// # Errors
/// The database's.
pub(crate) async fn begin_uncancelled(
    db: &DatabaseConnection,
    options: TransactionOptions,
) -> DbResult<DatabaseTransaction> {
    let db = db.clone();
    Uncancelled::new(async move { db.begin_with_options(options).await }).await
}
