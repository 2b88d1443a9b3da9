//! What follows a failed attempt at a row: the wait before the next one, or the status `failed`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::ValueTuple;

/// How long a failed row waits for its next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(10), longest: Duration::from_secs(3600) }
    }
}

impl Backoff {
    /// Returns the wait after the attempt with this number, from 1. It doubles each time.
    pub(crate) fn after(self, attempt: i64) -> Duration {
        let doublings = u32::try_from(attempt.clamp(1, 32) - 1).unwrap_or(0);
        self.first.saturating_mul(2u32.saturating_pow(doublings)).min(self.longest)
    }
}

/// What follows a failed attempt at a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    Failed,
    /// Pending again, from this time on if the table has `available_at`.
    Again(DateTime<Utc>),
}

/// A failed attempt at a row, as it is written.
#[derive(Clone, Debug)]
pub(crate) struct FailedAttempt {
    pub(crate) decision: RetryDecision,
    pub(crate) message: String,
}

/// A row, and the number of attempts before this one.
#[derive(Clone, Debug)]
pub(crate) struct RowRef {
    pub(crate) key: ValueTuple,
    pub(crate) attempts: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let backoff = Backoff::default();
        let seconds = [1, 2, 3, 9, 10, 100].map(|attempt| backoff.after(attempt).as_secs());
        assert_eq!(seconds, [10, 20, 40, 2560, 3600, 3600]);
    }
}
