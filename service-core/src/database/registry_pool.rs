//! [`RegistryPool`]: the services' pool, as the registry uses it for its own work.
//!
//! The tricky part is a pool whose connections are all in use: the registry's own queries do not wait for it, and go on
//! on a connection beside it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DatabaseExecutor, DbBackend};
use tokio::time::{Instant, timeout_at};

use crate::database::direct::{DirectConnection, Spare, sibling};
use crate::database::driver::{PoolSize, forget_statements, idle_connection};
use crate::database::error_kind::ErrorKind;
use crate::database::limited;
use crate::database::pool_error::with_tls_advice;
use crate::database::statement_monitor::StatementMonitor;
use crate::service::error::Result;

/// How long a poll waits for the services' pool before it opens a connection of its own.
const POOL_LIMIT: Duration = Duration::from_secs(1);
/// How long the registry's own work may take on the services' pool, with the wait. A slow network is no outage.
const WORK_LIMIT: Duration = Duration::from_secs(2);
/// How long work waits for the connection beside the pool, before it opens a further one: another task may wait for a
/// row.
const SPARE_LIMIT: Duration = Duration::from_secs(5);

/// How often work is tried in all, if prepared statements no longer fit their tables.
const STALE_TRIES: u32 = 3;
/// How long a connection takes to return to the pool. It may be busy for longer.
const RETURN_LIMIT: Duration = Duration::from_millis(100);
/// The time between two checks whether it has returned.
const RETURN_CHECK: Duration = Duration::from_millis(5);

/// The services' pool, and connections beside it for the registry's own work.
#[derive(Debug)]
pub(crate) struct RegistryPool {
    /// The services' pool.
    pub(crate) db: DatabaseConnection,
    /// Opens a connection beside the pool, if the pool has no connection in time.
    direct: Option<DirectConnection>,
    /// Leases and overrides follow the registry's clock, not the database's.
    pub(crate) is_virtual: bool,
    /// Only on virtual time.
    pub(crate) monitor: Option<Arc<StatementMonitor>>,
    /// The connections beside the pool, if the pool has none in time. Several, because neither the renewal of leases
    /// nor a poll may wait for work that waits for a row.
    pub(crate) for_polls: Spare,
    /// For the renewal of leases.
    pub(crate) for_renewals: Spare,
    /// For what else replicas do: takeovers, releases, requests.
    pub(crate) for_replicas: Spare,
    for_others: Spare,
}

impl RegistryPool {
    pub(crate) fn new(
        db: DatabaseConnection,
        direct: Option<DirectConnection>,
        is_virtual: bool,
        monitor: Option<Arc<StatementMonitor>>,
    ) -> Self {
        Self {
            db,
            direct,
            is_virtual,
            monitor,
            for_polls: Spare::default(),
            for_renewals: Spare::default(),
            for_replicas: Spare::default(),
            for_others: Spare::default(),
        }
    }

    /// Whether the registry can open a connection beside the pool, and so tell an exhausted pool from a database that
    /// is down.
    pub(crate) fn has_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Whether the registry only has the services' pool, on SQLite.
    pub(crate) fn shares_sqlite(&self) -> bool {
        self.direct.is_none() && self.db.get_database_backend() == DbBackend::Sqlite
    }

    /// Whether the pool closes SQLite connections that were left inside a transaction. Pools that this crate opened do.
    pub(crate) fn is_checked(&self) -> bool {
        cfg!(feature = "sqlite") && self.direct.is_some()
    }

