//! [`RetainedTables`]: deletes completed rows after the time that `retain_completed` sets.
//!
//! A table is known from its first claim on. All replicas try every hour, and a row of `service_claim` decides which one
//! deletes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Condition, ExprTrait, ValueTuple};
use sea_orm::{ConnectionTrait, DbErr};
use tokio::time::Instant;

use crate::database::error_kind::ErrorKind;
use crate::database::service_db::ServiceDb;
use crate::database::transaction::Transaction;
use crate::database::work::due::comparable;
use crate::database::work::lease;
use crate::database::work::portions::Portions;
use crate::database::work::sql::{Backoff, COMPLETED, TableSql, key_text};
use crate::database::work::work_item::WorkItem;
use crate::runtime::lifecycle::BoxFuture;
use crate::service::error::{Error, Result};

/// How often the rows of a table are deleted.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long a replica's turn excludes others: a little less, because the clocks of replicas and database differ.
const TURN: Duration = Duration::from_secs(3600 - 120);
/// When a replica tries again after another one had the turn.
const TRY_AGAIN: Duration = Duration::from_secs(300);
/// The name in `service_claim` for the turns, whose keys are the names of the tables.
const TURNS: &str = "service_retention";
/// After this many rows that the database refuses to delete, the others are left for the next time.
const MOST_REFUSED: u64 = 1_000;

/// The tables of one registry whose completed rows are deleted after a while.
#[derive(Debug, Default)]
pub(crate) struct RetainedTables(Mutex<BTreeMap<String, Retained>>);

#[derive(Clone, Copy, Debug)]
struct Retained {
    delete: Delete,
    next: Instant,
}

/// Deletes the rows of one table that were completed before a time.
type Delete = for<'a> fn(&'a ServiceDb) -> BoxFuture<'a, Result<Deleted>>;

/// The result of deleting rows.
#[derive(Debug, Default)]
struct Deleted {
    rows: u64,
    refused: u64,
    /// One of the rows that the database refused to delete, and why.
    example: Option<(ValueTuple, DbErr)>,
}

impl RetainedTables {
    /// Called for each claim.
    pub(crate) fn add<E: WorkItem>(&self, table: &TableSql) {
        if E::__work().retain_completed.is_none() {
            return;
        }
        let mut tables = self.lock();
        if !tables.contains_key(&table.name) {
            let retained = Retained { delete: |db| Box::pin(delete_completed::<E>(db)), next: Instant::now() };
            tables.insert(table.name.clone(), retained);
        }
    }

    /// When rows of the next table are deleted.
    #[allow(dead_code, reason = "for virtual time")]
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.lock().values().map(|retained| retained.next).min()
    }

    /// Deletes the rows of each table whose time has come, if it is this replica's turn. Returns how many there were.
    pub(crate) async fn delete_due(&self, db: &ServiceDb) -> u64 {
        let now = Instant::now();
        let due: Vec<(String, Delete)> = self
            .lock()
            .iter()
            .filter(|(_, retained)| retained.next <= now)
            .map(|(table, retained)| (table.clone(), retained.delete))
            .collect();
        let mut rows = 0;
        for (table, delete) in due {
            let (deleted, wait) = match take_turn(db, &table).await {
                Ok(true) => (delete(db).await, INTERVAL),
                Ok(false) => (Ok(Deleted::default()), TRY_AGAIN),
                Err(error) => (Err(error), TRY_AGAIN),
            };
            rows += report(&table, deleted);
            if let Some(retained) = self.lock().get_mut(&table) {
                retained.next = now + wait;
            }
        }
        rows
    }

    /// The database is down: tries the tables whose time has come again later.
    pub(crate) fn postpone_due(&self) {
        let now = Instant::now();
        for retained in self.lock().values_mut().filter(|retained| retained.next <= now) {
            retained.next = now + TRY_AGAIN;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Retained>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this replica is the one that deletes rows of the table now.
async fn take_turn(db: &ServiceDb, table: &str) -> Result<bool> {
    db.ensure_tables().await?;
    let tx = Transaction::begin(&db.tx).await?;
    let owner = lease::new_owner(&db.service_id);
    let mut is_turn = false;
    for claim in lease::claim(db, TURNS, &[table], &owner, TURN, 1) {
        is_turn |= !tx.connection().await?.query_all(&claim).await?.is_empty();
    }
    tx.commit().await?;
    Ok(is_turn)
}

fn report(table: &str, deleted: Result<Deleted>) -> u64 {
    match deleted {
        Ok(Deleted { rows, refused, example }) => {
            if rows > 0 {
                tracing::info!(table, rows, "completed rows were deleted, as `retain_completed` says");
            }
            if let Some((key, error)) = example {
                let key = key_text(&key);
                crate::log::warn!(table, refused, key, %error, "the database refuses to delete completed rows, they stay");
            }
            rows
        }
        // Services wait for the database, and a warning says so.
        Err(error) if ErrorKind::in_chain(&error).is_some_and(ErrorKind::is_outage) => 0,
        Err(error) => {
            crate::log::warn!(
                table,
                "completed rows cannot be deleted, the next attempt is in an hour at the latest: {error:#}"
            );
            0
        }
    }
}

/// Deletes rows in portions of at most 1,000.
async fn delete_completed<E: WorkItem>(db: &ServiceDb) -> Result<Deleted> {
    let mut deleted = Deleted::default();
    let backend = db.db().get_database_backend();
    let table = TableSql::of::<E>(backend, Backoff::default());
    let Some(condition) = condition::<E>(&table, db.clock.now()) else { return Ok(deleted) };
    let mut portions = Portions::new(condition.clone());
    loop {
        let keys = portions.next::<E>(db.db()).await?;
        if keys.is_empty() || deleted.refused > MOST_REFUSED {
            return Ok(deleted);
        }
        match delete(db, &table, &condition, &keys).await {
            Ok(rows) => deleted.rows += rows,
            // For example, another table refers to a row. The others of its portion can be deleted.
            Err(error) if is_refusal(&error) => {
                for key in keys {
                    match delete(db, &table, &condition, std::slice::from_ref(&key)).await {
                        Ok(rows) => deleted.rows += rows,
                        Err(error) if is_refusal(&error) => {
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

fn is_refusal(error: &Error) -> bool {
    ErrorKind::in_chain(error) == Some(ErrorKind::Statement)
}

async fn delete(db: &ServiceDb, table: &TableSql, condition: &Condition, keys: &[ValueTuple]) -> Result<u64> {
    let tx = Transaction::begin(&db.tx).await?;
    let delete = table.delete(keys).cond_where(condition.clone()).to_owned();
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
