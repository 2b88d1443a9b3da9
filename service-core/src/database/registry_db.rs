//! [`RegistryDb`]: the registry's own work in its database, such as the leases of services.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, Statement};

use crate::database::config::watcher::{Reserve, TableWatcher};
use crate::database::error_kind::ErrorKind;
use crate::database::statement_monitor::StatementMonitor;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::wake::notifier::Notifier;
use crate::database::write_lock::WriteLock;
use crate::service::error::{Error, Result};

/// The wait after a conflict with another statement.
const CONTENTION_INTERVAL: Duration = Duration::from_millis(10);

/// The database of a registry, for the registry's own work. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RegistryDb {
    pub(crate) watcher: Arc<TableWatcher>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) write_lock: WriteLock,
    pub(crate) monitor: Option<Arc<StatementMonitor>>,
    pub(crate) is_virtual: bool,
}

impl RegistryDb {
    pub(crate) fn backend(&self) -> DbBackend {
        self.watcher.db.get_database_backend()
    }

    /// Runs `work` on the services' pool, or on a connection of its own if the pool has none in time. The framework's
    /// tables exist.
    ///
    /// # Errors
    /// Those of `work`, which may be called twice; the database cannot be reached; or there is no answer within the
    /// limit.
    pub(crate) async fn run<T, F>(&self, limit: Duration, work: impl Fn(TxContext) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_on(Reserve::Replicas, limit, work).await
    }

    /// As [`run`](Self::run), on a connection that no other work uses.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) async fn renew<T, F>(&self, limit: Duration, work: impl Fn(TxContext) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_on(Reserve::Renewals, limit, work).await
    }

    async fn run_on<T, F>(&self, reserve: Reserve, limit: Duration, work: impl Fn(TxContext) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = &work;
        let answer = self.watcher.with_reserve(reserve, limit, |db| async move {
            self.watcher.availability.tables().ensure(&db).await?;
            work(self.context(db)).await
        });
        let answer = async {
            match &self.monitor {
                Some(monitor) => monitor.own(answer).await,
                None => answer.await,
            }
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(result) => result,
            Err(_) => {
                let why = format!("no answer within {} s", limit.as_secs_f64());
                Err(Error::new(DbErr::Conn(RuntimeErr::Internal(why))))
            }
        }
    }

    /// Runs [`autocommit`](Self::autocommit).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) async fn write(&self, limit: Duration, build: impl Fn() -> Statement) -> Result<Vec<QueryResult>> {
        let build = &build;
        self.run(limit, |cx| async move { self.autocommit(&cx, build).await }).await
    }

    /// Executes one statement that commits by itself, which takes one round trip on PostgreSQL. `build` makes it when
    /// it is about to be sent, maybe several times. If the future is dropped, the statement may still take effect
    /// later.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn autocommit(
        &self,
        cx: &TxContext,
        mut build: impl FnMut() -> Statement,
    ) -> Result<Vec<QueryResult>> {
        if self.backend() != DbBackend::Postgres {
            // A transaction waits for its turn among SQLite's writers.
            let tx = Transaction::begin(cx).await?;
            let rows = tx.query_all_raw(build()).await?;
            tx.commit().await?;
            return Ok(rows);
        }
        loop {
            match cx.db.query_all_raw(build()).await {
                // The server's default isolation level may be SERIALIZABLE.
                Err(error) if ErrorKind::of(&error) == ErrorKind::Contention => {
                    tokio::time::sleep(CONTENTION_INTERVAL).await;
                }
                result => return Ok(result?),
            }
        }
    }

    fn context(&self, db: DatabaseConnection) -> TxContext {
        TxContext {
            pool_is_checked: self.watcher.pool_is_checked(),
            write_lock: self.write_lock.clone(),
            notifier: self.notifier.clone(),
            monitor: self.monitor.clone(),
            ..TxContext::new(db)
        }
    }
}
