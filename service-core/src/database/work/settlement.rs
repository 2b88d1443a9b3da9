//! Settles ended runs: charges an attempt to the row in flight, and releases claims.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::sea_query::ValueTuple;
use sea_orm::{DbBackend, DbErr, RuntimeErr};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::limited::SHORT_LOCK_WAIT;
use crate::database::service_db::ServiceDb;
use crate::database::store::write_and_remove;
use crate::database::transaction::Transaction;
use crate::database::work::attempt::{FailedAttempt, RetryDecision};
use crate::database::work::claim_table;
use crate::database::work::left_out::LeftOut;
use crate::database::work::settler::report_failed;
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::database::work::work_state::{Charge, Settlement};
use crate::database::work::write_row::{self, Written, write_failure};
use crate::service::error::{Advice, Error, Result};

/// How long the claims of a dropped batch wait for the end of its run, which releases them.
const RELEASE_AFTER: Duration = Duration::from_secs(1);

impl ServiceDb {
    /// As [`settle`](Self::settle), for a run that ended with this error. A row in flight is not charged for an error
    /// of the database that is not its own, such as an outage that another statement of the run has met, nor if
    /// something was down that the service needs.
    pub(crate) async fn settle_run(&self, error: Option<&Error>) -> Result<()> {
        if !self.work.has_unsettled() {
            return Ok(());
        }
        if !error.is_some_and(|error| matches!(error.advice(), Advice::Fatal))
            && let Some((began, is_last)) = self.work.unsettled_since()
            && self.need_was_down_since(began, is_last).await
        {
            self.work.postpone_unsettled();
            if !self.continue_after_outage() {
                self.wake();
            }
        }
        if let Some(kind) = error.and_then(ErrorKind::of_user_in_chain).filter(|kind| kind.is_passing()) {
            self.work.spare(kind);
        }
        let message = error.map(|error| format!("{error:#}"));
        self.settle(message.as_deref()).await
    }

    /// Settles the ended run: charges an attempt to the rows in flight, with `error` as the message, and releases
    /// claims. Makes no query if there is nothing to settle. A row that its ended run still locks is settled later.
    ///
    /// # Errors
    /// The database is down. The settlements are kept for the next call.
    pub async fn settle(&self, error: Option<&str>) -> Result<()> {
        if !self.work.has_unsettled() {
            return Ok(());
        }
        // A commit in flight may still complete rows, so it ends first.
        self.tx.commits.finished().await;
        for settlement in self.work.pending(error) {
            match self.write(&settlement).await {
                Ok(true) => self.work.remove(&settlement),
                Ok(false) => {}
                Err(error) if self.is_down(&error).await => return Err(error.into()),
                // A later charge does no harm: the row must be as it was claimed, and a claim must not have expired.
                Err(error) if ErrorKind::of_own(&error).is_passing() && settlement.may_wait() => {}
                Err(error) => {
                    // Otherwise it would fail again before every claim, and block the table.
                    crate::log::warn!(service.id = &*self.service_id, table = settlement.table.name, %error, "cannot settle the rows in flight and the claims of an ended run; the rows lose no attempt, and claims that are not released expire with their lease");
                    self.work.remove(&settlement);
                }
            }
        }
        Ok(())
    }

    /// Releases what an ended run left open, and charges nothing: the replica has lost the lease of the service.
    ///
    /// # Errors
    /// The database is down. Claims that expire count as a crash, so the next [`settle`](Self::settle) releases them.
    pub(crate) async fn abandon(&self) -> Result<()> {
        self.work.forget_charges();
        self.settle(None).await
    }

    /// Records a leased batch that was dropped. If its run goes on, its claims must not expire, because that would count
    /// as a crash.
    pub(super) fn drop_claims(&self, table: &Arc<TableSql>, owner: String, charges: Vec<Charge>, lease: Duration) {
        self.work.defer_claims(table, owner.clone(), charges);
        if let Ok(runtime) = Handle::try_current() {
            self.spawn(&runtime, self.clone().release_dropped(owner, lease));
        }
    }

    /// Releases the claims of a dropped batch, if its run has not ended at once. The rows in flight are charged later,
    /// because the run may still end with the error that explains them.
    async fn release_dropped(self, owner: String, lease: Duration) {
        let dropped = Instant::now();
        tokio::time::sleep(RELEASE_AFTER.min(lease / 3)).await;
        while dropped.elapsed() < lease
            && let Some(settlement) = self.work.unsettled(&owner)
        {
            self.tx.commits.finished().await;
            let released = self.release(&settlement, &settlement.charges).await;
            if released.is_ok() && settlement.charges.is_empty() {
                return self.work.remove(&settlement);
            }
            tokio::time::sleep(lease / 3).await;
            // A run that has ended is settled by its loop, with its error.
            if self.is_in_run()
                && let Err(error) = self.settle_run(None).await
            {
                let (service_id, table) = (&*self.service_id, &settlement.table.name);
                crate::log::debug!(service.id = service_id, table, "the claims of a dropped batch stay: {error:#}");
            }
        }
    }

    /// Writes one settlement. False if a row is still locked. A row that was charged by an earlier call is not charged
    /// again, because it is no longer as it was claimed.
    async fn write(&self, settlement: &Settlement) -> DbResult<bool> {
        let items = settlement.uncommitted;
        if items > 0 && settlement.error.is_none() {
            let (service_id, table) = (&*self.service_id, &settlement.table.name);
            crate::log::warn!(
                service.id = service_id,
                table,
                "a batch was dropped after {items} of its items had been settled, so nothing of it is written, and the next run claims its \
                 rows again: after the loop, call `batch.commit().await`"
            );
        }
        // In separate transactions: a row that is locked or cannot be written must not delay the release of other
        // claims.
        self.release(settlement, &settlement.charges).await?;
        let mut is_settled = true;
        for charge in &settlement.charges {
            is_settled &= self.charge(settlement, charge).await?;
        }
        if is_settled && !settlement.charges.is_empty() {
            self.release(settlement, &[]).await?;
        }
        Ok(is_settled)
    }

