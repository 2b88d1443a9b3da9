//! [`Batch`] and [`Item`]: processing claimed rows.
//!
//! A batch of `claim` is one transaction: an item's writes have a savepoint, failures are written at once, and all rows that
//! succeeded become `completed` in one statement at the end (`together.rs`). A batch of `claim_each` holds a lease instead,
//! and each item has a transaction of its own (`leased.rs`).

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QueryResult};

use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::work::lease::{self, Lease};
use crate::database::work::row::{self, CompletionRefused, Rows, UnreadableRows};
use crate::database::work::sql::{RetryDecision, RowRef, TableSql, key_text};
use crate::database::work::work_item::WorkItem;
use crate::database::work::work_state::EndedBatch;
use crate::database::work::write_row::{Written, write_unreadable};
use crate::service::error::{Advice, Error, Result};
use crate::service::outcome::Outcome;

/// Rows claimed by one run. Lend its items with [`next`](Batch::next), settle each, and [`commit`](Batch::commit).
///
/// If it is dropped instead, by `?`, a panic or a timeout, uncommitted writes are undone, the row in flight loses an attempt
/// (or becomes `failed`), and the next run claims the others again.
#[derive(Debug)]
pub struct Batch<E: EntityTrait> {
    pub(super) service_db: ServiceDb,
    pub(super) table: Arc<TableSql>,
    /// The transaction of the batch; in a leased batch, of the lent item.
    pub(super) tx: Transaction,
    pub(super) lease: Option<Lease>,
    pub(super) rows: Rows<E>,
    /// The row in flight: set from the moment an item is lent until its result is written.
    pub(super) current: Option<RowRef>,
    pub(super) done: Vec<RowRef>,
    pub(super) claimed: u64,
    pub(super) processed: u64,
    pub(super) failed: u64,
    pub(super) more: bool,
    /// Why the table refused `completed`, if it has completed no row.
    pub(super) refused: Option<Error>,
    /// There are claims to release of rows that were not lent.
    pub(super) has_unlent: bool,
    open: Option<OpenBatch>,
}

/// Counts a batch that holds SQLite's write lock.
#[derive(Debug)]
struct OpenBatch(Arc<AtomicUsize>);

impl Drop for OpenBatch {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One claimed row, lent by [`Batch::next`]. If it is dropped without being settled, it has failed (`not settled`).
#[derive(Debug)]
pub struct Item<'a, E: EntityTrait> {
    batch: &'a mut Batch<E>,
    model: E::Model,
}

/// The error of an item that was settled with `Ok` although its writes cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "settled with `Ok` although a statement had failed, so the item's writes are undone; return the error of the statement, or execute a statement that may fail inside `tx.begin()`"
)]
pub(super) struct IgnoredError(#[source] pub(super) DbErr);

impl<E: EntityTrait<Model: Sync>> Item<'_, E> {
    /// Returns the row as it was when it was claimed.
    pub fn model(&self) -> &E::Model {
        &self.model
    }

    /// Returns the transaction for this item's writes. They are kept if the item is settled with `Ok`, and undone with `Err`.
    ///
    /// With `claim_each` it begins with its first statement. On SQLite it holds the write lock from then on.
    pub fn tx(&self) -> &Transaction {
        &self.batch.tx
    }

    /// Returns the number of this attempt, from 1. It is always 1 if the table does not count attempts.
    pub fn attempt(&self) -> u64 {
        let before = self.batch.current.as_ref().map_or(0, |row| row.attempts);
        u64::try_from(before).unwrap_or(0) + 1
    }

    /// Reports the item's result.
    ///
    /// `Ok`: the row becomes `completed`, in one commit with the item's writes. `Err`: the writes are undone; while attempts
    /// are left, the row is `pending` again, after a wait, else it becomes `failed`. The message is the error with all its
    /// causes.
    ///
    /// `Error::fatal` means no further attempt; `Error::retry_after` sets the wait. An error that is not the row's own, such
    /// as a deadlock or a read-only server, costs no attempt.
    ///
    /// # Errors
    /// Only errors of the database: return them with `?`. A failed item is not an error of the batch.
    pub fn settle<T, X>(self, result: std::result::Result<T, X>) -> impl Future<Output = Result<()>> + Send
    where
        X: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        // Converted before the first await, because the result need not be `Send`.
        let failure = result.err().map(Error::new);
        let batch = self.batch;
        async move {
            match failure {
                None => batch.complete().await,
                // Boxed because it is rare and large.
                Some(error) => Box::pin(batch.fail(&error)).await,
            }
        }
    }
}

