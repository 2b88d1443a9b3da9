//! [`Batch`] and [`Item`]: working off claimed rows.
//!
//! A batch of `claim` is one transaction: an item's writes stand behind a savepoint, failures are noted as they happen, and all
//! that succeeded become `completed` in one statement at the end. A batch of `claim_each` holds a lease instead, and every item
//! has a transaction of its own.
//!
//! The tricky part is the item in flight. `current` is set from the moment an item is lent until its result is written, so that
//! a drop at any await knows whom to charge.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryResult};

use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::work::lease::{self, Lease};
use crate::database::work::row::{self, Rows};
use crate::database::work::sql::{RetryDecision, RowRef, TableSql, key_text};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Advice, Error, Result};
use crate::service::outcome::Outcome;

/// Rows claimed by one run. Lend its items with [`next`](Batch::next), settle each, and [`commit`](Batch::commit).
///
/// Dropped instead, by `?`, a panic or a timeout: what did not commit is undone, the row in flight is charged for it (an
/// attempt, or `failed`), and the others are claimed again by the next run.
#[derive(Debug)]
pub struct Batch<E: EntityTrait> {
    service_db: ServiceDb,
    sql: Arc<TableSql>,
    /// The batch's transaction, or the lent item's own where there is a lease.
    tx: Transaction,
    lease: Option<Lease>,
    rows: Rows<E>,
    current: Option<RowRef>,
    done: Vec<RowRef>,
    claimed: u64,
    processed: u64,
    failed: u64,
    more: bool,
    open_batch: Option<OpenBatch>,
}

/// Says that SQLite's write lock is held.
#[derive(Debug)]
struct OpenBatch(Arc<AtomicUsize>);

impl Drop for OpenBatch {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One claimed row, lent by [`Batch::next`]. Dropped without being settled, it has failed (`not settled`).
#[derive(Debug)]
pub struct Item<'a, E: EntityTrait> {
    batch: &'a mut Batch<E>,
    model: E::Model,
}

/// A statement of the item failed, the item went on, and said it had succeeded.
#[derive(Debug, thiserror::Error)]
#[error(
    "settled as done, although a statement had failed, which ends a transaction's part; return its error, or wrap what may fail in `tx.begin()`"
)]
struct IgnoredError(#[source] DbErr);

impl<E: EntityTrait<Model: Sync>> Item<'_, E> {
    /// The row as it was when it was claimed.
    pub fn model(&self) -> &E::Model {
        &self.model
    }

    /// Where this item's writes go: kept when it is settled with `Ok`, undone with `Err`.
    ///
    /// With `claim_each` it begins with its first statement; on SQLite it holds the write lock from then on.
    pub fn tx(&self) -> &Transaction {
        &self.batch.tx
    }

    /// Which attempt this is, from 1. Always 1 where the table does not count them.
    pub fn attempt(&self) -> u64 {
        let before = self.batch.current.as_ref().map_or(0, |row| row.attempts);
        u64::try_from(before).unwrap_or(0) + 1
    }

    /// Says how it went. `Ok`: it will be `completed`, together with its writes. `Err`: its writes are undone, and it is `failed`
    /// with the error's whole chain as its message, or `pending` again, later, while attempts are left.
    ///
    /// `Error::fatal` means no further attempt; `Error::retry_after` sets the wait.
    ///
    /// # Errors
    /// Only the database's: pass it on, with `?`. A failed item is no error of the batch.
    pub fn settle<T, X>(self, result: std::result::Result<T, X>) -> impl Future<Output = Result<()>> + Send
    where
        X: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        // Not held across an await: they need not be `Send`.
        let failure = result.err().map(Error::new);
        let batch = self.batch;
        async move {
            match failure {
                None => batch.complete().await,
                // Boxed, as it is rare and large: a success shall not carry the room for it.
                Some(error) => Box::pin(batch.fail(&error)).await,
            }
        }
    }
}

impl<E: EntityTrait<Model: Sync>> Batch<E> {
    pub(crate) fn new(service_db: ServiceDb, sql: Arc<TableSql>, tx: Transaction, lease: Option<Lease>) -> Self {
        Self {
            service_db,
            sql,
            tx,
            lease,
            rows: VecDeque::new(),
            current: None,
            done: Vec::new(),
            claimed: 0,
            processed: 0,
            failed: 0,
            more: false,
            open_batch: None,
        }
    }

