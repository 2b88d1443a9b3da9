//! Claims of rows that commit one by one, in `service_claim`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::ValueTuple;
use sea_orm::{ConnectionTrait, QueryResult};

use super::{ClaimQuery, ClaimRequest, TRIES};
use crate::database::driver::PoolSize;
use crate::database::error_kind::DbResult;
use crate::database::service_db::ServiceDb;
use crate::database::statement_monitor::MonitoredTx;
use crate::database::transaction::Transaction;
use crate::database::work::attempt::{FailedAttempt, RetryDecision, RowRef};
use crate::database::work::batch::Batch;
use crate::database::work::claim_table::{self, ClaimRow};
use crate::database::work::due::{all_of_one_kind, in_turns};
use crate::database::work::key_check;
use crate::database::work::lease::{RowLease, Sent};
use crate::database::work::left_out::LeftOut;
use crate::database::work::row::{ClaimError, ClaimedRow, key_of, read};
use crate::database::work::settler::Settler;
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::database::work::work_item::WorkItem;
use crate::database::work::write_row::{self, Written, write_failure};
use crate::service::error::{Error, Result};

impl<E: WorkItem> ClaimRequest<E> {
    pub(crate) async fn leased(self) -> Result<Batch<E>> {
        let table = self.table();
        let failed = |source| Error::new(ClaimError { table: table.name.clone(), source });
        self.service_db.ensure_tables().await?;
        let mut query = self.prepare(&table).await?;
        if self.service_db.work.report_once(format!("swept {}", table.name)) {
            let tx = Transaction::begin(&self.service_db.tx).await?;
            let sweep = claim_table::sweep(&table.name, &self.service_db.time, table.backend);
            tx.connection().await.map_err(failed)?.execute(&sweep).await.map_err(failed)?;
            tx.commit().await?;
        }
        if query.wanted == 0 || !self.has_work(&table, &mut query).await? {
            let mut batch = self.empty(&table)?;
            batch.add_charged(0, query.leaves_others);
            return Ok(batch);
        }
        let concurrency = self.possible_concurrency(&table);
        let most_unwritten = if self.can_lend_ahead(&table) { concurrency } else { 0 };
        let in_flight = concurrency.saturating_add(most_unwritten);
        let guard = ClaimGuard::new(&self.service_db, &table, self.lease);
        let mut tries = 1;
        let claimed = loop {
            match self.claim_leases(&table, &query, &guard.owner, in_flight).await {
                Err(error) if tries < TRIES && self.repair_for_retry(&table, &mut query, &error) => tries += 1,
                claimed => break claimed?,
            }
        };
        let owner = guard.disarm();
        let lease = (!claimed.rows.is_empty())
            .then(|| RowLease::start(&self.service_db, &table.name, owner, self.lease, claimed.at));
        let count = claimed.rows.len() as u64;
        let settler = Settler::new(&self.service_db, &table, lease, count);
        let mut batch = Batch::new(settler.with_limits(concurrency, most_unwritten, self.item_timeout));
        if !claimed.rows.is_empty() {
            let now = self.service_db.clock.now();
            let db = self.service_db.db();
            let evidence = self.evidence(db, &table, &query, &claimed.rows, now).await.map_err(failed)?;
            batch.take(claimed.rows, query.wanted, &evidence, claimed.suspects).await?;
            batch.commit_taken().await?;
        }
        batch.add_charged(claimed.charged.len() as u64, claimed.more || query.leaves_others);
        Ok(batch)
    }

    /// Reduces the requested concurrency to what the pool can serve, because each item may hold a connection. Two
    /// connections are left for the registry, the renewal of claims and other services.
    fn possible_concurrency(&self, table: &TableSql) -> usize {
        let Some(PoolSize { most: connections, .. }) = PoolSize::of(self.service_db.db()) else {
            return self.concurrency;
        };
        let possible = usize::try_from(connections).unwrap_or(usize::MAX).saturating_sub(2).max(1);
        if self.concurrency > possible && self.service_db.work.report_once(format!("concurrency {}", table.name)) {
            let (service_id, table, wanted) = (&*self.service_db.service_id, &table.name, self.concurrency);
            crate::log::warn!(
                service.id = service_id,
                table,
                "`.concurrency({wanted})` is reduced to {possible}: each item may hold a connection, and the pool has {connections}; open a \
                 pool with {} connections or more",
                wanted.saturating_add(2)
            );
        }
        self.concurrency.min(possible)
    }

