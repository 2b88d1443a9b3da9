//! [`RetainedTables`]: the tables whose completed rows are deleted after the time that `retain_completed` sets, and the statements for
//! that.
//!
//! A table is known from its first claim on.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Condition, ExprTrait, ValueTuple};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use tokio::time::Instant;

use crate::database::error_kind::ErrorKind;
use crate::database::limited::SHORT_LOCK_WAIT;
use crate::database::transaction::Transaction;
use crate::database::tx_context::TxContext;
use crate::database::work::attempt::Backoff;
use crate::database::work::due::comparable;
use crate::database::work::portions::Portions;
use crate::database::work::sql::{COMPLETED, TableSql};
use crate::database::work::work_item::WorkItem;
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Error, Result};
use crate::sync::Mutex;

/// When a replica tries again after another one had the turn, or the database was down.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(300);
/// After this many rows that the database refuses to delete, the others are left for the next time, which continues
/// there.
const MOST_REFUSED: u64 = 1_000;

/// The tables of one registry whose completed rows are deleted after a while.
#[derive(Debug, Default)]
pub(crate) struct RetainedTables(Mutex<BTreeMap<String, Retained>>);

#[derive(Debug)]
struct Retained {
    delete: Delete,
    next: Instant,
    /// The key behind which it continues.
    after: Option<ValueTuple>,
}

/// Deletes the rows of one table that were completed long enough before this time.
pub(crate) type Delete = for<'a> fn(&'a TxContext, DateTime<Utc>, Option<ValueTuple>) -> BoxFuture<'a, Result<Deleted>>;

/// The result of deleting rows.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    pub(crate) rows: u64,
    pub(crate) refused: u64,
    /// One of the rows that the database refused to delete, and why.
    pub(crate) example: Option<(ValueTuple, DbErr)>,
    /// The key behind which the next call continues, if many rows were refused before it.
    pub(crate) after: Option<ValueTuple>,
}

impl RetainedTables {
    /// Called for each claim.
    pub(crate) fn add<E: WorkItem>(&self, table: &TableSql) {
        if E::__work().retain_completed.is_none() {
            return;
        }
        let mut tables = self.0.lock();
        if !tables.contains_key(&table.name) {
            let delete: Delete = |tx, now, after| Box::pin(delete_completed::<E>(tx, now, after));
            tables.insert(table.name.clone(), Retained { delete, next: Instant::now(), after: None });
        }
    }

    /// When rows of the next table are deleted.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.lock().values().map(|retained| retained.next).min()
    }

    /// The tables whose time has come, and the key behind which each continues.
    pub(crate) fn due(&self, now: Instant) -> Vec<(String, Delete, Option<ValueTuple>)> {
        let tables = self.0.lock();
        let due = tables.iter().filter(|(_, retained)| retained.next <= now);
        due.map(|(table, retained)| (table.clone(), retained.delete, retained.after.clone())).collect()
    }

    /// Sets the key behind which a table continues.
    pub(crate) fn set_after(&self, table: &str, after: Option<ValueTuple>) {
        if let Some(retained) = self.0.lock().get_mut(table) {
            retained.after = after;
        }
    }

    /// Sets when rows of a table are deleted next.
    pub(crate) fn set_next(&self, table: &str, next: Instant) {
        if let Some(retained) = self.0.lock().get_mut(table) {
            retained.next = next;
        }
    }

    /// The database is down: tries the tables whose time has come again later.
    pub(crate) fn postpone_due(&self) {
        let now = Instant::now();
        for retained in self.0.lock().values_mut().filter(|retained| retained.next <= now) {
            retained.next = now + TRY_AGAIN;
        }
    }
}

/// Deletes rows in portions of at most 1,000.
async fn delete_completed<E: WorkItem>(
    tx: &TxContext,
    now: DateTime<Utc>,
    after: Option<ValueTuple>,
) -> Result<Deleted> {
    let mut deleted = Deleted::default();
    let table = TableSql::of::<E>(tx.db.get_database_backend(), Backoff::default());
    let Some(condition) = condition::<E>(&table, now) else { return Ok(deleted) };
    let mut portions = Portions::behind(condition.clone(), after);
    loop {
        if deleted.refused > MOST_REFUSED {
            deleted.after = portions.last();
            return Ok(deleted);
        }
        let keys = portions.next::<E>(&tx.db, &table).await?;
        if keys.is_empty() {
            return Ok(deleted);
        }
        match delete(tx, &table, &condition, &keys).await {
            Ok(rows) => deleted.rows += rows,
            // For example, another table refers to a row. The others of its portion can be deleted.
            Err(error) if is_refusal(&error, tx) => {
                for key in keys {
                    match delete(tx, &table, &condition, std::slice::from_ref(&key)).await {
                        Ok(rows) => deleted.rows += rows,
                        Err(error) if is_refusal(&error, tx) => {
                            deleted.refused += 1;
                            let cause = error.find::<DbErr>().cloned();
                            deleted.example = deleted.example.or(cause.map(|cause| (key, cause)));
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether rows stay: the database refuses to delete them, or another transaction has locked one. SQLite locks no rows.
fn is_refusal(error: &Error, cx: &TxContext) -> bool {
    let is_locked = |kind: ErrorKind| kind.is_wait() && cx.db.get_database_backend() == DbBackend::Postgres;
    ErrorKind::in_chain(error).is_some_and(|kind| kind == ErrorKind::Statement || is_locked(kind))
}

async fn delete(cx: &TxContext, table: &TableSql, condition: &Condition, keys: &[ValueTuple]) -> Result<u64> {
    let tx = Transaction::begin(cx).await?;
    let delete = table.delete(keys).cond_where(condition.clone()).to_owned();
    if table.backend == DbBackend::Postgres {
        tx.execute_unprepared(SHORT_LOCK_WAIT).await?;
    }
    let rows = tx.execute(&delete).await?.rows_affected();
    tx.commit().await?;
    Ok(rows)
}

/// The condition that a row was completed long enough ago.
fn condition<E: WorkItem>(table: &TableSql, now: DateTime<Utc>) -> Option<Condition> {
    let work = E::__work();
    let (retain, (column, value)) = work.retain_completed.zip(work.updated_at)?;
    let before = now.checked_sub_signed(chrono::Duration::from_std(retain).ok()?)?;
    let (time, before) = comparable(column, value, table.backend, before);
    Some(Condition::all().add(table.has_status(COMPLETED)).add(time.lt(before)))
}