    /// The rows are held by claims, not by a transaction.
    pub(crate) fn set_lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// The batch's transaction has begun.
    pub(crate) fn open_batch(&mut self) {
        self.service_db.tx.open_batches.fetch_add(1, Ordering::Relaxed);
        self.open_batch = Some(OpenBatch(Arc::clone(&self.service_db.tx.open_batches)));
    }

    pub(crate) fn tx(&self) -> &Transaction {
        &self.tx
    }

    /// Rows were charged before they could be lent, and whether more wait.
    pub(crate) fn add_charged(&mut self, charged: u64, more: bool) {
        self.failed += charged;
        self.more |= more;
    }

    /// There was nothing: no transaction stays open.
    pub(crate) async fn close_empty(&mut self) -> Result<()> {
        self.open_batch = None;
        self.take_tx().rollback().await
    }

    /// Lends the next item, or `None` when all have been lent. An item lent before and not settled has failed.
    ///
    /// # Errors
    /// The database's: pass it on, with `?`.
    pub async fn next(&mut self) -> Result<Option<Item<'_, E>>> {
        self.fail_unsettled().await?;
        let Some(claimed) = self.rows.pop_front() else { return Ok(None) };
        if self.lease.is_some() {
            self.tx = self.lazy().with_condition(self.sql.still_pending(&claimed.row.key));
        } else {
            self.tx.begin_item();
        }
        self.current = Some(claimed.row);
        Ok(Some(Item { batch: self, model: claimed.model }))
    }

    /// How many rows wait to be lent.
    pub fn remaining(&self) -> usize {
        self.rows.len()
    }

    /// Makes it last. The outcome counts items completed and failed (those that will be tried again, too), and says
    /// [`again`](Outcome::again) where more rows wait, or this batch has items that were not lent.
    ///
    /// Once it commits it goes on even when this future is dropped.
    ///
    /// # Errors
    /// The database refused: nothing of a `claim` was written. If the connection held, the same rows are claimed one by one
    /// next, so that the one it was about is found and charged.
    pub async fn commit(mut self) -> Result<Outcome> {
        self.fail_unsettled().await?;
        let again = self.more || !self.rows.is_empty();
        match &self.lease {
            Some(lease) if !self.rows.is_empty() => {
                // Until they are given back the lease is the batch's, so that a drop notes what could not be given back.
                let now = self.service_db.clock.now();
                lease::release_all(&self.service_db.tx.db, &self.sql.name, &lease.owner, now).await?;
            }
            Some(_) => {}
            None => {
                self.commit_batch().await?;
                // Only there a claim looks before it begins.
                if again && self.sql.backend == DbBackend::Sqlite {
                    self.service_db.work.expect_more(&self.sql);
                }
            }
        }
        self.lease = None;
        let outcome = Outcome::processed(self.processed).failed(self.failed);
        Ok(if again { outcome.again() } else { outcome })
    }

    async fn commit_batch(&mut self) -> Result<()> {
        let keys: Vec<ValueTuple> = self.done.iter().map(|row| row.key.clone()).collect();
        let tx = self.take_tx();
        let committed = async {
            tx.prove().await?;
            for update in self.sql.complete(&keys, self.service_db.clock.now()) {
                tx.connection().await?.execute(&update).await?;
            }
            tx.commit().await
        };
        let Err(error) = committed.await else { return Ok(()) };
        let innocent = error.find::<DbErr>().is_some_and(|e| ErrorKind::of(e).is_passing());
        if !innocent {
            match self.done.pop() {
                Some(row) if self.claimed == 1 => self.service_db.work.defer(&self.sql, Some(row), None, None),
                _ => self.service_db.work.claim_one_by_one(&self.sql, self.claimed),
            }
        }
        Err(error)
    }

    async fn fail_unsettled(&mut self) -> Result<()> {
        match self.current {
            Some(_) => Box::pin(self.fail(&Error::msg("not settled"))).await,
            None => Ok(()),
        }
    }

    async fn complete(&mut self) -> Result<()> {
        let Some(row) = self.current.clone() else { return Ok(()) };
        if self.lease.is_some() {
            return Box::pin(self.complete_leased(&row)).await;
        }
        if let Err(error) = self.tx.keep_item().await {
            return Box::pin(self.fail(&Error::new(IgnoredError(error)))).await;
        }
        self.current = None;
        self.done.push(row);
        self.processed += 1;
        Ok(())
    }

    async fn fail(&mut self, error: &Error) -> Result<()> {
        let Some(row) = self.current.clone() else { return Ok(()) };
        if self.tx.interruption().is_some() {
            // Nothing can be written any more; dropped, the batch tells what it knows of the cause.
            return Err(error.clone());
        }
        if self.tx.condition_failed() {
            self.skip_lost(&row).await;
            return Ok(());
        }
        let now = self.service_db.clock.now();
        let decision = match error.advice() {
            Advice::Fatal => RetryDecision::Failed,
            Advice::RetryAfter(wait) => self.sql.retry_decision(row.attempts, Some(wait), now),
            Advice::None => self.sql.retry_decision(row.attempts, None, now),
        };
        let message = format!("{error:#}");
        self.report(&row, decision, &message);
        if self.lease.is_some() {
            if !self.fail_leased(&row, decision, &message).await? {
                self.skip_lost(&row).await;
                return Ok(());
            }
        } else {
            self.tx.undo_item().await?;
            let write = |message| self.sql.fail(&row.key, row.attempts, decision, message, now);
            if self.tx.execute_in_savepoint(&write(Some(&message))).await.is_err() {
                // The message may be what the column refuses.
                self.tx.execute_in_savepoint(&write(None)).await?;
            }
        }
        self.current = None;
        self.failed += 1;
        Ok(())
    }

    fn report(&self, row: &RowRef, decision: RetryDecision, error: &str) {
        let (table, key, attempt) = (&self.sql.name, key_text(&row.key), row.attempts + 1);
        let service_id = &*self.service_db.service_id;
        match decision {
            RetryDecision::Failed => {
                tracing::warn!(service.id = service_id, table, key, attempt, error, "an item failed");
            }
            RetryDecision::Again(at) => {
                tracing::info!(service.id = service_id, table, key, attempt, error, again_at = %at, "an item failed and will be tried again");
            }
        }
    }

    /// An item of its own: its writes, its status and the end of its claim commit together.
    async fn complete_leased(&mut self, row: &RowRef) -> Result<()> {
        let tx = self.take_tx();
        let written = async {
            tx.prove().await.map_err(|error| Error::new(IgnoredError(error)))?;
            // The row was pending when the transaction began. Since then the item may have changed or deleted it.
            for update in self.sql.complete(std::slice::from_ref(&row.key), self.service_db.clock.now()) {
                tx.connection().await?.execute(&update).await?;
            }
            self.release_claim(&tx, row).await
        };
        let written: Result<bool> = written.await;
        let committed = match written {
            Ok(true) => tx.commit().await.map(|()| true),
            Ok(false) => tx.rollback().await.map(|()| false),
            Err(_) if tx.condition_failed() => Ok(false),
            Err(error) => {
                let cause = tx.interruption();
                drop(tx);
                if cause.is_some() {
                    return self.defer(cause, error);
                }
                Err(error)
            }
        };
        match committed {
            Ok(true) => {
                self.current = None;
                self.processed += 1;
                Ok(())
            }
            Ok(false) => {
                self.skip_lost(row).await;
                Ok(())
            }
            Err(error) => match error.find::<DbErr>() {
                Some(lost) if ErrorKind::of(lost) == ErrorKind::ConnectionLost => {
                    self.defer(Some(ErrorKind::ConnectionLost), error)
                }
                // The commit was refused: what this item wrote cannot stand.
                _ => Box::pin(self.fail(&error)).await,
            },
        }
    }

    /// False: the claim had run out.
    async fn fail_leased(&mut self, row: &RowRef, decision: RetryDecision, message: &str) -> Result<bool> {
        // Its writes go first; a connection that will not even roll back is no reason not to say so elsewhere.
        let _ = self.take_tx().rollback().await;
        let (tx, now) = (self.lazy(), self.service_db.clock.now());
        let write = |message| self.sql.fail(&row.key, row.attempts, decision, message, now);
        if tx.execute_in_savepoint(&write(Some(message))).await.is_err() {
            // The message may be what the column refuses.
            tx.execute_in_savepoint(&write(None)).await?;
        }
        let ours = self.release_claim(&tx, row).await?;
        if ours {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        Ok(ours)
    }

    /// Gives the claim back, and says whether it still stood. Always after the row itself was written: claiming locks row and claim in
    /// this order, and the other way round the two would wait for each other.
    async fn release_claim(&self, tx: &Transaction, row: &RowRef) -> Result<bool> {
        let Some(lease) = &self.lease else { return Ok(true) };
        let release = lease::release(&self.sql.name, &key_text(&row.key), &lease.owner);
        Ok(tx.connection().await?.execute(&release).await?.rows_affected() == 1)
    }

    /// Somebody else has the row: its lease ran out here, or it was worked on without one.
    async fn skip_lost(&mut self, row: &RowRef) {
        tracing::warn!(
            service.id = &*self.service_db.service_id,
            table = self.sql.name,
            key = key_text(&row.key),
            "the claim ran out before the item was settled (a longer `.lease(…)` helps), or somebody else has changed its row; its writes are undone"
        );
        if let Some(lease) = &self.lease {
            // Where it is still this worker's. Otherwise, or where it cannot be given back, it runs out.
            let release = lease::release(&self.sql.name, &key_text(&row.key), &lease.owner);
            let _ = self.service_db.tx.db.execute(&release).await;
        }
        self.current = None;
    }

    /// The item's transaction broke. The settlement decides whether the row is charged.
    fn defer(&mut self, cause: Option<ErrorKind>, error: Error) -> Result<()> {
        let owner = self.lease.as_ref().map(|lease| lease.owner.clone());
        self.service_db.work.defer(&self.sql, self.current.take(), owner, cause);
        Err(error)
    }

    fn lazy(&self) -> Transaction {
        Transaction::lazy(&self.service_db.tx)
    }

    fn take_tx(&mut self) -> Transaction {
        let fresh = self.lazy();
        std::mem::replace(&mut self.tx, fresh)
    }
}

