//! Batches of `claim`: all rows commit together.

use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryResult};

use crate::database::error_kind::{DbResult, ErrorKind};
use crate::database::service_db::ServiceDb;
use crate::database::statement_monitor::MonitoredTx;
use crate::database::transaction::Transaction;
use crate::database::work::attempt::{FailedAttempt, RowRef};
use crate::database::work::batch::Batch;
use crate::database::work::item::Item;
use crate::database::work::row::key_of;
use crate::database::work::settler::{Settled, Settler, not_kept};
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::database::work::work_state::EndedBatch;
use crate::database::work::write_row::{Written, write_failure};
use crate::service::error::{Error, Result};

/// Why rows could not be completed.
pub(crate) enum NotCompleted {
    /// An error of the transaction.
    Database(DbErr),
    /// The update to `completed` was refused.
    Refused(DbErr),
    /// What the items have written was refused, by a constraint or a trigger that is deferred.
    Violated(DbErr),
    /// These rows are still pending after the update.
    Pending(Vec<ValueTuple>),
}

impl NotCompleted {
    /// The error of an update to `completed`.
    pub(super) fn by_update(error: DbErr) -> Self {
        if ErrorKind::of_own(&error) == ErrorKind::Statement { Self::Refused(error) } else { Self::Database(error) }
    }
}

/// What a statement that completes rows on PostgreSQL returns.
pub(super) struct Counts {
    pub(super) completed: u64,
    /// How many claims it has released.
    pub(super) released: u64,
    pub(super) has_triggers: bool,
}

impl Counts {
    pub(super) fn read(row: Option<&QueryResult>) -> DbResult<Self> {
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the counts of a completion".to_owned()))?;
        let count = |column| row.try_get::<i64>("", column).map(i64::unsigned_abs);
        Ok(Self {
            completed: count("completed")?,
            released: count("released")?,
            has_triggers: row.try_get("", "has_triggers")?,
        })
    }
}

/// What is known of the triggers and rules of a table when its rows are completed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Triggers {
    None,
    /// The update has found them.
    New,
    /// A savepoint precedes the update.
    Known,
}

/// Completes rows in a transaction.
pub(super) struct Completion<'a> {
    tx: &'a Transaction,
    service_db: &'a ServiceDb,
    table: &'a TableSql,
    triggers: Triggers,
}

impl<'a> Completion<'a> {
    pub(super) fn new(tx: &'a Transaction, service_db: &'a ServiceDb, table: &'a TableSql) -> Self {
        let triggers = if service_db.work.has_triggers(table) { Triggers::Known } else { Triggers::None };
        Self { tx, service_db, table, triggers }
    }

    /// Whether one statement may complete a row and do more: a rule on the table does not allow its updates inside
    /// other statements.
    pub(super) fn can_be_part(&self) -> bool {
        self.table.backend == DbBackend::Postgres && self.triggers == Triggers::None
    }

