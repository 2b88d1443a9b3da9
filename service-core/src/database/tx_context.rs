//! [`TxContext`]: what the transactions of one service share, and how each of them begins.
//!
//! On PostgreSQL a transaction begins at READ COMMITTED, whatever the server's default is. On SQLite it begins with the
//! write lock: one writer of the process at a time asks SQLite for it, and asks again while another process has it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, QueryResult, Statement,
    TransactionOptions,
};
use tokio::time::error::Elapsed;

use crate::database::commit_tracker::CommitTracker;
use crate::database::connect::BUSY_TIMEOUT;
use crate::database::error_kind::{DbResult, ErrorKind, lock_timeout};
use crate::database::fence::{Fence, Refusal};
use crate::database::limited;
use crate::database::pool_error::explained;
use crate::database::sqlite_connection;
use crate::database::statement_monitor::{MonitoredTx, StatementMonitor};
use crate::database::wake::notifier::Notifier;
use crate::database::write_lock::{WriteLock, WritePermit};
use crate::service::error::{Error, Result};

/// How long `begin` on a busy SQLite database is repeated in all. Each attempt waits for SQLite's own busy timeout.
const BUSY_LIMIT: Duration = Duration::from_secs(60);
/// How long a commit may take.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// The data that the transactions of one service share.
#[derive(Clone, Debug)]
pub(crate) struct TxContext {
    pub(crate) db: DatabaseConnection,
    /// The pool closes SQLite connections that were left inside a transaction.
    pub(crate) pool_is_checked: bool,
    pub(crate) commits: Arc<CommitTracker>,
    /// The number of batches of this service that hold SQLite's write lock.
    pub(crate) open_batches: Arc<AtomicUsize>,
    pub(crate) write_lock: WriteLock,
    pub(crate) notifier: Arc<Notifier>,
    /// PostgreSQL's transactions are at READ COMMITTED by default, as the last leased item found.
    pub(crate) reads_committed: Arc<AtomicBool>,
    /// Only on virtual time.
    pub(crate) monitor: Option<Arc<StatementMonitor>>,
    /// Set if one replica at a time runs the service.
    pub(crate) fence: Option<Arc<Fence>>,
}

/// The isolation level at which a transaction begins on PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Set explicitly, in a round trip of its own.
    ReadCommitted,
    /// The default of the connection, which is read when the transaction has begun.
    Default,
}

/// What the condition of a transaction found.
pub(super) struct Found {
    pub(super) is_read_committed: bool,
}

/// Counts the transaction of a batch while it is open.
#[derive(Debug)]
pub(super) struct OpenBatch(Arc<AtomicUsize>);

impl OpenBatch {
    pub(super) fn count(cx: &TxContext) -> Self {
        cx.open_batches.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&cx.open_batches))
    }
}

impl Drop for OpenBatch {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TxContext {
    pub(crate) fn new(db: DatabaseConnection) -> Self {
        Self {
            db,
            pool_is_checked: false,
            commits: Arc::default(),
            open_batches: Arc::default(),
            write_lock: WriteLock::default(),
            notifier: Arc::default(),
            reads_committed: Arc::default(),
            monitor: None,
            fence: None,
        }
    }

    /// Whether PostgreSQL's transactions are at READ COMMITTED by default, as far as that is known.
    pub(crate) fn reads_committed(&self) -> bool {
        self.reads_committed.load(Ordering::Relaxed)
    }

    /// An error may come from another level: it is read again before the default is relied on.
    pub(crate) fn forget_level(&self) {
        self.reads_committed.store(false, Ordering::Relaxed);
    }

    /// Executes one statement that commits by itself. Once polled it continues even if this future is dropped, and a
    /// timeout or a stop of the run waits for it, as for a commit. `build` makes the statement, not on the task of the
    /// run.
    pub(crate) async fn commit_alone(
        &self,
        build: impl FnOnce() -> Statement + Send + 'static,
    ) -> Result<Vec<QueryResult>> {
        self.check_reachable()?;
        let (db, committing) = (self.db.clone(), self.commits.enter());
        uncut(async move {
            let result = tokio::time::timeout(COMMIT_LIMIT, db.query_all_raw(build())).await;
            drop(committing);
            result.map(|rows| rows.map_err(Refusal::from))
        })
        .await
    }

    /// Returns an error if a test has cut off this replica from the database.
    pub(super) fn check_reachable(&self) -> DbResult<()> {
        self.monitor.as_ref().map_or(Ok(()), |monitor| monitor.check())
    }

    pub(super) fn level(&self) -> Level {
        if self.reads_committed() { Level::Default } else { Level::ReadCommitted }
    }

