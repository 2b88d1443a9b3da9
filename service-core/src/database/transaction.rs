//! [`Transaction`]: the transaction for the user's writes.
//!
//! One type has three uses, so that one `&Transaction` in a signature fits all of them. `begin` returns an open
//! transaction. An item of a batch uses the transaction of the batch, and its first statement sets a savepoint. A
//! leased item has a transaction that begins with its first statement.
//!
//! The tricky part is a transaction that ends unexpectedly: SQLite rolls back by itself if the disk is full or a
//! trigger requests it, and a failed or cancelled `begin()` on a sea-orm transaction rolls back the outer one. Each
//! following statement would commit by itself. So if a transaction is in doubt, it is checked before its next
//! statement (`transaction/proof.rs`). Every transaction of the framework is checked before anything is reported as
//! done.

mod item;
mod proof;

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sea_orm::prelude::async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement};
use tokio::sync::OnceCell;

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::fence::Refusal;
use crate::database::statement_monitor::MonitoredTx;
use crate::database::tx_context::{COMMIT_LIMIT, Level, OpenBatch, OpenTransaction, TxContext, uncut};
use crate::database::tx_health::TxHealth;
use crate::database::tx_limits::{QueuePlace, TimeLimit, TxQueue};
use crate::database::{limited, savepoints, sqlite_connection};
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// A transaction: a sea-orm `ConnectionTrait`, so every query takes `&tx` where it takes a connection.
///
/// [`commit`](Transaction::commit) makes its writes permanent. Dropping it rolls back, and so does a run that ends by
/// `?`, a panic or its timeout. On SQLite it begins `IMMEDIATE`: it holds the write lock from the start. On PostgreSQL
/// it runs at READ COMMITTED, whatever the server's default is; `SET TRANSACTION ISOLATION LEVEL …` as the first
/// statement of a transaction from `cx.begin()` changes that.
///
/// `begin()` on it (from sea-orm's `TransactionTrait`) sets a savepoint and returns sea-orm's own
/// `DatabaseTransaction`, for code that requires this type or a `StreamTrait`. Commit or drop the savepoint before
/// `commit`, or before the item is settled with `Ok`: while it is open, nothing can be committed.
#[derive(Debug)]
pub struct Transaction {
    cx: TxContext,
    backend: DbBackend,
    tx: OnceCell<OpenTransaction>,
    // The next three are only for leased items. Boxed, since each item of a batch is as large as this.
    /// A query that must find a row when the transaction begins: the row of a leased item, if it is still pending.
    condition: Option<Box<Statement>>,
    /// The time limit of a leased item.
    time_limit: Option<Box<TimeLimit>>,
    /// Set if it begins after other transactions of its batch: those of items in flight at the same time on SQLite.
    queue: Option<Box<QueuePlace>>,
    /// Set for the transaction of a batch.
    open_batch: Option<OpenBatch>,
    /// Set while statements belong to an item: the item's savepoint, initialized by its first statement.
    savepoint: Option<OnceCell<()>>,
    /// The savepoint of an earlier item still exists. It is released together with setting the next one, in one round
    /// trip: once, because of a statement whose future is dropped, perhaps only this part is executed. A savepoint that
    /// stays does no harm.
    stale_savepoint: AtomicBool,
    health: TxHealth,
    notifications: Mutex<Notifications>,
}

/// The topics that the commit notifies.
#[derive(Debug, Default)]
struct Notifications {
    topics: Vec<String>,
    /// How many of them are not of the current item.
    kept: usize,
}

impl Notifications {
    fn add(&mut self, topic: &str) {
        if !self.topics.iter().any(|known| known == topic) {
            self.topics.push(topic.to_owned());
        }
    }

    /// Keeps those of the current item.
    fn keep(&mut self) {
        self.kept = self.topics.len();
    }

    /// Drops those of the current item.
    fn undo(&mut self) {
        self.topics.truncate(self.kept);
    }
}

impl Transaction {
    /// Begins at once.
    pub(crate) async fn begin(cx: &TxContext) -> Result<Self> {
        if let Some(fence) = &cx.fence {
            fence.check_here().map_err(Error::new)?;
        }
        let transaction = Self::lazy(cx);
        transaction.connection().await?;
        Ok(transaction)
    }

    /// Begins the registry's own statements, with their limits on PostgreSQL.
    pub(crate) async fn begin_limited(cx: &TxContext) -> Result<Self> {
        let transaction = Self::begin(cx).await?;
        if transaction.backend == DbBackend::Postgres {
            transaction.execute_unprepared(&limited::limits(limited::LOCK_WAIT)).await?;
        }
        Ok(transaction)
    }

