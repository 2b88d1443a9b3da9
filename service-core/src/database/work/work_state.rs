//! [`WorkState`]: the state of one service's work tables between its runs.
//!
//! A run that ends by `?`, a panic or its timeout drops its batch, and a drop cannot wait for the database. The batch
//! therefore records a [`Settlement`] here: the row in flight and the claims that were held. It is written when the run
//! has ended, and otherwise before the next claim.
//!
//! The tricky part is whether to charge a row an attempt. A row in flight when a connection broke is probably not the
//! cause, but a row that breaks every connection must not block its table. So after two batches in a row that lost
//! their connection, rows are claimed one by one, and the row that is alone when a third connection breaks is charged.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::DbErr;
use sea_orm::sea_query::ValueTuple;

use crate::database::error_kind::ErrorKind;
use crate::database::work::attempt::{FailedAttempt, RowRef};
use crate::database::work::left_out::{LEAVE_OUT, LEAVE_OUT_TENTATIVELY, LeftOut, LeftOutRows, MOST_LEFT_OUT};
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::humanize;
use crate::sync::Mutex;

/// How many times in a row a connection may break, or another error end the work on a row, without a consequence for
/// the row.
const TOLERATED_LOSSES: u32 = 2;
/// The size of a pool that cannot be asked.
const CONNECTIONS: u32 = 50;
/// How many times a row may find no free connection before it loses an attempt.
const TOLERATED_POOL_TIMEOUTS: u32 = 100;
/// How long a settlement is kept whose statements always take too long.
const MOST_SETTLING: Duration = Duration::from_secs(600);
/// How long a row is left out of claims whose item meets conflicts with other transactions, at first.
const CONFLICT_WAIT: Duration = Duration::from_secs(1);
/// After this time without a further error, those of a row no longer count: nothing else removes them if the row is
/// deleted, or another service completes it. A row that is left out for an hour keeps them.
const FORGET_LOSSES: Duration = LEAVE_OUT.saturating_mul(2);
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

    pub(crate) fn has_unsettled(&self) -> bool {
        !self.settlements.lock().is_empty()
    }

    /// Records a batch of rows that commit together, which ended without a commit.
    pub(crate) fn defer(&self, ended: EndedBatch<'_>) {
        let charges = match (&ended.row, ended.cause) {
            (_, Some(ErrorKind::ConnectionLost | ErrorKind::PoolTimeout))
            | (None, Some(ErrorKind::Unavailable | ErrorKind::Contention | ErrorKind::StaleStatement)) => {
                self.lost_batch(&ended)
            }
            (_, None | Some(ErrorKind::Statement)) if ended.has_ended && ended.claimed > 1 => {
                self.claim_one_by_one(ended.table, ended.claimed);
                false
            }
            (Some(row), cause) => self.count_loss(ended.table, row, cause),
            (None, _) => false,
        };
        let EndedBatch { table, row, began, cause, failure, .. } = ended;
        if let Some(row) = row.filter(|_| charges || failure.is_some()) {
            self.push(table, vec![Charge { row, began, cause, failure }], None, 0);
        }
    }

    /// Records a leased batch that ended: these rows lose an attempt, and then the claims are released.
    pub(crate) fn defer_claims(&self, table: &Arc<TableSql>, owner: String, charges: Vec<Charge>) {
        self.push(table, charges, Some(owner), 0);
    }

    /// Records a batch of rows that commit together, which was dropped after items had been settled. That is a mistake
    /// if the run succeeds.
    pub(crate) fn drop_uncommitted(&self, table: &Arc<TableSql>, settled: u64) {
        self.push(table, Vec::new(), None, settled);
    }

    fn push(&self, table: &Arc<TableSql>, charges: Vec<Charge>, owner: Option<String>, uncommitted: u64) {
        let (id, table) = (self.next_id.fetch_add(1, Ordering::Relaxed), Arc::clone(table));
        let settlement = Settlement { id, ended: Instant::now(), table, charges, owner, uncommitted, error: None };
        self.settlements.lock().push(settlement);
    }

    /// Counts an error of this kind, and returns whether the row is charged an attempt for it. `None` is an error of
    /// the row's own.
    ///
    /// A charge for [`ErrorKind::Unavailable`] is decided when it is written, if the database accepts writes: by
    /// [`blame_or_leave_out`](Self::blame_or_leave_out).
    pub(crate) fn count_loss(&self, table: &TableSql, row: &RowRef, cause: Option<ErrorKind>) -> bool {
        let kind = match cause {
            None | Some(ErrorKind::Statement) => return true,
            Some(kind) => kind,
        };
        let completions = self.with_table(table, |state| state.completions);
        let count = {
            let (mut losses, now) = (self.row_losses.lock(), tokio::time::Instant::now());
            losses.retain(|_, losses| now.saturating_duration_since(losses.last) < FORGET_LOSSES);
            let key = (table.name.clone(), key_text(&row.key), kind);
            let losses = losses.entry(key).or_insert(Losses { count: 0, last: now, completions });
            (losses.count, losses.last) = (losses.count.saturating_add(1), now);
            losses.count
        };
        if count <= self.tolerated(kind) {
            return false;
        }
        match kind {
            ErrorKind::Contention | ErrorKind::TimedOut => self.blame_or_leave_out(table, row, kind),
            _ => true,
        }
    }

    #[cfg(test)]
    pub(crate) fn rows_with_losses(&self) -> usize {
        self.row_losses.lock().len()
    }

    /// How many errors of this kind in a row have no consequence for a row.
    fn tolerated(&self, kind: ErrorKind) -> u32 {
        match kind {
            // Each connection can have such a statement, and every second such error ends its connection.
            ErrorKind::StaleStatement => self.connections.saturating_add(1).saturating_mul(2),
            // Mostly others use all connections.
            ErrorKind::PoolTimeout => TOLERATED_POOL_TIMEOUTS,
            _ => TOLERATED_LOSSES,
        }
    }

    /// Returns whether a row that has met too many errors of this kind is the cause: other rows were completed
    /// meanwhile. If it is not, leaves it out of claims: otherwise the next claim would take it first again, and the
    /// rows behind it would wait. It is left out twice as long each time, as the code of the item runs again after it.
    pub(crate) fn blame_or_leave_out(&self, table: &TableSql, row: &RowRef, kind: ErrorKind) -> bool {
        let completions = self.with_table(table, |state| state.completions);
        let losses = {
            let losses = self.row_losses.lock();
            losses.get(&(table.name.clone(), key_text(&row.key), kind)).map(|losses| (losses.count, losses.completions))
        };
        let Some((count, completed_before)) = losses else { return false };
        // Perhaps an index is being built. A conflict is always with another transaction.
        if kind != ErrorKind::Contention && completed_before != completions {
            return true;
        }
        let times = 1 << count.saturating_sub(self.tolerated(kind).saturating_add(1)).min(6);
        let longer = |first: Duration, most: Duration| first.saturating_mul(times).min(most);
        let (why, reason) = match kind {
            ErrorKind::Contention => (
                LeftOut::Waits(longer(CONFLICT_WAIT, LEAVE_OUT_TENTATIVELY)),
                "its item meets a conflict with another transaction, or an exhausted server, each time",
            ),
            ErrorKind::Unavailable => (
                LeftOut::TimedOut(longer(LEAVE_OUT_TENTATIVELY, LEAVE_OUT)),
                "its statements find the server without memory or disk space each time",
            ),
            _ => (
                LeftOut::TimedOut(longer(LEAVE_OUT_TENTATIVELY, LEAVE_OUT)),
                "its status cannot be written within the limit on the time of a statement",
            ),
        };
        if self.leave_out(table, &row.key, reason.to_owned(), why) {
            let (table, key) = (&table.name, key_text(&row.key));
            crate::log::warn!(table, key, "a row is left out of claims for {}: {reason}", humanize::short(why.wait()));
        }
        false
    }

    /// Whether this row has met a statement that does not fit its table 2, 4, 6 … times. Then its batch goes on without
    /// it, because the statement may be one that the database never supports.
    pub(crate) fn is_stale_again(&self, table: &TableSql, key: &ValueTuple) -> bool {
        let row = (table.name.clone(), key_text(key), ErrorKind::StaleStatement);
        self.row_losses.lock().get(&row).is_some_and(|losses| losses.count % 2 == 0)
    }

    /// Records that the results of rows were written, or that the rows belong to another worker.
    pub(crate) fn forget_losses<'a>(&self, table: &TableSql, keys: impl IntoIterator<Item = &'a ValueTuple>) {
        let has_losses = !self.row_losses.lock().is_empty();
        if !has_losses && self.with_table(table, |state| state.refused_alone.is_empty()) {
            // The usual path makes no texts.
            return;
        }
        let keys: HashSet<String> = keys.into_iter().map(key_text).collect();
        self.row_losses.lock().retain(|(name, key, _), _| *name != table.name || !keys.contains(key));
        self.with_table(table, |state| state.refused_alone.retain(|key| !keys.contains(key)));
    }

    /// Records a batch that lost its connection. True if its only row loses an attempt.
    fn lost_batch(&self, ended: &EndedBatch<'_>) -> bool {
        let mut tables = self.tables.lock();
        let state = tables.entry(ended.table.name.clone()).or_default();
        state.losses += 1;
        if state.losses >= TOLERATED_LOSSES {
            state.one_by_one = state.one_by_one.max(ended.claimed).max(1);
            state.suspect = ended.row.as_ref().filter(|_| ended.claimed > 1).map(|row| row.key.clone());
        }
        let is_cause = ended.claimed == 1 && state.losses > TOLERATED_LOSSES;
        if is_cause {
            (state.losses, state.one_by_one) = (0, 0);
        }
        is_cause
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

    /// The settlement of this owner's claims, if it is not written yet.
    pub(crate) fn unsettled(&self, owner: &str) -> Option<Settlement> {
        let settlements = self.settlements.lock();
        settlements.iter().find(|settlement| settlement.owner.as_deref() == Some(owner)).cloned()
    }

    /// The settlements that are not written yet. `error` becomes the message of those that have none.
    pub(crate) fn pending(&self, error: Option<&str>) -> Vec<Settlement> {
        let mut pending = self.settlements.lock();
        for settlement in pending.iter_mut() {
            settlement.error = settlement.error.take().or_else(|| error.map(str::to_owned));
        }
        pending.clone()
    }

    /// The run that ended has met an error of this kind: rows whose own transaction has met none are not charged,
    /// unless that happens too often, or they have failed by an error of their own.
    pub(crate) fn spare(&self, kind: ErrorKind) {
        for settlement in self.settlements.lock().iter_mut().filter(|settlement| settlement.error.is_none()) {
            let table = settlement.table.clone();
            settlement.charges.retain_mut(|charge| {
                let is_own = charge.failure.is_some() || charge.cause.is_some();
                if !is_own {
                    charge.cause = Some(kind);
                }
                is_own || self.count_loss(&table, &charge.row, Some(kind))
            });
        }
    }

    /// When the first item began whose row may be in flight because something is down that the service needs, and
    /// whether one of these rows would become `failed`. `None` if there are no such rows.
    pub(crate) fn unsettled_since(&self) -> Option<(tokio::time::Instant, bool)> {
        let settlements = self.settlements.lock();
        let unsettled = settlements.iter().filter(|settlement| settlement.error.is_none());
        let rows = unsettled.flat_map(|settlement| {
            let is_last = |charge: &Charge| settlement.table.is_last_attempt(charge.row.attempts);
            settlement.charges.iter().filter_map(move |charge| Some((charge.began?, is_last(charge))))
        });
        rows.reduce(|(began, is_last), (other, other_is_last)| (began.min(other), is_last || other_is_last))
    }

    /// The run that ended may have failed because something is down that the service needs: rows in flight without an
    /// error of their own are not charged, and wait.
    pub(crate) fn postpone_unsettled(&self) {
        for settlement in self.settlements.lock().iter_mut().filter(|settlement| settlement.error.is_none()) {
            let table = settlement.table.clone();
            for charge in settlement.charges.extract_if(.., |charge| charge.began.is_some()) {
                self.postpone(&table, &charge.row.key, LeftOut::Outage);
            }
        }
    }

    /// The replica has lost the lease of the service: no row is charged, and only claims are left to be released.
    pub(crate) fn forget_charges(&self) {
        self.settlements.lock().retain_mut(|settlement| {
            settlement.charges.clear();
            settlement.owner.is_some()
        });
    }

    /// Removes a settlement that was written.
    pub(crate) fn remove(&self, settlement: &Settlement) {
        self.settlements.lock().retain(|pending| pending.id != settlement.id);
    }

    fn with_table<T>(&self, table: &TableSql, change: impl FnOnce(&mut TableState) -> T) -> T {
        let mut tables = self.tables.lock();
        if let Some(state) = tables.get_mut(&table.name) {
            return change(state);
        }
        change(tables.entry(table.name.clone()).or_default())
    }
}
