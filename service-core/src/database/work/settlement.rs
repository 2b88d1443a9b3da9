//! [`Settlements`]: what is still to be written about the rows of a service's ended runs.
//!
//! A run that ends by `?`, a panic or its timeout drops its batch, and a drop cannot wait for the database. So the batch
//! leaves a note: which row was in flight, and which claims were held. Whoever ends the run has it applied, in a
//! transaction of its own, and a later claim pays first what is still open.
//!
//! The tricky part is whom to charge. A row in flight when the connection broke is likely innocent, but a row that connection_losses
//! connections must not hold up its table: it is charged from the third time on. A full disk is nobody's fault.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sea_orm::sea_query::ValueTuple;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use crate::database::error_kind;
use crate::database::service_db::ServiceDb;
use crate::database::work::lease;
use crate::database::work::sql::{TableSql, key_text};
use crate::service::error::Result;

/// How often a connection may break over one row before the row is held to be the cause.
const TOLERATED_CONNECTION_LOSSES: u32 = 2;

/// What the ended runs of one service still owe the database, and what it was already warned about.
#[derive(Debug, Default)]
pub struct Settlements {
    pending: Mutex<Vec<Settlement>>,
    next: AtomicU64,
    connection_losses: Mutex<HashMap<(String, String), u32>>,
    one_by_one: Mutex<HashMap<String, u64>>,
    reported: Mutex<HashSet<String>>,
    /// Tables whose last batch left rows.
    more: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug)]
struct Settlement {
    id: u64,
    sql: Arc<TableSql>,
    /// The row in flight.
    row: Option<RowRef>,
    /// Claims to give back.
    owner: Option<String>,
    why: Option<String>,
}

/// A row, and how often it had been tried before.
#[derive(Clone, Debug)]
pub(crate) struct RowRef {
    pub(crate) key: ValueTuple,
    pub(crate) attempts: i64,
}

/// How the run's part of the database fared, as far as its batch could see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The run itself.
    Run,
    ConnectionLost,
    /// Disk full, I/O error, no memory.
    Environment,
}

impl Settlements {
    /// Whether anything is pending.
    pub fn is_empty(&self) -> bool {
        lock(&self.pending).is_empty()
    }

    /// Notes a dropped batch: the row in flight, and the claims held.
    pub(crate) fn defer(&self, sql: &Arc<TableSql>, row: Option<RowRef>, owner: Option<String>, cause: Cause) {
        let row = row.filter(|row| self.should_charge(sql, row, cause));
        if row.is_none() && owner.is_none() {
            return;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.pending).push(Settlement { id, sql: Arc::clone(sql), row, owner, why: None });
    }

    fn should_charge(&self, sql: &TableSql, row: &RowRef, cause: Cause) -> bool {
        match cause {
            Cause::Run => true,
            Cause::Environment => false,
            Cause::ConnectionLost => {
                let mut connection_losses = lock(&self.connection_losses);
                let count = connection_losses.entry((sql.name.clone(), key_text(&row.key))).or_default();
                *count += 1;
                *count > TOLERATED_CONNECTION_LOSSES
            }
        }
    }

    /// A batch could not commit and nobody knows whose fault it was: its rows are claimed one by one.
    pub(crate) fn claim_one_by_one(&self, sql: &TableSql, rows: u64) {
        lock(&self.one_by_one).insert(sql.name.clone(), rows.max(1));
    }