    /// The connection for the update. Outside a transaction the update would commit, although the items' writes were
    /// rolled back.
    pub(super) async fn proved(&self) -> std::result::Result<&'a MonitoredTx, NotCompleted> {
        self.tx.prove().await.map_err(NotCompleted::Database)?;
        self.tx.connection().await.map_err(NotCompleted::Database)
    }

    /// Completes rows. Returns how many the database changed.
    pub(super) async fn change(&mut self, keys: &[ValueTuple]) -> std::result::Result<u64, NotCompleted> {
        let (connection, now) = (self.proved().await?, self.service_db.clock.now());
        let mut changed = 0;
        if self.can_be_part() {
            for update in self.table.complete_and_inspect(keys, now) {
                let counts = connection.query_one_raw(update).await.map_err(NotCompleted::by_update)?;
                let counts = Counts::read(counts.as_ref()).map_err(NotCompleted::Database)?;
                self.note(&counts);
                changed += counts.completed;
            }
            return Ok(changed);
        }
        if self.table.backend == DbBackend::Postgres {
            connection.execute_unprepared("SAVEPOINT service_completion").await.map_err(NotCompleted::Database)?;
        }
        for update in self.table.complete(keys, now) {
            changed += connection.execute(&update).await.map_err(NotCompleted::by_update)?.rows_affected();
        }
        Ok(changed)
    }

    /// Notes whether an update has found triggers.
    pub(super) fn note(&mut self, counts: &Counts) {
        if counts.has_triggers {
            self.triggers = Triggers::New;
            self.service_db.work.triggers_found(self.table);
        }
    }

    /// Checks that rows are completed, of which `changed` were changed by the update.
    pub(super) async fn check<E: EntityTrait>(
        &self,
        keys: &[ValueTuple],
        changed: u64,
    ) -> std::result::Result<(), NotCompleted> {
        // Fewer rows change if an item has deleted its own row, or if a trigger or a rule keeps a row as it was.
        if changed == keys.len() as u64 && self.triggers == Triggers::None {
            return Ok(());
        }
        let connection = self.tx.connection().await.map_err(NotCompleted::Database)?;
        if self.triggers != Triggers::None && self.table.backend == DbBackend::Postgres {
            // Runs deferred triggers now, so that their effects are seen.
            if let Err(error) = connection.execute_unprepared("SET CONSTRAINTS ALL IMMEDIATE").await {
                return Err(match self.triggers {
                    Triggers::Known => refused_deferred(connection, error).await,
                    _ => NotCompleted::by_update(error),
                });
            }
        }
        let mut pending = Vec::new();
        for select in self.table.pending_among::<E>(keys) {
            for row in connection.query_all(&select).await.map_err(NotCompleted::Database)? {
                pending.push(key_of::<E>(&row).map_err(NotCompleted::Database)?);
            }
        }
        if pending.is_empty() { Ok(()) } else { Err(NotCompleted::Pending(pending)) }
    }
}

async fn complete_rows<E: EntityTrait>(
    tx: &Transaction,
    service_db: &ServiceDb,
    table: &TableSql,
    rows: &[RowRef],
) -> std::result::Result<(), NotCompleted> {
    let keys: Vec<ValueTuple> = rows.iter().map(|row| row.key.clone()).collect();
    let mut completion = Completion::new(tx, service_db, table);
    let changed = completion.change(&keys).await?;
    completion.check::<E>(&keys, changed).await
}

/// Finds out why a deferred constraint or trigger has failed: without the update, only what the items have written is
/// checked.
async fn refused_deferred(connection: &MonitoredTx, error: DbErr) -> NotCompleted {
    let refused = NotCompleted::by_update(error);
    if !matches!(refused, NotCompleted::Refused(_)) {
        return refused;
    }
    let check = "ROLLBACK TO SAVEPOINT service_completion; SET CONSTRAINTS ALL IMMEDIATE";
    match connection.execute_unprepared(check).await.map_err(NotCompleted::by_update) {
        Ok(_) => refused,
        Err(NotCompleted::Refused(error)) => NotCompleted::Violated(error),
        Err(other) => other,
    }
}

impl Settler {
    /// Keeps the writes of an item until the batch is committed.
    pub(super) async fn complete_together<E: EntityTrait<Model: Sync>>(&self, item: &mut Item<E>) -> Result<Settled> {
        if let Err(error) = item.tx.keep_item().await {
            let error = not_kept(&item.tx, error);
            return Box::pin(self.fail(item, &error)).await;
        }
        item.in_flight = false;
        Ok(Settled::Completed)
    }

    pub(super) async fn fail_together<E: EntityTrait>(
        &self,
        item: &mut Item<E>,
        failed: &FailedAttempt,
    ) -> Result<Written> {
        item.tx.undo_item().await?;
        let now = self.service_db.clock.now();
        let written = write_failure(&item.tx, &self.table, &item.row, failed, now).await?;
        item.tx.cover_savepoint().await?;
        Ok(written)
    }

    /// Charges an attempt to the only row of a batch, which is the cause of its end, in a transaction of its own.
    pub(super) async fn charge_alone(&self, row: &RowRef, error: &Error) -> Result<()> {
        let (table, row) = (&self.table, Some(row.clone()));
        self.service_db.work.defer(EndedBatch {
            table,
            row,
            began: None,
            claimed: 1,
            cause: None,
            has_ended: true,
            failure: None,
        });
        self.service_db.settle(Some(&format!("{error:#}"))).await
    }
}