impl<E: EntityTrait<Model: Sync>> Batch<E> {
    pub(crate) fn new(service_db: ServiceDb, table: Arc<TableSql>, tx: Transaction) -> Self {
        Self {
            service_db,
            table,
            tx,
            lease: None,
            rows: VecDeque::new(),
            current: None,
            done: Vec::new(),
            claimed: 0,
            processed: 0,
            failed: 0,
            more: false,
            refused: None,
            has_unlent: false,
            open: None,
        }
    }

    /// The rows are held by claims, not by a transaction.
    pub(crate) fn set_lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// The batch's transaction has begun.
    pub(crate) fn mark_open(&mut self) {
        let open_batches = Arc::clone(&self.service_db.tx.open_batches);
        open_batches.fetch_add(1, Ordering::Relaxed);
        self.open = Some(OpenBatch(open_batches));
    }

    pub(crate) fn tx(&self) -> &Transaction {
        &self.tx
    }

    /// Adds rows that lost an attempt before they were lent, and whether there are more rows.
    pub(crate) fn add_charged(&mut self, charged: u64, more: bool) {
        self.failed += charged;
        self.more |= more;
    }

    /// Commits the writes of [`take`](Self::take) for a leased batch.
    pub(crate) async fn commit_taken(&mut self) -> Result<()> {
        self.take_tx().commit().await
    }

    /// Ends the transaction of a batch without rows.
    pub(crate) async fn close_empty(&mut self) -> Result<()> {
        self.open = None;
        self.take_tx().rollback().await
    }

