//! [`ClaimRequest`]: executes a claim, here for rows that commit together (`batch`), and in `claim/leased.rs` for rows
//! that commit one by one (`leased`).
//!
//! It reads one row more than requested, to know without another query whether there are more.

mod leased;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::Condition;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, Order, QueryResult};

use crate::database::error_kind::{DbResult, ErrorKind, is_lock_timeout};
use crate::database::pool_error::explained;
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::work::attempt::Backoff;
use crate::database::work::batch::Batch;
use crate::database::work::due::{DueRows, have_triggers};
use crate::database::work::inspection::inspect;
use crate::database::work::left_out::MOST_LEFT_OUT;
use crate::database::work::row::{
    ClaimError, CompletionRefused, is_type_mismatch, key_columns, key_in, read, report_unreadable_key,
};
use crate::database::work::settler::Settler;
use crate::database::work::sql::TableSql;
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// How often a claim is tried in all, if another transaction or a changed table makes it fail.
const TRIES: u32 = 6;
/// How many further rows are read to find out whether the rows or the table cannot be read.
const EVIDENCE: u64 = 50;

/// A claim as the user requested it.
#[derive(Debug)]
pub(crate) struct ClaimRequest<E: EntityTrait> {
    pub(crate) service_db: ServiceDb,
    pub(crate) wanted: u64,
    pub(crate) filter: Condition,
    pub(crate) order: Vec<(E::Column, Order)>,
    pub(crate) backoff: Backoff,
    /// For rows that commit one by one, as the following fields.
    pub(crate) lease: Duration,
    pub(crate) concurrency: usize,
    /// A next item may begin before the status of those before it is written.
    pub(crate) lends_ahead: bool,
    pub(crate) item_timeout: Option<Duration>,
}

/// How many rows are claimed, and which.
struct ClaimQuery<E: EntityTrait> {
    wanted: u64,
    /// The claim is of one row alone, and the others of its batch wait for the next one.
    leaves_others: bool,
    due: DueRows<E>,
}

impl<E: WorkItem> ClaimRequest<E> {
    fn table(&self) -> Arc<TableSql> {
        TableSql::of::<E>(self.service_db.db().get_database_backend(), self.backoff)
    }

    /// Prepares a claim: inspects the table, and settles the rows of ended runs.
    async fn prepare(&self, table: &TableSql) -> Result<ClaimQuery<E>> {
        let work = &self.service_db.work;
        inspect::<E>(&self.service_db, table).await?;
        self.service_db.retained.add::<E>(table);
        self.service_db.tx.notifier.add_worker(&table.name, &self.service_db.service_id);
        self.service_db.settle_run(None).await?;
        let size = work.claim_size(table, self.wanted);
        if work.are_postponed(table) && !self.service_db.need_is_down() {
            work.outage_ended(table);
        }
        let left_out = work.left_out_keys(table);
        if !work.leaves_rows() {
            self.service_db.continues_now();
        }
        let Some(left_out) = left_out else {
            self.check_refusal(table)?;
            return Err(Error::msg(format!(
                "more than 200 rows of `{}` are left out of claims, so nothing is claimed: correct the rows that the warnings in the log name",
                table.name
            )));
        };
        let mut filter = self.filter.clone();
        if !left_out.is_empty() {
            filter = Condition::all().add(filter).add(table.none_of(&left_out));
        }
        if let Some(key) = &size.only {
            filter = Condition::all().add(filter).add(table.is_key(key));
        }
        let due = DueRows {
            backend: table.backend,
            filter,
            order: self.order.clone(),
            may_lack_times: work.may_lack_times(table),
            dated_first: work.dated_rows_first(table, !self.filter.is_empty()),
            index: work.claim_index(table).filter(|_| table.backend == DbBackend::Sqlite),
            generation: work.generation(table),
        };
        Ok(ClaimQuery { wanted: size.rows, leaves_others: size.only.is_some(), due })
    }

    /// Changes the claim so that it may succeed if it is tried again at once. Returns whether it may.
    fn repair_for_retry(&self, table: &TableSql, query: &mut ClaimQuery<E>, error: &Error) -> bool {
        let work = &self.service_db.work;
        match ErrorKind::in_chain(error) {
            // The claim has waited for a minute.
            Some(ErrorKind::Contention) => !error.find::<DbErr>().is_some_and(is_lock_timeout),
            Some(ErrorKind::StaleStatement) => {
                work.prepare_again(table);
                query.due.generation = work.generation(table);
                true
            }
            // The index that the statement names may be gone.
            Some(ErrorKind::Statement) => work.forget_claim_index(table) && query.due.index.take().is_some(),
            _ => false,
        }
    }

    pub(crate) async fn batch(self) -> Result<Batch<E>> {
        let table = self.table();
        let mut query = self.prepare(&table).await?;
        let mut tries = 1;
        loop {
            match self.claim_batch(&table, &mut query).await {
                Err(error) if tries < TRIES && self.repair_for_retry(&table, &mut query, &error) => tries += 1,
                claimed => {
                    return claimed.map(|mut batch| {
                        batch.add_charged(0, query.leaves_others);
                        batch
                    });
                }
            }
        }
    }