impl<E: WorkItem> Batch<E> {
    /// Takes the claimed rows over. Those that cannot be read are set aside, so that they stop nothing.
    pub(crate) async fn take(&mut self, rows: Vec<QueryResult>, wanted: u64) -> std::result::Result<(), DbErr> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.more = rows.len() > wanted;
        for row in rows.iter().take(wanted) {
            self.claimed += 1;
            match row::read::<E>(row) {
                Ok(claimed) => self.rows.push_back(claimed),
                Err(error) => self.set_aside(row, &error).await?,
            }
        }
        if self.lease.is_some() {
            let tx = self.take_tx();
            tx.commit().await.map_err(|error| DbErr::Custom(format!("{error:#}")))?;
        }
        Ok(())
    }

    async fn set_aside(&mut self, row: &QueryResult, error: &DbErr) -> std::result::Result<(), DbErr> {
        let table = &self.sql.name;
        let service_id = &*self.service_db.service_id;
        let key = match row::key_of::<E>(row) {
            Ok(key) => key,
            Err(error) => {
                row::report_unreadable_key(&self.service_db, &self.sql, &error);
                return Ok(());
            }
        };
        let shown = key_text(&key);
        if self.service_db.work.is_first_report(format!("unreadable {table} {shown}")) {
            tracing::warn!(service.id = service_id, table, key = shown, %error, "a row cannot be read; it is set aside as failed");
        }
        let (now, message) = (self.service_db.clock.now(), format!("cannot be read: {error}"));
        if self.tx.execute_in_savepoint(&self.sql.set_aside(&key, Some(&message), now)).await.is_err() {
            self.tx.execute_in_savepoint(&self.sql.set_aside(&key, None, now)).await?;
        }
        if let Some(lease) = &self.lease {
            self.tx.execute_in_savepoint(&lease::release(table, &shown, &lease.owner)).await?;
        }
        self.failed += 1;
        Ok(())
    }
}

impl<E: EntityTrait> Drop for Batch<E> {
    fn drop(&mut self) {
        let owner = self.lease.take().map(|lease| lease.owner.clone());
        let row = self.current.take();
        if row.is_some() || owner.is_some() {
            self.service_db.work.defer(&self.sql, row, owner, self.tx.interruption());
        }
    }
}
