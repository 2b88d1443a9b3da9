//! [`WorkState`]: what one service remembers about its work tables between its runs.
//!
//! A run that ends by `?`, a panic or its timeout drops its batch, and a drop cannot wait for the database. The batch therefore
//! records a [`Settlement`] here: the row in flight and the claims that were held. It is written when the run has ended, and
//! otherwise before the next claim.
//!
//! The tricky part is whether to charge the row. A row in flight when a connection broke is probably not the cause, but a row
//! that breaks every connection must not block its table: it is charged from the third time on. A full disk charges no row.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::database::error_kind::ErrorKind;
use crate::database::work::sql::{RowRef, TableSql, key_text};

/// How many times a connection may break over one row before the row is charged.
const TOLERATED_CONNECTION_LOSSES: u32 = 2;

/// What one service remembers about its work tables between its runs.
#[derive(Debug, Default)]
pub(crate) struct WorkState {
    pending: Mutex<Vec<Settlement>>,
    next: AtomicU64,
    connection_losses: Mutex<HashMap<(String, String), u32>>,
    one_by_one: Mutex<HashMap<String, u64>>,
    reported: Mutex<HashSet<String>>,
    /// Tables whose last batch left rows.
    more: Mutex<HashSet<String>>,
}

/// What is still to be written about an ended batch.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) id: u64,
    pub(crate) sql: Arc<TableSql>,
    /// The row that was in flight, if it is charged.
    pub(crate) row: Option<RowRef>,
    /// The owner of the claims to release.
    pub(crate) owner: Option<String>,
    /// The error that ended the run.
    pub(crate) error: Option<String>,
}

impl WorkState {
    /// Whether anything is pending.
    pub(crate) fn has_unsettled(&self) -> bool {
        !lock(&self.pending).is_empty()
    }

    /// Notes a dropped batch: the row in flight, and the claims held.
    pub(crate) fn defer(&self, sql: &Arc<TableSql>, row: Option<RowRef>, owner: Option<String>, cause: Option<ErrorKind>) {
        let row = row.filter(|row| self.should_charge(sql, row, cause));
        if row.is_none() && owner.is_none() {
            return;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.pending).push(Settlement { id, sql: Arc::clone(sql), row, owner, error: None });
    }

    fn should_charge(&self, sql: &TableSql, row: &RowRef, cause: Option<ErrorKind>) -> bool {
        match cause {
            None | Some(ErrorKind::Statement) => true,
            Some(ErrorKind::Unavailable | ErrorKind::Contention | ErrorKind::StaleStatement) => false,
            Some(ErrorKind::ConnectionLost | ErrorKind::PoolTimeout) => {
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

    /// The settlements that wait. `error` is kept as the message of those that have none yet.
    pub(crate) fn pending(&self, error: Option<&str>) -> Vec<Settlement> {
        let mut pending = lock(&self.pending);
        for settlement in pending.iter_mut() {
            settlement.error = settlement.error.take().or_else(|| error.map(str::to_owned));
        }
        pending.clone()
    }

    /// Removes a settlement that was written.
    pub(crate) fn remove(&self, settlement: &Settlement) {
        lock(&self.pending).retain(|pending| pending.id != settlement.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
