//! Connections beside a pool. They find the cause of an error that the pool reports as a timeout, and they read the
//! framework's tables while services use all connections of the pool.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sea_orm::sqlx::Error as SqlxError;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::{ConnAcquireErr, ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr, RuntimeErr};

use crate::database::driver::PoolSize;
#[cfg(feature = "postgres")]
use crate::database::driver::postgres_pool;
#[cfg(feature = "sqlite")]
use crate::database::driver::sqlite_pool;
use crate::database::error_kind::ErrorKind;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::service::error::Error;
use crate::service::error::Result;

/// The limit of a direct connection.
const LIMIT: Duration = Duration::from_secs(5);

/// Opens one connection beside the services' pool.
#[derive(Clone, Debug)]
pub(crate) struct DirectConnection {
    options: ConnectOptions,
}

impl DirectConnection {
    /// Uses the options of the services' pool.
    pub(crate) fn new(mut options: ConnectOptions) -> Self {
        options.max_connections(1).min_connections(0).acquire_timeout(LIMIT).connect_timeout(LIMIT).connect_lazy(false);
        Self { options }
    }

    /// Runs `work` on a connection of its own, which is closed afterwards. `pool` is the services' pool.
    ///
    /// # Errors
    /// The connection cannot be opened, with the cause; or the error of `work`.
    pub(crate) async fn with<T, F>(
        &self,
        pool: &DatabaseConnection,
        work: impl Fn(DatabaseConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let own = self.open(pool).await?;
        let result = work(own.clone()).await;
        let _ = own.close().await;
        result
    }

    /// Opens the connection. `pool` is the services' pool.
    ///
    /// # Errors
    /// It cannot be opened, with the cause.
    pub(crate) async fn open(&self, pool: &DatabaseConnection) -> Result<DatabaseConnection> {
        cause(pool).await?;
        Ok(Database::connect(self.options.clone()).await?)
    }
}

/// One connection beside a pool that has none to spare. However many tasks need it, there is only one: they use it in
/// turn. It is closed when no task waits for it.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    /// The connection, between two tasks. Locked while a task uses it.
    kept: tokio::sync::Mutex<Option<DatabaseConnection>>,
    /// How many tasks wait for it.
    waiting: AtomicUsize,
}

impl Spare {
    /// Waits until no other task uses the connection.
    pub(crate) async fn turn(&self) -> SpareTurn<'_> {
        let waits = Waits::new(self);
        let kept = self.kept.lock().await;
        drop(waits);
        SpareTurn { spare: self, kept }
    }

    fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Drops the connection, unless a task uses it.
    fn drop_kept(&self) {
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = None;
        }
    }
}

/// The turn of a task at the connection.
pub(crate) struct SpareTurn<'a> {
    spare: &'a Spare,
    kept: tokio::sync::MutexGuard<'a, Option<DatabaseConnection>>,
}

impl SpareTurn<'_> {
    /// Runs `work` on the connection, which `open` opens if there is none.
    ///
    /// # Errors
    /// Those of `open` and of `work`.
    pub(crate) async fn run<T, F>(
        self,
        open: impl Future<Output = Result<DatabaseConnection>>,
        work: impl FnOnce(DatabaseConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let Self { spare, mut kept } = self;
        // If this future is dropped, the connection is dropped, too: it may be in any state.
        let own = match kept.take() {
            Some(own) => own,
            None => open.await?,
        };
        let result = work(own.clone()).await;
        let works = result.as_ref().err().and_then(ErrorKind::in_chain).is_none_or(|kind| !kind.is_unreachable());
        if works && spare.is_awaited() {
            *kept = Some(own);
            drop(kept);
            if !spare.is_awaited() {
                spare.drop_kept();
            }
        } else {
            // Before the next task opens another one.
            let _ = own.close().await;
        }
        result
    }
}

/// Counts a task that waits for the connection.
struct Waits<'a>(&'a Spare);