    /// Begins with its first statement.
    pub(crate) fn lazy(cx: &TxContext) -> Self {
        Self {
            cx: cx.clone(),
            backend: cx.db.get_database_backend(),
            tx: OnceCell::new(),
            condition: None,
            time_limit: None,
            queue: None,
            open_batch: None,
            savepoint: None,
            stale_savepoint: AtomicBool::new(false),
            health: TxHealth::default(),
            notifications: Mutex::default(),
        }
    }

    /// Begins only if this query finds a row, and locks that row.
    pub(crate) fn with_condition(mut self, condition: Statement) -> Self {
        self.condition = Some(Box::new(condition));
        self
    }

    /// Sets when the code that uses the transaction has to be done.
    pub(crate) fn with_deadline(mut self, deadline: tokio::time::Instant) -> Self {
        self.time_limit = Some(Box::new(TimeLimit::new(deadline)));
        self
    }

    /// Begins after the other transactions of this queue have ended.
    pub(crate) fn with_queue(mut self, queue: TxQueue) -> Self {
        self.queue = Some(Box::new(QueuePlace::new(queue)));
        self
    }

    /// Counts as the transaction of a batch: on SQLite, others of its service do not wait long for the write lock until
    /// it has ended.
    pub(crate) fn of_batch(mut self) -> Self {
        self.open_batch = Some(OpenBatch::count(&self.cx));
        self
    }

    /// How long it has waited for its turn in the queue so far.
    pub(crate) fn time_in_queue(&self) -> Duration {
        self.queue.as_ref().map_or(Duration::ZERO, |place| place.time())
    }

    /// Whether it could not begin because its condition was not met.
    pub(crate) fn condition_failed(&self) -> bool {
        self.health.condition_failed()
    }

    /// Whether it has nothing to commit: no statement was tried, and no topic is notified.
    pub(crate) fn is_unused(&self) -> bool {
        !self.has_begun() && !self.health.has_failed() && self.notifications.lock().topics.is_empty()
    }

    /// Whether a statement has begun it.
    pub(crate) fn has_begun(&self) -> bool {
        self.tx.initialized()
    }

    /// Wakes every service that has this topic in `wake_on`, as
    /// [`ServiceRegistry::notify`](crate::ServiceRegistry::notify) does, but after the commit, so that the run sees the
    /// writes of this transaction. Without a commit nothing is notified. On [`item.tx()`](crate::database::Item::tx),
    /// an item that fails drops its notifications.
    ///
    /// On PostgreSQL, replicas are notified by the commit itself.
    ///
    /// ```
    /// use service_core::prelude::*;
    ///
    /// async fn place_order(cx: &Context) -> Result<()> {
    ///     let tx = cx.begin().await?;
    ///     // … insert the order through `&tx` …
    ///     tx.notify("orders");
    ///     tx.commit().await
    /// }
    /// ```
    pub fn notify(&self, topic: &str) {
        self.notifications.lock().add(topic);
    }

    /// Makes all writes through this transaction permanent. Does nothing if no statement was executed.
    ///
    /// Once the commit has begun, it continues even if this future is dropped, and a timeout or a stop of the run waits
    /// for it, up to 5 s. It begins with the first poll; after an error of a statement, or a savepoint, it begins after
    /// a check of the transaction. If the future is dropped before it begins, the transaction is rolled back.
    ///
    /// With `scope = "cluster"`, a replica that has lost the lease of the service cannot commit.
    ///
    /// # Errors
    /// The database refused the commit, a savepoint is still open, or the lease is lost; then nothing was written. If
    /// the connection broke during the commit, or the server did not answer within 60 s, it is unknown whether the
    /// commit took effect.
    pub async fn commit(mut self) -> Result<()> {
        if self.needs_proof()
            && let Err(error) = self.prove().await
        {
            self.give_up().await;
            return Err(error.into());
        }
        let backend = self.backend;
        let topics = std::mem::take(&mut self.notifications.lock().topics);
        let notifier = self.cx.notifier.clone();
        let Some(OpenTransaction { tx, permits }) = self.tx.take() else { return Ok(()) };
        let (committing, fence) = (self.cx.commits.enter(), self.cx.fence.clone());
        uncut(async move {
            let result = tokio::time::timeout(COMMIT_LIMIT, async {
                if backend == DbBackend::Postgres {
                    notifier.announce(&tx, &topics).await?;
                }
                if let Some(fence) = &fence
                    && let Err(refusal) = fence.check(&tx).await
                {
                    let _ = tx.into_inner().rollback().await;
                    return Err(refusal);
                }
                tx.before_commit().await?;
                Ok(commit(tx.into_inner(), backend).await?)
            })
            .await;
            drop((committing, permits));
            let is_refused = match &result {
                Ok(Ok(())) | Err(_) => false,
                Ok(Err(Refusal::LeaseLost(_))) => true,
                Ok(Err(Refusal::Database(error))) => ErrorKind::of(error) != ErrorKind::ConnectionLost,
            };
            // If it is unknown whether the commit took effect, a run without work is better than none.
            if !is_refused {
                notifier.deliver(&topics);
            }
            result
        })
        .await
    }

