//! Items of `claim_each`: every row commits by itself, and its claim ends with that commit.

use std::sync::atomic::Ordering;

use sea_orm::{ConnectionTrait, DbErr, EntityTrait};
use tokio::time::Instant;

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::transaction::Transaction;
use crate::database::work::attempt::{FailedAttempt, RowRef};
use crate::database::work::claim_table;
use crate::database::work::item::Item;
use crate::database::work::row::ClaimedRow;
use crate::database::work::settler::{Settled, Settler, not_kept};
use crate::database::work::sql_text::key_text;
use crate::database::work::together::{Completion, Counts, NotCompleted};
use crate::database::work::work_state::Charge;
use crate::database::work::write_row::{self, Written, write_failure};
use crate::service::error::{Error, Result};

impl Settler {
    /// Lends a leased row. The item's transaction begins only if the row is still pending and claimed.
    pub(super) fn leased_item<E: EntityTrait>(&self, claimed: ClaimedRow<E>) -> Item<E> {
        let ClaimedRow { row, model, .. } = claimed;
        let mut tx = self.lazy_tx();
        if let Some(lease) = &self.lease {
            tx = tx.with_condition(self.table.still_claimed(&row.key, &lease.owner));
        }
        if let Some(deadline) = self.item_timeout.and_then(|limit| Instant::now().checked_add(limit)) {
            tx = tx.with_deadline(deadline);
        }
        Item::new(model, row, tx)
    }

    /// Completes an item: its writes, its status and the release of its claim commit together.
    pub(super) async fn complete_leased<E: EntityTrait<Model: Sync>>(&self, item: &mut Item<E>) -> Result<Settled> {
        let is_unused = self.is_unused(item);
        let mut tx = self.take_tx(item);
        if let Some(lease) = self.lease.as_ref().filter(|_| is_unused) {
            drop(tx);
            return self.complete_unused(item, &lease.owner).await;
        }
        if let Err(error) = tx.end_time_limit().await {
            let error = not_kept(&tx, error);
            // The item may have ignored an error that is not its own.
            let ignored = tx.last_error().filter(|kind| kind.is_passing());
            if ignored == Some(ErrorKind::StaleStatement) {
                tx.discard().await;
            }
            let cause = tx.give_up().await.or(ignored);
            return self.leased_failed(item, &error, cause).await;
        }
        match self.complete_in::<E>(&tx, &item.row).await {
            Ok(true) => {}
            Ok(false) => {
                tx.rollback().await?;
                return Ok(self.skip_lost(item).await);
            }
            Err(NotCompleted::Pending(_)) => {
                let _ = tx.rollback().await;
                self.leave_out(
                    &item.row.key,
                    "it was completed, but stays pending: a trigger or a rule keeps it; its writes are undone",
                );
                return Ok(self.end_uncharged(item, Settled::Failed).await);
            }
            Err(NotCompleted::Refused(error)) => {
                let _ = tx.rollback().await;
                return self.leased_refused(item, error).await;
            }
            Err(NotCompleted::Violated(error)) => {
                let _ = tx.rollback().await;
                return Box::pin(self.fail(item, &Error::from(error))).await;
            }
            Err(NotCompleted::Database(_)) if tx.condition_failed() => return Ok(self.skip_lost(item).await),
            Err(NotCompleted::Database(error)) => {
                let cause = tx.give_up().await.unwrap_or_else(|| ErrorKind::of_own(&error));
                return self.leased_failed(item, &Error::from(error), Some(cause)).await;
            }
        }
        match tx.commit().await {
            Ok(()) => Ok(self.completed(item)),
            Err(error) => self.leased_failed(item, &error, None).await,
        }
    }

    /// Whether nothing but the status of an item that succeeded is to be written, by a statement that commits by
    /// itself.
    pub(super) fn is_unused<E: EntityTrait>(&self, item: &Item<E>) -> bool {
        let tx = &self.service_db.tx;
        item.tx.is_unused()
            && tx.fence.is_none()
            && tx.reads_committed()
            && !self.service_db.work.has_triggers(&self.table)
    }

