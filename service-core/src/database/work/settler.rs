//! [`Settler`]: writes the results of a batch's items, and records the items that were dropped.
//!
//! It is shared by the items that are in flight at the same time. What differs between rows that commit together and
//! rows that commit one by one is in `together.rs` and `leased.rs`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait};
use tokio::sync::Semaphore;

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::tx_limits::TxQueue;
use crate::database::work::attempt::{FailedAttempt, RetryDecision, RowRef};
use crate::database::work::item::Item;
use crate::database::work::item_fn::ItemPanicked;
use crate::database::work::lease::RowLease;
use crate::database::work::left_out::{LeftOut, OUTAGE_WAIT};
use crate::database::work::row::{CompletionRefused, key_of};
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::database::work::work_state::{Charge, EndedBatch};
use crate::database::work::write_row::Written;
use crate::panic;
use crate::service::error::{Advice, Error, Result};
use crate::sync::Mutex;

/// Writes the results of the items of one batch.
#[derive(Debug)]
pub(crate) struct Settler {
    pub(super) service_db: ServiceDb,
    pub(super) table: Arc<TableSql>,
    /// The claims of the rows, if they commit one by one.
    pub(super) lease: Option<RowLease>,
    /// The number of rows that were claimed together.
    pub(super) claimed: u64,
    /// The most items of a leased batch whose code runs at the same time.
    pub(super) concurrency: usize,
    /// How many further items may wait until their status is written.
    pub(super) most_unwritten: usize,
    /// How long the code of a leased item may take.
    pub(super) item_timeout: Option<Duration>,
    /// The items' transactions, if they begin one after the other.
    queue: Option<TxQueue>,
    /// The leased rows that lose an attempt when the batch has ended.
    dropped: Mutex<Vec<Charge>>,
    /// A claim could not be released. All that are left are released when the batch has ended.
    pub(super) has_unreleased: AtomicBool,
}

/// The result of an item, as it was written.
#[derive(Debug)]
pub(crate) enum Settled {
    Completed,
    Failed,
    /// The row belongs to another worker or program.
    Skipped,
    /// The table refuses to complete rows.
    Refused(Error),
}

/// What the trial of a completion has shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    Accepted,
    Refused,
    /// There is no completed row, or it must not become pending, or the trial met another error.
    Unknown,
}

/// Begins a trial on PostgreSQL: it waits only briefly, and deferred constraints are checked by the statement that they
/// refuse.
const TRIAL: &str = "SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '1s'; SET CONSTRAINTS ALL IMMEDIATE";

/// Records its item when it is dropped, if the item's result is not written by then.
pub(super) struct RecordDropped<'a, E: EntityTrait> {
    pub(super) settler: &'a Settler,
    pub(super) item: Item<E>,
}

impl<E: EntityTrait> Drop for RecordDropped<'_, E> {
    fn drop(&mut self) {
        self.settler.record_dropped(&self.item);
    }
}