    /// Releases the claims of a leased batch, except those of the rows `kept`.
    async fn release(&self, settlement: &Settlement, kept: &[Charge]) -> DbResult<()> {
        let Some(owner) = &settlement.owner else { return Ok(()) };
        let kept: Vec<String> = kept.iter().map(|charge| key_text(&charge.row.key)).collect();
        self.release_claims(&settlement.table.name, owner, &kept).await
    }

    /// Releases the claims of an owner, except those of the rows `kept`. A claim that is still locked after two seconds
    /// stays until it expires, because the connection that locks it is probably broken.
    pub(super) async fn release_claims(&self, work_table: &str, owner: &str, kept: &[String]) -> DbResult<()> {
        match self.try_release(work_table, owner, kept, false).await {
            Err(error) if ErrorKind::of_own(&error).is_wait() => self.try_release(work_table, owner, kept, true).await,
            released => released,
        }
    }

    async fn try_release(&self, work_table: &str, owner: &str, kept: &[String], skip_locked: bool) -> DbResult<()> {
        let tx = self.short_tx().await?;
        claim_table::release_all(tx.connection().await?, &self.time, work_table, owner, kept, skip_locked).await?;
        tx.commit().await.map_err(database_error)
    }

    /// Begins a transaction that waits only briefly for the locks of others. A statement of an ended run may still hold
    /// some.
    async fn short_tx(&self) -> DbResult<Transaction> {
        let tx = Transaction::lazy(&self.tx);
        let connection = tx.connection().await?;
        if self.db().get_database_backend() == DbBackend::Postgres {
            connection.execute_unprepared(SHORT_LOCK_WAIT).await?;
        }
        Ok(tx)
    }

    async fn charge(&self, settlement: &Settlement, charge: &Charge) -> DbResult<bool> {
        let (table, row) = (&settlement.table, &charge.row);
        if charge.cause == Some(ErrorKind::Unavailable) && charge.failure.is_none() {
            if !self.accepts_writes().await {
                self.work.forget_losses(table, [&row.key]);
                return Ok(true);
            }
            if !self.work.blame_or_leave_out(table, row, ErrorKind::Unavailable) {
                return Ok(true);
            }
        }
        let tx = self.short_tx().await?;
        let now = self.clock.now();
        let failed = charge.failure.clone().unwrap_or_else(|| FailedAttempt {
            decision: table.retry_decision(row.attempts, None, now),
            message: settlement.error.clone().unwrap_or_else(|| "not settled".to_owned()),
        });
        let message = &failed.message;
        let mut written = match write_failure(&tx, table, row, &failed, now).await {
            Err(error) if ErrorKind::of_own(&error).is_wait() => return Ok(false),
            written => written?,
        };
        let is_ours = match (&written, &settlement.owner) {
            (Written::Done, None) => true,
            (Written::Done, Some(owner)) => {
                // If the claim has expired, another worker may have claimed the row.
                match claim_table::release_row(tx.connection().await?, &table.name, &row.key, owner).await {
                    Err(error) if ErrorKind::of_own(&error).is_wait() => return Ok(false),
                    released => released?,
                }
            }
            _ => false,
        };
        if is_ours {
            written = write_row::committed(tx.commit().await).map_err(database_error)?;
        }
        match written {
            Written::Done if failed.decision == RetryDecision::Failed => {
                self.work.forget_losses(table, [&row.key]);
                if is_ours {
                    report_failed(&self.service_id, table, row, message);
                }
            }
            Written::Done | Written::Changed => {}
            Written::Refused(why) => {
                let why = format!("it failed ({message}), but its status cannot be written: {why}");
                self.leave_out(table, &row.key, &why);
            }
        }
        Ok(true)
    }
}

impl ServiceDb {
    /// Leaves a row that cannot be written out of claims for an hour.
    pub(super) fn leave_out(&self, table: &TableSql, key: &ValueTuple, why: &str) {
        if self.work.leave_out(table, key, why.to_owned(), LeftOut::Unwritable) {
            let (service_id, table, key) = (&*self.service_id, &table.name, key_text(key));
            crate::log::warn!(service.id = service_id, table, key, "a row is left out of claims for an hour: {why}");
        }
    }

    /// Whether the database is down, as far as the error of a settlement shows. One statement may find it exhausted,
    /// while it accepts others.
    async fn is_down(&self, error: &DbErr) -> bool {
        let kind = ErrorKind::of_own(error);
        kind.is_unreachable() || kind == ErrorKind::Unavailable && !self.accepts_writes().await
    }

    /// Whether the database accepts a write, so that an error of a statement that finds it unavailable may be the
    /// statement's own.
    async fn accepts_writes(&self) -> bool {
        let written = async {
            let tx = self.begin().await?;
            write_and_remove(tx.connection().await?).await?;
            tx.commit().await
        };
        match written.await {
            Ok(()) => true,
            Err(error) => ErrorKind::in_chain(&error) == Some(ErrorKind::Statement),
        }
    }
}

fn database_error(error: Error) -> DbErr {
    match error.find::<DbErr>() {
        Some(error) => error.clone(),
        // The server did not answer.
        None => DbErr::Conn(RuntimeErr::Internal(format!("{error:#}"))),
    }
}
