//! [`Transaction`]: what the user's writes go through.
//!
//! The tricky part: one type serves three times, so that one `&Transaction` in a signature fits all of them. `begin` gives
//! one that is open; an item of a batch lends the batch's, and its first statement sets a savepoint; an item claimed by
//! itself lends one that begins with its first statement.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sea_orm::prelude::async_trait::async_trait;
use sea_orm::sea_query::SelectStatement;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, IsolationLevel,
    QueryResult, SqliteTransactionMode, Statement, StatementBuilder, TransactionError, TransactionOptions,
    TransactionTrait,
};
use tokio::sync::OnceCell;

use crate::database::commit_tracker::CommitTracker;
use crate::database::connect::BUSY_TIMEOUT;
use crate::database::error_kind::ErrorKind;
use crate::database::write_lock::{WriteLock, WritePermit};
use crate::service::error::{Error, Result};

/// How long a busy SQLite database is tried in all, each try waiting for SQLite's own busy timeout.
const BUSY_LIMIT: Duration = Duration::from_secs(60);

type DbResult<T> = std::result::Result<T, DbErr>;

/// What the transactions of one service share.
#[derive(Clone, Debug)]
pub(crate) struct TxContext {
    pub(crate) db: DatabaseConnection,
    pub(crate) commits: Arc<CommitTracker>,
    /// The number of batches of this service that hold SQLite's write lock.
    pub(crate) open_batches: Arc<AtomicUsize>,
    pub(crate) write_lock: WriteLock,
}

impl TxContext {
    pub(crate) fn new(db: DatabaseConnection) -> Self {
        Self { db, commits: Arc::default(), open_batches: Arc::default(), write_lock: WriteLock::default() }
    }
}

/// Why a transaction could not go on, as far as its statements show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The run itself.
    Run,
    ConnectionLost,
    /// Disk full, I/O error, out of memory.
    Environment,
}

/// A transaction: a sea-orm `ConnectionTrait`, so every query takes `&tx` where it takes a connection.
///
/// [`commit`](Transaction::commit) makes it last; dropping it rolls back, and so does a run that ends by `?`, a panic or
/// its timeout. On SQLite it begins `IMMEDIATE`: it holds the write lock from the start and cannot fail half-way for want of
/// it. `begin()` on it (from sea-orm's `TransactionTrait`) is a savepoint, and sea-orm's own `DatabaseTransaction`: what asks for
/// one, or for a `StreamTrait`, takes that.
#[derive(Debug)]
pub struct Transaction {
    cx: TxContext,
    backend: DbBackend,
    tx: OnceCell<OpenTransaction>,
    /// What must be there when it begins: the row of an item that is claimed by itself, still pending.
    condition: Option<Box<SelectStatement>>,
    /// Set where statements belong to an item: its savepoint, once its first statement has set it.
    savepoint: Option<OnceCell<()>>,
    /// An earlier item's savepoint still stands and goes when the next is set: one round trip instead of two.
    stale_savepoint: bool,
    health: TxHealth,
}

/// A transaction that has begun. Dropped, it is rolled back before the next writer gets the lock.
#[derive(Debug)]
struct OpenTransaction {
    tx: DatabaseTransaction,
    permit: WritePermit,
}

/// What the statements so far have shown.
#[derive(Debug, Default)]
struct TxHealth {
    /// A statement failed. PostgreSQL refuses all that follow until the savepoint is rolled back.
    failed: AtomicBool,
    connection_lost: AtomicBool,
    /// SQLite may have rolled everything back by itself: what followed would be outside any transaction.
    aborted: AtomicBool,
    /// A nested transaction was begun, whose statements are not seen here.
    nested: AtomicBool,
    /// Its condition did not hold: it has not begun.
    condition_failed: AtomicBool,
}

impl Transaction {
    /// Begins at once.
    pub(crate) async fn begin(cx: &TxContext) -> Result<Self> {
        let transaction = Self::lazy(cx);
        transaction.open().await?;
        Ok(transaction)
    }

    /// Begins with its first statement.
    pub(crate) fn lazy(cx: &TxContext) -> Self {
        let (cx, backend) = (cx.clone(), cx.db.get_database_backend());
        let (tx, health) = (OnceCell::new(), TxHealth::default());
        Self { cx, backend, tx, condition: None, savepoint: None, stale_savepoint: false, health }
    }

    /// Begins only where this finds a row, which is locked then.
    pub(crate) fn with_condition(self, condition: SelectStatement) -> Self {
        Self { condition: Some(Box::new(condition)), ..self }
    }

    /// It could not begin: what it is for is no longer there.
    pub(crate) fn condition_failed(&self) -> bool {
        self.health.condition_failed.load(Ordering::Relaxed)
    }