    /// Undoes all writes through this transaction now. Dropping the transaction, or this future, does so when the
    /// connection returns to the pool.
    ///
    /// # Errors
    /// The connection broke; then the database itself undoes the writes.
    pub async fn rollback(mut self) -> Result<()> {
        let (is_in_doubt, is_nested) = (self.health.is_in_doubt(), self.is_nested());
        if is_nested && let Some(open) = self.tx.get() {
            self.take_answer(&open.tx).await;
        }
        let Some(OpenTransaction { tx, permits }) = self.tx.take() else { return Ok(()) };
        let tx = tx.into_inner();
        let result = match self.backend {
            DbBackend::Sqlite if is_in_doubt || is_nested => {
                sqlite_connection::restore(tx).await;
                Ok(())
            }
            DbBackend::Postgres if is_nested => Box::pin(savepoints::roll_back(tx)).await,
            _ => tx.rollback().await,
        };
        drop(permits);
        Ok(result?)
    }

    /// Ends a transaction that cannot be committed. Returns the outage from which it cannot recover, if there is one;
    /// else the rollback is awaited, because the next claim skips a row that is still locked.
    pub(crate) async fn give_up(self) -> Option<ErrorKind> {
        let cause = self.interruption();
        if cause.is_none() {
            let _ = self.rollback().await;
        }
        cause
    }

    /// Returns the open transaction without the item's savepoint, for the framework's own statements.
    pub(crate) async fn connection(&self) -> DbResult<&MonitoredTx> {
        if self.has_ended() {
            return Err(ended());
        }
        let open = match self.tx.get() {
            Some(open) => open,
            // Boxed because it happens once: otherwise every statement's future would have space for it.
            None => Box::pin(self.tx.get_or_try_init(|| self.begin_checked())).await?,
        };
        if self.health.is_in_doubt() {
            Box::pin(self.check_open("")).await?;
        }
        Ok(&open.tx)
    }

    async fn begin_checked(&self) -> DbResult<OpenTransaction> {
        if let Some(fence) = &self.cx.fence {
            fence.check_here().map_err(|lost| DbErr::Custom(lost.to_string()))?;
        }
        let turn = match &self.queue {
            Some(place) => place.turn().await,
            None => None,
        };
        let Some(condition) = &self.condition else {
            let mut open = self.begin_at(Level::ReadCommitted).await?;
            open.permits.turn = turn;
            return Ok(open);
        };
        let mut open = self.begin_at(self.cx.level()).await?;
        let mut found = self.track_begin(self.cx.find(&open.tx, condition)).await?;
        if found.as_ref().is_some_and(|found| !found.is_read_committed) {
            // The default has changed since the last time.
            drop(open);
            open = self.begin_at(Level::ReadCommitted).await?;
            found = self.track_begin(self.cx.find(&open.tx, condition)).await?;
        }
        if found.is_none() {
            self.health.fail_condition();
            return Err(DbErr::Custom(
                "the item's row is no longer pending, or its claim has expired: another worker has it".to_owned(),
            ));
        }
        open.permits.turn = turn;
        Ok(open)
    }

    /// Begins, and sets the limits of its statements.
    async fn begin_at(&self, level: Level) -> DbResult<OpenTransaction> {
        let open = self.track_begin(self.cx.begin(level)).await?;
        if let Some(fence) = &self.cx.fence {
            self.track_begin(fence.begin(&open.tx)).await?;
        }
        if let Some(limit) = &self.time_limit
            && self.backend == DbBackend::Postgres
        {
            self.track_begin(limit.apply(&open.tx)).await?;
        }
        Ok(open)
    }

    pub(super) fn is_nested(&self) -> bool {
        self.health.is_nested()
    }

    /// Whether a savepoint of the user's code was found open.
    pub(crate) fn has_savepoint(&self) -> bool {
        self.health.has_savepoint()
    }

