//! [`RunHistory`]: the last runs of a service, and counts of durations and failures. It is kept only while a feature asks for it.
//!
//! The loop records a run under the lock of the state, so a record must cost little: no clock is read, and no text is
//! written.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::service::failure::FailureKind;

/// How many runs are kept.
const RECENT: usize = 50;

/// The upper bounds of the counted durations, in nanoseconds. Longer ones are counted in the last place.
pub(crate) const DURATIONS: [u64; 12] = [
    1_000_000,
    5_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
    300_000_000_000,
    1_800_000_000_000,
];

/// The last runs of a service, and counts since the history is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunHistory {
    /// A ring once it is full.
    recent: Vec<RunRecord>,
    /// Where the next run goes.
    next: usize,
    /// How many runs took at most as long as the bound in the same place of [`DURATIONS`], and longer than the bound
    /// before it.
    pub(crate) durations: [u64; DURATIONS.len() + 1],
    pub(crate) total_nanos: u64,
    pub(crate) errors: u64,
    pub(crate) panics: u64,
    pub(crate) timeouts: u64,
    /// The durations that the feature `metrics` has not taken yet, if it takes any.
    untaken: Option<Vec<u64>>,
}

/// How many durations wait to be taken at most. They are taken once a second.
const MOST_UNTAKEN: usize = 100_000;

/// A run that has ended.
#[derive(Clone, Debug)]
pub(crate) struct RunRecord {
    /// The number of the run, from 1.
    pub(crate) run: u64,
    pub(crate) started: Instant,
    pub(crate) nanos: u64,
    pub(crate) result: RunResult,
}

/// How a run has ended.
#[derive(Clone, Debug)]
pub(crate) enum RunResult {
    Succeeded { processed: u64, failed: u64 },
    Failed(Arc<FailedRun>),
}

/// A run that has failed.
#[derive(Debug)]
pub(crate) struct FailedRun {
    pub(crate) kind: FailureKind,
    pub(crate) error: String,
    /// What its code has counted before.
    pub(crate) processed: u64,
    pub(crate) failed: u64,
}

impl RunRecord {
    #[inline]
    pub(crate) fn new(run: u64, started: Instant, duration: Duration, result: RunResult) -> Self {
        Self { run, started, nanos: nanos(duration), result }
    }
}

/// A duration in nanoseconds, of which 500 years fit.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(duration.subsec_nanos()))
}

impl RunHistory {
    /// Records a run.
    #[inline]
    pub(crate) fn push(&mut self, record: RunRecord) {
        self.durations[DURATIONS.iter().position(|bound| record.nanos <= *bound).unwrap_or(DURATIONS.len())] += 1;
        if let Some(untaken) = self.untaken.as_mut().filter(|untaken| untaken.len() < MOST_UNTAKEN) {
            untaken.push(record.nanos);
        }
        self.total_nanos = self.total_nanos.wrapping_add(record.nanos);
        if let RunResult::Failed(failed) = &record.result {
            self.count_failure(failed.kind);
        }
        match self.recent.get_mut(self.next) {
            Some(oldest) => *oldest = record,
            None => self.recent.push(record),
        }
        self.next = if self.next + 1 == RECENT { 0 } else { self.next + 1 };
    }

    /// Returns the last runs, the newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &RunRecord> {
        let (newer, older) = self.recent.split_at(self.next);
        newer.iter().rev().chain(older.iter().rev())
    }

    /// From now on the duration of each run is kept until it is taken.
    pub(crate) fn keep_durations(&mut self) {
        self.untaken.get_or_insert_default();
    }

    /// Returns the durations since the last call, in nanoseconds.
    pub(crate) fn take_durations(&mut self) -> Vec<u64> {
        self.untaken.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Counts a failure. One that was no run, because no instance could be built, is only counted.
    pub(crate) fn count_failure(&mut self, kind: FailureKind) {
        let count = match kind {
            FailureKind::Panic => &mut self.panics,
            FailureKind::Timeout => &mut self.timeouts,
            _ => &mut self.errors,
        };
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fifty_runs_are_kept_and_all_durations_are_counted() {
        let mut history = RunHistory::default();
        for run in 1..=120 {
            let result = match run {
                120 => RunResult::Failed(Arc::new(FailedRun {
                    kind: FailureKind::Timeout,
                    error: "too long".to_owned(),
                    processed: 0,
                    failed: 0,
                })),
                _ => RunResult::Succeeded { processed: 1, failed: 0 },
            };
            let duration = if run == 120 { Duration::from_secs(7_200) } else { Duration::from_millis(5) };
            history.push(RunRecord::new(run, Instant::now(), duration, result));
            let kept: Vec<u64> = history.newest_first().map(|record| record.run).collect();
            assert_eq!(kept, (run.saturating_sub(49).max(1)..=run).rev().collect::<Vec<_>>());
        }
        assert_eq!((history.durations[1], history.durations[12]), (119, 1));
        assert_eq!((history.errors, history.panics, history.timeouts), (0, 0, 1));
    }
}