    /// Makes everything written through it last. Where nothing was, there is nothing to do.
    ///
    /// Once polled, the commit goes on even when this future is dropped, and a timeout of the run waits for it.
    ///
    /// # Errors
    /// The database refused; then nothing was written. When the connection broke in the middle, nobody can tell.
    pub async fn commit(self) -> Result<()> {
        if self.tx.initialized() {
            self.check().await?;
        }
        let Some(OpenTransaction { tx, permit }) = self.tx.into_inner() else { return Ok(()) };
        let guard = self.cx.commits.enter();
        let committing = tokio::spawn(async move {
            let result = tx.commit().await;
            drop((guard, permit));
            result
        });
        match committing.await {
            Ok(result) => Ok(result?),
            Err(stopped) => Err(Error::new(stopped)),
        }
    }

    /// Undoes everything written through it, now rather than when the connection goes back.
    ///
    /// # Errors
    /// The connection broke; then the database undoes it by itself.
    pub async fn rollback(self) -> Result<()> {
        match self.tx.into_inner() {
            Some(OpenTransaction { tx, permit }) => {
                let result = tx.rollback().await;
                drop(permit);
                Ok(result?)
            }
            None => Ok(()),
        }
    }

    /// The open transaction, with the item's savepoint set where one is due.
    async fn open(&self) -> DbResult<&DatabaseTransaction> {
        let tx = self.connection().await?;
        if let Some(savepoint) = &self.savepoint
            && !savepoint.initialized()
        {
            savepoint
                .get_or_try_init(|| async {
                    let sql = if self.stale_savepoint {
                        "RELEASE SAVEPOINT service_item; SAVEPOINT service_item"
                    } else {
                        "SAVEPOINT service_item"
                    };
                    self.track(tx.execute_unprepared(sql)).await.map(drop)
                })
                .await?;
        }
        Ok(tx)
    }

    /// Past the savepoint: for the batch's own statements.
    pub(crate) async fn connection(&self) -> DbResult<&DatabaseTransaction> {
        if self.health.aborted.load(Ordering::Relaxed) {
            return Err(DbErr::Custom(
                "SQLite gave this transaction up after an earlier error (disk full, I/O or memory); drop it and begin anew".to_owned(),
            ));
        }
        let open = match self.tx.get() {
            Some(open) => open,
            // Boxed, as it happens once: every statement's future would have the room for it.
            None => Box::pin(self.tx.get_or_try_init(|| self.begin_checked())).await?,
        };
        Ok(&open.tx)
    }

    async fn begin_checked(&self) -> DbResult<OpenTransaction> {
        let open = begin_with_retry(&self.cx, self.backend).await?;
        if let Some(condition) = &self.condition
            && open.tx.query_one(&**condition).await?.is_none()
        {
            self.health.condition_failed.store(true, Ordering::Relaxed);
            return Err(DbErr::Custom(
                "the item's row is no longer pending: somebody else has worked on it".to_owned(),
            ));
        }
        Ok(open)
    }

    async fn nest(&self) -> DbResult<&DatabaseTransaction> {
        self.health.nested.store(true, Ordering::Relaxed);
        self.open().await
    }

    /// A statement that a broken transaction refuses, where there is reason to doubt. Without it PostgreSQL answers
    /// `COMMIT` with a silent rollback.
    pub(crate) async fn check(&self) -> DbResult<()> {
        let doubtful = self.health.nested.load(Ordering::Relaxed) || self.health.failed.load(Ordering::Relaxed);
        if doubtful {
            self.connection().await?.execute_unprepared("SELECT 1").await?;
        }
        Ok(())
    }

    /// From here on, statements belong to one item.
    pub(crate) fn enter_item(&mut self) {
        self.stale_savepoint = self.stale_savepoint || self.savepoint.as_ref().is_some_and(OnceCell::initialized);
        self.savepoint = Some(OnceCell::new());
        self.health.failed.store(false, Ordering::Relaxed);
        self.health.nested.store(false, Ordering::Relaxed);
    }

    /// The item is done and its writes stay. An error: one of its statements had failed unnoticed, so they cannot.
    pub(crate) async fn keep_item(&mut self) -> DbResult<()> {
        self.check().await?;
        self.leave_item();
        Ok(())
    }

    /// The item failed: its writes are undone.
    pub(crate) async fn undo_item(&mut self) -> DbResult<()> {
        if self.savepoint.as_ref().is_some_and(OnceCell::initialized) {
            let tx = self.connection().await?;
            self.track(tx.execute_unprepared("ROLLBACK TO SAVEPOINT service_item")).await?;
        }
        self.leave_item();
        Ok(())
    }

    fn leave_item(&mut self) {
        self.stale_savepoint = self.stale_savepoint || self.savepoint.as_ref().is_some_and(OnceCell::initialized);
        self.savepoint = None;
        self.health.failed.store(false, Ordering::Relaxed);
    }