    /// Completes a row and releases its claim, in the transaction of its item. Returns whether the claim was still
    /// held.
    async fn complete_in<E: EntityTrait>(
        &self,
        tx: &Transaction,
        row: &RowRef,
    ) -> std::result::Result<bool, NotCompleted> {
        let (table, now, keys) = (&self.table, self.service_db.clock.now(), std::slice::from_ref(&row.key));
        let mut completion = Completion::new(tx, &self.service_db, table);
        let Some(lease) = self.lease.as_ref().filter(|_| completion.can_be_part()) else {
            let changed = completion.change(keys).await?;
            completion.check::<E>(keys, changed).await?;
            return self.release_in(tx, row).await.map_err(NotCompleted::Database);
        };
        let in_one = table.complete_and_release(&row.key, &lease.owner, now);
        let counts = completion.proved().await?.query_one_raw(in_one).await.map_err(NotCompleted::by_update)?;
        let counts = Counts::read(counts.as_ref()).map_err(NotCompleted::Database)?;
        completion.note(&counts);
        completion.check::<E>(keys, counts.completed).await?;
        Ok(counts.released == 1)
    }

    /// Completes an item that made no statement: one statement does all, and commits by itself.
    async fn complete_unused<E: EntityTrait<Model: Sync>>(&self, item: &mut Item<E>, owner: &str) -> Result<Settled> {
        let (table, now, key) = (&self.table, self.service_db.clock.now(), &item.row.key);
        let complete = table.complete_if_released(key, owner, now);
        let counts = match self.service_db.tx.commit_alone(|| complete).await {
            Ok(rows) => Counts::read(rows.first())?,
            Err(error) => {
                self.service_db.tx.forget_level();
                let refused = error.find::<DbErr>();
                let cause = refused.map(ErrorKind::of_own);
                return match refused.filter(|_| cause == Some(ErrorKind::Statement)) {
                    Some(refused) => self.leased_refused(item, refused.clone()).await,
                    None => self.leased_failed(item, &error, cause).await,
                };
            }
        };
        if counts.has_triggers {
            self.service_db.work.triggers_found(table);
        }
        match counts {
            Counts { released: 0, .. } => Ok(self.skip_lost(item).await),
            Counts { completed: 0, .. } => Ok(self.skip_kept(item)),
            _ => Ok(self.completed(item)),
        }
    }

    pub(super) fn completed<E: EntityTrait>(&self, item: &mut Item<E>) -> Settled {
        self.service_db.work.committed(&self.table, Some(&item.row.key), false);
        self.service_db.work.forget_losses(&self.table, [&item.row.key]);
        item.in_flight = false;
        Settled::Completed
    }

    /// Handles a leased item whose row the table refuses to complete.
    async fn leased_refused<E: EntityTrait<Model: Sync>>(&self, item: &mut Item<E>, error: DbErr) -> Result<Settled> {
        match self.table_refusal::<E>(&item.row, &error).await? {
            None => Box::pin(self.fail(item, &Error::from(error))).await,
            Some(refusal) => Ok(self.end_uncharged(item, Settled::Refused(refusal)).await),
        }
    }

    /// Handles a leased item whose transaction failed after the user's code had succeeded.
    async fn leased_failed<E: EntityTrait<Model: Sync>>(
        &self,
        item: &mut Item<E>,
        error: &Error,
        cause: Option<ErrorKind>,
    ) -> Result<Settled> {
        let kind = cause.or_else(|| match error.find::<DbErr>() {
            Some(error) => Some(ErrorKind::of_own(error)),
            None => Some(ErrorKind::ConnectionLost),
        });
        match kind {
            Some(kind) if kind.is_outage() => {
                self.interrupted(item, kind);
                Err(error.clone())
            }
            Some(kind) if kind.is_passing() => {
                if kind == ErrorKind::StaleStatement {
                    self.service_db.work.inspect_again(&self.table);
                }
                if self.service_db.work.count_loss(&self.table, &item.row, Some(kind)) {
                    return Box::pin(self.fail(item, error)).await;
                }
                self.keep_attempts(item, error, Some(kind)).await
            }
            _ => Box::pin(self.fail(item, error)).await,
        }
    }

