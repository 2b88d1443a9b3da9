//! [`WorkState`]: the state of one service's work tables between its runs.
//!
//! `work_state/settlements.rs` has the methods for what an ended run has left to be written, and `work_state/losses.rs`
//! those for errors that are not a row's own.

mod losses;
mod settlements;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use sea_orm::DbErr;
use sea_orm::sea_query::ValueTuple;

use crate::database::error_kind::ErrorKind;
use crate::database::work::attempt::{FailedAttempt, RowRef};
use crate::database::work::left_out::{LeftOut, LeftOutRows, MOST_LEFT_OUT};
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::sync::Mutex;

/// The size of a pool that cannot be asked.
const CONNECTIONS: u32 = 50;
/// How long a settlement is kept whose statements always take too long.
const MOST_SETTLING: Duration = Duration::from_secs(600);
/// How often a table is inspected.
const INSPECT_EVERY: Duration = Duration::from_secs(60);

/// The state of one service's work tables between its runs.
#[derive(Debug, Default)]
pub(crate) struct WorkState {
    /// The most connections of the pool.
    connections: u32,
    settlements: Mutex<Vec<Settlement>>,
    next_id: AtomicU64,
    tables: Mutex<HashMap<String, TableState>>,
    /// The errors in a row, not the row's own, that have ended the work on a row, by table, key and kind.
    row_losses: Mutex<HashMap<(String, String, ErrorKind), Losses>>,
    reported: Mutex<HashSet<String>>,
}

#[derive(Debug)]
struct Losses {
    count: u32,
    last: tokio::time::Instant,
    /// How often the table had completed rows before the first of them.
    completions: u64,
}

#[derive(Debug, Default)]
struct TableState {
    /// How often rows were completed.
    completions: u64,
    /// Batches in a row that lost their connection.
    losses: u32,
    /// How many of the next claims take a single row.
    one_by_one: u64,
    /// The row in flight when the connection broke: it is claimed first, alone.
    suspect: Option<ValueTuple>,
    /// The last batch left rows that are due.
    more: bool,
    /// The number of claims, without and with conditions of the user.
    claims: [u64; 2],
    generation: u32,
    inspected: Option<Instant>,
    has_triggers: bool,
    may_lack_times: bool,
    claim_index: Option<String>,
    /// Rows that the table refused to complete before it completed others.
    refused_alone: BTreeSet<String>,
    /// The last row that was completed while there were some.
    completed_beside: Option<ValueTuple>,
    /// The last row that could not be read was compared with rows of any status, and no row was read since.
    doubts_rows: bool,
    left_out: LeftOutRows,
    /// How many rows the last claim met whose key cannot be read, and why.
    unreadable_keys: Option<(u64, String)>,
}

/// A row in flight that loses an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    pub(crate) row: RowRef,
    /// When its item began, if it may have failed because something is down that the service needs.
    pub(crate) began: Option<tokio::time::Instant>,
    /// The kind of the error that its transaction has met; `None` if it has met none.
    pub(crate) cause: Option<ErrorKind>,
    /// What is written; `None` if its run ended before the row had a result.
    pub(crate) failure: Option<FailedAttempt>,
}

/// Writes that are due for an ended batch.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    id: u64,
    ended: Instant,
    pub(crate) table: Arc<TableSql>,
    pub(crate) charges: Vec<Charge>,
    /// The owner of the claims to release.
    pub(crate) owner: Option<String>,
    /// How many items were settled in a batch whose rows commit together, and which was dropped without a commit.
    pub(crate) uncommitted: u64,
    /// The error that ended the run.
    pub(crate) error: Option<String>,
}

impl Settlement {
    /// Whether it may still be written later, if its statements take too long now.
    pub(crate) fn may_wait(&self) -> bool {
        self.ended.elapsed() < MOST_SETTLING
    }
}

/// A batch of rows that commit together, which ended without a commit.
#[derive(Debug)]
pub(crate) struct EndedBatch<'a> {
    pub(crate) table: &'a Arc<TableSql>,
    /// The row in flight.
    pub(crate) row: Option<RowRef>,
    /// When its item began, if it may have failed because something is down that the service needs.
    pub(crate) began: Option<tokio::time::Instant>,
    /// The number of rows that were claimed together.
    pub(crate) claimed: u64,
    /// The error from which its transaction could not recover.
    pub(crate) cause: Option<ErrorKind>,
    /// Its transaction ended before the commit, and any of its rows may be the cause.
    pub(crate) has_ended: bool,
    /// The row in flight has failed by an error of its own, which is not written yet.
    pub(crate) failure: Option<FailedAttempt>,
}