    /// Runs the registry's own queries on the services' pool. If the pool has no connection in time, runs them on a
    /// connection of its own, which is closed afterwards. So a service that uses all connections does not block the
    /// registry, and the registry keeps no connection.
    ///
    /// # Errors
    /// Those of `work`, which may be called several times; or the database cannot be reached, with the cause.
    pub(crate) async fn with_db<T, F>(&self, work: impl Fn(DatabaseConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.with_spare(&self.for_others, work).await
    }

    /// As [`with_db`](Self::with_db), with this connection beside the pool.
    ///
    /// # Errors
    /// As for [`with_db`](Self::with_db).
    pub(crate) async fn with_spare<T, F>(&self, spare: &Spare, work: impl Fn(DatabaseConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.prepared_again(|| self.once_with_spare(spare, &work)).await
    }

    async fn once_with_spare<T, F>(&self, spare: &Spare, work: impl Fn(DatabaseConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        if let Some(monitor) = &self.monitor {
            monitor.check()?;
        }
        let Some(direct) = &self.direct else { return with_tls_advice(work(self.db.clone()).await).await };
        match self.on_pool(POOL_LIMIT, WORK_LIMIT, &work).await {
            Some(Err(error)) if ErrorKind::in_chain(&error).is_some_and(ErrorKind::is_unreachable) => {}
            Some(result) => return result,
            None => {}
        }
        match tokio::time::timeout(SPARE_LIMIT, spare.turn()).await {
            Ok(turn) => turn.run(direct.open(&self.db), work).await,
            Err(_) => direct.with(&self.db, work).await,
        }
    }

    /// As [`with_db`](Self::with_db), for a query that may take seconds: it takes no connection from the services, if
    /// the registry can open one of its own.
    ///
    /// # Errors
    /// As for [`with_db`](Self::with_db).
    pub(crate) async fn with_own<T, F>(&self, work: impl Fn(DatabaseConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match &self.direct {
            Some(direct) if self.monitor.is_none() => direct.with(&self.db, work).await,
            _ => self.with_db(work).await,
        }
    }

    /// As [`with_db`](Self::with_db), for work that must not wait for services, nor for other work of the registry: the
    /// pool has no more than two thirds of `limit`, and no more than one third if it is exhausted. A pool that the
    /// application has opened gets a connection beside it, too.
    ///
    /// # Errors
    /// As for [`with_db`](Self::with_db).
    pub(crate) async fn with_reserve<T, F>(
        &self,
        spare: &Spare,
        limit: Duration,
        work: impl Fn(DatabaseConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        // On virtual time, every statement has to be seen on the pool.
        if self.monitor.is_some() {
            return self.with_db(work).await;
        }
        self.prepared_again(|| self.once_with_reserve(spare, limit, &work)).await
    }

    async fn once_with_reserve<T, F>(
        &self,
        spare: &Spare,
        limit: Duration,
        work: impl Fn(DatabaseConnection) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        match (self.on_pool(POOL_LIMIT.min(limit / 3), limit / 3 * 2, &work).await, &self.direct) {
            (Some(Err(error)), Some(_)) if ErrorKind::in_chain(&error).is_some_and(ErrorKind::is_unreachable) => {}
            (Some(result), _) => return result,
            (None, _) => {}
        }
        if let Some(direct) = &self.direct {
            return spare.turn().await.run(direct.open(&self.db), work).await;
        }
        match sibling(&self.db) {
            Some(own) => spare.turn().await.run(std::future::ready(Ok(own)), work).await,
            None => work(self.db.clone()).await,
        }
    }

    /// Runs `work` again if a prepared statement no longer fits its table, because the table was changed while the
    /// program runs. Before that, the idle connections of the pool forget their statements.
    async fn prepared_again<T, F>(&self, work: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for _ in 1..STALE_TRIES {
            match work().await {
                Err(error) if ErrorKind::in_chain(&error) == Some(ErrorKind::StaleStatement) => {}
                result => return result,
            }
            // The connection of this statement is on its way back to the pool.
            let are_idle = async {
                while PoolSize::of(&self.db).is_some_and(|size| size.idle < size.open) {
                    tokio::time::sleep(RETURN_CHECK).await;
                }
            };
            let _ = tokio::time::timeout(RETURN_LIMIT, are_idle).await;
            forget_statements(&self.db).await;
        }
        work().await
    }

    /// Runs `work` on the services' pool. `None`: the pool has no connection within `wait`, or the work takes longer
    /// than `limit`. A slow network is no exhausted pool: the work has more time than the wait for a connection.
    async fn on_pool<T, F>(
        &self,
        wait: Duration,
        limit: Duration,
        work: impl Fn(DatabaseConnection) -> F,
    ) -> Option<Result<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let (waited, ended) = (Instant::now() + wait, Instant::now() + limit);
        timeout_at(waited, idle_connection(&self.db)).await.ok()?;
        let mut work = pin!(work(self.db.clone()));
        match timeout_at(waited, &mut work).await {
            Ok(result) => Some(result),
            // It may still wait for a connection, which a service has taken first. Of another driver that is not known.
            Err(_) if PoolSize::of(&self.db).is_none_or(PoolSize::is_exhausted) => None,
            Err(_) => timeout_at(ended, work).await.ok(),
        }
    }

    /// Begins the registry's own statements on this connection. They wait for locks, and last, only for a limited time.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn begin<'c>(&self, db: &'c DatabaseConnection) -> Result<DatabaseExecutor<'c>> {
        // On virtual time, each statement is seen on the pool.
        if self.is_virtual { Ok(db.into()) } else { Ok(limited::begin(db).await?) }
    }
}