    /// Executes the condition of a transaction.
    pub(super) async fn find(&self, tx: &MonitoredTx, condition: &Statement) -> DbResult<Option<Found>> {
        let Some(row) = tx.query_one_raw(condition.clone()).await.inspect_err(|_| self.forget_level())? else {
            return Ok(None);
        };
        if tx.get_database_backend() != DbBackend::Postgres {
            return Ok(Some(Found { is_read_committed: true }));
        }
        let is_read_committed = |column| Ok::<_, DbErr>(row.try_get::<String>("", column)? == "read committed");
        self.reads_committed.store(is_read_committed("default_isolation")?, Ordering::Relaxed);
        Ok(Some(Found { is_read_committed: is_read_committed("isolation")? }))
    }

    /// Begins a transaction. On a busy SQLite database it tries again, because the other writer will commit.
    pub(super) async fn begin(&self, level: Level) -> DbResult<OpenTransaction> {
        self.check_reachable()?;
        match self.db.get_database_backend() {
            DbBackend::Sqlite => self.begin_on_sqlite().await,
            _ => self.begin_on_postgres(level).await,
        }
    }

    async fn begin_on_postgres(&self, level: Level) -> DbResult<OpenTransaction> {
        // Whatever the server's default is. Claims need no higher level: they lock rows, and skip rows that others have
        // locked.
        let isolation_level = (level == Level::ReadCommitted).then_some(IsolationLevel::ReadCommitted);
        let options = TransactionOptions { isolation_level, ..TransactionOptions::default() };
        match limited::begin_uncancelled(&self.db, options).await {
            Ok(tx) => Ok(self.open(tx, None)),
            Err(error) => Err(Box::pin(explained(&self.db, error)).await),
        }
    }

    async fn begin_on_sqlite(&self) -> DbResult<OpenTransaction> {
        // Real time: SQLite waits in real time too. In tests that would depend on the machine.
        let is_virtual = self.monitor.is_some();
        let (begun, virtual_begun) = (Instant::now(), tokio::time::Instant::now());
        let has_own_batch = || self.open_batches.load(Ordering::Relaxed) > 0;
        // A service whose own batch holds the lock would wait for itself.
        let permit = if has_own_batch() {
            None
        } else {
            self.write_lock.acquire(if is_virtual { BUSY_LIMIT } else { BUSY_TIMEOUT }).await
        };
        loop {
            match sqlite_connection::begin(&self.db, self.pool_is_checked).await {
                Err(error) if ErrorKind::of(&error) == ErrorKind::Contention => {
                    let own_batch = has_own_batch();
                    let waited = if is_virtual { virtual_begun.elapsed() } else { begun.elapsed() };
                    if waited >= if own_batch { BUSY_TIMEOUT } else { BUSY_LIMIT } {
                        return Err(lock_not_free(own_batch, &error));
                    }
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
                }
                begun => return Ok(self.open(begun?, permit)),
            }
        }
    }

    fn open(&self, tx: DatabaseTransaction, write_lock: WritePermit) -> OpenTransaction {
        let tx = MonitoredTx::new(tx, self.monitor.clone());
        OpenTransaction { tx, permits: Permits { write_lock, turn: None } }
    }
}

/// The error of a transaction that could not begin on SQLite.
fn lock_not_free(own_batch: bool, error: &DbErr) -> DbErr {
    let (limit, advice) = if own_batch {
        (BUSY_TIMEOUT, "a batch of this service holds it: until it commits, write through `item.tx()` only")
    } else {
        (BUSY_LIMIT, "keep slow work out of transactions (`claim_each`)")
    };
    let message = format!("SQLite's write lock was not free within {} s; {advice}: {error}", limit.as_secs());
    // A wait for its own batch is a mistake of the service.
    if own_batch { DbErr::Custom(message) } else { lock_timeout(message) }
}

/// A transaction that has begun. Dropped, it is rolled back before the next writer gets the lock.
#[derive(Debug)]
pub(super) struct OpenTransaction {
    pub(super) tx: MonitoredTx,
    pub(super) permits: Permits,
}

/// What a transaction has while it is open. They are held only to be dropped.
#[derive(Debug)]
#[allow(dead_code, reason = "their drop is their use")]
pub(super) struct Permits {
    /// SQLite's write lock.
    write_lock: WritePermit,
    /// The turn in the queue of its batch.
    pub(super) turn: WritePermit,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "the database did not answer a commit within {} s: it is unknown whether the commit took effect",
    COMMIT_LIMIT.as_secs()
)]
struct Unanswered;

/// Executes a commit to its end, even if this future is dropped.
pub(super) async fn uncut<T: Send + 'static>(
    commit: impl Future<Output = std::result::Result<std::result::Result<T, Refusal>, Elapsed>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(commit).await {
        Ok(Ok(Ok(committed))) => Ok(committed),
        Ok(Ok(Err(Refusal::LeaseLost(lost)))) => Err(Error::new(lost)),
        Ok(Ok(Err(Refusal::Database(error)))) => Err(error.into()),
        Ok(Err(_)) => Err(Error::new(Unanswered)),
        Err(stopped) => Err(Error::new(stopped)),
    }
}