/// The error of an item that succeeded although a statement had failed.
#[derive(Debug, thiserror::Error)]
#[error(
    "settled with `Ok` although a statement had failed, so the item's writes are undone; return the error of the statement, or execute a statement that may fail inside `tx.begin()`"
)]
struct IgnoredError(#[source] DbErr);

/// The error of an item that succeeded although its writes cannot be kept.
pub(super) fn not_kept(tx: &Transaction, error: DbErr) -> Error {
    // The message about an open savepoint says what to do.
    if tx.has_savepoint() { Error::from(error) } else { Error::new(IgnoredError(error)) }
}

/// Logs that a row is `failed` now.
pub(super) fn report_failed(service_id: &str, table: &TableSql, row: &RowRef, error: &str) {
    let (table, key, attempt) = (&table.name, key_text(&row.key), row.attempts.saturating_add(1));
    crate::log::warn!(
        service.id = service_id,
        table,
        key,
        attempt,
        error,
        "an item failed permanently, its row is now `failed`"
    );
}

impl Settler {
    pub(crate) fn new(service_db: &ServiceDb, table: &Arc<TableSql>, lease: Option<RowLease>, claimed: u64) -> Self {
        let (service_db, table) = (service_db.clone(), Arc::clone(table));
        let dropped = Mutex::default();
        Self {
            service_db,
            table,
            lease,
            claimed,
            concurrency: 1,
            most_unwritten: 0,
            item_timeout: None,
            queue: None,
            dropped,
            has_unreleased: AtomicBool::new(false),
        }
    }

    /// Sets how many items may be in flight at the same time, and how long each may take.
    pub(crate) fn with_limits(
        mut self,
        concurrency: usize,
        most_unwritten: usize,
        item_timeout: Option<Duration>,
    ) -> Self {
        (self.concurrency, self.most_unwritten, self.item_timeout) = (concurrency, most_unwritten, item_timeout);
        // SQLite has one writer. Without a queue, an item would fail if another one is slow.
        let queues = concurrency > 1 && self.table.backend == DbBackend::Sqlite;
        self.queue = queues.then(|| Arc::new(Semaphore::new(1)));
        self
    }

    /// Writes the result of an item.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) async fn settle<E: EntityTrait<Model: Sync>>(
        &self,
        item: &mut Item<E>,
        result: Result<()>,
    ) -> Result<Settled> {
        match result {
            Ok(()) if self.lease.is_some() => Box::pin(self.complete_leased(item)).await,
            Ok(()) => self.complete_together(item).await,
            // Boxed because it is rare and large.
            Err(error) => {
                let settled = Box::pin(self.fail(item, &error)).await;
                // User code, as the closure of the item, and the item has failed already.
                let _ = panic::catch(|| drop(error));
                settled
            }
        }
    }

    /// Writes that an item failed.
    pub(super) async fn fail<E: EntityTrait<Model: Sync>>(&self, item: &mut Item<E>, error: &Error) -> Result<Settled> {
        if item.tx.condition_failed() {
            return Ok(self.skip_lost(item).await);
        }
        let has_ended = item.tx.has_ended() && self.lease.is_none();
        if item.tx.interruption().is_some_and(ErrorKind::is_outage) || has_ended && self.claimed > 1 {
            // Nothing can be written now. The drop of the item records the row and the cause.
            return Err(error.clone());
        }
        if has_ended {
            drop(self.take_tx(item));
            item.in_flight = false;
            self.charge_alone(&item.row, error).await?;
            return Ok(Settled::Failed);
        }
        let cause = self.cause_of(item, error);
        // An error of a database may be that of another one, which the service needs.
        if cause.is_none_or(ErrorKind::is_outage) && self.may_follow_from_outage(item, error).await {
            // The next claims take other rows first: perhaps these do not use what is down.
            let why = match error.advice() {
                Advice::RetryAfter(wait) => LeftOut::Waits(wait.max(OUTAGE_WAIT)),
                _ => LeftOut::Outage,
            };
            self.service_db.work.postpone(&self.table, &item.row.key, why);
            return self.keep_attempts(item, error, None).await;
        }
        // A statement beside the item's transaction may find the server exhausted: then the row is left out as after a
        // conflict.
        let counts_as = cause.map(|kind| if kind == ErrorKind::Unavailable { ErrorKind::Contention } else { kind });
        if !self.service_db.work.count_loss(&self.table, &item.row, counts_as) {
            return self.keep_attempts(item, error, cause).await;
        }
        let now = self.service_db.clock.now();
        let attempts = item.row.attempts;
        let decision = match error.advice() {
            Advice::Fatal => RetryDecision::Failed,
            Advice::RetryAfter(wait) => self.table.retry_decision(attempts, Some(wait), now),
            Advice::None => self.table.retry_decision(attempts, None, now),
        };
        let message = format!("{error:#}");
        // If it cannot be written now, the drop of the item records it.
        let failed = FailedAttempt { decision, message };
        item.failure = Some(failed.clone());
        let written = if self.lease.is_some() {
            self.fail_leased(item, &failed).await?
        } else {
            self.fail_together(item, &failed).await?
        };
        let message = &failed.message;
        match written {
            Written::Done => {
                self.service_db.work.forget_losses(&self.table, [&item.row.key]);
                self.report(&item.row, decision, error, message);
            }
            Written::Changed => return Ok(self.skip_lost(item).await),
            Written::Refused(why) => {
                let why = format!("it failed ({message}), but its status cannot be written: {why}");
                self.leave_out(&item.row.key, &why);
                self.release_claim_alone(&item.row).await;
            }
        }
        item.in_flight = false;
        Ok(Settled::Failed)
    }

    /// The kind of the item's error, if the error is not the row's own: a deadlock, a read-only server, a changed
    /// table.
    fn cause_of<E: EntityTrait>(&self, item: &Item<E>, error: &Error) -> Option<ErrorKind> {
        // The user's code may have converted the error to text, or returned one that follows from it.
        let kinds = [ErrorKind::of_user_in_chain(error), item.tx.last_error()];
        // On SQLite a batch holds the write lock, so only its own item can wait for it.
        let holds_lock = self.lease.is_none() && self.table.backend == DbBackend::Sqlite;
        let is_own = |kind: &ErrorKind| !kind.is_passing() || holds_lock && *kind == ErrorKind::Contention;
        kinds.into_iter().flatten().find(|kind| !is_own(kind))
    }

    /// Whether an error of an item may come from an outage of what the service names in `needs`. If its row would
    /// become `failed`, that is checked.
    async fn may_follow_from_outage<E: EntityTrait>(&self, item: &Item<E>, error: &Error) -> bool {
        let is_own = matches!(error.advice(), Advice::Fatal)
            || error.find::<ItemPanicked>().is_some()
            || ErrorKind::of_user_in_chain(error) == Some(ErrorKind::Statement);
        let is_last = self.table.is_last_attempt(item.row.attempts);
        !is_own && self.service_db.need_was_down_since(item.began, is_last).await
    }

    /// Handles an item that failed for a cause that is not the row's own: undoes its writes, and leaves the row as it
    /// was. Without a `cause`, it is an outage of what the service needs.
    pub(super) async fn keep_attempts<E: EntityTrait>(
        &self,
        item: &mut Item<E>,
        error: &Error,
        cause: Option<ErrorKind>,
    ) -> Result<Settled> {
        // To end the connection ends a batch of rows that commit together, too: so only every second such error of a
        // row does that.
        let discards = cause == Some(ErrorKind::StaleStatement)
            && (self.lease.is_some() || !self.service_db.work.is_stale_again(&self.table, &item.row.key));
        if discards {
            item.tx.discard().await;
        }
        if self.lease.is_none() {
            if discards {
                // The end of the transaction must not be charged to the row.
                item.in_flight = false;
                return Err(error.clone());
            }
            if let Err(error) = item.tx.undo_item().await {
                // The item may have waited in vain for longer than its connection may be idle.
                item.in_flight = cause.is_some();
                return Err(error.into());
            }
        } else {
            let _ = self.take_tx(item).rollback().await;
            self.release_claim_alone(&item.row).await;
        }
        let (table, key, service_id) = (&self.table.name, key_text(&item.row.key), &*self.service_db.service_id);
        crate::log::info!(
            service.id = service_id,
            table,
            key,
            "an item failed for a cause that is not its own, and loses no attempt: {error:#}"
        );
        item.in_flight = false;
        Ok(Settled::Failed)
    }

    fn report(&self, row: &RowRef, decision: RetryDecision, cause: &Error, error: &str) {
        let (table, key, attempt) = (&self.table.name, key_text(&row.key), row.attempts.saturating_add(1));
        let service_id = &*self.service_db.service_id;
        match decision {
            RetryDecision::Failed => report_failed(service_id, &self.table, row, error),
            // A mistake of the program, also if a later attempt succeeds.
            RetryDecision::Again(at) if cause.find::<ItemPanicked>().is_some() => {
                crate::log::warn!(service.id = service_id, table, key, attempt, error, again_at = %at, "an item panicked and will be tried again");
            }
            RetryDecision::Again(at) => {
                crate::log::info!(service.id = service_id, table, key, attempt, error, again_at = %at, "an item failed and will be tried again");
            }
        }
    }

    /// Leaves a row that cannot be written out of claims for an hour.
    pub(super) fn leave_out(&self, key: &ValueTuple, why: &str) {
        self.service_db.leave_out(&self.table, key, why);
    }

    /// Called if the framework's own update to `completed` was refused for this row alone. `None` if the row is the
    /// cause, because another row can be completed. Otherwise the table is the cause, and the row is left out of claims
    /// until another row completes.
    pub(super) async fn table_refusal<E: EntityTrait>(&self, row: &RowRef, error: &DbErr) -> Result<Option<Error>> {
        let trial = self.try_completion::<E>().await?;
        // The completed rows may be removed at once, so others that have completed since its last refusal count, too.
        let refused_alone = self.service_db.work.take_refused_alone(&self.table, &row.key);
        if trial == Trial::Accepted || trial == Trial::Unknown && refused_alone {
            return Ok(None);
        }
        let (table, reason) = (self.table.name.clone(), error.to_string());
        self.service_db.work.leave_out(&self.table, &row.key, reason.clone(), LeftOut::Refused);
        Ok(Some(Error::new(CompletionRefused { table, reason })))
    }

    /// Finds out whether the table still accepts completions: completes a row again that is completed, and undoes that.
    /// That the row was completed once proves nothing: since then a constraint may have been added, or a table that a
    /// trigger writes to may be gone.
    async fn try_completion<E: EntityTrait>(&self) -> Result<Trial> {
        let tx = self.lazy_tx();
        let tried = self.complete_again::<E>(&tx).await;
        let _ = tx.rollback().await;
        match tried {
            Err(error) if ErrorKind::of_own(&error).is_outage() => Err(error.into()),
            tried => Ok(tried.unwrap_or(Trial::Unknown)),
        }
    }

    async fn complete_again<E: EntityTrait>(&self, tx: &Transaction) -> DbResult<Trial> {
        let (connection, now) = (tx.connection().await?, self.service_db.clock.now());
        if self.table.backend == DbBackend::Postgres {
            connection.execute_unprepared(TRIAL).await?;
        }
        // An old row may violate a constraint that was added later, and is checked for changed rows only.
        let recent = self.service_db.work.completed_beside(&self.table);
        let mut row = None;
        if recent.is_some() {
            row = connection.query_one(&self.table.one_completed::<E>(recent.as_ref())).await?;
        }
        if row.is_none() {
            row = connection.query_one(&self.table.one_completed::<E>(None)).await?;
        }
        let Some(row) = row else { return Ok(Trial::Unknown) };
        let key = key_of::<E>(&row)?;
        let (keys, pending) = (std::slice::from_ref(&key), self.table.pending(&key));
        // Some triggers run only if the status changes, and some keep a completed row as it is.
        connection.execute(&self.table.retry(keys, now)).await?;
        if connection.query_one(&pending).await?.is_none() {
            return Ok(Trial::Unknown);
        }
        for update in self.table.complete(keys, now) {
            match connection.execute(&update).await {
                Err(error) if ErrorKind::of_own(&error) == ErrorKind::Statement => return Ok(Trial::Refused),
                done => done?,
            };
        }
        let stays = connection.query_one(&pending).await?.is_some();
        Ok(if stays { Trial::Unknown } else { Trial::Accepted })
    }

    pub(super) fn lazy_tx(&self) -> Transaction {
        let tx = Transaction::lazy(&self.service_db.tx);
        if let Some(queue) = &self.queue { tx.with_queue(Arc::clone(queue)) } else { tx }
    }

    /// Takes the item's transaction. A new one begins with the next statement.
    pub(super) fn take_tx<E: EntityTrait>(&self, item: &mut Item<E>) -> Transaction {
        std::mem::replace(&mut item.tx, self.lazy_tx())
    }

    /// Records an item that is dropped, if its result is not written.
    pub(super) fn record_dropped<E: EntityTrait>(&self, item: &Item<E>) {
        if !item.in_flight {
            return;
        }
        let (row, cause, failure) = (item.row.clone(), item.tx.interruption(), item.failure.clone());
        let may_follow_from_outage = failure.is_none() && cause.is_none_or(ErrorKind::is_outage);
        let began = may_follow_from_outage.then_some(item.began);
        if self.lease.is_some() {
            self.charge_later(Charge { row, began, cause, failure });
            return;
        }
        let (table, row, claimed, has_ended) = (&self.table, Some(row), self.claimed, item.tx.has_ended());
        self.service_db.work.defer(EndedBatch { table, row, began, claimed, cause, has_ended, failure });
    }

    /// Records a leased row that could not be settled. It keeps its claim until its attempt is charged.
    pub(super) fn charge_later(&self, charge: Charge) {
        if charge.failure.is_some() || self.service_db.work.count_loss(&self.table, &charge.row, charge.cause) {
            self.dropped.lock().push(charge);
        }
    }

    /// The keys of the rows whose attempt is still to be charged.
    pub(super) fn dropped_keys(&self) -> Vec<String> {
        let dropped = self.dropped.lock();
        dropped.iter().map(|charge| key_text(&charge.row.key)).collect()
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let charges = std::mem::take(self.dropped.get_mut());
            self.service_db.drop_claims(&self.table, lease.owner.clone(), charges, lease.length);
        }
    }
}
