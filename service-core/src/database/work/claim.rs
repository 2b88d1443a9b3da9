//! [`ClaimRequest`]: a claim's statements, for rows that commit together and for rows that commit one by one.
//!
//! The tricky part: one row more than asked for is read, to know without another question whether there is more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Condition, LockBehavior, LockType, SelectStatement};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait, Iterable, Order, PrimaryKeyToColumn, QueryResult, QuerySelect,
    QueryTrait,
};

use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::work::batch::Batch;
use crate::database::work::index;
use crate::database::work::lease::{self, ClaimRow, Lease};
use crate::database::work::row::{ClaimError, ClaimedRow, key_of, read, report_unreadable_key};
use crate::database::work::sql::{self, Backoff, Part, RetryDecision, RowRef, TableSql, key_text};
use crate::database::work::work_item::WorkItem;
use crate::service::error::{Error, Result};

/// What is asked for.
#[derive(Debug)]
pub(crate) struct ClaimRequest<E: EntityTrait> {
    pub(crate) service_db: ServiceDb,
    pub(crate) wanted: u64,
    pub(crate) filter: Condition,
    pub(crate) order: Vec<(E::Column, Order)>,
    pub(crate) backoff: Backoff,
    /// For rows that commit one by one.
    pub(crate) lease: Duration,
}

impl<E: WorkItem> ClaimRequest<E> {
    fn sql(&self) -> Arc<TableSql> {
        TableSql::of::<E>(self.service_db.tx.db.get_database_backend(), self.backoff)
    }

    /// The rows that are due, oldest first, at most so many.
    async fn read_due(
        &self,
        db: &impl ConnectionTrait,
        now: DateTime<Utc>,
        limit: u64,
    ) -> std::result::Result<Vec<QueryResult>, DbErr> {
        let parts = sql::parts::<E>(&self.order);
        if self.service_db.tx.db.get_database_backend() == DbBackend::Postgres {
            let parts = parts.iter().map(|part| self.due(now, *part, limit));
            return db.query_all(&sql::union_in_order(parts, limit)).await;
        }
        let mut rows = Vec::new();
        for part in parts {
            let left = limit.saturating_sub(rows.len() as u64);
            if left > 0 {
                rows.append(&mut db.query_all(&self.due(now, *part, left)).await?);
            }
        }
        Ok(rows)
    }