    async fn claim_batch(&self, table: &Arc<TableSql>, query: &mut ClaimQuery<E>) -> Result<Batch<E>> {
        let failed = |source| Error::new(ClaimError { table: table.name.clone(), source });
        // An idle poll must not take SQLite's write lock.
        let looks_first = table.backend == DbBackend::Sqlite && !self.service_db.work.take_more(table);
        if query.wanted == 0 || looks_first && !self.has_work(table, query).await? {
            return self.empty(table);
        }
        let transaction = Transaction::lazy(&self.service_db.tx);
        let read = async {
            let tx = transaction.connection().await?;
            let now = self.service_db.clock.now();
            let rows = self.due_rows(tx, table, query, now, query.wanted.saturating_add(1)).await?;
            let evidence = self.evidence(tx, table, query, &rows, now).await?;
            Ok((rows, evidence))
        };
        let (rows, evidence) = match read.await {
            Ok(read) => read,
            Err(source) => {
                // The next claim would skip rows that are still locked.
                let _ = transaction.rollback().await;
                return Err(failed(source));
            }
        };
        if rows.is_empty() {
            transaction.rollback().await?;
            return self.empty(table);
        }
        let settler = Settler::new(&self.service_db, table, None, query.wanted.min(rows.len() as u64));
        let mut batch = Batch::in_transaction(settler, transaction);
        batch.take(rows, query.wanted, &evidence, 0).await?;
        Ok(batch)
    }

    /// Reads at most `limit` due rows whose key can be read, and leaves out the others, so that these take no places of
    /// a claim. An error that does not depend on the value is left to the caller.
    ///
    /// # Errors
    /// More than 200 due rows have such a key: all of them would be read, and on PostgreSQL locked, by each claim.
    async fn due_rows(
        &self,
        tx: &impl ConnectionTrait,
        table: &TableSql,
        query: &ClaimQuery<E>,
        now: DateTime<Utc>,
        limit: u64,
    ) -> DbResult<Vec<QueryResult>> {
        let ServiceDb { work, service_id, .. } = &self.service_db;
        let (mut left_out, columns) = (work.unreadable_keys(table), key_columns::<E>());
        loop {
            let reach = limit.saturating_add(left_out);
            let mut rows = tx.query_all_raw(query.due.statement(now, reach)).await?;
            if have_triggers(&rows) {
                work.triggers_found(table);
            }
            let (read, mut unreadable) = (rows.len() as u64, None);
            rows.retain(|row| match key_in::<E>(row, &columns) {
                Err(error) if table.backend != DbBackend::Postgres || !is_type_mismatch(&error) => {
                    unreadable = Some(error);
                    false
                }
                _ => true,
            });
            let found = read - rows.len() as u64;
            work.keys_were_read(table, found, unreadable.as_ref());
            if let Some(error) = &unreadable {
                report_unreadable_key(work, service_id, table, error);
                if found > MOST_LEFT_OUT as u64 {
                    let why = format!("more than {MOST_LEFT_OUT} due rows have a key that cannot be read: {error}");
                    return Err(DbErr::Type(why));
                }
            }
            if rows.len() as u64 >= limit || read < reach {
                rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                return Ok(rows);
            }
            left_out = found.saturating_mul(2);
        }
    }

    /// Returns a batch without rows; or an error, if there are none because the table has refused to complete them.
    fn empty(&self, table: &Arc<TableSql>) -> Result<Batch<E>> {
        self.check_refusal(table)?;
        Ok(Batch::new(Settler::new(&self.service_db, table, None, 0)))
    }

    fn check_refusal(&self, table: &TableSql) -> Result<()> {
        match self.service_db.work.refusal(table) {
            Some(reason) => Err(Error::new(CompletionRefused { table: table.name.clone(), reason })),
            None => Ok(()),
        }
    }

    /// Returns further rows of the table if no claimed row can be read. If these can be read, the claimed rows are
    /// wrong; otherwise the entity is. Rows that are not pending show this only for a row that is the only one.
    async fn evidence(
        &self,
        tx: &impl ConnectionTrait,
        table: &TableSql,
        query: &ClaimQuery<E>,
        rows: &[QueryResult],
        now: DateTime<Utc>,
    ) -> DbResult<Vec<QueryResult>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let can_read = |rows: &[QueryResult]| rows.iter().any(|row| read::<E>(row).is_ok());
        let work = &self.service_db.work;
        if can_read(rows) {
            work.note_read(table, true);
            return Ok(Vec::new());
        }
        let further = self.due_rows(tx, table, query, now, rows.len() as u64 + EVIDENCE).await?;
        if further.len() == 1 && work.note_read(table, false) {
            return tx.query_all_raw(table.any_rows::<E>(EVIDENCE)).await;
        }
        Ok(further)
    }

    async fn has_work(&self, table: &TableSql, query: &mut ClaimQuery<E>) -> Result<bool> {
        match self.finds_keys(query).await {
            Err(source) => {
                let source = explained(self.service_db.db(), source).await;
                let error = Error::new(ClaimError { table: table.name.clone(), source });
                if self.repair_for_retry(table, query, &error) { Ok(self.finds_keys(query).await?) } else { Err(error) }
            }
            Ok(found) => {
                if !found && self.filter.is_empty() {
                    self.service_db.work.keys_were_read(table, 0, None);
                }
                Ok(found)
            }
        }
    }

    async fn finds_keys(&self, query: &ClaimQuery<E>) -> DbResult<bool> {
        let now = self.service_db.clock.now();
        for kind in query.due.kinds() {
            if self.service_db.db().query_one_raw(query.due.keys(*kind, now, 1)).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