    /// Lends the next item; `None` if all have been lent. An earlier item that was not settled has failed.
    ///
    /// # Errors
    /// Those of the database: return them with `?`.
    pub async fn next(&mut self) -> Result<Option<Item<'_, E>>> {
        self.fail_unsettled().await?;
        if self.lease.as_ref().is_some_and(Lease::is_lost) {
            self.drop_lost_rows();
        }
        let Some(claimed) = self.rows.pop_front() else { return Ok(None) };
        match &self.lease {
            Some(lease) => {
                let key = &claimed.row.key;
                let is_held = lease::is_held(&self.table.name, &key_text(key), &lease.owner);
                let mut condition = self.table.still_pending(key);
                condition.and_where(is_held);
                self.tx = self.lazy_tx().with_condition(condition);
            }
            None => self.tx.begin_item(),
        }
        self.current = Some(claimed.row);
        Ok(Some(Item { batch: self, model: claimed.model }))
    }

    /// Returns the number of rows that have not been lent.
    pub fn remaining(&self) -> usize {
        self.rows.len()
    }

    /// Commits the batch. The outcome counts the items that completed and those that failed, also if these will be retried.
    /// It is [`again`](Outcome::again) if more rows are due, or if items were not lent.
    ///
    /// Once the commit has begun, it continues even if this future is dropped.
    ///
    /// # Errors
    /// The database refused the commit. Then nothing of a `claim` was written; the next runs claim the same rows one by one,
    /// so that only the row that is the cause loses an attempt.
    pub async fn commit(mut self) -> Result<Outcome> {
        self.fail_unsettled().await?;
        let again = self.more || !self.rows.is_empty();
        if self.lease.is_some() {
            self.commit_leased().await?;
        } else {
            self.commit_together(again).await?;
        }
        self.lease = None;
        let again = again || self.more;
        if let Some(error) = self.refused.take().filter(|_| self.processed == 0) {
            return Err(error);
        }
        let outcome = Outcome::processed(self.processed).failed(self.failed);
        Ok(if again { outcome.again() } else { outcome })
    }

    /// Drops the rows that were not lent, because their claims have expired and other workers may have claimed them.
    fn drop_lost_rows(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let (table, rows, service_id) = (&self.table.name, self.rows.len(), &*self.service_db.service_id);
        crate::log::warn!(
            service.id = service_id,
            table,
            rows,
            "the claims expired before their rows were lent (the process was suspended, or the database was down); other workers can claim the rows"
        );
        self.rows.clear();
        (self.has_unlent, self.more) = (true, true);
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

    pub(super) async fn fail(&mut self, error: &Error) -> Result<()> {
        let Some(row) = self.current.clone() else { return Ok(()) };
        if self.tx.condition_failed() {
            self.skip_lost(&row).await;
            return Ok(());
        }
        let has_ended = self.tx.has_ended() && self.lease.is_none();
        if self.tx.interruption().is_some_and(ErrorKind::is_outage) || has_ended && self.claimed > 1 {
            // Nothing can be written now. The drop of the batch records the row and the cause.
            return Err(error.clone());
        }
        if has_ended {
            return self.charge_alone(&row, error).await;
        }
        let cause = self.cause_of(error);
        if !self.service_db.work.is_charged(&self.table, &row, cause) {
            return self.keep_attempts(&row, error, cause).await;
        }
        let now = self.service_db.clock.now();
        let decision = match error.advice() {
            Advice::Fatal => RetryDecision::Failed,
            Advice::RetryAfter(wait) => self.table.retry_decision(row.attempts, Some(wait), now),
            Advice::None => self.table.retry_decision(row.attempts, None, now),
        };
        let message = format!("{error:#}");
        let written = if self.lease.is_some() {
            self.fail_leased(&row, decision, &message).await?
        } else {
            self.fail_together(&row, decision, &message).await?
        };
        match written {
            Written::Done => {
                self.report(&row, decision, &message);
                self.current = None;
                self.failed += 1;
            }
            Written::Changed => self.skip_lost(&row).await,
            Written::Refused(why) => {
                self.leave_out(&row.key, &format!("it failed ({message}), but its status cannot be written: {why}"));
                self.release_claim_alone(&row).await;
                self.current = None;
                self.failed += 1;
            }
        }
        Ok(())
    }

    /// The kind of the item's error, if the error is not the row's own: a deadlock, a read-only server, a changed table.
    fn cause_of(&self, error: &Error) -> Option<ErrorKind> {
        let kind = match ErrorKind::in_chain(error) {
            Some(kind) => Some(kind),
            // The user's code may have converted the error to text.
            None => self.tx.last_error(),
        };
        kind.filter(|kind| kind.is_passing())
    }

    /// Handles an item that failed for a cause that is not the row's own: undoes its writes, and leaves the row as it was.
    pub(super) async fn keep_attempts(&mut self, row: &RowRef, error: &Error, cause: Option<ErrorKind>) -> Result<()> {
        if cause == Some(ErrorKind::StaleStatement) {
            self.tx.discard().await;
        }
        if self.lease.is_none() {
            if cause == Some(ErrorKind::StaleStatement) {
                return Err(error.clone());
            }
            self.tx.undo_item().await?;
        } else {
            let _ = self.take_tx().rollback().await;
            self.release_claim_alone(row).await;
        }
        let (table, key, service_id) = (&self.table.name, key_text(&row.key), &*self.service_db.service_id);
        crate::log::info!(
            service.id = service_id,
            table,
            key,
            "an item failed for a cause that is not its own, and loses no attempt: {error:#}"
        );
        self.current = None;
        self.failed += 1;
        Ok(())
    }

    pub(super) fn report(&self, row: &RowRef, decision: RetryDecision, error: &str) {
        let (table, key, attempt) = (&self.table.name, key_text(&row.key), row.attempts + 1);
        let service_id = &*self.service_db.service_id;
        match decision {
            RetryDecision::Failed => {
                crate::log::warn!(service.id = service_id, table, key, attempt, error, "an item failed");
            }
            RetryDecision::Again(at) => {
                crate::log::info!(service.id = service_id, table, key, attempt, error, again_at = %at, "an item failed and will be tried again");
            }
        }
    }

    /// Leaves a row that cannot be written out of claims for an hour.
    pub(super) fn leave_out(&self, key: &ValueTuple, why: &str) {
        if self.service_db.work.set_aside(&self.table, key, why.to_owned(), false) {
            let (table, key, service_id) = (&self.table.name, key_text(key), &*self.service_db.service_id);
            crate::log::warn!(service.id = service_id, table, key, "a row is left out of claims for an hour: {why}");
        }
    }

    /// Called if the framework's own update to `completed` was refused for this row alone. True if the row is the cause,
    /// because the table has completed rows. Otherwise the table is the cause, and the row is left out of claims until
    /// another row completes.
    pub(super) async fn is_cause_of_refusal(&mut self, row: &RowRef, error: &DbErr) -> Result<bool> {
        if self.service_db.db().query_one(&self.table.one_completed()).await?.is_some() {
            return Ok(true);
        }
        self.service_db.work.set_aside(&self.table, &row.key, error.to_string(), true);
        let (table, reason) = (self.table.name.clone(), error.to_string());
        self.refused = Some(Error::new(CompletionRefused { table, reason }));
        Ok(false)
    }

    pub(super) fn lazy_tx(&self) -> Transaction {
        Transaction::lazy(&self.service_db.tx)
    }

    pub(super) fn take_tx(&mut self) -> Transaction {
        let fresh = self.lazy_tx();
        std::mem::replace(&mut self.tx, fresh)
    }
}

