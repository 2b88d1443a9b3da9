//! [`ServiceDb`]: the database as one service uses it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use sea_orm::DatabaseConnection;

use crate::database::availability::FrameworkTables;
use crate::database::commit_tracker::CommitTracker;
use crate::database::store::Store;
use crate::database::transaction::Transaction;
use crate::database::wall_clock::WallClock;
use crate::database::work::builder::{Claim, ClaimEach};
use crate::database::work::settlement::Settlements;
use crate::database::work::work_item::WorkItem;
use crate::database::write_lock::WriteLock;
use crate::service::error::Result;

/// What one service needs to work with a database. Cheap to clone.
///
/// Inside a service, [`Context`](crate::Context) has the same methods. Outside, in a command-line tool or a test, make one
/// with [`ServiceDb::new`].
#[derive(Clone, Debug)]
pub struct ServiceDb {
    pub(crate) db: DatabaseConnection,
    pub(crate) service_id: Arc<str>,
    pub(crate) commits: Arc<CommitTracker>,
    pub(crate) settlements: Arc<Settlements>,
    /// How many batches of this service hold SQLite's write lock.
    pub(crate) open_batches: Arc<AtomicUsize>,
    pub(crate) clock: WallClock,
    pub(crate) tables: Arc<FrameworkTables>,
    pub(crate) write_lock: WriteLock,
}

impl ServiceDb {
    /// The database for `service_id`, on the system's clock.
    pub fn new(db: DatabaseConnection, service_id: impl Into<Arc<str>>) -> Self {
        Self {
            db,
            service_id: service_id.into(),
            commits: Arc::default(),
            settlements: Arc::default(),
            open_batches: Arc::default(),
            clock: WallClock::default(),
            tables: Arc::new(FrameworkTables::ready()),
            write_lock: WriteLock::default(),
        }
    }

    /// Where the registry sees to the framework's tables.
    pub(crate) fn with_tables(mut self, tables: Arc<FrameworkTables>) -> Self {
        self.tables = tables;
        self
    }

    /// In line with others that write to the same database.
    pub(crate) fn with_write_lock(mut self, write_lock: WriteLock) -> Self {
        self.write_lock = write_lock;
        self
    }

    /// On another clock.
    pub fn with_clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// The pool.
    pub fn db(&self) -> &DatabaseConnection {
        &self.db
    }

    /// The service's id.
    pub fn service_id(&self) -> &str {
        &self.service_id
    }

    /// The commits in flight.
    pub fn commits(&self) -> &Arc<CommitTracker> {
        &self.commits
    }

    /// Begins a transaction: `IMMEDIATE` on SQLite, where another writer is waited for.
    ///
    /// # Errors
    /// The database is away; or the write lock was not to be had within a minute, or within 5 s while a batch of this service
    /// holds it.
    pub async fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self).await
    }

    /// Claims up to `n` pending rows, the oldest first, in a transaction that lasts until [`Batch::commit`](crate::database::Batch::commit).
    ///
    /// ```
    /// # use service_core::database::{ServiceDb, WorkItem};
    /// # use service_core::{Outcome, Result};
    /// # async fn run<E: WorkItem>(cx: ServiceDb) -> Result<Outcome> {
    /// let mut batch = cx.claim::<E>(100).await?;
    /// while let Some(item) = batch.next().await? {
    ///     let done: Result<()> = Ok(()); // work on `item.model()`, writing through `item.tx()`
    ///     item.settle(done).await?;
    /// }
    /// batch.commit().await
    /// # }
    /// ```
    pub fn claim<E: WorkItem>(&self, n: u64) -> Claim<E> {
        Claim::new(Ok(self), n)
    }

    /// Claims up to `n` pending rows, each of which commits by itself: for work that is slow, or has effects outside the
    /// database. No transaction is open while it goes on.
    pub fn claim_each<E: WorkItem>(&self, n: u64) -> ClaimEach<E> {
        ClaimEach::new(Ok(self), n)
    }

    /// Whether a run that ended left something to settle.
    pub(crate) fn has_unsettled(&self) -> bool {
        !self.settlements.is_empty()
    }

    /// Small values of this service that outlive it.
    pub fn store(&self) -> Store {
        Store::new(Ok(self))
    }

    /// What a run that just ended still owes the database is paid: the row in flight is charged with `why`, claims are
    /// given back. Without anything owed, nothing is asked of the database.
    ///
    /// # Errors
    /// The database is away; then it stays owed.
    pub async fn settle(&self, why: Option<&str>) -> Result<()> {
        if self.settlements.is_empty() { Ok(()) } else { self.settlements.apply(self, why).await }
    }
}