    /// Returns the connection for a nested transaction.
    pub(super) async fn nest(&self) -> DbResult<&DatabaseTransaction> {
        let has_failed = || self.backend == DbBackend::Postgres && self.health.has_failed();
        if has_failed() && self.health.is_in_doubt() {
            // What has failed may have been undone since, with its savepoint: the check finds that.
            let _ = self.connection().await;
        }
        if has_failed() {
            // If a savepoint cannot be set, sea-orm rolls back the outer transaction.
            return Err(DbErr::Custom(
                "an earlier statement of this transaction failed, so PostgreSQL accepts no savepoint; return its error, or begin \
                 the savepoint before the statement that may fail"
                    .to_owned(),
            ));
        }
        let tx = self.item_connection().await?;
        self.health.nest();
        Ok(tx.for_savepoint())
    }

    /// Records that a savepoint has ended with its callback, if there was none before.
    pub(super) fn callback_ended(&self, was_nested: bool) {
        self.health.callback_ended(was_nested);
    }

    /// Ends the connection of a transaction whose prepared statements no longer fit their tables. Otherwise the driver
    /// would use these statements again.
    pub(crate) async fn discard(&self) {
        if self.backend == DbBackend::Postgres
            && let Some(open) = self.tx.get()
        {
            let _ = open.tx.execute_unprepared("ROLLBACK; SELECT pg_terminate_backend(pg_backend_pid())").await;
            self.health.end();
        }
    }

    /// Returns the error from which this transaction cannot recover, if there was one.
    pub(crate) fn interruption(&self) -> Option<ErrorKind> {
        self.health.interruption()
    }

    /// Returns the kind of the last statement's error, if the last statement failed. If it failed only because an
    /// earlier one had failed, that is the kind of the earlier one's error.
    pub(crate) fn last_error(&self) -> Option<ErrorKind> {
        self.health.last_error()
    }

    /// Whether the transaction has ended before its commit.
    pub(crate) fn has_ended(&self) -> bool {
        self.health.has_ended()
    }

    /// Records the result of a statement.
    async fn track<T>(&self, statement: impl Future<Output = DbResult<T>>) -> DbResult<T> {
        let answer = self.health.answer();
        let result = statement.await;
        answer.arrived();
        match result {
            Ok(done) => {
                self.health.succeeded();
                Ok(done)
            }
            Err(error) => {
                Box::pin(self.note_error(&error)).await;
                Err(error)
            }
        }
    }

    /// Records the result of `begin`, as [`track`](Self::track) does. The transaction cannot be in doubt yet.
    async fn track_begin<T>(&self, begin: impl Future<Output = DbResult<T>>) -> DbResult<T> {
        let result = begin.await;
        if let Err(error) = &result {
            self.health.note(error, ErrorKind::of_own(error));
        }
        result
    }

    async fn note_error(&self, error: &DbErr) {
        let kind = ErrorKind::of_user(error);
        self.health.note(error, kind);
        // Checked at once, so that the connection is usable however this transaction ends.
        if self.backend == DbBackend::Sqlite && kind != ErrorKind::ConnectionLost && self.check_open("").await.is_err()
        {
            self.health.interrupt(kind);
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // The driver's own rollback could fail and leave the connection inside a transaction.
        if self.backend == DbBackend::Sqlite
            && (self.health.is_in_doubt() || self.is_nested())
            && let Some(OpenTransaction { tx, permits }) = self.tx.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                sqlite_connection::restore(tx.into_inner()).await;
                drop(permits);
            });
        }
    }
}

fn ended() -> DbErr {
    DbErr::Custom(
        "the transaction has ended before its commit (rolled back by the database, by a trigger, or by a statement); nothing more is \
         written through it"
            .to_owned(),
    )
}

/// Commits. If that fails, restores the connection.
async fn commit(tx: DatabaseTransaction, backend: DbBackend) -> DbResult<()> {
    if backend != DbBackend::Sqlite {
        return tx.commit().await;
    }
    // The driver does not notice that SQLite rolls back by itself: its next BEGIN would be a savepoint. So an empty
    // transaction follows this one, and the driver's rollback ends it.
    let committed = tx.execute_unprepared("COMMIT; BEGIN").await;
    if committed.is_err() {
        sqlite_connection::restore(tx).await;
    }
    committed.map(drop)
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.backend
    }

    async fn execute_raw(&self, statement: Statement) -> DbResult<ExecResult> {
        let tx = self.item_connection().await?;
        self.health.doubt_if_it_ends(&statement.sql);
        self.track(tx.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> DbResult<ExecResult> {
        let tx = self.item_connection().await?;
        self.health.doubt_if_it_ends(sql);
        self.track(tx.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> DbResult<Option<QueryResult>> {
        let tx = self.item_connection().await?;
        self.health.doubt_if_it_ends(&statement.sql);
        self.track(tx.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> DbResult<Vec<QueryResult>> {
        let tx = self.item_connection().await?;
        self.health.doubt_if_it_ends(&statement.sql);
        self.track(tx.query_all_raw(statement)).await
    }
}