impl TableState {
    fn summary(&self, table: &str) -> Option<LeftOutSummary> {
        let (mut count, mut shown) = self.left_out.shown();
        if let Some((unreadable, why)) = &self.unreadable_keys {
            count = count.saturating_add(usize::try_from(*unreadable).unwrap_or(usize::MAX));
            shown = shown.or(Some(("one whose key cannot be read", why)));
        }
        let (key, reason) = shown?;
        Some(LeftOutSummary { table: table.to_owned(), count, key: key.to_owned(), reason: reason.to_owned() })
    }
}

/// How many rows a claim takes.
#[derive(Debug)]
pub(crate) struct ClaimSize {
    pub(crate) rows: u64,
    /// The only row that is claimed.
    pub(crate) only: Option<ValueTuple>,
}

/// The rows of a table that are left out of claims.
#[derive(Clone, Debug)]
pub(crate) struct LeftOutSummary {
    pub(crate) table: String,
    pub(crate) count: usize,
    /// One of the keys, and why it is left out.
    pub(crate) key: String,
    pub(crate) reason: String,
}

impl WorkState {
    /// The state for a pool that has at most so many connections; `None` if that is unknown.
    pub(crate) fn new(connections: Option<u32>) -> Self {
        Self { connections: connections.unwrap_or(CONNECTIONS), ..Self::default() }
    }

    /// Records a batch that has committed, and one of the rows that it has completed.
    pub(crate) fn committed(&self, table: &TableSql, completed: Option<&ValueTuple>, more: bool) {
        self.with_table(table, |state| {
            (state.losses, state.more) = (0, more);
            if let Some(completed) = completed {
                state.completions += 1;
                let refused = state.left_out.row_completed();
                if state.refused_alone.len() > MOST_LEFT_OUT {
                    state.refused_alone.clear();
                }
                state.refused_alone.extend(refused);
                state.completed_beside = (!state.refused_alone.is_empty()).then(|| completed.clone());
            }
        });
    }

    /// A row that the table has completed after it had refused others.
    pub(crate) fn completed_beside(&self, table: &TableSql) -> Option<ValueTuple> {
        self.with_table(table, |state| state.completed_beside.clone())
    }

    /// Whether the row was refused before, and the table has completed others since. The next call returns false.
    pub(crate) fn take_refused_alone(&self, table: &TableSql, key: &ValueTuple) -> bool {
        self.with_table(table, |state| state.refused_alone.remove(&key_text(key)))
    }

    /// Records whether a claim has read a row. Returns whether the rows that it cannot read may be compared with rows
    /// of any status: not twice without a row between that was read, because then the table does not fit its entity any
    /// more.
    pub(crate) fn note_read(&self, table: &TableSql, has_read: bool) -> bool {
        self.with_table(table, |state| {
            let doubted = std::mem::replace(&mut state.doubts_rows, !has_read);
            !doubted
        })
    }

    /// Makes the next claims take single rows, because a batch could not commit and any of its rows may be the cause.
    pub(crate) fn claim_one_by_one(&self, table: &TableSql, rows: u64) {
        self.with_table(table, |state| state.one_by_one = rows.max(1));
    }

    /// How many rows to claim if `wanted` rows were requested.
    pub(crate) fn claim_size(&self, table: &TableSql, wanted: u64) -> ClaimSize {
        self.with_table(table, |state| {
            if state.one_by_one == 0 {
                return ClaimSize { rows: wanted, only: None };
            }
            state.one_by_one -= 1;
            ClaimSize { rows: 1.min(wanted), only: state.suspect.take() }
        })
    }

    /// Whether the last batch left rows. The next call returns false.
    pub(crate) fn take_more(&self, table: &TableSql) -> bool {
        self.with_table(table, |state| std::mem::take(&mut state.more))
    }

    /// Returns whether rows with a time come first in this claim, and counts the claim. The two kinds of rows
    /// alternate.
    ///
    /// A service whose claims alternate between two conditions would always begin one of them with the same kind. So
    /// the turns of claims with conditions follow a sequence without a period (Thue–Morse).
    pub(crate) fn dated_rows_first(&self, table: &TableSql, has_conditions: bool) -> bool {
        self.with_table(table, |state| {
            let claims = &mut state.claims[usize::from(has_conditions)];
            let turn = if has_conditions { claims.count_ones() % 2 == 1 } else { *claims % 2 == 1 };
            *claims = claims.wrapping_add(1);
            turn
        })
    }

    /// A number that changes when prepared statements no longer fit the table.
    pub(crate) fn generation(&self, table: &TableSql) -> u32 {
        self.with_table(table, |state| state.generation)
    }

    /// Records that prepared statements no longer fit the table.
    pub(crate) fn prepare_again(&self, table: &TableSql) {
        self.with_table(table, |state| state.generation = state.generation.wrapping_add(1));
    }

    /// Whether the next inspection of the table is due.
    pub(crate) fn inspection_is_due(&self, table: &TableSql) -> bool {
        self.with_table(table, |state| state.inspected.is_none_or(|at| at.elapsed() >= INSPECT_EVERY))
    }