    /// How many rows to claim where `wanted` were asked for.
    pub(crate) fn batch_size(&self, sql: &TableSql, wanted: u64) -> u64 {
        let mut one_by_one = lock(&self.one_by_one);
        match one_by_one.get_mut(&sql.name) {
            None => wanted,
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    one_by_one.remove(&sql.name);
                }
                1.min(wanted)
            }
        }
    }

    /// A batch left rows: the next claim need not look first.
    pub(crate) fn expect_more(&self, sql: &TableSql) {
        lock(&self.more).insert(sql.name.clone());
    }

    /// Whether the last batch left rows; asked again, nothing is known any more.
    pub(crate) fn take_more_expected(&self, sql: &TableSql) -> bool {
        lock(&self.more).remove(&sql.name)
    }

    /// Whether this was reported already.
    pub(crate) fn was_reported(&self, what: &str) -> bool {
        lock(&self.reported).contains(what)
    }

    /// True the first time only.
    pub(crate) fn is_first_report(&self, what: String) -> bool {
        lock(&self.reported).insert(what)
    }

    /// Pays what is pending, as far as it can be applied now: a row that is still locked by its dying run is left for later.
    ///
    /// `why` becomes the message of the rows charged.
    pub(crate) async fn apply(&self, service_db: &ServiceDb, why: Option<&str>) -> Result<()> {
        let pending: Vec<Settlement> = {
            let mut open = lock(&self.pending);
            for settlement in open.iter_mut() {
                // Kept for the case that it cannot be applied yet.
                settlement.why = settlement.why.take().or_else(|| why.map(str::to_owned));
            }
            open.clone()
        };
        for settlement in pending {
            let applied = match settlement.apply(service_db).await {
                Ok(applied) => applied,
                Err(error) if error_kind::is_connection_lost(&error) => return Err(error.into()),
                Err(error) => {
                    // Kept, it would fail again before every claim and hold up the table.
                    tracing::warn!(service.id = &*service_db.service_id, table = settlement.sql.name, %error, "a failed row could not be charged");
                    true
                }
            };
            if applied {
                lock(&self.pending).retain(|open| open.id != settlement.id);
            }
        }
        Ok(())
    }
}

impl Settlement {
    /// False where it has to wait.
    async fn apply(&self, service_db: &ServiceDb) -> std::result::Result<bool, DbErr> {
        match self.try_apply(service_db).await {
            Err(error) if error_kind::is_contended(&error) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    async fn try_apply(&self, service_db: &ServiceDb) -> std::result::Result<(), DbErr> {
        let message = self.why.as_deref().unwrap_or("not settled");
        match self.write(service_db, Some(message)).await {
            // The message may be what the column refuses.
            Err(error) if !error_kind::is_contended(&error) && !error_kind::is_connection_lost(&error) => {
                self.write(service_db, None).await
            }
            other => other,
        }
    }

    async fn write(&self, service_db: &ServiceDb, message: Option<&str>) -> std::result::Result<(), DbErr> {
        let backend = self.sql.backend;
        let tx = begin_with_lock_timeout(service_db, backend).await?;
        if let Some(row) = &self.row {
            let now = service_db.clock.now();
            let decision = self.sql.retry_decision(row.attempts, None, now);
            let charge = self.sql.fail(&row.key, row.attempts, decision, message, now);
            match &self.owner {
                None => {
                    tx.execute(&charge).await?;
                }
                Some(owner) => {
                    // Claimed by itself: whose claim ran out, somebody else is at it.
                    let mark = tx.begin().await?;
                    mark.execute(&charge).await?;
                    let release = lease::release(&self.sql.name, &key_text(&row.key), owner);
                    let ours = mark.execute(&release).await?.rows_affected() == 1;
                    if ours { mark.commit().await? } else { mark.rollback().await? }
                }
            }
        }
        if let Some(owner) = &self.owner {
            lease::release_all(&tx, &self.sql.name, owner, service_db.clock.now()).await?;
        }
        tx.commit().await
    }
}

/// Begins a transaction that would rather fail than wait long: what it wants to write may be locked by a statement that goes on.
async fn begin_with_lock_timeout(
    service_db: &ServiceDb,
    backend: DbBackend,
) -> std::result::Result<DatabaseTransaction, DbErr> {
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let tx = service_db.db.begin_with_options(options).await?;
    if backend == DbBackend::Postgres {
        tx.execute_unprepared("SET LOCAL lock_timeout = '2s'").await?;
    }
    Ok(tx)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
