//! What kind of failure a database error is.
//!
//! The application may bring the driver, so this file reads the message's text.

use sea_orm::DbErr;

use crate::service::error::Error;

/// SQLite: another connection holds the lock. A retry can succeed.
pub(crate) fn is_busy(error: &DbErr) -> bool {
    let text = error.to_string();
    text.contains("database is locked")
        || text.contains("database table is locked")
        || text.contains("database schema is locked")
}

/// Another transaction blocks this one. A retry can succeed.
pub(crate) fn is_contended(error: &DbErr) -> bool {
    let text = error.to_string();
    is_busy(error) || is_deadlock(error) || text.contains("lock timeout") || text.contains("could not serialize access")
}

/// PostgreSQL ended this transaction because two transactions waited for each other.
pub(crate) fn is_deadlock(error: &DbErr) -> bool {
    error.to_string().contains("deadlock detected")
}

/// The connection broke, or none could be opened. The statement is not the cause.
pub(crate) fn is_connection_lost(error: &DbErr) -> bool {
    if matches!(error, DbErr::Conn(_) | DbErr::ConnectionAcquire(_)) {
        return true;
    }
    let text = error.to_string();
    [
        "error communicating with database",
        "terminating connection",
        "the database system is",
        "closed pool",
        "unexpected or invalid data",
        "background worker crashed",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// Whether an error anywhere in this chain says that the database could not be reached.
pub(crate) fn is_out_of_reach(error: &Error) -> bool {
    error.find::<DbErr>().is_some_and(is_connection_lost)
}

/// SQLite: an error after which SQLite may have rolled back the whole transaction, not the statement alone.
pub(crate) fn ends_sqlite_transaction(error: &DbErr) -> bool {
    let text = error.to_string();
    ["disk is full", "disk I/O error", "out of memory", "interrupted", "malformed"]
        .iter()
        .any(|sign| text.contains(sign))
}
