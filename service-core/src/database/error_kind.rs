//! [`ErrorKind`]: the cause of a database error.
//!
//! It is derived from codes, never from the text: SQLSTATE on PostgreSQL, result codes on SQLite. The text can contain
//! words of the user's data, and servers answer in many languages.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::Error as SqlxError;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};

use crate::service::error::Error;

/// A result whose error is sea-orm's.
pub(crate) type DbResult<T> = Result<T, DbErr>;

/// The cause of a database error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ErrorKind {
    /// The connection broke, or none could be opened.
    ConnectionLost,
    /// No connection of the pool became free in time. The database may be down, or the pool may be exhausted.
    PoolTimeout,
    /// The database answers, but cannot do any work now: read-only, disk full, I/O error, no memory, too many clients.
    Unavailable,
    /// A conflict with another transaction: a deadlock, a lock timeout, a serialization failure. A retry can succeed.
    Contention,
    /// A statement of the framework took longer than the server or the role allows for a statement. A retry can
    /// succeed.
    TimedOut,
    /// A prepared statement of this connection no longer fits the table, because the table was changed.
    StaleStatement,
    /// The statement or its data.
    Statement,
}

impl ErrorKind {
    /// The kind of a database error.
    pub(crate) fn of(error: &DbErr) -> Self {
        match error {
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => Self::PoolTimeout,
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => of_sqlx(error),
            DbErr::Conn(RuntimeErr::SqlxError(error)) => match of_sqlx(error) {
                // No statement was sent: the server did not accept the connection.
                Self::Statement => Self::ConnectionLost,
                kind => kind,
            },
            DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Self::ConnectionLost,
            _ => Self::Statement,
        }
    }

    /// The kind of an error that the user's code may have caused. A statement that PostgreSQL does not support has the
    /// code of a stale one, and is a mistake of that code: it is never going to succeed.
    pub(crate) fn of_user(error: &DbErr) -> Self {
        if is_unsupported(error) { Self::Statement } else { Self::of(error) }
    }

    /// The kind of an error of a statement that the framework itself sends: a limit on the time of statements is no
    /// fault of the row.
    pub(crate) fn of_own(error: &DbErr) -> Self {
        if Self::has_code(error, "57014") { Self::TimedOut } else { Self::of(error) }
    }

    /// Whether the statement waited for another transaction, or took too long, so that it is sent again later.
    pub(crate) fn is_wait(self) -> bool {
        matches!(self, Self::Contention | Self::TimedOut)
    }

    /// Whether a statement that the framework itself has sent waited for a lock, or took longer than the server or the
    /// role allows.
    pub(crate) fn is_own_wait(error: &Error) -> bool {
        error.find::<DbErr>().map(Self::of_own).is_some_and(Self::is_wait)
    }

    /// The kind of the first database error in a chain; `None` if there is none.
    pub(crate) fn in_chain(error: &Error) -> Option<Self> {
        error.find::<DbErr>().map(Self::of)
    }

    /// As [`in_chain`](Self::in_chain), for an error that the user's code may have caused.
    pub(crate) fn of_user_in_chain(error: &Error) -> Option<Self> {
        error.find::<DbErr>().map(Self::of_user)
    }

    /// Whether the database gave this code.
    pub(crate) fn has_code(error: &DbErr, code: &str) -> bool {
        code_of(error).is_some_and(|found| found == code)
    }

    /// Whether the cause is not the statement, so that the same statement may succeed later.
    pub(crate) fn is_passing(self) -> bool {
        self != Self::Statement
    }

    /// Whether there was no connection.
    pub(crate) fn is_unreachable(self) -> bool {
        matches!(self, Self::ConnectionLost | Self::PoolTimeout)
    }

    /// Whether the database may be down.
    pub(crate) fn is_outage(self) -> bool {
        matches!(self, Self::ConnectionLost | Self::PoolTimeout | Self::Unavailable)
    }
}

/// The code that the database gave.
fn code_of(error: &DbErr) -> Option<Cow<'_, str>> {
    database_error(error).and_then(DatabaseError::code)
}

/// What the database answered, if it did.
fn database_error(error: &DbErr) -> Option<&dyn DatabaseError> {
    let (DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    error.as_database_error()
}

/// Whether PostgreSQL refuses a statement because it does not support it. A prepared statement that no longer fits its
/// table has the same code: only the server's routine, whose name no language changes, distinguishes them. With another
/// driver the routine is not known.
fn is_unsupported(error: &DbErr) -> bool {
    #[cfg(feature = "postgres")]
    if ErrorKind::has_code(error, "0A000") {
        let error = database_error(error).and_then(|error| error.try_downcast_ref());
        let routine = error.and_then(sea_orm::sqlx::postgres::PgDatabaseError::routine);
        return routine.is_some_and(|routine| routine != "RevalidateCachedQuery");
    }
    let _ = error;
    false
}

/// SQLite's write lock was not free in time.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct LockTimeout(String);

/// The error of a transaction that could not begin because another connection held SQLite's write lock for too long.
pub(crate) fn lock_timeout(message: String) -> DbErr {
    let cause = std::io::Error::new(std::io::ErrorKind::TimedOut, LockTimeout(message));
    DbErr::Exec(RuntimeErr::SqlxError(Arc::new(SqlxError::Io(cause))))
}

/// The error of a database that has not answered within this time: it counts as an outage.
pub(crate) fn no_answer(limit: Duration) -> Error {
    let why = format!("no answer within {} s", limit.as_secs_f64());
    Error::new(DbErr::Conn(RuntimeErr::Internal(why)))
}

/// Whether it is the error of [`lock_timeout`].
pub(crate) fn is_lock_timeout(error: &DbErr) -> bool {
    let DbErr::Exec(RuntimeErr::SqlxError(error)) = error else { return false };
    matches!(&**error, SqlxError::Io(cause) if is_lock_timeout_io(cause))
}

fn is_lock_timeout_io(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<LockTimeout>())
}