    fn due(&self, now: DateTime<Utc>, part: Part, limit: u64) -> SelectStatement {
        let backend = self.service_db.tx.db.get_database_backend();
        let select = match backend {
            // Asked for whole rows and few of them, SQLite would rather read and sort the table than follow the index.
            DbBackend::Sqlite => sql::of_keys::<E>(backend, self.due_keys(now, part, limit), &self.order),
            _ => sql::due::<E>(backend, &self.filter, &self.order, now, part).limit(limit),
        };
        select.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).into_query()
    }

    /// The keys alone: the index of the claim has them, so it is all that is read.
    fn due_keys(&self, now: DateTime<Utc>, part: Part, limit: u64) -> SelectStatement {
        let backend = self.service_db.tx.db.get_database_backend();
        let due = sql::due::<E>(backend, &self.filter, &self.order, now, part).limit(limit);
        due.select_only().columns(E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column)).into_query()
    }

    pub(crate) async fn batch(self) -> Result<Batch<E>> {
        let sql = self.sql();
        let failed = |source| Error::new(ClaimError { table: sql.name.clone(), source });
        index::look_at::<E>(&self.service_db).await?;
        self.service_db.settle(None).await?;
        let wanted = self.service_db.work.batch_size(&sql, self.wanted);
        let tx = Transaction::lazy(&self.service_db.tx);
        let mut batch = Batch::new(self.service_db.clone(), Arc::clone(&sql), tx, None);
        // An idle poll shall not ask for SQLite's write lock.
        let looks = sql.backend == DbBackend::Sqlite && !self.service_db.work.take_more_expected(&sql);
        if wanted == 0 || looks && !self.has_work().await.map_err(failed)? {
            return Ok(batch);
        }
        batch.tx().connection().await.map_err(failed)?;
        batch.open_batch();
        let tx = batch.tx().connection().await.map_err(failed)?;
        let rows = self.read_due(tx, self.service_db.clock.now(), wanted.saturating_add(1)).await.map_err(failed)?;
        if rows.is_empty() {
            batch.close_empty().await?;
            return Ok(batch);
        }
        batch.take(rows, wanted).await.map_err(failed)?;
        Ok(batch)
    }

    async fn has_work(&self) -> std::result::Result<bool, DbErr> {
        let now = self.service_db.clock.now();
        for part in sql::parts::<E>(&self.order) {
            if self.service_db.tx.db.query_one(&self.due_keys(now, *part, 1)).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn leased(self) -> Result<Batch<E>> {
        let sql = self.sql();
        let failed = |source| Error::new(ClaimError { table: sql.name.clone(), source });
        self.service_db.tables.ensure(&self.service_db.tx.db).await?;
        index::look_at::<E>(&self.service_db).await?;
        self.service_db.settle(None).await?;
        if self.service_db.work.is_first_report(format!("swept {}", sql.name)) {
            let tx = self.service_db.begin().await?;
            tx.execute(&lease::sweep(&sql.name, self.service_db.clock.now())).await.map_err(failed)?;
            tx.commit().await?;
        }
        let wanted = self.service_db.work.batch_size(&sql, self.wanted);
        let mut batch =
            Batch::new(self.service_db.clone(), Arc::clone(&sql), Transaction::lazy(&self.service_db.tx), None);
        if wanted == 0 || !self.has_work().await.map_err(failed)? {
            return Ok(batch);
        }
        let owner = lease::new_owner(&self.service_db.service_id);
        let mut tries = 5;
        let claimed = loop {
            match self.claim_leases(&sql, &owner, wanted).await {
                Err(error) if ErrorKind::in_chain(&error) == Some(ErrorKind::Contention) && tries > 0 => tries -= 1,
                claimed => break claimed?,
            }
        };
        if !claimed.rows.is_empty() {
            batch.set_lease(Lease::start(&self.service_db, &sql.name, owner, self.lease));
            batch.take(claimed.rows, wanted).await.map_err(failed)?;
        }
        batch.add_charged(claimed.charged, claimed.more);
        Ok(batch)
    }

    /// Claims rows in `service_claim`, in one short transaction.
    async fn claim_leases(&self, sql: &TableSql, owner: &str, wanted: u64) -> Result<LeasedRows> {
        let failed = |source| Error::new(ClaimError { table: sql.name.clone(), source });
        let transaction = Transaction::lazy(&self.service_db.tx);
        let tx = transaction.connection().await.map_err(failed)?;
        let now = self.service_db.clock.now();
        let claims = tx.query_all(&lease::select_claims(&sql.name)).await.map_err(failed)?;
        let claims = claims.iter().map(ClaimRow::read).collect::<std::result::Result<Vec<_>, _>>();
        let mut claims = claims.map_err(failed)?;
        let crashes = lease::record_crashes(&sql.name, &mut claims, now);
        for crash in &crashes {
            tx.execute(crash).await.map_err(failed)?;
        }
        let held: HashSet<&str> = claims.iter().filter(|c| c.is_held(now)).map(|claim| &*claim.key).collect();
        // Looked up for every row, and the table may have as many claims: no list.
        let suspects = claims.iter().filter(|claim| claim.crashes > 0);
        let suspects: HashMap<&str, i64> = suspects.map(|claim| (&*claim.key, claim.crashes)).collect();
        let reach = wanted.saturating_add(held.len() as u64).saturating_add(1);
        let mut free: Vec<(String, QueryResult)> = Vec::new();
        for row in self.read_due(tx, now, reach).await.map_err(failed)? {
            match key_of::<E>(&row).map(|key| key_text(&key)) {
                Ok(key) if held.contains(&*key) => {}
                Ok(key) => free.push((key, row)),
                Err(error) => report_unreadable_key(&self.service_db, sql, &error),
            }
        }
        let mut claimed = LeasedRows { rows: Vec::new(), charged: 0, more: free.len() as u64 > wanted };
        free.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        if free.is_empty() {
            transaction.commit().await?;
            return Ok(claimed);
        }
        // What may kill the process again shall not keep it from the others.
        free.sort_by_key(|(key, _)| suspects.contains_key(&**key));
        let keys: Vec<&str> = free.iter().map(|(key, _)| &**key).collect();
        let mut ours: HashSet<String> = HashSet::new();
        for claim in lease::claim(&sql.name, &keys, &self.service_db.service_id, owner, now, self.lease) {
            ours.extend(row_keys(tx.query_all(&claim).await).map_err(failed)?);
        }
        for (key, row) in free.into_iter().filter(|(key, _)| ours.contains(key)) {
            let crashes = suspects.get(&*key).copied().unwrap_or(0);
            match read::<E>(&row) {
                Ok(ClaimedRow { row, .. }) if crashes > lease::TOLERATED_CRASHES => {
                    self.charge_crash(sql, &transaction, &row, owner, now).await.map_err(failed)?;
                    claimed.charged += 1;
                }
                _ => claimed.rows.push(row),
            }
        }
        transaction.commit().await?;
        Ok(claimed)
    }

    /// Processes died over this row, again and again: that costs it an attempt.
    async fn charge_crash(
        &self,
        sql: &TableSql,
        tx: &Transaction,
        row: &RowRef,
        owner: &str,
        now: DateTime<Utc>,
    ) -> std::result::Result<(), DbErr> {
        let (table, key, attempt) = (&sql.name, key_text(&row.key), row.attempts + 1);
        let decision = sql.retry_decision(row.attempts, None, now);
        let message = format!(
            "the process died, or lost its claim, while it worked on this row, more than {} times",
            lease::TOLERATED_CRASHES
        );
        tracing::warn!(service.id = &*self.service_db.service_id, table, key, attempt, "{message}");
        let write = |message| sql.fail(&row.key, row.attempts, decision, message, now);
        if tx.execute_in_savepoint(&write(Some(&message))).await.is_err() {
            // The message may be what the column refuses.
            tx.execute_in_savepoint(&write(None)).await?;
        }
        match decision {
            RetryDecision::Failed => tx.connection().await?.execute(&lease::release(table, &key, owner)).await?,
            RetryDecision::Again(_) => {
                tx.connection().await?.execute(&lease::mark_charged(table, &key, owner, now)).await?
            }
        };
        Ok(())
    }
}

/// What was claimed to commit one by one.
struct LeasedRows {
    rows: Vec<QueryResult>,
    /// Rows that are not lent this time: they were charged for the crashes of processes.
    charged: u64,
    more: bool,
}

fn row_keys(rows: std::result::Result<Vec<QueryResult>, DbErr>) -> std::result::Result<HashSet<String>, DbErr> {
    rows?.iter().map(|row| row.try_get("", "row_key")).collect()
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
