//! [`Debts`]: what a service's ended runs still owe the database.
//!
//! A run that ends by `?`, a panic or its timeout drops its batch, and a drop cannot wait for the database. So the batch
//! leaves a note: which row was in flight, and which claims were held. Whoever ends the run has it paid, in a
//! transaction of its own, and a later claim pays first what is still open.
//!
//! The tricky part is whom to charge. A row in flight when the connection broke is likely innocent, but a row that breaks
//! connections must not hold up its table: it is charged from the third time on. A full disk is nobody's fault.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sea_orm::sea_query::ValueTuple;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use crate::database::error_kind as fault;
use crate::database::service_db::Access;
use crate::database::work::lease;
use crate::database::work::sql::{Plan, key_text};
use crate::service::error::Result;

/// How often a connection may break over one row before the row is held to be the cause.
const INNOCENT_BREAKS: u32 = 2;

/// What the ended runs of one service still owe the database, and what it was already warned about.
#[derive(Debug, Default)]
pub struct Debts {
    open: Mutex<Vec<Debt>>,
    next: AtomicU64,
    breaks: Mutex<HashMap<(String, String), u32>>,
    singly: Mutex<HashMap<String, u64>>,
    said: Mutex<HashSet<String>>,
    /// Tables whose last batch left rows.
    more: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug)]
struct Debt {
    id: u64,
    plan: Arc<Plan>,
    /// The row in flight.
    row: Option<Row>,
    /// Claims to give back.
    owner: Option<String>,
    why: Option<String>,
}

/// A row, and how often it had been tried before.
#[derive(Clone, Debug)]
pub(crate) struct Row {
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

impl Debts {
    /// Whether anything is owed.
    pub fn is_empty(&self) -> bool {
        lock(&self.open).is_empty()
    }

    /// Notes a dropped batch: the row in flight, and the claims held.
    pub(crate) fn note(&self, plan: &Arc<Plan>, row: Option<Row>, owner: Option<String>, cause: Cause) {
        let row = row.filter(|row| self.is_to_blame(plan, row, cause));
        if row.is_none() && owner.is_none() {
            return;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).push(Debt { id, plan: Arc::clone(plan), row, owner, why: None });
    }

    fn is_to_blame(&self, plan: &Plan, row: &Row, cause: Cause) -> bool {
        match cause {
            Cause::Run => true,
            Cause::Environment => false,
            Cause::ConnectionLost => {
                let mut breaks = lock(&self.breaks);
                let count = breaks.entry((plan.name.clone(), key_text(&row.key))).or_default();
                *count += 1;
                *count > INNOCENT_BREAKS
            }
        }
    }

    /// A batch could not commit and nobody knows whose fault it was: its rows are claimed one by one.
    pub(crate) fn go_singly(&self, plan: &Plan, rows: u64) {
        lock(&self.singly).insert(plan.name.clone(), rows.max(1));
    }

    /// How many rows to claim where `wanted` were asked for.
    pub(crate) fn batch_size(&self, plan: &Plan, wanted: u64) -> u64 {
        let mut singly = lock(&self.singly);
        match singly.get_mut(&plan.name) {
            None => wanted,
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    singly.remove(&plan.name);
                }
                1.min(wanted)
            }
        }
    }

    /// A batch left rows: the next claim need not look first.
    pub(crate) fn expect_more(&self, plan: &Plan) {
        lock(&self.more).insert(plan.name.clone());
    }

    /// Whether the last batch left rows; asked again, nothing is known any more.
    pub(crate) fn more_is_expected(&self, plan: &Plan) -> bool {
        lock(&self.more).remove(&plan.name)
    }

    /// Whether this was said already.
    pub(crate) fn was_said(&self, what: &str) -> bool {
        lock(&self.said).contains(what)
    }

    /// True the first time only.
    pub(crate) fn first_time(&self, what: String) -> bool {
        lock(&self.said).insert(what)
    }

    /// Pays what is owed, as far as it can be paid now: a row that is still locked by its dying run is left for later.
    ///
    /// `why` becomes the message of the rows charged.
    pub(crate) async fn pay(&self, access: &Access, why: Option<&str>) -> Result<()> {
        let owed: Vec<Debt> = {
            let mut open = lock(&self.open);
            for debt in open.iter_mut() {
                // Kept for the case that it cannot be paid yet.
                debt.why = debt.why.take().or_else(|| why.map(str::to_owned));
            }
            open.clone()
        };
        for debt in owed {
            let paid = match debt.pay(access).await {
                Ok(paid) => paid,
                Err(error) if fault::is_connection_lost(&error) => return Err(error.into()),
                Err(error) => {
                    // Kept, it would fail again before every claim and hold up the table.
                    tracing::warn!(service.id = &*access.service_id, table = debt.plan.name, %error, "a failed row could not be charged");
                    true
                }
            };
            if paid {
                lock(&self.open).retain(|open| open.id != debt.id);
            }
        }
        Ok(())
    }
}

impl Debt {
    /// False where it has to wait.
    async fn pay(&self, access: &Access) -> std::result::Result<bool, DbErr> {
        match self.try_pay(access).await {
            Err(error) if fault::is_contended(&error) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    async fn try_pay(&self, access: &Access) -> std::result::Result<(), DbErr> {
        let message = self.why.as_deref().unwrap_or("not settled");
        match self.write(access, Some(message)).await {
            // The message may be what the column refuses.
            Err(error) if !fault::is_contended(&error) && !fault::is_connection_lost(&error) => {
                self.write(access, None).await
            }
            other => other,
        }
    }

    async fn write(&self, access: &Access, message: Option<&str>) -> std::result::Result<(), DbErr> {
        let backend = self.plan.backend;
        let tx = begin_impatiently(access, backend).await?;
        if let Some(row) = &self.row {
            let now = access.clock.now();
            let verdict = self.plan.verdict(row.attempts, None, now);
            let charge = self.plan.fail(&row.key, row.attempts, verdict, message, now);
            match &self.owner {
                None => {
                    tx.execute(&charge).await?;
                }
                Some(owner) => {
                    // Claimed by itself: whose claim ran out, somebody else is at it.
                    let mark = tx.begin().await?;
                    mark.execute(&charge).await?;
                    let release = lease::release(&self.plan.name, &key_text(&row.key), owner);
                    let ours = mark.execute(&release).await?.rows_affected() == 1;
                    if ours { mark.commit().await? } else { mark.rollback().await? }
                }
            }
        }
        if let Some(owner) = &self.owner {
            lease::release_all(&tx, &self.plan.name, owner, access.clock.now()).await?;
        }
        tx.commit().await
    }
}

/// Begins a transaction that would rather fail than wait long: what it wants to write may be locked by a statement that goes on.
async fn begin_impatiently(access: &Access, backend: DbBackend) -> std::result::Result<DatabaseTransaction, DbErr> {
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let tx = access.db.begin_with_options(options).await?;
    if backend == DbBackend::Postgres {
        tx.execute_unprepared("SET LOCAL lock_timeout = '2s'").await?;
    }
    Ok(tx)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