fn of_sqlx(error: &SqlxError) -> ErrorKind {
    match error {
        SqlxError::Database(error) => of_database(&**error),
        SqlxError::Io(error) if is_lock_timeout_io(error) => ErrorKind::Contention,
        SqlxError::PoolTimedOut => ErrorKind::PoolTimeout,
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::Protocol(_)
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed
        | SqlxError::BeginFailed => ErrorKind::ConnectionLost,
        _ => ErrorKind::Statement,
    }
}

fn of_database(error: &dyn DatabaseError) -> ErrorKind {
    let code = error.code();
    let code = code.as_deref().unwrap_or_default();
    // SQLite's codes are numbers of one to four digits, SQLSTATE has five characters.
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => of_sqlite(number),
        _ => of_sqlstate(code),
    }
}

fn of_sqlstate(code: &str) -> ErrorKind {
    match code {
        // The server ends the connection: a limit on idle transactions or sessions, or a shutdown.
        "25P03" | "25P04" | "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => ErrorKind::ConnectionLost,
        // A read-only server, for example a demoted primary.
        "25006" => ErrorKind::Unavailable,
        "40002" => ErrorKind::Statement,
        "55P03" => ErrorKind::Contention,
        // A limit of this statement or session, not of the server.
        "53400" => ErrorKind::Statement,
        "0A000" | "26000" | "42P05" => ErrorKind::StaleStatement,
        "XX001" | "XX002" => ErrorKind::Unavailable,
        _ => match code.get(..2) {
            Some("08") => ErrorKind::ConnectionLost,
            Some("40") => ErrorKind::Contention,
            Some("53" | "58") => ErrorKind::Unavailable,
            _ => ErrorKind::Statement,
        },
    }
}

fn of_sqlite(code: u32) -> ErrorKind {
    // SQLITE_CORRUPT_VTAB: the data does not fit a virtual table, such as a full-text index.
    if code == 267 {
        return ErrorKind::Statement;
    }
    match code & 0xff {
        // SQLITE_BUSY, SQLITE_LOCKED
        5 | 6 => ErrorKind::Contention,
        // SQLITE_NOMEM, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _PROTOCOL, _NOTADB
        7 | 8 | 10 | 11 | 13 | 14 | 15 | 26 => ErrorKind::Unavailable,
        // SQLITE_SCHEMA
        17 => ErrorKind::StaleStatement,
        _ => ErrorKind::Statement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_not_free_in_time_is_contention() {
        let error = lock_timeout("the lock was not free within 60 s".to_owned());
        assert!(is_lock_timeout(&error) && ErrorKind::of(&error) == ErrorKind::Contention);
        assert!(error.to_string().ends_with("the lock was not free within 60 s"), "{error}");
        let other = DbErr::Exec(RuntimeErr::SqlxError(Arc::new(SqlxError::Io(std::io::ErrorKind::TimedOut.into()))));
        assert!(!is_lock_timeout(&other) && ErrorKind::of(&other) == ErrorKind::ConnectionLost);
    }

    #[test]
    fn sqlstates_have_kinds() {
        for (codes, kind) in [
            (["08006", "57P01", "25P03"].as_slice(), ErrorKind::ConnectionLost),
            (&["25006", "53100", "53300", "58030"], ErrorKind::Unavailable),
            (&["40001", "40P01", "55P03"], ErrorKind::Contention),
            (&["0A000"], ErrorKind::StaleStatement),
            (&["23505", "23503", "22P02", "42P01", "57014", "53400", "40002", "P0001", ""], ErrorKind::Statement),
        ] {
            for code in codes {
                assert_eq!(of_sqlstate(code), kind, "{code}");
            }
        }
    }

    #[test]
    fn extended_codes_of_sqlite_have_the_kind_of_their_primary_code() {
        for (codes, kind) in [
            ([5, 261, 517, 6, 262].as_slice(), ErrorKind::Contention),
            (&[13, 10, 266, 778, 7, 8, 1032, 14, 11], ErrorKind::Unavailable),
            (&[17], ErrorKind::StaleStatement),
            (&[1, 9, 19, 267, 787, 1555, 1811, 2067], ErrorKind::Statement),
        ] {
            for code in codes {
                assert_eq!(of_sqlite(*code), kind, "{code}");
            }
        }
    }
}