impl<E: WorkItem> Batch<E> {
    /// Takes the claimed rows.
    ///
    /// # Errors
    /// No row can be read, or a column has another type than in the entity. The rows stay as they are.
    pub(crate) async fn take(&mut self, rows: Vec<QueryResult>, wanted: u64, evidence: &[QueryResult]) -> Result<()> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.more |= rows.len() > wanted;
        let mut unreadable = Vec::new();
        for row in rows.iter().take(wanted) {
            self.claimed += 1;
            match row::read::<E>(row) {
                Ok(claimed) => self.rows.push_back(claimed),
                Err(error) => unreadable.push((row, error)),
            }
        }
        let Some((_, first)) = unreadable.first() else { return Ok(()) };
        let is_column = self.table.backend == sea_orm::DbBackend::Postgres
            && unreadable.iter().any(|(_, error)| row::is_type_mismatch(error));
        if is_column || self.rows.is_empty() && !evidence.iter().any(|row| row::read::<E>(row).is_ok()) {
            self.rows.clear();
            return Err(Error::new(UnreadableRows { table: self.table.name.clone(), source: first.clone() }));
        }
        for (row, error) in unreadable {
            self.set_unreadable(row, &error).await?;
        }
        Ok(())
    }

    /// Writes `failed` for a row that cannot be read although others can.
    async fn set_unreadable(&mut self, row: &QueryResult, error: &DbErr) -> Result<()> {
        let (table, service_id) = (&self.table.name, &*self.service_db.service_id);
        let key = match row::key_of::<E>(row) {
            Ok(key) => key,
            Err(error) => {
                row::report_unreadable_key(&self.service_db, &self.table, &error);
                return Ok(());
            }
        };
        let shown = key_text(&key);
        if self.service_db.work.is_first_report(format!("unreadable {table} {shown}")) {
            crate::log::warn!(service.id = service_id, table, key = shown, %error, "a row cannot be read and becomes `failed`");
        }
        let message = format!("cannot be read: {error}");
        let written = write_unreadable(&self.tx, &self.table, &key, &message, self.service_db.clock.now()).await?;
        if let Some(lease) = &self.lease {
            self.tx.connection().await?.execute(&lease::release(&self.table.name, &shown, &lease.owner)).await?;
        }
        if let Written::Refused(why) = written {
            self.leave_out(&key, &format!("{message}, and its status cannot be written: {why}"));
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
            let (table, claimed, cause) = (&self.table, self.claimed, self.tx.interruption());
            let has_ended = self.tx.has_ended();
            self.service_db.work.defer(EndedBatch { table, row, owner, claimed, cause, has_ended });
        }
    }
}