    /// Whether several rows can be completed by one statement, while next ones are processed.
    fn can_lend_ahead(&self, table: &TableSql) -> bool {
        let ServiceDb { work, tx, .. } = &self.service_db;
        self.lends_ahead && table.completes_many() && tx.fence.is_none() && !work.has_triggers(table)
    }

    /// Claims rows in `service_claim`, in one short transaction.
    async fn claim_leases(
        &self,
        table: &TableSql,
        query: &ClaimQuery<E>,
        owner: &str,
        in_flight: usize,
    ) -> Result<LeasedRows> {
        let transaction = Transaction::lazy(&self.service_db.tx);
        match self.claim_leases_in(&transaction, table, query, owner, in_flight).await {
            Ok(claimed) => {
                let committed = transaction.commit().await;
                if let Some(why) = committed.as_ref().err().and_then(write_row::refusal) {
                    // Without the rows that lost an attempt, the next claim succeeds.
                    for row in &claimed.charged {
                        self.service_db.work.leave_out(table, &row.key, cannot_be_written(&why), LeftOut::Unwritable);
                    }
                }
                committed.map(|()| claimed)
            }
            Err(error) => {
                // The next claim would skip rows that are still locked.
                let _ = transaction.rollback().await;
                Err(error)
            }
        }
    }

    async fn claim_leases_in(
        &self,
        transaction: &Transaction,
        table: &TableSql,
        query: &ClaimQuery<E>,
        owner: &str,
        in_flight: usize,
    ) -> Result<LeasedRows> {
        let failed = |source| Error::new(ClaimError { table: table.name.clone(), source });
        let tx = transaction.connection().await.map_err(failed)?;
        // After the wait for SQLite's write lock.
        let (at, now) = (Sent::now(&self.service_db.clock), self.service_db.clock.now());
        let claims = self.read_claims(tx, table).await.map_err(failed)?;
        let FreeRows { mut rows, keys } = self.free_rows(tx, table, query, &claims.held, now).await.map_err(failed)?;
        if let Some(not_found) = key_check::not_found::<E>(tx, table, keys.iter()).await.map_err(failed)? {
            return Err(Error::new(not_found));
        }
        let more = rows.len() as u64 > query.wanted;
        let mut claimed = LeasedRows { rows: Vec::new(), suspects: 0, charged: Vec::new(), more, at };
        rows.truncate(usize::try_from(query.wanted).unwrap_or(usize::MAX));
        // Last, so that the other rows are done if such a row kills the process again.
        rows.sort_by_key(|(key, _)| claims.crashes.contains_key(key));
        let keys: Vec<&str> = rows.iter().map(|(key, _)| &**key).collect();
        let ours = self.insert_claims(tx, table, &keys, owner, in_flight).await.map_err(failed)?;
        for (key, row) in rows.into_iter().filter(|(key, _)| ours.contains(key)) {
            let crashes = claims.crashes.get(&key).copied().unwrap_or(0);
            match read::<E>(&row) {
                Ok(ClaimedRow { row, .. }) if crashes > claim_table::TOLERATED_CRASHES => {
                    self.charge_crash(table, transaction, &row, owner, now).await.map_err(failed)?;
                    claimed.charged.push(row);
                }
                _ => {
                    claimed.suspects += usize::from(crashes > 0);
                    claimed.rows.push(row);
                }
            }
        }
        Ok(claimed)
    }

    /// Reads the claims of the table. A claim that has expired counts as a crash of its row.
    async fn read_claims(&self, tx: &MonitoredTx, table: &TableSql) -> DbResult<Claims> {
        let time = &self.service_db.time;
        let rows = tx.query_all(&claim_table::select_claims(&table.name, time, table.backend)).await?;
        let mut rows = rows.iter().map(ClaimRow::read).collect::<std::result::Result<Vec<_>, _>>()?;
        claim_table::record_crashes(tx, time, &table.name, &mut rows).await?;
        let mut claims = Claims::default();
        for ClaimRow { key, is_held, crashes, .. } in rows {
            if crashes > 0 {
                claims.crashes.insert(key.clone(), crashes);
            }
            if is_held {
                claims.held.insert(key);
            }
        }
        Ok(claims)
    }

