//! The causes of errors that a pool reports as a timeout, and of those that a pooler before the server returns.

use std::sync::Arc;

use sea_orm::sqlx::Error as SqlxError;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::{ConnAcquireErr, DatabaseConnection, DbErr, RuntimeErr};

#[cfg(feature = "sqlite")]
use crate::database::driver::sqlite_pool;
#[cfg(feature = "postgres")]
use crate::database::driver::{LIMIT, postgres_pool};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::service::error::Error;
use crate::service::error::Result;

/// Whether [`explained`] can say more than the error.
pub(crate) fn can_be_explained(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => true,
        DbErr::Conn(RuntimeErr::SqlxError(error)) => is_protocol_violation(error),
        _ => false,
    }
}

/// Returns the cause of a pool's timeout, if a direct connection finds one, and adds advice to the refusal of a pooler.
/// Returns other errors unchanged.
pub(crate) async fn explained(pool: &DatabaseConnection, error: DbErr) -> DbErr {
    if !matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)) {
        return advised(error);
    }
    match cause(pool).await.err().and_then(|cause| cause.find::<DbErr>().cloned()) {
        Some(cause) => cause,
        None => error,
    }
}

/// Connects once, to get the error of the server or the system. Without the feature of the pool's driver this finds
/// none.
pub(super) async fn cause(pool: &DatabaseConnection) -> Result<()> {
    #[cfg(feature = "postgres")]
    if let Some(pool) = postgres_pool(pool) {
        use sea_orm::sqlx::{Connection, PgConnection};

        let options = pool.connect_options();
        let connection = tokio::time::timeout(LIMIT, PgConnection::connect_with(&options)).await;
        let connection = connection.map_err(|_| no_answer())?.map_err(failed)?;
        let _ = tokio::time::timeout(LIMIT, connection.close()).await;
    }
    #[cfg(feature = "sqlite")]
    if let Some(pool) = sqlite_pool(pool) {
        use sea_orm::sqlx::{Connection, SqliteConnection};

        let options = pool.connect_options();
        let connection = SqliteConnection::connect_with(&options).await.map_err(failed)?;
        let _ = connection.close().await;
    }
    let _ = pool;
    Ok(())
}

/// A connection that a pooler refused, because the driver sends a parameter that the pooler does not know. The advice
/// is part of the driver's error, so that it is shown wherever the error is shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}; if PgBouncer stands before the server, it needs `ignore_startup_parameters = extra_float_digits`")]
struct RefusedParameter(Arc<SqlxError>);

fn advised(error: DbErr) -> DbErr {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(source)) if is_protocol_violation(&source) => {
            let advised = SqlxError::Configuration(Box::new(RefusedParameter(source)));
            DbErr::Conn(RuntimeErr::SqlxError(Arc::new(advised)))
        }
        error => error,
    }
}

/// Whether the other side refused what the driver has sent.
fn is_protocol_violation(error: &SqlxError) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "08P01")
}

/// Whether a pooler refused the connection. Then the error contains the advice.
pub(crate) fn is_refused_parameter(error: &DbErr) -> bool {
    let DbErr::Conn(RuntimeErr::SqlxError(error)) = error else { return false };
    matches!(&**error, SqlxError::Configuration(cause) if cause.is::<RefusedParameter>())
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn failed(error: SqlxError) -> Error {
    Error::new(advised(DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))))
}

#[cfg(feature = "postgres")]
fn no_answer() -> Error {
    let why = format!("the server did not answer within {} s", LIMIT.as_secs());
    Error::new(DbErr::Conn(RuntimeErr::Internal(why)))
}