    /// Records the result of an inspection.
    pub(crate) fn inspected(
        &self,
        table: &TableSql,
        has_triggers: bool,
        may_lack_times: bool,
        claim_index: Option<String>,
    ) {
        self.with_table(table, |state| {
            (state.inspected, state.has_triggers) = (Some(Instant::now()), has_triggers);
            (state.claim_index, state.may_lack_times) = (claim_index, may_lack_times);
        });
    }

    /// Whether the database accepts rows without a value of `available_at`, as far as that is known.
    pub(crate) fn may_lack_times(&self, table: &TableSql) -> bool {
        self.with_table(table, |state| state.may_lack_times)
    }

    /// A statement has found that the table has triggers or rules now.
    pub(crate) fn triggers_found(&self, table: &TableSql) {
        self.with_table(table, |state| state.has_triggers = true);
    }

    /// The table may have changed: it is inspected again at the next claim.
    pub(crate) fn inspect_again(&self, table: &TableSql) {
        self.with_table(table, |state| state.inspected = None);
    }

    /// The claim index, if the table has it.
    pub(crate) fn claim_index(&self, table: &TableSql) -> Option<String> {
        self.with_table(table, |state| state.claim_index.clone())
    }

    /// Records that the claim index may have been dropped. True if there was one.
    pub(crate) fn forget_claim_index(&self, table: &TableSql) -> bool {
        self.with_table(table, |state| {
            state.inspected = None;
            state.claim_index.take().is_some()
        })
    }

    /// Whether triggers or rules may change what is written into the table.
    pub(crate) fn has_triggers(&self, table: &TableSql) -> bool {
        self.with_table(table, |state| state.has_triggers)
    }

    /// Leaves a row out of claims. True if the row was not left out before.
    pub(crate) fn leave_out(&self, table: &TableSql, key: &ValueTuple, reason: String, why: LeftOut) -> bool {
        self.with_table(table, |state| state.left_out.add(key, reason, why))
    }

    /// Leaves a row out of claims that failed while something was down that the service needs.
    pub(crate) fn postpone(&self, table: &TableSql, key: &ValueTuple, why: LeftOut) {
        let reason = "it failed while something that the service needs is down".to_owned();
        self.leave_out(table, key, reason, why);
    }

    /// Whether rows of the table wait for the end of an outage.
    pub(crate) fn are_postponed(&self, table: &TableSql) -> bool {
        self.with_table(table, |state| state.left_out.are_postponed())
    }

    /// Whether rows of any table wait for the end of an outage.
    pub(crate) fn leaves_rows(&self) -> bool {
        self.tables.lock().values().any(|state| state.left_out.are_postponed())
    }

    /// What the service needs is up: rows no longer wait for it.
    pub(crate) fn outage_ended(&self, table: &TableSql) {
        self.with_table(table, |state| state.left_out.outage_ended());
    }

    /// Why the table refused to complete rows, if no row has completed since. `None` for a single row, which may be the
    /// cause itself.
    pub(crate) fn refusal(&self, table: &TableSql) -> Option<String> {
        self.with_table(table, |state| state.left_out.refusal())
    }

    /// The keys that are left out of claims; `None` if there are too many of them.
    pub(crate) fn left_out_keys(&self, table: &TableSql) -> Option<Vec<ValueTuple>> {
        self.with_table(table, |state| state.left_out.keys(table))
    }

    /// How many due rows the last claim met whose key cannot be read.
    pub(crate) fn unreadable_keys(&self, table: &TableSql) -> u64 {
        self.with_table(table, |state| state.unreadable_keys.as_ref().map_or(0, |(count, _)| *count))
    }

    /// Records how many due rows have a key that cannot be read, and the error of one of them.
    pub(crate) fn keys_were_read(&self, table: &TableSql, unreadable: u64, error: Option<&DbErr>) {
        self.with_table(table, |state| state.unreadable_keys = error.map(|error| (unreadable, error.to_string())));
    }

    /// The rows that are left out of claims, by table.
    pub(crate) fn left_out_rows(&self) -> Vec<LeftOutSummary> {
        let tables = self.tables.lock();
        let mut found: Vec<LeftOutSummary> = tables.iter().filter_map(|(table, state)| state.summary(table)).collect();
        found.sort_by(|a, b| a.table.cmp(&b.table));
        found
    }

    /// Returns true for the first call with this text.
    pub(crate) fn report_once(&self, what: String) -> bool {
        self.reported.lock().insert(what)
    }

    fn with_table<T>(&self, table: &TableSql, change: impl FnOnce(&mut TableState) -> T) -> T {
        let mut tables = self.tables.lock();
        if let Some(state) = tables.get_mut(&table.name) {
            return change(state);
        }
        change(tables.entry(table.name.clone()).or_default())
    }
}