impl<E: EntityTrait<Model: Sync>> Batch<E> {
    pub(super) async fn commit_together(&mut self, again: bool) -> Result<()> {
        let tx = self.take_tx();
        let (service_db, table) = (&self.settler.service_db, &self.settler.table);
        if !self.tally.done.is_empty() {
            match complete_rows::<E>(&tx, service_db, table, &self.tally.done).await {
                Ok(()) => {}
                Err(NotCompleted::Pending(keys)) => {
                    tx.rollback().await?;
                    self.undo_all(&keys);
                    return Ok(());
                }
                Err(NotCompleted::Refused(error)) => {
                    let _ = tx.rollback().await;
                    return self.find_refused(error, true).await;
                }
                Err(NotCompleted::Violated(error)) => {
                    let _ = tx.rollback().await;
                    return self.find_refused(error, false).await;
                }
                Err(NotCompleted::Database(error)) if tx.has_ended() => {
                    drop(tx);
                    return self.find_refused(error, false).await;
                }
                Err(NotCompleted::Database(error)) => {
                    let error = Error::from(error);
                    self.commit_failed(&error);
                    tx.give_up().await;
                    return Err(error);
                }
            }
        }
        match tx.commit().await {
            Ok(()) => {
                service_db.work.committed(table, self.tally.done.last().map(|row| &row.key), again);
                service_db.work.forget_losses(table, self.tally.done.iter().map(|row| &row.key));
                Ok(())
            }
            Err(error) => match error.find::<DbErr>().cloned() {
                Some(refused) if ErrorKind::of_own(&refused) == ErrorKind::Statement => {
                    self.find_refused(refused, false).await
                }
                _ => {
                    self.commit_failed(&error);
                    Err(error)
                }
            },
        }
    }

    /// Handles rows that stayed pending although they were completed. No write of the batch is kept, because their
    /// effects would be repeated.
    fn undo_all(&mut self, pending: &[ValueTuple]) {
        for key in pending {
            self.settler.leave_out(
                key,
                "it was completed, but stays pending: a trigger or a rule keeps it; the writes of its batch are undone",
            );
        }
        self.tally.processed = 0;
        self.tally.failed = pending.len() as u64;
        self.tally.done.clear();
        self.tally.more = true;
    }

    /// Handles a refused commit. If the batch had one row, that row is the cause; otherwise the rows are claimed one by
    /// one.
    async fn find_refused(&mut self, refused: DbErr, by_update: bool) -> Result<()> {
        let (settler, tally) = (&self.settler, &mut self.tally);
        let error = Error::from(refused.clone());
        let row = match tally.done.pop() {
            Some(row) if settler.claimed == 1 => row,
            None if settler.claimed == 1
                && let Some(key) = &tally.last_failed =>
            {
                settler.leave_out(key, &format!("it failed, but its status cannot be written: {refused}"));
                return Ok(());
            }
            _ => {
                settler.service_db.work.claim_one_by_one(&settler.table, settler.claimed);
                return Err(error);
            }
        };
        tally.processed = 0;
        if by_update && let Some(refusal) = settler.table_refusal::<E>(&row, &refused).await? {
            tally.refused = Some(refusal);
            return Ok(());
        }
        settler.charge_alone(&row, &error).await?;
        tally.failed += 1;
        Ok(())
    }

    /// Handles a batch that could not commit for a cause that is not a row's own.
    fn commit_failed(&mut self, error: &Error) {
        let cause = match error.find::<DbErr>() {
            Some(error) => ErrorKind::of_own(error),
            // The server did not answer.
            None => ErrorKind::ConnectionLost,
        };
        let (work, table, claimed) = (&self.settler.service_db.work, &self.settler.table, self.settler.claimed);
        if cause == ErrorKind::StaleStatement {
            // A new rule on the table may not allow the update.
            work.inspect_again(table);
        }
        // A row whose update always takes too long must not hold up the others.
        if cause == ErrorKind::Statement || cause == ErrorKind::TimedOut && claimed > 1 {
            work.claim_one_by_one(table, claimed);
            return;
        }
        let alone = self.tally.done.pop().filter(|_| claimed == 1);
        if let Some(row) = &alone {
            crate::log::debug!(table = table.name, key = key_text(&row.key), "the commit of one row failed");
        }
        work.defer(EndedBatch {
            table,
            row: alone,
            began: None,
            claimed,
            cause: Some(cause),
            has_ended: false,
            failure: None,
        });
    }
}
