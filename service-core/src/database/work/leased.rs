//! Batches of `claim_each`: every row commits by itself, and its claim ends with that commit.

use sea_orm::{ConnectionTrait, DbErr, EntityTrait};

use crate::database::error_kind::ErrorKind;
use crate::database::transaction::Transaction;
use crate::database::work::batch::{Batch, IgnoredError};
use crate::database::work::lease;
use crate::database::work::sql::{RetryDecision, RowRef, key_text};
use crate::database::work::together::{NotCompleted, complete_rows};
use crate::database::work::work_state::EndedBatch;
use crate::database::work::write_row::{Written, write_failure};
use crate::service::error::{Error, Result};

impl<E: EntityTrait<Model: Sync>> Batch<E> {
    /// Completes an item: its writes, its status and the release of its claim commit together.
    pub(crate) async fn complete_leased(&mut self, row: &RowRef) -> Result<()> {
        let tx = self.take_tx();
        if tx.has_begun()
            && let Err(error) = tx.prove().await
        {
            let cause = tx.interruption();
            drop(tx);
            return self.leased_failed(row, &Error::new(IgnoredError(error)), cause).await;
        }
        let has_triggers = self.service_db.work.has_triggers(&self.table);
        let now = self.service_db.clock.now();
        let rows = std::slice::from_ref(row);
        match complete_rows::<E>(&tx, &self.table, rows, now, has_triggers).await {
            Ok(()) => {}
            Err(NotCompleted::Pending(_)) => {
                let _ = tx.rollback().await;
                self.leave_out(
                    &row.key,
                    "it was completed, but stays pending: a trigger or a rule keeps it; its writes are undone",
                );
                return self.end_uncharged(row).await;
            }
            Err(NotCompleted::Refused(error)) => {
                let _ = tx.rollback().await;
                if self.is_cause_of_refusal(row, &error).await? {
                    return Box::pin(self.fail(&Error::from(error))).await;
                }
                return self.end_uncharged(row).await;
            }
            Err(NotCompleted::Database(_)) if tx.condition_failed() => {
                self.skip_lost(row).await;
                return Ok(());
            }
            Err(NotCompleted::Database(error)) => {
                let cause = tx.interruption();
                drop(tx);
                return self.leased_failed(row, &Error::from(error), cause).await;
            }
        }
        if !self.release_in(&tx, row).await? {
            tx.rollback().await?;
            self.skip_lost(row).await;
            return Ok(());
        }
        match tx.commit().await {
            Ok(()) => {
                self.service_db.work.committed(&self.table, true, false);
                self.current = None;
                self.processed += 1;
                Ok(())
            }
            Err(error) => self.leased_failed(row, &error, None).await,
        }
    }

    /// Handles a leased item whose transaction failed after the user's code had succeeded.
    async fn leased_failed(&mut self, row: &RowRef, error: &Error, cause: Option<ErrorKind>) -> Result<()> {
        let kind = cause.or_else(|| match error.find::<DbErr>() {
            Some(error) => Some(ErrorKind::of(error)),
            None => Some(ErrorKind::ConnectionLost),
        });
        match kind {
            Some(kind) if kind.is_outage() => {
                // Whether the row is charged depends on how often this happens.
                let (table, row, claimed, cause) = (&self.table, self.current.take(), self.claimed, Some(kind));
                let owner = self.lease.as_ref().map(|lease| lease.owner.clone());
                self.service_db.work.defer(EndedBatch { table, row, owner, claimed, cause, has_ended: false });
                Err(error.clone())
            }
            Some(kind) if kind.is_passing() => self.keep_attempts(row, error, Some(kind)).await,
            _ => Box::pin(self.fail(error)).await,
        }
    }

    /// Undoes the item's writes, and writes in a new transaction that it failed.
    pub(crate) async fn fail_leased(
        &mut self,
        row: &RowRef,
        decision: RetryDecision,
        message: &str,
    ) -> Result<Written> {
        // If the rollback fails, the failure is written on another connection anyway.
        let _ = self.take_tx().rollback().await;
        let tx = self.lazy_tx();
        let now = self.service_db.clock.now();
        let written = write_failure(&tx, &self.table, row, decision, message, now).await?;
        if !matches!(written, Written::Done) {
            tx.rollback().await?;
            return Ok(written);
        }
        if self.release_in(&tx, row).await? {
            tx.commit().await?;
            return Ok(Written::Done);
        }
        tx.rollback().await?;
        Ok(Written::Changed)
    }

    /// Releases the claims of the items that were not lent.
    pub(crate) async fn commit_leased(&mut self) -> Result<()> {
        let Some(lease) = self.lease.as_ref().filter(|_| self.has_unlent || !self.rows.is_empty()) else {
            return Ok(());
        };
        // The batch keeps the lease until the claims are released: if this fails, the drop of the batch records them.
        Ok(lease::release_all(self.service_db.db(), &self.service_db.time, &self.table.name, &lease.owner, None)
            .await?)
    }

    /// Releases the claim of a row. Returns whether it was still held. Called after the row itself was written, because a
    /// claim locks row and claim in this order.
    async fn release_in(&self, tx: &Transaction, row: &RowRef) -> Result<bool> {
        let Some(lease) = &self.lease else { return Ok(true) };
        let release = lease::release(&self.table.name, &key_text(&row.key), &lease.owner);
        Ok(tx.connection().await?.execute(&release).await?.rows_affected() == 1)
    }

    /// Releases the claim of a row in a transaction of its own. If that fails, the claim expires.
    pub(crate) async fn release_claim_alone(&self, row: &RowRef) {
        let Some(lease) = &self.lease else { return };
        let release = lease::release(&self.table.name, &key_text(&row.key), &lease.owner);
        let _ = self.service_db.db().execute(&release).await;
    }

    /// Ends an item whose row stays as it was.
    async fn end_uncharged(&mut self, row: &RowRef) -> Result<()> {
        self.release_claim_alone(row).await;
        self.current = None;
        self.failed += 1;
        Ok(())
    }

    /// Ends an item whose claim has expired, or whose row another program has changed.
    pub(crate) async fn skip_lost(&mut self, row: &RowRef) {
        let (table, key, service_id) = (&self.table.name, key_text(&row.key), &*self.service_db.service_id);
        crate::log::warn!(
            service.id = service_id,
            table,
            key,
            "the claim expired before the item was settled (use a longer `.lease(…)`), or its row was changed; its writes are undone"
        );
        if let Some(lease) = &self.lease {
            let release = lease::release(&self.table.name, &key_text(&row.key), &lease.owner);
            if matches!(self.service_db.db().execute(&release).await, Ok(done) if done.rows_affected() == 0) {
                // If this claim has expired, the others have expired, too.
                lease.mark_lost();
            }
        }
        self.current = None;
    }
}
