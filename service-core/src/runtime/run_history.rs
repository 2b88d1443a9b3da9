//! [`RunHistory`]: the last runs of a service, and counts of durations and failures. It is kept only while a feature asks for it.
//!
//! The loop records a run under the lock of the state, so a record must cost little: no clock is read, and no text is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::service::failure::FailureKind;

/// How many runs are kept.
const RECENT: usize = 50;

/// The upper bounds of the counted durations. Longer ones are counted in the last place.
pub(crate) const DURATIONS: [Duration; 12] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(1_800),
];

/// The last runs of a service, and counts since the history is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunHistory {
    /// The oldest run is the first.
    pub(crate) recent: VecDeque<RunRecord>,
    /// How many runs took at most as long as the bound in the same place of [`DURATIONS`], and longer than the bound before it.
    pub(crate) durations: [u64; DURATIONS.len() + 1],
    pub(crate) total_duration: Duration,
    pub(crate) errors: u64,
    pub(crate) panics: u64,
    pub(crate) timeouts: u64,
}

/// A run that has ended.
#[allow(dead_code, reason = "for companions")]
#[derive(Clone, Debug)]
pub(crate) struct RunRecord {
    /// The number of the run, from 1.
    pub(crate) run: u64,
    pub(crate) started: Instant,
    pub(crate) duration: Duration,
    pub(crate) result: RunResult,
}

/// How a run has ended.
#[allow(dead_code, reason = "for companions")]
#[derive(Clone, Debug)]
pub(crate) enum RunResult {
    Succeeded { processed: u64, failed: u64 },
    Failed { kind: FailureKind, error: Arc<str> },
}

impl RunHistory {
    /// Records a run.
    pub(crate) fn push(&mut self, record: RunRecord) {
        let place = DURATIONS.iter().position(|bound| record.duration <= *bound).unwrap_or(DURATIONS.len());
        self.durations[place] += 1;
        self.total_duration = self.total_duration.saturating_add(record.duration);
        if let RunResult::Failed { kind, .. } = &record.result {
            self.count_failure(*kind);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(record);
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
        for run in 1..=60 {
            let result = match run {
                60 => RunResult::Failed { kind: FailureKind::Timeout, error: "too long".into() },
                _ => RunResult::Succeeded { processed: 1, failed: 0 },
            };
            let duration = if run == 60 { Duration::from_secs(7_200) } else { Duration::from_millis(5) };
            history.push(RunRecord { run, started: Instant::now(), duration, result });
        }
        assert_eq!(history.recent.len(), 50);
        assert_eq!((history.recent[0].run, history.recent[49].run), (11, 60));
        assert_eq!((history.durations[1], history.durations[12]), (59, 1));
        assert_eq!((history.errors, history.panics, history.timeouts), (0, 0, 1));
    }
}
