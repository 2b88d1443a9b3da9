//! [`LeftOutRows`]: the rows of a table that claims leave out for a while, and why.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::sea_query::ValueTuple;
use tokio::time::Instant;

use crate::database::work::sql::TableSql;
use crate::database::work::sql_text::key_text;
use crate::schedule::later;

/// The maximum number of rows of a table that are left out until they are corrected. With more of them, the table is
/// the problem.
pub(crate) const MOST_LEFT_OUT: usize = 200;
/// The maximum number of rows that are left out because they wait for a while, if one parameter has all their keys.
const MOST_POSTPONED: usize = 5_000;
/// How long a row whose status cannot be written is left out.
pub(super) const LEAVE_OUT: Duration = Duration::from_secs(3600);
/// The same if the table may be the cause.
pub(super) const LEAVE_OUT_TENTATIVELY: Duration = Duration::from_secs(60);
/// How long a row is left out that failed while something was down that its service needs.
pub(super) const OUTAGE_WAIT: Duration = Duration::from_secs(10);

/// Why a row is left out of claims, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// Its status cannot be written: for an hour.
    Unwritable,
    /// The table refuses to complete it, and is the cause: for a minute, or until another row of the table completes.
    Refused,
    /// Its statements take too long, or find the server exhausted, and so may those of all rows: for this time, or
    /// until another row of the table completes.
    TimedOut(Duration),
    /// Its item meets a conflict each time, or has set its wait: for this time.
    Waits(Duration),
    /// Its item failed while something was down that the service needs: for 10 s, or until that is up.
    Outage,
}

impl LeftOut {
    pub(crate) fn wait(self) -> Duration {
        match self {
            Self::Unwritable => LEAVE_OUT,
            Self::Refused => LEAVE_OUT_TENTATIVELY,
            Self::TimedOut(wait) | Self::Waits(wait) => wait,
            Self::Outage => OUTAGE_WAIT,
        }
    }

    /// Whether the row only waits: it is not to be corrected.
    fn is_wait(self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Waits(_) | Self::Outage)
    }

    fn ends_with_a_completion(self) -> bool {
        matches!(self, Self::Refused | Self::TimedOut(_))
    }
}

/// The rows of one table, by the texts of their keys.
#[derive(Debug, Default)]
pub(super) struct LeftOutRows(BTreeMap<String, LeftOutRow>);

#[derive(Debug)]
struct LeftOutRow {
    key: ValueTuple,
    until: Instant,
    reason: String,
    why: LeftOut,
}

impl LeftOutRows {
    /// Adds a row. True if it was not left out before.
    pub(super) fn add(&mut self, key: &ValueTuple, reason: String, why: LeftOut) -> bool {
        let row = LeftOutRow { key: key.clone(), until: later(Instant::now(), why.wait()), reason, why };
        self.0.insert(key_text(key), row).is_none()
    }

    /// Why the table refused to complete rows, if no row has completed since. `None` for a single row, which may be the
    /// cause itself.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut refused = self.0.values().filter(|row| row.why == LeftOut::Refused);
        refused.next().zip(refused.next()).map(|(row, _)| row.reason.clone())
    }

    /// The keys; `None` if there are too many of them.
    pub(super) fn keys(&mut self, table: &TableSql) -> Option<Vec<ValueTuple>> {
        let now = Instant::now();
        self.0.retain(|_, row| row.until > now);
        // If those that wait are too many, the others of them are tried again earlier.
        let (mut waiting, mut left_out): (Vec<_>, Vec<_>) = self.0.values().partition(|row| row.why.is_wait());
        waiting.sort_by_key(|row| Reverse(row.until));
        // Otherwise each number of keys is a statement of its own, which every connection keeps.
        let is_one_parameter = waiting.first().is_some_and(|row| table.has_arrays_of(&row.key));
        let most = if is_one_parameter { MOST_POSTPONED } else { MOST_LEFT_OUT };
        waiting.truncate(most.saturating_sub(left_out.len()));
        let are_few = left_out.len() <= MOST_LEFT_OUT;
        left_out.append(&mut waiting);
        are_few.then(|| left_out.into_iter().map(|row| row.key.clone()).collect())
    }

    /// Whether rows are left out because of an outage, or no claim was made since they were.
    pub(super) fn are_postponed(&self) -> bool {
        self.0.values().any(|row| row.why == LeftOut::Outage)
    }

    /// What the service needs is up: ends the wait of the rows that were left out because of an outage.
    pub(super) fn outage_ended(&mut self) {
        self.0.retain(|_, row| row.why != LeftOut::Outage);
    }

    /// Ends the wait of rows for which the table may have been the cause, because it has completed one. Returns those
    /// that it had refused to complete.
    pub(super) fn row_completed(&mut self) -> Vec<String> {
        let back = self.0.extract_if(.., |_, row| row.why.ends_with_a_completion());
        back.filter(|(_, row)| row.why == LeftOut::Refused).map(|(key, _)| key).collect()
    }

    /// How many rows there are, and one of them with the reason.
    pub(super) fn shown(&self) -> (usize, Option<(&str, &str)>) {
        let now = Instant::now();
        let mut rows = self.0.iter().filter(|(_, row)| row.until > now).peekable();
        let first = rows.peek().map(|(key, row)| (key.as_str(), row.reason.as_str()));
        (rows.count(), first)
    }
}
