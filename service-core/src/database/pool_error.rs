//! The causes of errors that a pool reports as a timeout, and of those that a pooler before the server returns.

use std::sync::Arc;

use sea_orm::sqlx::Error as SqlxError;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::{ConnAcquireErr, DatabaseConnection, DbErr, RuntimeErr};

#[cfg(feature = "sqlite")]
use crate::database::driver::sqlite_pool;
#[cfg(feature = "postgres")]
use crate::database::driver::{LIMIT, postgres_pool, tls_is_compiled};
use crate::service::error::{Error, Result};

/// Whether [`explained`] can say more than the error.
pub(crate) fn can_be_explained(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => true,
        DbErr::Conn(RuntimeErr::SqlxError(error)) => is_protocol_violation(error) || lacks_tls_advice(error),
        _ => false,
    }
}

/// Returns the cause of a pool's timeout, if a direct connection finds one, and adds advice to the refusal of a pooler,
/// and to the error of a connection that needs TLS. Returns other errors unchanged.
pub(crate) async fn explained(pool: &DatabaseConnection, error: DbErr) -> DbErr {
    if !matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)) {
        return advised(error).await;
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
        let connection = match connection.map_err(|_| no_answer())? {
            Ok(connection) => connection,
            Err(error) => return Err(failed(error).await),
        };
        let _ = tokio::time::timeout(LIMIT, connection.close()).await;
    }
    #[cfg(feature = "sqlite")]
    if let Some(pool) = sqlite_pool(pool) {
        use sea_orm::sqlx::{Connection, SqliteConnection};

        let options = pool.connect_options();
        match SqliteConnection::connect_with(&options).await {
            Ok(connection) => _ = connection.close().await,
            Err(error) => return Err(failed(error).await),
        }
    }
    let _ = pool;
    Ok(())
}

/// A connection that a pooler refused, because the driver sends a parameter that the pooler does not know. The advice
/// is part of the driver's error, so that it is shown wherever the error is shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}; if PgBouncer stands before the server, it needs `ignore_startup_parameters = extra_float_digits`")]
struct RefusedParameter(Arc<SqlxError>);

/// A connection that needs TLS, in a program without it. The advice is part of the driver's error, too.
#[derive(Debug, thiserror::Error)]
#[error("{0}; this program is built without TLS: enable the feature `tls` of service-core")]
struct MissingTls(Arc<SqlxError>);

/// Adds the advice on TLS to the error of a pool that the application has opened: no direct connection explains it.
pub(crate) async fn with_tls_advice<T>(result: Result<T>) -> Result<T> {
    let Err(error) = &result else { return result };
    match error.find::<DbErr>() {
        Some(source @ DbErr::Conn(RuntimeErr::SqlxError(cause))) if lacks_tls_advice(cause) => {
            Err(Error::new(advised(source.clone()).await))
        }
        _ => result,
    }
}

/// Whether a connection failed because of TLS, and the error has no advice yet.
fn lacks_tls_advice(error: &SqlxError) -> bool {
    matches!(error, SqlxError::Tls(cause) if !cause.is::<MissingTls>())
}

/// Whether this program is known to have no TLS.
async fn has_no_tls() -> bool {
    #[cfg(feature = "postgres")]
    return !tls_is_compiled().await;
    #[cfg(not(feature = "postgres"))]
    false
}

async fn advised(error: DbErr) -> DbErr {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(source)) if lacks_tls_advice(&source) && has_no_tls().await => {
            DbErr::Conn(RuntimeErr::SqlxError(Arc::new(SqlxError::Tls(Box::new(MissingTls(source))))))
        }
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
async fn failed(error: SqlxError) -> Error {
    Error::new(advised(DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))).await)
}

#[cfg(feature = "postgres")]
fn no_answer() -> Error {
    let why = format!("the server did not answer within {} s", LIMIT.as_secs());
    Error::new(DbErr::Conn(RuntimeErr::Internal(why)))
}

#[cfg(all(test, feature = "postgres", not(feature = "tls")))]
mod tests {
    use sea_orm::SqlxPostgresConnector;
    use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

    use super::*;
    use crate::database::error_kind::ErrorKind;
    use crate::database::registry_pool::RegistryPool;

    /// The options of the URL do not show it.
    #[tokio::test]
    async fn a_pool_that_needs_tls_names_the_feature() {
        // The driver connects, and refuses before it sends anything.
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).ssl_mode(PgSslMode::Require);
        let pool = PgPoolOptions::new().connect_lazy_with(options);
        let db = SqlxPostgresConnector::from_sqlx_postgres_pool(pool);
        let names_it = |error: &Error| format!("{error:#}").matches("the feature `tls`").count() == 1;
        let error = db.ping().await.unwrap_err();
        assert!(can_be_explained(&error), "{error}");
        let error = Error::new(explained(&db, error).await);
        assert!(names_it(&error) && ErrorKind::in_chain(&error) == Some(ErrorKind::ConnectionLost), "{error:#}");
        let error = cause(&db).await.unwrap_err();
        assert!(names_it(&error), "{error:#}");
        let pool = RegistryPool::new(db, None, false, None);
        let error = pool.with_db(|db| async move { Ok(db.ping().await?) }).await.unwrap_err();
        assert!(names_it(&error), "{error:#}");
    }
}
