//! [`ClaimRequest`]: executes a claim, for rows that commit together (`batch`) and for rows that commit one by one (`leased`).
//!
//! It reads one row more than requested, to know without another query whether there are more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Condition, ValueTuple};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait, Order, QueryResult};

use crate::database::connect::pool_size;
use crate::database::direct::explained;
use crate::database::error_kind::{DbResult, ErrorKind, is_lock_timeout};
use crate::database::service_db::ServiceDb;
use crate::database::statement_monitor::MonitoredTx;
use crate::database::transaction::Transaction;
use crate::database::work::attempt::{Backoff, FailedAttempt, RetryDecision, RowRef};
use crate::database::work::batch::Batch;
use crate::database::work::due::{DueRows, all_of_one_kind, have_triggers, in_turns};
use crate::database::work::inspection::inspect;
use crate::database::work::key_check;
use crate::database::work::lease::{self, ClaimRow, RowLease, Sent};
use crate::database::work::left_out::{LeftOut, MOST_LEFT_OUT};
use crate::database::work::row::{
    ClaimError, ClaimedRow, CompletionRefused, is_type_mismatch, key_columns, key_in, key_of, read,
    report_unreadable_key,
};
use crate::database::work::settler::Settler;
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::database::work::work_item::WorkItem;
use crate::database::work::write_row::{self, Written, write_failure};
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
            self.note_triggers(table, &rows);
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

    fn note_triggers(&self, table: &TableSql, due: &[QueryResult]) {
        if have_triggers(due) {
            self.service_db.work.triggers_found(table);
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

    pub(crate) async fn leased(self) -> Result<Batch<E>> {
        let table = self.table();
        let failed = |source| Error::new(ClaimError { table: table.name.clone(), source });
        self.service_db.ensure_tables().await?;
        let mut query = self.prepare(&table).await?;
        if self.service_db.work.report_once(format!("swept {}", table.name)) {
            let tx = Transaction::begin(&self.service_db.tx).await?;
            let sweep = lease::sweep(&table.name, &self.service_db.time, table.backend);
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
        let Some(connections) = pool_size(self.service_db.db()) else { return self.concurrency };
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
                Ok(ClaimedRow { row, .. }) if crashes > lease::TOLERATED_CRASHES => {
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
        let rows = tx.query_all(&lease::select_claims(&table.name, time, table.backend)).await?;
        let mut rows = rows.iter().map(ClaimRow::read).collect::<std::result::Result<Vec<_>, _>>()?;
        lease::record_crashes(tx, time, &table.name, &mut rows).await?;
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
        for claim in lease::claim(&self.service_db, &table.name, keys, owner, self.lease, in_flight) {
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
            lease::release_row(connection, name, &row.key, owner).await?;
        } else {
            let charged = lease::mark_charged(name, &key, owner, &service_db.time, table.backend);
            connection.execute(&charged).await?;
        }
        Ok(())
    }
}

/// The error of a row over which several processes have died.
fn killed_processes() -> String {
    let times = lease::TOLERATED_CRASHES;
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
        Self { service_db, table, owner: lease::new_owner(&service_db.service_id), lease, is_armed: true }
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

#[cfg(all(test, feature = "sqlite"))]
mod tests;
