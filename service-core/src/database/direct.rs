//! Connections beside a pool, for the registry's own work while services use all connections of the pool.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use sea_orm::{ConnectOptions, Database, DatabaseConnection};

use crate::database::driver::LIMIT;
#[cfg(feature = "postgres")]
use crate::database::driver::postgres_pool;
#[cfg(feature = "sqlite")]
use crate::database::driver::sqlite_pool;
use crate::database::error_kind::ErrorKind;
use crate::database::pool_error::cause;
use crate::service::error::Result;

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
        // The statements of a stale connection would fail again.
        let fails = |kind: ErrorKind| kind.is_unreachable() || kind == ErrorKind::StaleStatement;
        let works = !result.as_ref().err().and_then(ErrorKind::in_chain).is_some_and(fails);
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
