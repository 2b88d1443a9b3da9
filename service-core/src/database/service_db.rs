//! [`ServiceDb`]: one service's access to the registry's database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, ExecResult, StatementBuilder};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::database::commit_tracker::CommitTracker;
use crate::database::db_time::DbTime;
use crate::database::driver::PoolSize;
use crate::database::pool_error::{can_be_explained, explained};
use crate::database::schema::FrameworkTables;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::wall_clock::WallClock;
use crate::database::work::retained::RetainedTables;
use crate::database::work::work_state::WorkState;
use crate::log::labelled;
use crate::runtime::registration::RegisteredService;
use crate::runtime::service_inner::ServiceInner;
use crate::runtime::services::Services;
use crate::service::error::Result;

/// One service's access to the registry's database. Cheap to clone.
///
/// [`Context`](crate::Context) has the same methods. Claims are in `work/builder.rs`, settlements in
/// `work/settlement.rs`, the store in `store.rs`.
#[derive(Clone, Debug)]
pub struct ServiceDb {
    pub(crate) service_id: Arc<str>,
    pub(crate) tx: TxContext,
    pub(crate) work: Arc<WorkState>,
    /// For the times of rows.
    pub(crate) clock: WallClock,
    /// For leases.
    pub(crate) time: DbTime,
    pub(crate) tables: Arc<FrameworkTables>,
    pub(crate) retained: Arc<RetainedTables>,
    used: Arc<AtomicBool>,
    /// The services of the registry, if the service belongs to one.
    pub(super) services: Weak<Services>,
}

impl ServiceDb {
    /// The access of this service, if its registry has a database.
    pub(crate) fn of(service: &ServiceInner) -> Option<&Self> {
        service.extension_data.get()?.downcast_ref()
    }

    /// The service has used the database, so an outage concerns it.
    pub(crate) fn mark_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Access for the service `service_id`, on the system's clock. The framework's tables must exist.
    pub fn new(db: DatabaseConnection, service_id: impl Into<Arc<str>>) -> Self {
        Self {
            service_id: service_id.into(),
            work: Arc::new(WorkState::new(PoolSize::of(&db).map(|size| size.most))),
            tx: TxContext::new(db),
            clock: WallClock::default(),
            time: DbTime::default(),
            tables: Arc::new(FrameworkTables::ready()),
            retained: Arc::default(),
            used: Arc::default(),
            services: Weak::new(),
        }
    }

    /// The services of the registry, and this service.
    fn service(&self) -> Option<(Arc<Services>, Arc<RegisteredService>)> {
        let services = self.services.upgrade()?;
        let service = services.get(&self.service_id)?;
        Some((services, service))
    }

    /// Spawns a task of the service: the lines that it logs have the labels of the service.
    pub(crate) fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match self.service().and_then(|(_, service)| service.inner.labels.text().cloned()) {
            Some(labels) => runtime.spawn(labelled(labels, task)),
            None => runtime.spawn(task),
        }
    }

    /// Whether something that the service names in `needs` is known to be down.
    pub(crate) fn need_is_down(&self) -> bool {
        self.service().is_some_and(|(services, service)| services.need_is_down(&service.inner))
    }

    /// Whether something that the service names in `needs` was down at `began` or later. With `certain`, that is
    /// checked if it is not known.
    pub(crate) async fn need_was_down_since(&self, began: Instant, certain: bool) -> bool {
        match self.service() {
            Some((services, service)) => services.need_was_down_since(began, &service.inner, certain).await,
            None => false,
        }
    }

    /// The end of an outage of what the service needs makes a run due, if none begins before. Returns whether there is
    /// such an outage now.
    pub(crate) fn continue_after_outage(&self) -> bool {
        let Some((services, service)) = self.service() else { return false };
        // First, so that no outage ends unnoticed.
        service.inner.lock().requests.continues_after_outage = true;
        services.need_is_down(&service.inner)
    }

    /// A claim takes what was left because of an outage: its end makes no run due, unless rows are left again.
    pub(crate) fn continues_now(&self) {
        if let Some((_, service)) = self.service() {
            service.inner.lock().requests.continues_after_outage = false;
        }
    }

    /// Whether a run of the service is in progress.
    pub(crate) fn is_in_run(&self) -> bool {
        self.service().is_some_and(|(_, service)| service.inner.lock().status.in_run())
    }

    /// Makes a run due.
    pub(crate) fn wake(&self) {
        if let Some((_, service)) = self.service() {
            service.inner.wake_in_case();
        }
    }

    /// Sets the clock for the times of rows.
    pub fn with_row_clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the clock for the times of rows and for leases.
    pub fn with_clock(mut self, clock: WallClock) -> Self {
        self.time = DbTime::Virtual(clock.clone());
        self.clock = clock;
        self
    }

    /// The pool.
    pub fn db(&self) -> &DatabaseConnection {
        &self.tx.db
    }

    /// The commits in flight.
    pub fn commits(&self) -> &Arc<CommitTracker> {
        &self.tx.commits
    }

    /// Begins a transaction. On SQLite it is `IMMEDIATE`, and waits for another writer.
    ///
    /// # Errors
    /// The database is down, or SQLite's write lock was not free within a minute (5 s if a batch of this service holds
    /// it).
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(&self.tx).await
    }

    /// Executes a statement of the framework in a transaction of its own. On PostgreSQL this transaction is at READ
    /// COMMITTED: at a higher default level, the server refuses a statement if another worker writes the same row. On
    /// SQLite it waits for its turn: without one, other writers could keep the lock from it.
    pub(crate) async fn execute_alone(&self, statement: &impl StatementBuilder) -> Result<ExecResult> {
        let tx = self.begin().await?;
        let done = tx.connection().await?.execute(statement).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Creates the framework's tables if they are missing.
    pub(crate) async fn ensure_tables(&self) -> Result<()> {
        let ensured = self.tables.ensure(self.db()).await;
        self.explained(ensured).await
    }

    /// Explains an error of the pool, see [`explained`].
    pub(crate) async fn explained<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(error) => match error.find::<DbErr>().cloned() {
                Some(source) if can_be_explained(&source) => Err(explained(self.db(), source).await.into()),
                _ => Err(error),
            },
            Ok(value) => Ok(value),
        }
    }
}
