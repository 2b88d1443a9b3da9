//! What errors that are not a row's own mean for the row.
//!
//! The tricky part is whether to charge a row an attempt. A row in flight when a connection broke is probably not the
//! cause, but a row that breaks every connection must not block its table. So after two batches in a row that lost
//! their connection, rows are claimed one by one, and the row that is alone when a third connection breaks is charged.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::sea_query::ValueTuple;

use super::{EndedBatch, Losses, WorkState};
use crate::database::error_kind::ErrorKind;
use crate::database::work::attempt::RowRef;
use crate::database::work::left_out::{LEAVE_OUT, LEAVE_OUT_TENTATIVELY, LeftOut};
use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::humanize;

/// How many times in a row a connection may break, or another error end the work on a row, without a consequence for
/// the row.
const TOLERATED_LOSSES: u32 = 2;
/// How many times a row may find no free connection before it loses an attempt.
const TOLERATED_POOL_TIMEOUTS: u32 = 100;
/// How long a row is left out of claims whose item meets conflicts with other transactions, at first.
const CONFLICT_WAIT: Duration = Duration::from_secs(1);
/// After this time without a further error, those of a row no longer count: nothing else removes them if the row is
/// deleted, or another service completes it. A row that is left out for an hour keeps them.
const FORGET_LOSSES: Duration = LEAVE_OUT.saturating_mul(2);

impl WorkState {
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
    pub(super) fn lost_batch(&self, ended: &EndedBatch<'_>) -> bool {
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
}
