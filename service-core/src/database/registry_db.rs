//! [`RegistryDb`]: the registry's own work in its database, such as the leases of services.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, QueryResult, Statement};

use crate::database::config::watcher::TableWatcher;
use crate::database::direct::Spare;
use crate::database::error_kind::{ErrorKind, no_answer};
use crate::database::limited;
use crate::database::statement_monitor::StatementMonitor;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::wake::notifier::Notifier;
use crate::database::write_lock::WriteLock;
use crate::service::error::Result;

/// The database of a registry, for the registry's own work. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RegistryDb {
    pub(crate) watcher: Arc<TableWatcher>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) write_lock: WriteLock,
    pub(crate) monitor: Option<Arc<StatementMonitor>>,
}

impl RegistryDb {
    pub(crate) fn backend(&self) -> DbBackend {
        self.watcher.pool.db.get_database_backend()
    }

    /// Whether leases follow the registry's clock, not the database's.
    pub(crate) fn is_virtual(&self) -> bool {
        self.watcher.pool.is_virtual
    }

    /// Runs `work` on the services' pool, or on a connection of its own if the pool has none in time. The framework's
    /// tables exist.
    ///
    /// # Errors
    /// Those of `work`, which may be called several times; the database cannot be reached; or there is no answer within
    /// the limit.
    pub(crate) async fn run<T, F>(&self, limit: Duration, work: impl Fn(TxContext) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_on(&self.watcher.pool.for_replicas, limit, work).await
    }

    /// As [`run`](Self::run), on a connection that no other work uses.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) async fn renew<T, F>(&self, limit: Duration, work: impl Fn(TxContext) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.run_on(&self.watcher.pool.for_renewals, limit, work).await
    }

    async fn run_on<T, F>(&self, spare: &Spare, limit: Duration, work: impl Fn(TxContext) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = &work;
        let answer = self.watcher.pool.with_reserve(spare, limit, |db| async move {
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
            Ok(result) => {
                let kind = result.as_ref().err().and_then(ErrorKind::in_chain);
                if kind == Some(ErrorKind::Statement) {
                    // The framework's own statements fit its tables: the database may have been made anew.
                    self.watcher.availability.tables().forget();
                }
                result
            }
            Err(_) => Err(no_answer(limit)),
        }
    }

    /// Runs [`execute`](Self::execute).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) async fn write(&self, limit: Duration, build: impl Fn() -> Statement) -> Result<u64> {
        let build = &build;
        self.run(limit, |cx| async move { self.execute(&cx, limit, build).await }).await
    }

    /// Executes one statement that commits by itself, which takes one round trip on PostgreSQL. `build` makes it when
    /// it is about to be sent. If the future is dropped, the statement may still take effect later. Returns how many
    /// rows have changed. `limit` is that of the whole work.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn execute(
        &self,
        cx: &TxContext,
        limit: Duration,
        build: impl FnOnce() -> Statement,
    ) -> Result<u64> {
        if self.backend() == DbBackend::Postgres {
            // There is time left for another attempt.
            let lock_wait = limited::LOCK_WAIT.min(limit / 4);
            return Ok(limited::execute(&cx.db, lock_wait, &build()).await?);
        }
        // A transaction waits for its turn among SQLite's writers.
        let tx = Transaction::begin(cx).await?;
        let changed = tx.execute_raw(build()).await?.rows_affected();
        tx.commit().await?;
        Ok(changed)
    }

    /// Executes one query, with the limits of the registry's own statements.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn query(&self, cx: &TxContext, query: Statement) -> Result<Vec<QueryResult>> {
        let tx = self.watcher.pool.begin(&cx.db).await?;
        let rows = tx.query_all_raw(query).await?;
        limited::commit(tx).await?;
        Ok(rows)
    }

    fn context(&self, db: DatabaseConnection) -> TxContext {
        TxContext {
            pool_is_checked: self.watcher.pool.is_checked(),
            write_lock: self.write_lock.clone(),
            notifier: self.notifier.clone(),
            monitor: self.monitor.clone(),
            // Each transaction sets its level together with its limits.
            reads_committed: Arc::new(AtomicBool::new(true)),
            ..TxContext::new(db)
        }
    }
}