    /// Records an item whose commit met an outage: it is unknown whether the row is completed.
    pub(super) fn interrupted<E: EntityTrait>(&self, item: &mut Item<E>, kind: ErrorKind) {
        // Whether the row is charged depends on how often this happens.
        item.in_flight = false;
        self.charge_later(Charge { row: item.row.clone(), began: None, cause: Some(kind), failure: None });
    }

    /// Undoes the item's writes, and writes in a new transaction that it failed.
    pub(super) async fn fail_leased<E: EntityTrait>(
        &self,
        item: &mut Item<E>,
        failed: &FailedAttempt,
    ) -> Result<Written> {
        // If the rollback fails, the failure is written on another connection anyway.
        let _ = self.take_tx(item).rollback().await;
        let tx = self.lazy_tx();
        let now = self.service_db.clock.now();
        let written = write_failure(&tx, &self.table, &item.row, failed, now).await?;
        if !matches!(written, Written::Done) {
            tx.rollback().await?;
            return Ok(written);
        }
        if self.release_in(&tx, &item.row).await? {
            return write_row::committed(tx.commit().await);
        }
        tx.rollback().await?;
        Ok(Written::Changed)
    }

    /// Releases the claims of the items that were not lent.
    pub(super) async fn release_unlent(&self) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let kept = self.dropped_keys();
        Ok(self.service_db.release_claims(&self.table.name, &lease.owner, &kept).await?)
    }

    /// Ends the renewal of the claims, which are released. It stays if rows are still to be charged, or claims to be
    /// released.
    pub(super) fn end_lease(&mut self) {
        if self.dropped_keys().is_empty() && !*self.has_unreleased.get_mut() {
            self.lease = None;
        }
    }

    /// Releases the claim of a row. Returns whether it was still held. Called after the row itself was written, because
    /// a claim locks row and claim in this order.
    async fn release_in(&self, tx: &Transaction, row: &RowRef) -> DbResult<bool> {
        let Some(lease) = &self.lease else { return Ok(true) };
        claim_table::release_row(tx.connection().await?, &self.table.name, &row.key, &lease.owner).await
    }

    /// Releases the claim of a row in a transaction of its own. Returns whether it was still held; `None` if that
    /// failed. Then it is released when the batch has ended: if it expired, it would count as a crash of the process.
    pub(super) async fn release_claim_alone(&self, row: &RowRef) -> Option<bool> {
        let lease = self.lease.as_ref()?;
        let release = claim_table::release(&self.table.name, &key_text(&row.key), &lease.owner);
        match self.service_db.execute_alone(&release).await {
            Ok(done) => Some(done.rows_affected() > 0),
            Err(_) => {
                self.has_unreleased.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    /// Ends an item whose row stays as it was.
    async fn end_uncharged<E: EntityTrait>(&self, item: &mut Item<E>, settled: Settled) -> Settled {
        self.release_claim_alone(&item.row).await;
        item.in_flight = false;
        settled
    }

    /// Ends an item whose claim has expired, or whose row another program has changed.
    pub(super) async fn skip_lost<E: EntityTrait>(&self, item: &mut Item<E>) -> Settled {
        if self.release_claim_alone(&item.row).await == Some(false)
            && let Some(lease) = &self.lease
        {
            // If this claim has expired, the others have expired, too.
            lease.mark_lost();
        }
        self.skip_changed(item)
    }

    /// Ends an item whose claim was released, although its row was not completed.
    pub(super) fn skip_kept<E: EntityTrait>(&self, item: &mut Item<E>) -> Settled {
        // Another program has changed the row, or a new trigger keeps it as it is.
        self.service_db.work.inspect_again(&self.table);
        self.skip_changed(item)
    }

    /// Ends an item whose claim has ended, and whose row is not changed.
    fn skip_changed<E: EntityTrait>(&self, item: &mut Item<E>) -> Settled {
        let (table, key, service_id) = (&self.table.name, key_text(&item.row.key), &*self.service_db.service_id);
        crate::log::warn!(
            service.id = service_id,
            table,
            key,
            "the claim expired before the item was settled (use a longer `.lease(…)`), or its row was changed; its writes are undone"
        );
        self.service_db.work.forget_losses(&self.table, [&item.row.key]);
        item.in_flight = false;
        Settled::Skipped
    }
}