    /// A statement of the batch's own that may fail without harm to the rest.
    pub(crate) async fn execute_in_savepoint(&self, statement: &impl StatementBuilder) -> DbResult<ExecResult> {
        let tx = self.connection().await?;
        self.track(tx.execute_unprepared("SAVEPOINT service_note")).await?;
        match tx.execute(statement).await {
            Ok(done) => Ok(done),
            Err(error) => {
                self.track(tx.execute_unprepared("ROLLBACK TO SAVEPOINT service_note")).await?;
                Err(error)
            }
        }
    }

    /// What the statements so far say about the cause, should the run end now.
    pub(crate) fn cause(&self) -> Cause {
        if self.health.connection_lost.load(Ordering::Relaxed) {
            Cause::ConnectionLost
        } else if self.health.aborted.load(Ordering::Relaxed) {
            Cause::Environment
        } else {
            Cause::Run
        }
    }

    /// Remembers how a statement went.
    async fn track<T>(&self, statement: impl Future<Output = DbResult<T>>) -> DbResult<T> {
        let result = statement.await;
        if let Err(error) = &result {
            self.health.failed.store(true, Ordering::Relaxed);
            if matches!(ErrorKind::of(error), ErrorKind::ConnectionLost | ErrorKind::PoolTimeout) {
                self.health.connection_lost.store(true, Ordering::Relaxed);
            }
            if self.backend == DbBackend::Sqlite && ErrorKind::of(error) == ErrorKind::Unavailable {
                self.health.aborted.store(true, Ordering::Relaxed);
            }
        }
        result
    }
}

/// Begins a transaction. A busy SQLite database is asked again: the other writer needs a moment, and nothing is lost yet.
async fn begin_with_retry(cx: &TxContext, backend: DbBackend) -> DbResult<OpenTransaction> {
    if backend != DbBackend::Sqlite {
        return Ok(OpenTransaction { tx: cx.db.begin().await?, permit: None });
    }
    // Real time: SQLite waits in real time too.
    let begun = Instant::now();
    // A service whose own batch holds the lock would wait for itself.
    let permit = if cx.open_batches.load(Ordering::Relaxed) > 0 { None } else { cx.write_lock.acquire().await };
    loop {
        match cx.db.begin_with_options(immediate()).await {
            Err(error) if ErrorKind::of(&error) == ErrorKind::Contention => {
                let own_batch = cx.open_batches.load(Ordering::Relaxed) > 0;
                let patience = if own_batch { BUSY_TIMEOUT } else { BUSY_LIMIT };
                if begun.elapsed() >= patience {
                    let advice = if own_batch {
                        "a batch of this service holds it: until it commits, write through `item.tx()` only"
                    } else {
                        "keep slow work out of transactions (`claim_each`)"
                    };
                    let seconds = patience.as_secs();
                    return Err(DbErr::Custom(format!(
                        "SQLite's write lock was not to be had within {seconds} s; {advice}: {error}"
                    )));
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
            }
            begun => return begun.map(|tx| OpenTransaction { tx, permit }),
        }
    }
}

fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.backend
    }

    async fn execute_raw(&self, statement: Statement) -> DbResult<ExecResult> {
        let tx = self.open().await?;
        self.track(tx.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> DbResult<ExecResult> {
        let tx = self.open().await?;
        self.track(tx.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> DbResult<Option<QueryResult>> {
        let tx = self.open().await?;
        self.track(tx.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> DbResult<Vec<QueryResult>> {
        let tx = self.open().await?;
        self.track(tx.query_all_raw(statement)).await
    }
}

type Callback<'c, T, E> = Pin<Box<dyn Future<Output = std::result::Result<T, E>> + Send + 'c>>;

/// Savepoints: what is begun on a transaction.
#[async_trait]
impl TransactionTrait for Transaction {
    type Transaction = DatabaseTransaction;

    async fn begin(&self) -> DbResult<DatabaseTransaction> {
        self.nest().await?.begin().await
    }

    async fn begin_with_config(
        &self,
        isolation: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> DbResult<DatabaseTransaction> {
        self.nest().await?.begin_with_config(isolation, access_mode).await
    }

    async fn begin_with_options(&self, options: TransactionOptions) -> DbResult<DatabaseTransaction> {
        self.nest().await?.begin_with_options(options).await
    }

    async fn transaction<F, T, E>(&self, callback: F) -> std::result::Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c DatabaseTransaction) -> Callback<'c, T, E> + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        self.nest().await.map_err(TransactionError::Connection)?.transaction(callback).await
    }

    async fn transaction_with_config<F, T, E>(
        &self,
        callback: F,
        isolation: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> std::result::Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(&'c DatabaseTransaction) -> Callback<'c, T, E> + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        let tx = self.nest().await.map_err(TransactionError::Connection)?;
        tx.transaction_with_config(callback, isolation, access_mode).await
    }
}