impl<'a> Waits<'a> {
    fn new(spare: &'a Spare) -> Self {
        spare.waiting.fetch_add(1, Ordering::SeqCst);
        Self(spare)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The connection may have been kept for this task, which does not use it.
            self.0.drop_kept();
        }
    }
}

/// A pool of one connection with the options of this pool. `None`: the driver is one of the application's, which cannot
/// be named here.
pub(crate) fn sibling(pool: &DatabaseConnection) -> Option<DatabaseConnection> {
    #[cfg(feature = "postgres")]
    if let Some(pool) = postgres_pool(pool) {
        return Some(sea_orm::SqlxPostgresConnector::from_sqlx_postgres_pool(small_pool(pool)));
    }
    #[cfg(feature = "sqlite")]
    if let Some(pool) = sqlite_pool(pool) {
        return Some(sea_orm::SqlxSqliteConnector::from_sqlx_sqlite_pool(small_pool(pool)));
    }
    let _ = pool;
    None
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn small_pool<DB: sea_orm::sqlx::Database>(pool: &sea_orm::sqlx::Pool<DB>) -> sea_orm::sqlx::Pool<DB> {
    let options = pool.options().clone().min_connections(0).max_connections(1).acquire_timeout(LIMIT);
    options.connect_lazy_with((*pool.connect_options()).clone())
}

/// Waits until the pool has an idle connection, so that the registry's queries open no further one: many processes may
/// share few connections. A pool without any connection opens its first.
pub(crate) async fn idle_connection(pool: &DatabaseConnection) {
    let must_wait = |size: PoolSize| match pool.get_database_backend() {
        DbBackend::Postgres => size.open > 0 && size.idle == 0,
        _ => size.is_exhausted(),
    };
    while PoolSize::of(pool).is_some_and(must_wait) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether both are the same pool; `false` if that is not known, because the driver is not one of this crate.
pub(crate) fn is_same_pool(a: &DatabaseConnection, b: &DatabaseConnection) -> bool {
    // A pool has its options once.
    #[cfg(feature = "postgres")]
    if let (Some(a), Some(b)) = (postgres_pool(a), postgres_pool(b)) {
        return Arc::ptr_eq(&a.connect_options(), &b.connect_options());
    }
    #[cfg(feature = "sqlite")]
    if let (Some(a), Some(b)) = (sqlite_pool(a), sqlite_pool(b)) {
        return Arc::ptr_eq(&a.connect_options(), &b.connect_options());
    }
    let _ = (a, b);
    false
}

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

/// Makes the idle connections of a PostgreSQL pool forget their prepared statements, because a table was changed.
/// Otherwise a statement that no longer fits would fail again on each of them. Without the feature of the pool's driver
/// it does nothing.
pub(crate) async fn forget_statements(pool: &DatabaseConnection) {
    #[cfg(feature = "postgres")]
    if let Some(pool) = postgres_pool(pool) {
        use sea_orm::sqlx::Connection;

        // All are taken first, because a connection that is returned would be taken again.
        let idle: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
        for mut connection in idle {
            let _ = tokio::time::timeout(LIMIT, connection.clear_cached_statements()).await;
        }
    }
    let _ = pool;
}

/// Connects once, to get the error of the server or the system. Without the feature of the pool's driver this finds
/// none.
async fn cause(pool: &DatabaseConnection) -> Result<()> {
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

/// Whether the PostgreSQL driver was compiled with TLS, by a feature of this crate or of the application. Without TLS
/// the driver refuses to connect before it sends anything.
#[cfg(feature = "postgres")]
pub(crate) async fn tls_is_compiled() -> bool {
    use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};
    use sea_orm::sqlx::{Connection, PgConnection};

    if cfg!(feature = "tls") {
        return true;
    }
    // A connection that is accepted and never answered.
    let Ok(listener) = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await else { return true };
    let Ok(address) = listener.local_addr() else { return true };
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(address.port());
    let options = options.ssl_mode(PgSslMode::Require);
    let connected = tokio::time::timeout(Duration::from_millis(500), PgConnection::connect_with(&options)).await;
    !matches!(connected, Ok(Err(SqlxError::Tls(_))))
}