    /// Reads the due rows that no other worker holds: at least one more than requested, if there are so many.
    async fn free_rows(
        &self,
        tx: &MonitoredTx,
        table: &TableSql,
        query: &ClaimQuery<E>,
        held: &HashSet<String>,
        now: DateTime<Utc>,
    ) -> DbResult<FreeRows> {
        let reach = query.wanted.saturating_add(held.len() as u64).saturating_add(1);
        let mut due = self.due_rows(tx, table, query, now, reach).await?;
        let is_held = |row: &QueryResult| key_of::<E>(row).is_ok_and(|key| held.contains(&key_text(&key)));
        if !held.is_empty() && due.len() as u64 >= reach && all_of_one_kind(&due, is_held) {
            // Each kind of rows has half of the places. Behind the held ones of this kind there may be free ones.
            let reach = reach.saturating_add(held.len() as u64);
            due = self.due_rows(tx, table, query, now, reach).await?;
        }
        let (mut rows, mut keys) = (Vec::new(), Vec::new());
        for row in due {
            let key = key_of::<E>(&row)?;
            let text = key_text(&key);
            if !held.contains(&text) {
                rows.push((text, row));
                keys.push(key);
            }
        }
        Ok(FreeRows { rows: in_turns(rows), keys })
    }

    /// Claims rows. Returns the keys of those that no other worker has claimed in the meantime.
    async fn insert_claims(
        &self,
        tx: &MonitoredTx,
        table: &TableSql,
        keys: &[&str],
        owner: &str,
        in_flight: usize,
    ) -> DbResult<HashSet<String>> {
        let mut ours = HashSet::new();
        if keys.is_empty() {
            return Ok(ours);
        }
        for claim in claim_table::claim(&self.service_db, &table.name, keys, owner, self.lease, in_flight) {
            for row in tx.query_all(&claim).await? {
                ours.insert(row.try_get("", "row_key")?);
            }
        }
        Ok(ours)
    }

    /// Charges an attempt to a row over which several processes have died.
    async fn charge_crash(
        &self,
        table: &TableSql,
        tx: &Transaction,
        row: &RowRef,
        owner: &str,
        now: DateTime<Utc>,
    ) -> DbResult<()> {
        let service_db = &self.service_db;
        let (name, key, attempt) = (&table.name, key_text(&row.key), row.attempts.saturating_add(1));
        let decision = table.retry_decision(row.attempts, None, now);
        let failed = FailedAttempt { decision, message: killed_processes() };
        crate::log::warn!(service.id = &*service_db.service_id, table = name, key, attempt, "{}", failed.message);
        let written = write_failure(tx, table, row, &failed, now).await?;
        if let Written::Refused(why) = &written {
            service_db.work.leave_out(table, &row.key, cannot_be_written(why), LeftOut::Unwritable);
        }
        let connection = tx.connection().await?;
        if decision == RetryDecision::Failed && matches!(written, Written::Done) {
            claim_table::release_row(connection, name, &row.key, owner).await?;
        } else {
            let charged = claim_table::mark_charged(name, &key, owner, &service_db.time, table.backend);
            connection.execute(&charged).await?;
        }
        Ok(())
    }
}

/// The error of a row over which several processes have died.
fn killed_processes() -> String {
    let times = claim_table::TOLERATED_CRASHES;
    format!("the process died, or lost its claim, while it worked on this row, more than {times} times")
}

/// Why such a row is left out of claims.
fn cannot_be_written(why: &str) -> String {
    format!("{}, but its status cannot be written: {why}", killed_processes())
}

/// What `service_claim` has for a table, by the keys of the rows.
#[derive(Default)]
struct Claims {
    /// The rows that other workers hold.
    held: HashSet<String>,
    /// How often a process has died over a row, if one has.
    crashes: HashMap<String, i64>,
}

/// Due rows that can be claimed, each with its key as text.
struct FreeRows {
    rows: Vec<(String, QueryResult)>,
    keys: Vec<ValueTuple>,
}

/// Claimed rows that commit one by one.
struct LeasedRows {
    rows: Vec<QueryResult>,
    /// How many of the rows, the last ones, are suspect.
    suspects: usize,
    /// The rows that lost an attempt for crashes; they are not lent this time.
    charged: Vec<RowRef>,
    more: bool,
    /// When the claims were made, or earlier.
    at: Sent,
}

/// Releases the claims if the future is dropped before its batch owns them.
struct ClaimGuard<'a> {
    service_db: &'a ServiceDb,
    table: &'a Arc<TableSql>,
    owner: String,
    lease: Duration,
    is_armed: bool,
}

impl<'a> ClaimGuard<'a> {
    fn new(service_db: &'a ServiceDb, table: &'a Arc<TableSql>, lease: Duration) -> Self {
        Self { service_db, table, owner: claim_table::new_owner(&service_db.service_id), lease, is_armed: true }
    }

    fn disarm(mut self) -> String {
        self.is_armed = false;
        std::mem::take(&mut self.owner)
    }
}

impl Drop for ClaimGuard<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.service_db.drop_claims(self.table, std::mem::take(&mut self.owner), Vec::new(), self.lease);
        }
    }
}
